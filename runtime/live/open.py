"""Open the live source and the sink that addresses on the command line name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

from overnet.errors import InputError
from overnet.runtime.container.stdio import PipeOutput
from overnet.runtime.live import gstreamer_pipelines as gstreamer
from overnet.runtime.live.addresses import Address
from overnet.runtime.live.constant_rate import ConstantRate
from overnet.runtime.live.ffmpeg_source import connect_camera, connect_network
from overnet.runtime.live.source import Connection, LiveSource
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import DEFAULT_ENCODING, Encoding, OutputFormat, find_encoder, output_format
from overnet.runtime.video.frame import FrameWriter, VideoInfo
from overnet.runtime.video.muxed import PIPE_FORMAT, RTSP_FORMAT, MuxedWriter, PipeFormat, open_pipe_writer
from overnet.runtime.video.writer import VideoWriter

Hardware = Literal["auto", "on", "off"]

_CSI_SIZE = (1920, 1080)
_CSI_RATE = Fraction(30)
# Fast rather than small files: an encoder that cannot keep up costs frames.
_FAST = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "veryfast"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
    "libaom-av1": {"usage": "realtime", "cpu-used": "8"},
}
# For streams that are watched live: each image is sent as soon as it is encoded, and a keyframe every two seconds or so
# lets viewers join.
_AT_ONCE = {"tune": "zerolatency", "g": "60"}


@dataclass(frozen=True)
class SourceOptions:
    """How live sources are opened.

    Args:
        camera_size, camera_rate: width and height in pixels, and frames per second, of cameras; None for their own.
        transport: transport of RTSP, ``tcp`` or ``udp``.
        attempts: how often in a row to reconnect before giving up; None for no limit.
        hardware: whether a Jetson's decoder and encoder are used; ``auto`` uses them where they exist.
    """

    camera_size: tuple[int, int] | None = None
    camera_rate: Fraction | None = None
    transport: str = "tcp"
    attempts: int | None = None
    hardware: Hardware = "auto"


def open_live_source(address: Address, options: SourceOptions, on_trouble: Callable[[str], None]) -> LiveSource:
    """Return a live source; it connects when its frames are read.

    Args:
        address: the source.
        options: how it is opened.
        on_trouble: called with a line about each lost connection.

    Raises:
        MissingDependency: the source needs GStreamer, which is missing.
        InputError: the pipeline is not valid, or there is no hardware decoder though one is required.
    """
    may_end = address.kind == "gst" or address.scheme in ("http", "https")
    return LiveSource(
        address.name,
        _connector(address, options),
        attempts=0 if address.kind in ("gst", "csi") else options.attempts,
        may_end=may_end,
        on_trouble=on_trouble,
    )


def _connector(address: Address, options: SourceOptions) -> Callable[[], Connection]:
    if address.kind == "camera":
        return partial(connect_camera, address.target, size=options.camera_size, rate=options.camera_rate)
    if address.kind == "network" and not _decodes_in_hardware(address, options):
        return partial(connect_network, address.target, transport=options.transport)
    gstreamer.require_gstreamer(address.name.partition(":")[0] + ": as a source")
    from overnet.runtime.live.gstreamer_io import connect_pipeline, connect_rtsp_in_hardware

    if address.kind == "network":
        return partial(connect_rtsp_in_hardware, address.target, transport=options.transport)
    if address.kind == "csi":
        pipeline = gstreamer.csi_pipeline(
            int(address.target), size=options.camera_size or _CSI_SIZE, rate=options.camera_rate or _CSI_RATE
        )
    else:
        pipeline = gstreamer.source_pipeline(address.target)
    gstreamer.check_pipeline(pipeline, name=address.name)
    return partial(connect_pipeline, pipeline)


def _decodes_in_hardware(address: Address, options: SourceOptions) -> bool:
    if options.hardware == "off" or address.scheme not in ("rtsp", "rtsps"):
        return False
    is_possible = gstreamer.can_decode_in_hardware()
    if options.hardware == "on" and not is_possible:
        raise InputError("--hardware on: there is no decoder here that OpenCV's GStreamer can use (nvv4l2decoder)")
    return is_possible


@dataclass(frozen=True)
class LiveSink:
    """The destination of live results; `open` is called with the first of them.

    Args:
        target: a file, or an address: standard output, a server or a pipeline.
        pipe: standard output, if that is the target.
        pipe_format, pixel_format: what is written to standard output; the pixel format is for ``raw``.
        encoding, overwrite: as for `VideoWriter`.
        hardware, transport: as for `SourceOptions`.
    """

    target: Path | Address
    pipe: PipeOutput | None = None
    pipe_format: PipeFormat = "y4m"
    pixel_format: str = "rgb24"
    encoding: Encoding = DEFAULT_ENCODING
    overwrite: bool = False
    hardware: Hardware = "auto"
    transport: str = "tcp"

    def check(self) -> None:
        """Check the encoder, or a pipeline, before it runs, as far as that is possible.

        Raises:
            InputError: the pipeline is not valid, or the quality is out of the encoder's range.
            OutputError: there is no such encoder.
            MissingDependency: GStreamer is missing.
        """
        if isinstance(self.target, Path):
            find_encoder(self.encoding, output_format(self.target))
        elif self.target.kind == "network":
            find_encoder(self.encoding, RTSP_FORMAT)
        elif self.pipe is not None and self.pipe_format == "matroska":
            find_encoder(self.encoding, PIPE_FORMAT)
        if not isinstance(self.target, Path) and self.target.kind == "gst":
            gstreamer.require_gstreamer("gst: as an output")
            gstreamer.check_pipeline(self._pipeline(self.target, (64, 48), Fraction(25)), name=self.target.name)

    def open(self, info: VideoInfo, width: int, height: int) -> FrameWriter:
        """Return a writer for frames of a size in pixels.

        Raises:
            OutputError: the target cannot be written to.
        """
        if isinstance(self.target, Path):
            return self._open_file(self.target, info, width, height)
        if self.pipe is not None:
            video = OutputVideo(info, width, height, self._fast(PIPE_FORMAT))
            writer = open_pipe_writer(self.pipe, video, pipe_format=self.pipe_format, pixel_format=self.pixel_format)
            return writer if isinstance(writer, MuxedWriter) else ConstantRate(writer, info.rate)
        if self.target.kind == "network":
            video = OutputVideo(info, width, height, self._fast(RTSP_FORMAT, **_AT_ONCE))
            return MuxedWriter.to_server(self.target.target, video, name=self.target.name, transport=self.transport)
        from overnet.runtime.live.gstreamer_io import GStreamerWriter

        pipeline = self._pipeline(self.target, (width, height), info.rate)
        sink = GStreamerWriter(pipeline, name=self.target.name, width=width, height=height, rate=info.rate)
        return ConstantRate(sink, info.rate)

    def _pipeline(self, target: Address, size: tuple[int, int], rate: Fraction) -> str:
        hardware = self.hardware != "off" and gstreamer.can_encode_in_hardware()
        return gstreamer.sink_pipeline(target.target, hardware=hardware, size=size, rate=rate)

    def _open_file(self, path: Path, info: VideoInfo, width: int, height: int) -> FrameWriter:
        note = None
        if self.hardware != "off" and self.encoding.codec in (None, "h264"):
            if gstreamer.can_encode_in_hardware():
                from overnet.runtime.live.gstreamer_io import open_file_in_hardware

                opened = open_file_in_hardware(
                    path, width=width, height=height, rate=info.rate, overwrite=self.overwrite
                )
                if opened is not None:
                    return ConstantRate(opened, info.rate)
                note = "this machine's encoder cannot write this file: encoded on the CPU"
            elif self.hardware == "on" or gstreamer.can_decode_in_hardware():
                note = "this machine has no encoder (nvv4l2h264enc): encoded on the CPU"
        video = OutputVideo(info, width, height, self._fast(output_format(path)))
        writer = VideoWriter(path, video, source=None, overwrite=self.overwrite)
        if note is not None:
            writer.notes.append(note)
        return writer

    def _fast(self, container: OutputFormat, **options: str) -> Encoding:
        """Return the settings with those that make the encoder fast enough for live video, and further options."""
        encoder = find_encoder(self.encoding, container).name
        return replace(self.encoding, options={**_FAST.get(encoder, {}), **options})
