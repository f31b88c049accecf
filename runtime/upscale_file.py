"""One file from input to output: an image, or a video through the pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnet.files.atomic import ensure_folder
from overnet.imaging.image_io import read_image, write_image
from overnet.imaging.resample import network_bicubic
from overnet.runtime.backends.stream import Ticket
from overnet.runtime.pipeline import PipelineReport, run_pipeline
from overnet.runtime.plan import Job
from overnet.runtime.stage import ignore_interrupts
from overnet.runtime.upscaler import Upscaler
from overnet.runtime.video.formats import Encoding
from overnet.runtime.video.frame import Frame, FrameWriter, VideoInfo
from overnet.runtime.video.reader import VideoReader
from overnet.runtime.video.writer import VideoWriter


@dataclass(frozen=True)
class VideoOptions:
    """How a video is read and encoded; see `VideoReader` and `VideoWriter`."""

    start_seconds: float = 0.0
    max_frames: int | None = None
    codec: str | None = None
    crf: int | None = None


@dataclass
class Seconds:
    """Time spent in each stage; in videos the stages overlap, so that `total` is less than their sum."""

    decode: float = 0.0
    upscale: float = 0.0
    encode: float = 0.0
    total: float = 0.0


@dataclass
class Outcome:
    """What became of one file.

    Attributes:
        output: where the result is; None where an interrupted video had no frame yet.
        frames: frames written, 1 for an image.
        input_size, output_size: width and height in pixels.
        partial: whether it was interrupted.
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
    notes: list[str] = field(default_factory=list)

    @property
    def frames_per_second(self) -> float:
        """Frames per second from beginning to end."""
        return self.frames / self.seconds.total if self.seconds.total > 0 else 0.0

    def to_json(self) -> dict[str, object]:
        """As a dictionary that JSON can hold."""
        return {
            **asdict(self),
            "input": str(self.input),
            "output": None if self.output is None else str(self.output),
            "fps": round(self.frames_per_second, 4),
            "scale": round(self.output_size[1] / self.input_size[1], 6),
            "seconds": {stage: round(spent, 4) for stage, spent in asdict(self.seconds).items()},
        }


def upscale_image(job: Job, upscaler: Upscaler, *, overwrite: bool) -> Outcome:
    """Upscale one image file; alpha is enlarged bicubically, EXIF and ICC profile are kept.

    Raises:
        InputError, OutputError, BackendError: see `read_image`, `write_image` and `Upscaler`.
    """
    times = [time.perf_counter()]
    image = read_image(job.source)
    times.append(time.perf_counter())
    rgb: NDArray[Any] = upscaler(image.rgb)
    if image.grey:
        rgb = _grey(rgb)
    alpha = None if image.alpha is None else network_bicubic(image.alpha, (rgb.shape[0], rgb.shape[1]))
    times.append(time.perf_counter())
    ensure_folder(job.target.parent)
    notes = write_image(replace(image, rgb=rgb, alpha=alpha), job.target, overwrite=overwrite)
    times.append(time.perf_counter())
    return Outcome(
        input=job.source,
        output=job.target,
        kind="image",
        backend=upscaler.backend_name,
        frames=1,
        input_size=(image.rgb.shape[1], image.rgb.shape[0]),
        output_size=(rgb.shape[1], rgb.shape[0]),
        seconds=Seconds(
            decode=times[1] - times[0],
            upscale=times[2] - times[1],
            encode=times[3] - times[2],
            total=times[3] - times[0],
        ),
        notes=[*image.notes, *upscaler.pop_notes(), *notes],
    )


def _grey(rgb: NDArray[Any]) -> NDArray[Any]:
    """Three equal channels: here and there the network tints grey by a level, which is not to make the file colour."""
    mean = np.rint(rgb.mean(axis=2, keepdims=True)).astype(rgb.dtype)
    return np.ascontiguousarray(np.broadcast_to(mean, rgb.shape))


def upscale_video(
    job: Job,
    upscaler: Upscaler,
    options: VideoOptions,
    *,
    overwrite: bool,
    on_frame: Callable[[PipelineReport, int | None], None] | None = None,
) -> Outcome:
    """Upscale one video: decoding, upscaling and encoding at the same time.

    Args:
        on_frame: told the report so far, and how many frames are expected (None: unknown), after each frame.

    Returns:
        The outcome. After Ctrl-C it is `partial`, and its `output` a playable file of what was done, or None.

    Raises:
        InputError, OutputError, BackendError: see `VideoReader`, `VideoWriter` and `Upscaler`.
    """

    def open_writer(info: VideoInfo, width: int, height: int) -> VideoWriter:
        ensure_folder(job.target.parent)
        return VideoWriter(
            job.target,
            source=job.source,
            info=info,
            width=width,
            height=height,
            encoding=Encoding(options.codec, options.crf),
            overwrite=overwrite,
            start_seconds=options.start_seconds,
        )

    started = time.perf_counter()
    with VideoReader(job.source, start_seconds=options.start_seconds, max_frames=options.max_frames) as reader:
        return upscale_frames(reader, upscaler, open_writer, source=job.source, started=started, on_frame=on_frame)


def upscale_frames(
    reader: VideoReader,
    upscaler: Upscaler,
    open_writer: Callable[[VideoInfo, int, int], FrameWriter],
    *,
    source: Path,
    started: float,
    on_frame: Callable[[PipelineReport, int | None], None] | None = None,
    on_stop: Callable[[], None] = lambda: None,
    on_interrupt: Callable[[], None] = lambda: None,
) -> Outcome:
    """Upscale what a reader gives into what a writer takes, each frame, in order.

    Args:
        open_writer: told what is known of the source, and width and height of the results.
        source: what the outcome names as the input.
        started: the `time.perf_counter` at which opening the reader began.
        on_frame: as for `upscale_video`.
        on_stop, on_interrupt: as for `run_pipeline`.

    Raises:
        As for `upscale_video`; and BrokenPipeError where the writer is a pipe that nobody reads any more.
    """
    info = reader.info
    height, width = upscaler.output_size(info.height, info.width, even_width=True)
    with (
        closing(upscaler.stream(info.height, info.width, even_width=True)) as stream,
        open_writer(info, width, height) as writer,
    ):
        waited_seconds = 0.0

        def upscale(frame: Frame) -> tuple[Frame, Ticket]:
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
                on_frame(report, reader.expected_frames)

        def stop() -> None:
            stream.stop()
            on_stop()

        report = run_pipeline(
            reader.frames(stream.buffer),
            upscale,
            encode,
            on_frame=progress,
            on_stop=stop,
            on_interrupt=on_interrupt,
        )
        began = time.perf_counter()
        with ignore_interrupts():
            output = writer.finish_partial() if report.interrupted else writer.finish()
        finishing = time.perf_counter() - began
    notes = [*reader.notes, *upscaler.pop_notes(), *writer.notes]
    return Outcome(
        input=source,
        output=output,
        kind="video",
        backend=upscaler.backend_name,
        frames=report.frames,
        input_size=(info.width, info.height),
        output_size=(width, height),
        seconds=Seconds(
            report.decode_seconds,
            # What the encoder's thread waited for the GPU is not its own work.
            report.upscale_seconds + waited_seconds,
            report.encode_seconds - waited_seconds + finishing,
            time.perf_counter() - started,
        ),
        partial=report.interrupted,
        notes=notes,
    )
