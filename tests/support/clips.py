"""Small videos made for the tests, and what can be read back from any video."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.container import OutputContainer
from av.video.stream import VideoStream

from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import Encoding
from overnet.runtime.video.frame import VideoInfo
from overnet.runtime.video.reader import VideoReader
from overnet.runtime.video.writer import VideoWriter

NTSC = Fraction(30000, 1001)
TICK = Fraction(1, 30000)
FONT = b"\x00\x01\x00\x00 not really a font"
# Luma weights of red and blue, by FFmpeg's number of the matrix.
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def images(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """A gradient with a square that moves, so that no two images are alike."""
    rows, columns = np.mgrid[0:height, 0:width]
    base = np.stack([columns * 255 // width, rows * 255 // height, (rows + columns) * 255 // (width + height)], -1)
    result = []
    for index in range(count):
        image = base.astype(np.uint8)
        left = index * 3 % (width - 8)
        image[8:16, left : left + 8] = (255 - index * 8 % 255, 30, index * 8 % 255)
        result.append(image)
    return result


def to_planes(rgb: np.ndarray, matrix: int, *, full: bool, bits: int = 8) -> list[np.ndarray]:
    """RGB to 4:2:0 by the definition of the matrix, chroma taken from the even pixels."""
    red, green, blue = np.moveaxis(rgb.astype(float) / 255, -1, 0)
    k_red, k_blue = LUMA[matrix]
    luma = k_red * red + (1 - k_red - k_blue) * green + k_blue * blue
    chroma = [(blue - luma) / (2 - 2 * k_blue), (red - luma) / (2 - 2 * k_red)]
    unit = 2 ** (bits - 8)
    planes = [luma * 255 if full else 16 + 219 * luma]
    planes += [128 + (255 if full else 224) * plane[::2, ::2] for plane in chroma]
    kind = np.uint8 if bits == 8 else np.uint16
    return [np.clip(np.rint(plane * unit), 0, 256 * unit - 1).astype(kind) for plane in planes]


def from_planes(planes: Sequence[np.ndarray], matrix: int, *, full: bool) -> np.ndarray:
    """The inverse of `to_planes`, for 8 bit, as float H x W x 3."""
    luma, blue_chroma, red_chroma = (plane.astype(float) for plane in planes)
    blue_chroma, red_chroma = (np.kron(plane - 128, np.ones((2, 2))) for plane in (blue_chroma, red_chroma))
    k_red, k_blue = LUMA[matrix]
    luma = luma / 255 if full else (luma - 16) / 219
    scale = 255 if full else 224
    red = luma + red_chroma / scale * (2 - 2 * k_red)
    blue = luma + blue_chroma / scale * (2 - 2 * k_blue)
    green = (luma - k_red * red - k_blue * blue) / (1 - k_red - k_blue)
    return np.stack([red, green, blue], -1) * 255


def planes_of(frame: Any) -> list[np.ndarray]:
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    return [
        np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width]  # rows are padded
        for plane in frame.planes
    ]


def yuv_frame(planes: Sequence[np.ndarray], pixel_format: str) -> Any:
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pixel_format)
    for plane, values in zip(frame.planes, planes, strict=True):
        padded = np.zeros((values.shape[0], plane.line_size // values.itemsize), values.dtype)
        padded[:, : values.shape[1]] = values
        plane.update(padded.tobytes())
    return frame


@dataclass
class Clip:
    """What a test video holds; `make` writes it.

    Frames are H x W x 3 uint8 or ready `av.VideoFrame`; times are in ticks of ``time_base``.
    """

    frames: Sequence[Any] = field(default_factory=lambda: images(12))
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    rate: Fraction = NTSC
    time_base: Fraction = TICK
    pts: Sequence[int] | None = None
    tags: tuple[int, int, int, int] | None = None  # matrix, range (1 limited, 2 full), primaries, transfer
    rotation: int = 0
    aspect: Fraction | None = None
    options: dict[str, str] = field(default_factory=dict)
    audio: Sequence[str] = ()
    audio_start_seconds: float = 0.0
    subtitles: str | None = None  # the codec
    is_with_extras: bool = False  # chapters, a font, a title
    format: str | None = None

    def make(self, path: Path) -> Path:
        """Write the clip; skips the test where this PyAV is too old to make one."""
        wanted = {"add_mux_stream": bool(self.subtitles), "set_chapters": self.is_with_extras}
        wanted["add_attachment"] = self.is_with_extras
        missing = [name for name, needed in wanted.items() if needed and not hasattr(OutputContainer, name)]
        if self.rotation and not hasattr(VideoStream, "set_display_rotation"):
            missing.append("set_display_rotation")
        if missing:
            pytest.skip(f"PyAV {av.__version__} has no {missing[0]}")
        with av.open(str(path), "w", format=self.format) as output:
            self._open(output)
            sounds = [self._add_audio(output, codec, index) for index, codec in enumerate(self.audio)]
            texts = output.add_mux_stream(self.subtitles, time_base=Fraction(1, 1000)) if self.subtitles else None
            if texts is not None:
                texts.metadata["language"] = "fre"
            if self.is_with_extras:
                output.metadata["title"] = "A test"
                output.set_chapters(
                    [
                        {"id": i, "start": i * 200, "end": i * 200 + 200, "time_base": Fraction(1, 1000),
                         "metadata": {"title": f"Part {i}"}}
                        for i in range(2)
                    ]
                )  # fmt: skip
                if output.format.name == "matroska":
                    output.add_attachment("font.ttf", "application/x-truetype-font", FONT)
            self._encode(output, sounds, texts)
        return path

    def _open(self, output: Any) -> None:
        self.stream = output.add_stream(self.codec, rate=self.rate, options=dict(self.options))
        first = self.frames[0]
        context = self.stream.codec_context
        is_array = isinstance(first, np.ndarray)
        context.width, context.height = (first.shape[1], first.shape[0]) if is_array else (first.width, first.height)
        context.pix_fmt = self.pixel_format
        context.time_base = self.stream.time_base = self.time_base
        if self.tags:
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = self.tags
        if self.aspect:
            context.sample_aspect_ratio = self.aspect
        if self.rotation:
            self.stream.set_display_rotation(self.rotation)

    def _add_audio(self, output: Any, codec: str, index: int) -> Any:
        sound = output.add_stream(codec, rate=48000, layout="mono")
        sound.metadata["language"] = ("eng", "deu")[index % 2]
        if index and hasattr(sound, "disposition"):
            sound.disposition = 0
        return sound

    def _encode(self, output: Any, sounds: Sequence[Any], texts: Any) -> None:
        output.start_encoding()
        step = round(1 / self.rate / self.time_base)
        times = self.pts if self.pts is not None else [i * step for i in range(len(self.frames))]
        packets = []
        for time, image in zip(times, self.frames, strict=True):
            frame = av.VideoFrame.from_ndarray(image) if isinstance(image, np.ndarray) else image
            frame.pts, frame.time_base = time, self.time_base
            packets += self.stream.encode(frame)
        packets += self.stream.encode(None)
        seconds = (max(times) + step) * self.time_base
        for number, sound in enumerate(sounds):
            packets += _tone(sound, float(seconds), 440 * (number + 1), self.audio_start_seconds)
        if texts is not None:
            for start in range(0, int(seconds * 1000), 250):
                text = f"line at {start}".encode()
                packet = av.Packet(len(text).to_bytes(2, "big") + text if self.subtitles == "mov_text" else text)
                packet.stream, packet.time_base = texts, Fraction(1, 1000)
                packet.pts = packet.dts = start
                packet.duration, packet.is_keyframe = 200, True
                packets.append(packet)
        output.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))


def _tone(sound: Any, seconds: float, hertz: int, start_seconds: float) -> list[Any]:
    packets: list[Any] = []
    size = sound.codec_context.frame_size or 1024
    planar = sound.codec_context.format.name
    for begin in range(0, int(seconds * 48000), size):
        wave = np.sin(np.arange(begin, begin + size) * hertz * 2 * np.pi / 48000)[None]
        data = wave.astype(np.float32) if planar == "fltp" else (wave * 20000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(data, format=planar, layout="mono")
        frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
        frame.pts = begin + int(start_seconds * 48000)
        packets += sound.encode(frame)
    return packets + sound.encode(None)


@dataclass
class Result:
    path: Path | None
    notes: list[str]
    frames: int


def enlarged(rgb: np.ndarray, scale: int) -> np.ndarray:
    return np.repeat(np.repeat(rgb, scale, 0), scale, 1)


def upscale(
    source: Path,
    target: Path,
    *,
    scale: int = 2,
    start_seconds: float = 0.0,
    max_frames: int | None = None,
    stop_after: int | None = None,
    overwrite: bool = False,
    **encoding: Any,
) -> Result:
    """Run reader and writer with nearest neighbour between them; after ``stop_after`` frames finish as partial."""
    with VideoReader(source, start_seconds=start_seconds, max_frames=max_frames) as reader:
        info = reader.info
        video = OutputVideo(info, info.width * scale, info.height * scale, Encoding(**encoding))
        with VideoWriter(target, video, source=source, start_seconds=start_seconds, overwrite=overwrite) as writer:
            count = 0
            for frame in reader:
                frame.rgb = enlarged(frame.rgb, scale)
                writer.write(frame)
                count += 1
                if count == stop_after:
                    path = writer.finish_partial()
                    break
            else:
                path = writer.finish()
        return Result(path, reader.notes + writer.notes, count)


def times_of(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def packets_of(path: Path, kind: str, number: int = 0) -> list[tuple[Fraction, bytes]]:
    """Time in seconds and content of each packet of one stream of a kind."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[number]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in container.demux(stream) if packet.size]


def first_frame(path: Path) -> Any:
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def rotation(info: VideoInfo) -> int:
    """The counter-clockwise rotation that a player applies, in degrees."""
    matrix = info.display_matrix
    return 0 if matrix is None else round(-math.degrees(math.atan2(matrix[1], matrix[0])))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def open_writer(
    source: Path, target: Path, *, scale: int = 2, codec: str | None = None, crf: int | None = None, **options
) -> VideoWriter:
    with VideoReader(source) as reader:
        info = reader.info
    width, height = (options.pop(side, getattr(info, side) * scale) for side in ("width", "height"))
    return VideoWriter(target, OutputVideo(info, width, height, Encoding(codec, crf)), source=source, **options)
