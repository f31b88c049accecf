"""The part of ``overnet run`` for videos through standard input and output: every frame, in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from overnet.cli.options import parse_size
from overnet.cli.run.stream_options import LIVE_ONLY, RAW_ONLY, StreamRun, parse_rate
from overnet.errors import InputError, OutputError
from overnet.files.atomic import ensure_folder
from overnet.runtime.container.stdio import PipeInput, PipeOutput, take_stdin
from overnet.runtime.plan import Job, kind_and_suffix
from overnet.runtime.upscale_file import Outcome, upscale_frames
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import Encoding, find_encoder
from overnet.runtime.video.muxed import PIPE_FORMAT, open_pipe_writer
from overnet.runtime.video.raw import PIPE, PipeReader, RawFormat
from overnet.runtime.video.reader import VideoReader
from overnet.runtime.video.writer import VideoWriter, check_target
from overnet.system.ending_signals import noted_signals

if TYPE_CHECKING:
    from overnet.runtime.live.addresses import Address
    from overnet.runtime.pipeline import PipelineReport
    from overnet.runtime.upscaler import Upscaler
    from overnet.runtime.video.frame import FrameWriter, VideoInfo


class PipeRun:
    """A run that reads a video from a pipe, or writes one to a pipe, or both.

    Attributes:
        job: source and target; the path of a pipe is ``-``.

    Raises:
        InputError, OutputError: input, output or an option cannot be used.
        typer.BadParameter: options that exclude each other.
    """

    def __init__(self, run: StreamRun) -> None:
        self._run = run
        run.options.refuse("only for live sources, and the input is none", LIVE_ONLY)
        source, target = run.source, run.target
        if isinstance(source, Path):
            run.options.refuse("only for standard input, and the input is a file", RAW_ONLY)
            if source.is_dir() or kind_and_suffix(source)[0] == "image":
                raise InputError(f"{source}: only a video can go to standard output")
        if not run.writes_stdout:
            run.options.refuse("only for standard output, and the output is a file", {"output_format"})
        self._encoding = Encoding(run.video.codec, run.video.crf)
        self._raw = self._raw_format()
        self._format, self._pixel_format = run.options.pipe_format()
        self.job = Job(source if isinstance(source, Path) else PIPE, self._checked_target(target), "video")
        if isinstance(source, Path):
            # Report a damaged file before standard output is taken and the model loaded.
            VideoReader(source, start_seconds=run.video.start_seconds).close()
        self._input: PipeInput | None = None if isinstance(source, Path) else take_stdin()
        self._output: PipeOutput | None = run.take_stdout() if run.writes_stdout else None

    def upscale(
        self, job: Job, upscaler: Upscaler, *, on_frame: Callable[[PipelineReport, int | None], None]
    ) -> Outcome:
        """Upscale the video of `job`; see `overnet.runtime.upscale_file.upscale_frames`."""
        started = time.perf_counter()
        with ExitStack() as stack:
            if self._output is not None:
                stack.callback(self._output.close)
            # FFmpeg passes over a KeyboardInterrupt in a read, and would wait for the rest of the header.
            with noted_signals(self._input.stop if self._input is not None else None) as ended:
                try:
                    reader = stack.enter_context(self._reader())
                finally:
                    if ended():
                        raise KeyboardInterrupt
            return upscale_frames(
                reader,
                upscaler,
                self._writer,
                source=job.source,
                started=started,
                on_frame=on_frame,
                on_stop=reader.stop if isinstance(reader, PipeReader) else lambda: None,
                on_interrupt=self._output.stop if self._output is not None else lambda: None,
            )

    def _raw_format(self) -> RawFormat | None:
        options = self._run.options
        if options.raw is None:
            options.refuse("only for raw input: --raw WIDTHxHEIGHT is missing", {"rate"})
            if options.output_format != "raw":
                options.refuse("only for raw video: neither --raw nor --output-format raw is given", {"pixel_format"})
            return None
        width, height = parse_size("--raw", options.raw)
        rate = Fraction(25) if options.rate is None else parse_rate("--rate", options.rate)
        return RawFormat(width, height, options.pixel_format or "rgb24", rate)

    def _checked_target(self, target: Address | Path | None) -> Path:
        if target is None:
            raise typer.BadParameter("--output / -o is missing: the file to write, or - for standard output")
        if self._run.writes_stdout:
            if self._format == "matroska":
                find_encoder(self._encoding, PIPE_FORMAT)
            return PIPE
        if not isinstance(target, Path):
            raise OutputError(f"{target.name}: only live sources can be sent there")
        find_encoder(self._encoding, check_target(target, overwrite=self._run.overwrite))
        return target

    def _reader(self) -> VideoReader:
        video = self._run.video
        if self._input is None:
            return VideoReader(self.job.source, start_seconds=video.start_seconds, max_frames=video.max_frames)
        return PipeReader(self._input, raw=self._raw, start_seconds=video.start_seconds, max_frames=video.max_frames)

    def _writer(self, info: VideoInfo, width: int, height: int) -> FrameWriter:
        video, start = OutputVideo(info, width, height, self._encoding), self._run.video.start_seconds
        if self._output is not None:
            return open_pipe_writer(self._output, video, pipe_format=self._format, pixel_format=self._pixel_format)
        ensure_folder(self.job.target.parent)
        return VideoWriter(self.job.target, video, source=None, overwrite=self._run.overwrite, start_seconds=start)
