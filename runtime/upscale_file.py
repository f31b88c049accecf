"""Upscaling of one file: an image, or a video through the pipeline."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from overnet.files.atomic import ensure_folder, exists_already
from overnet.imaging.image_io import DecodedImage, read_image
from overnet.imaging.image_write import write_image
from overnet.runtime.backends.stream import Ticket
from overnet.runtime.pipeline import PipelineReport, run_pipeline
from overnet.runtime.plan import Job
from overnet.runtime.segments.estimate import Estimate
from overnet.runtime.segments.manifest import describe_source, describe_versions
from overnet.runtime.segments.writer import Cutting, Destination, SegmentedWriter
from overnet.runtime.still_image import enlarge_image
from overnet.runtime.upscaler import Upscaler
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import Encoding, find_encoder, output_format
from overnet.runtime.video.frame import Frame, FrameWriter, VideoInfo
from overnet.runtime.video.reader import VideoReader
from overnet.system.ending_signals import noted_signals


@dataclass(frozen=True)
class VideoOptions:
    """Options for reading and encoding a video; see `VideoReader` and `VideoWriter`.

    Attributes:
        cutting: whether and how long videos are cut into segments, with which a run that was cut off goes on.
    """

    start_seconds: float = 0.0
    max_frames: int | None = None
    codec: str | None = None
    crf: int | None = None
    cutting: Cutting = field(default=Cutting(is_wanted=False), compare=False)


@dataclass
class Seconds:
    """Seconds spent in each stage; those of a video overlap, so that `total` is less than their sum."""

    decode: float = 0.0
    upscale: float = 0.0
    encode: float = 0.0
    total: float = 0.0


@dataclass
class Outcome:
    """The result of one file.

    Attributes:
        output: the file written; None where a video was interrupted before its first frame.
        frames: frames written, 1 for an image.
        earlier_frames: those of them that an earlier run had done.
        input_size, output_size: width and height in pixels.
        partial: whether it was interrupted.
        is_last: whether a signal asks to begin no further file; the file itself may be complete.
        notes: one-line remarks for the user.
    """

    input: Path
    output: Path | None
    kind: str
    backend: str
    frames: int
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    seconds: Seconds
    partial: bool = False
    is_last: bool = False
    earlier_frames: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def frames_per_second(self) -> float:
        """Return the frames per second from beginning to end of this run."""
        return (self.frames - self.earlier_frames) / self.seconds.total if self.seconds.total > 0 else 0.0

    def to_json(self) -> dict[str, object]:
        """Return the fields as a dictionary for JSON."""
        (width, height), (input_width, input_height) = self.output_size, self.input_size
        is_turned = (width - height) * (input_width - input_height) < 0
        fields = asdict(self)
        del fields["is_last"]
        return {
            **fields,
            "input": str(self.input),
            "output": None if self.output is None else str(self.output),
            "fps": round(self.frames_per_second, 4),
            "scale": round((width if is_turned else height) / input_height, 6),
            "seconds": {stage: round(spent, 4) for stage, spent in asdict(self.seconds).items()},
        }


def upscale_image(
    job: Job, upscaler: Upscaler, *, overwrite: bool, quality: int | None = None, start_seconds: float = 0.0
) -> Outcome:
    """Upscale one image file; see `overnet.runtime.still_image.enlarge_image`.

    Args:
        quality: of JPEG and WebP, 1 to 100; None for what looks like the source.
        start_seconds: of a job of the kind "frame", the time of the video's image.

    Raises:
        InputError, OutputError, BackendError: see `read_image`, `write_image`, `VideoReader` and `Upscaler`.
    """
    if not overwrite and os.path.lexists(job.target):
        raise exists_already(job.target)  # before the work
    times = [time.perf_counter()]
    image = read_frame(job.source, start_seconds) if job.kind == "frame" else read_image(job.source)
    times.append(time.perf_counter())
    enlarged = enlarge_image(image, upscaler)
    times.append(time.perf_counter())
    ensure_folder(job.target.parent)
    notes = write_image(enlarged, job.target, overwrite=overwrite, quality=quality)
    times.append(time.perf_counter())
    return Outcome(
        input=job.source,
        output=job.target,
        kind=job.kind,
        backend=upscaler.backend_name,
        frames=1,
        input_size=(image.rgb.shape[1], image.rgb.shape[0]),
        output_size=(enlarged.rgb.shape[1], enlarged.rgb.shape[0]),
        seconds=Seconds(
            decode=times[1] - times[0],
            upscale=times[2] - times[1],
            encode=times[3] - times[2],
            total=times[3] - times[0],
        ),
        notes=[*image.notes, *upscaler.pop_notes(), *notes],
    )


def read_frame(path: Path, start_seconds: float) -> DecodedImage:
    """Read the first image of a video at or after a time, turned as it is shown."""
    with VideoReader(path, start_seconds=start_seconds, max_frames=1) as reader:
        rgb = np.ascontiguousarray(reader.info.orientation.apply(next(iter(reader)).rgb))
        notes, aspect = list(reader.notes), reader.info.sample_aspect_ratio or Fraction(1)
        if aspect != 1:
            shape = 1 / aspect if reader.info.orientation.transposed else aspect
            notes.append(
                f"the video's pixels are {shape.numerator}:{shape.denominator}, not square: the image is written as "
                "stored, without stretching"
            )
        return DecodedImage(rgb, None, False, None, None, tuple(notes))


def upscale_video(
    job: Job,
    upscaler: Upscaler,
    options: VideoOptions,
    *,
    overwrite: bool,
    on_read: Callable[[Frame], None] = lambda frame: None,
    on_frame: Callable[[PipelineReport, int | None], None] | None = None,
    on_estimate: Callable[[Estimate], None] = lambda estimate: None,
) -> Outcome:
    """Upscale one video: decoding, upscaling and encoding at the same time.

    Args:
        on_read: called with each decoded frame before it is upscaled; an error that it raises ends the run.
        on_frame: called after each frame with the report so far and the number of frames expected (None: unknown).
        on_estimate: called once, after the first seconds, with how long it takes; in another thread.

    Returns:
        The outcome. After Ctrl-C it is `partial`, and its `output` is a playable file of the frames so far, or None.

    Raises:
        InputError, OutputError, BackendError: see `VideoReader`, `VideoWriter` and `Upscaler`.
    """

    def open_writer(info: VideoInfo, width: int, height: int) -> SegmentedWriter:
        video = OutputVideo(info, width, height, Encoding(options.codec, options.crf))
        shaping = upscaler.shaping(info.height, info.width) if options.cutting.is_wanted else {}
        return open_segmented(
            job, video, options, shaping, reader.expected_frames, overwrite=overwrite, on_estimate=on_estimate
        )

    started = time.perf_counter()
    with VideoReader(job.source, start_seconds=options.start_seconds, max_frames=options.max_frames) as reader:
        return upscale_frames(
            reader, upscaler, open_writer, source=job.source, started=started, on_read=on_read, on_frame=on_frame
        )


def open_segmented(
    job: Job,
    video: OutputVideo,
    options: VideoOptions,
    shaping: dict[str, str],
    expected_frames: int | None,
    *,
    overwrite: bool,
    on_estimate: Callable[[Estimate], None],
) -> SegmentedWriter:
    """Return the writer of a job's video.

    Args:
        shaping: see `Upscaler.shaping`.
        expected_frames, on_estimate: see `SegmentedWriter`.

    Raises:
        OutputError: see `SegmentedWriter`.
    """
    ensure_folder(job.target.parent)
    return SegmentedWriter(
        Destination(job.target, video, job.source, overwrite, options.start_seconds),
        _shaped_by(job, shaping, options, video) if options.cutting.is_wanted else {},
        options.cutting,
        expected_frames=expected_frames,
        on_estimate=on_estimate,
    )


def _shaped_by(job: Job, shaping: dict[str, str], options: VideoOptions, video: OutputVideo) -> dict[str, str]:
    """Return everything that determines the result, by its name in messages."""
    container = output_format(job.target)
    return {
        **describe_source(job.source),
        **shaping,
        "the result's size": f"{video.width}x{video.height}",
        "--start": f"{options.start_seconds:g}",
        "--frames": "all" if options.max_frames is None else str(options.max_frames),
        "--codec": find_encoder(video.encoding, container).name,
        "--crf": "default" if options.crf is None else str(options.crf),
        "the container": container.name,
        **describe_versions(),
    }


def upscale_frames(
    reader: VideoReader,
    upscaler: Upscaler,
    open_writer: Callable[[VideoInfo, int, int], FrameWriter],
    *,
    source: Path,
    started: float,
    on_read: Callable[[Frame], None] = lambda frame: None,
    on_frame: Callable[[PipelineReport, int | None], None] | None = None,
    on_stop: Callable[[], None] = lambda: None,
    on_interrupt: Callable[[], None] = lambda: None,
) -> Outcome:
    """Upscale every frame of a reader into a writer, in order.

    Args:
        open_writer: called with the properties of the source, and width and height of the results.
        source: the input that the outcome names.
        started: the value of `time.perf_counter` when opening the reader began.
        on_read, on_frame: see `upscale_video`.
        on_stop, on_interrupt: see `run_pipeline`.

    Raises:
        InputError, OutputError, BackendError: see `upscale_video`.
        BrokenPipeError: the writer is a pipe whose reader has ended.
    """
    info = reader.info
    height, width = upscaler.output_size(info.height, info.width, even_width=True)
    with (
        closing(upscaler.stream(info.height, info.width, even_width=True)) as stream,
        open_writer(info, width, height) as writer,
        noted_signals() as ended,
    ):
        waited_seconds = 0.0

        def upscale(frame: Frame) -> tuple[Frame, Ticket]:
            on_read(frame)
            if writer.begins_segment(frame.index):
                stream.restart()
            return frame, stream.submit(frame.rgb)

        def encode(submitted: tuple[Frame, Ticket]) -> None:
            nonlocal waited_seconds
            frame, ticket = submitted
            began = time.perf_counter()
            with ticket as rgb:
                waited_seconds += time.perf_counter() - began
                writer.write(replace(frame, rgb=rgb))

        def progress(report: PipelineReport) -> None:
            if on_frame is not None:
                expected = reader.expected_frames
                on_frame(report, None if expected is None else max(1, expected - writer.earlier_frames))

        stopped = threading.Event()

        def skips(index: int) -> bool:
            return writer.has(index) and not stopped.is_set()  # a frame that is given ends the reading

        def stop() -> None:
            stopped.set()
            stream.stop()
            on_stop()

        report = run_pipeline(
            () if writer.is_complete else reader.frames(stream.buffer, skips, writer.resumes_after),
            upscale,
            encode,
            on_frame=progress,
            on_stop=stop,
            on_interrupt=on_interrupt,
        )
        began = time.perf_counter()
        output = writer.finish_partial() if report.interrupted else writer.finish()
        is_last = ended()
        finishing = time.perf_counter() - began
    notes = [*reader.notes, *upscaler.pop_notes(), *writer.notes]
    return Outcome(
        input=source,
        output=output,
        kind="video",
        backend=upscaler.backend_name,
        frames=writer.earlier_frames + report.frames,
        input_size=(info.width, info.height),
        output_size=writer.size or (width, height),
        seconds=Seconds(
            report.decode_seconds,
            # Time that the encoder's thread waited for the GPU counts as upscaling.
            report.upscale_seconds + waited_seconds,
            report.encode_seconds - waited_seconds + finishing,
            time.perf_counter() - started,
        ),
        partial=report.interrupted,
        is_last=is_last,
        earlier_frames=writer.earlier_frames,
        notes=notes,
    )


@dataclass
class LocalRun:
    """A run on this machine; `overnet.runtime.cluster.run.ClusterRun` is one on several.

    Args:
        upscaler: for all files.
        upscale: `upscale_video`, or another function that takes a job, an upscaler and `on_frame`.
        overwrite, quality, start_seconds: see `upscale_image`.
    """

    upscaler: Upscaler
    upscale: Callable[..., Outcome]
    overwrite: bool
    quality: int | None
    start_seconds: float

    def __enter__(self) -> LocalRun:
        return self

    def __exit__(self, *error: object) -> None:
        """The upscaler goes on."""

    @property
    def backend_name(self) -> str:
        """Return the name of the backend in use."""
        return self.upscaler.backend_name

    def image(self, job: Job) -> Outcome:
        """Upscale an image; see `upscale_image`."""
        return upscale_image(
            job, self.upscaler, overwrite=self.overwrite, quality=self.quality, start_seconds=self.start_seconds
        )

    def video(self, job: Job, *, on_frame: Callable[[PipelineReport, int | None], None]) -> Outcome:
        """Upscale a video; see `upscale_video`."""
        return self.upscale(job, self.upscaler, on_frame=on_frame)
