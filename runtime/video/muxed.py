"""Encoded video without a file: Matroska through a pipe, or a stream pushed to a server."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from av.container import OutputContainer

from overnet.errors import OutputError
from overnet.runtime.container.demux import TAG_OPTIONS, error_reason
from overnet.runtime.container.stdio import PipeOutput
from overnet.runtime.video.encoder import OutputVideo, VideoTrack
from overnet.runtime.video.formats import OutputFormat
from overnet.runtime.video.frame import Frame, FrameWriter
from overnet.runtime.video.raw import PIPE, RawWriter

PipeFormat = Literal["y4m", "raw", "matroska"]

# Uncompressed video is fast to write and to read: the next program in the pipe encodes it.
PIPE_FORMAT = OutputFormat("matroska", ("rawvideo",), (("live", "1"),), keeps_rotation=True, tick=Fraction(1, 1000))
RTSP_FORMAT = OutputFormat("rtsp", ("libx264", "libopenh264", "h264_nvenc", "h264_v4l2m2m"))
# Within this time a server has to answer a request, and to take data.
_TIMEOUT_SECONDS = 2.0


class MuxedWriter(FrameWriter):
    """An encoder of frames, with their times and colours, into a pipe or to a server.

    Use `to_pipe` or `to_server` to make one.
    """

    def __init__(self, output: OutputContainer, track: VideoTrack, *, name: str, pipe: PipeOutput | None) -> None:
        self.notes = track.notes
        self.size = track.size
        self._output: OutputContainer | None = output
        self._track = track
        self._name = name
        self._pipe = pipe
        self.can_stall = pipe is None

    @classmethod
    def to_pipe(cls, pipe: PipeOutput, video: OutputVideo) -> MuxedWriter:
        """Return a writer of Matroska to a pipe, uncompressed unless a codec is given.

        Raises:
            OutputError: Matroska cannot hold the codec, or the codec does not support the size.
        """
        output = av.open(pipe, "w", format="matroska", container_options=dict(PIPE_FORMAT.options), **TAG_OPTIONS)
        track = VideoTrack(output, PIPE_FORMAT, video)
        return cls(output, track, name="standard output", pipe=pipe)

    @classmethod
    def to_server(cls, url: str, video: OutputVideo, *, name: str, transport: str = "tcp") -> MuxedWriter:
        """Return a writer that pushes a stream to an RTSP server.

        Args:
            url: address of the stream.
            video: what is to be written.
            name: its name in messages; `url` may contain a password.
            transport: ``tcp`` or ``udp``.

        Raises:
            OutputError: the server cannot be reached, or refuses the stream.
        """
        try:
            # PyAV's own timeout ends no write, and its opening lets no other thread run, which would handle a signal.
            options = {"rtsp_transport": transport, "timeout": str(round(_TIMEOUT_SECONDS * 1e6))}
            output = av.open(url, "w", format="rtsp", container_options=options)
            track = VideoTrack(output, RTSP_FORMAT, video)
            output.start_encoding()
        except (av.FFmpegError, OSError) as error:
            raise OutputError(f"{name} cannot be written to: {error_reason(error)}") from error
        return cls(output, track, name=name, pipe=None)

    def write(self, frame: Frame) -> None:
        """Encode and send a frame.

        Raises:
            BrokenPipeError: the reader has closed the pipe.
            OutputError: the connection to the server is lost.
        """
        if not self._track.written:
            self._track.begin(frame.pts * frame.time_base, shift_seconds=None)
        self._send(frame)

    def stop(self) -> None:
        """Stop waiting for the reader of a pipe."""
        if self._pipe is not None:
            self._pipe.stop()

    def finish(self) -> Path:
        """Flush the encoder and end the output."""
        self._send(None)
        self.abort()
        return PIPE

    def finish_partial(self) -> Path | None:
        """See `finish`: the output is complete after each frame. Return None if nothing was written."""
        return self.finish() if self._track.written else None

    def _send(self, frame: Frame | None) -> None:
        assert self._output is not None
        try:
            for packet, _ in self._track.encode(frame):
                self._output.mux_one(packet)
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, BrokenPipeError) and self._pipe is not None:
                raise
            raise OutputError(f"{self._name} cannot be written to: {error_reason(error)}") from error

    def abort(self) -> None:
        """Close the output."""
        output, self._output = self._output, None
        if output is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                output.close()
        if self._pipe is not None:
            self._pipe.close()


def open_pipe_writer(
    pipe: PipeOutput, video: OutputVideo, *, pipe_format: PipeFormat, pixel_format: str
) -> RawWriter | MuxedWriter:
    """Return a writer to a pipe.

    Args:
        pipe: the pipe.
        video: what is to be written; its encoding is for ``matroska`` only.
        pipe_format: ``y4m``, ``raw`` (headerless frames) or ``matroska``.
        pixel_format: FFmpeg's name of the pixel format of ``raw``.

    Raises:
        OutputError: Matroska cannot hold the codec, or the codec does not support the size.
    """
    if pipe_format == "matroska":
        return MuxedWriter.to_pipe(pipe, video)
    return RawWriter(pipe, video, pixel_format=pixel_format if pipe_format == "raw" else None)
