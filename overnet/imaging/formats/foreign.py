"""Kinds of images that are only read, by the library that can: AVIF, HEIC, JPEG 2000, JPEG XL and TGA."""

import io
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from overnet.imaging.formats.containers import Container, UnusableImageError

_BRANDS = {b"avif": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"mif1": "HEIC"}
_TGA_SUFFIXES = frozenset({".tga", ".icb", ".vda", ".vst"})


def foreign_kind(start: bytes, suffix: str) -> str | None:
    """Return which of these kinds a file is, by its first bytes and its suffix; None where it is none of them."""
    if start[4:8] == b"ftyp":
        kind = _BRANDS.get(start[8:12])
        # The brand of all still images in this container; AVIF may state it first, and its own later.
        return "AVIF" if start[8:12] == b"mif1" and b"avif" in start[16:64] else kind
    if start.startswith(b"\0\0\0\x0cjP  ") or start.startswith(b"\xff\x4f\xff\x51"):
        return "JPEG 2000"
    if start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    if suffix.lower() in _TGA_SUFFIXES and len(start) > 18 and start[2] in (1, 2, 3, 9, 10, 11) and start[1] < 2:
        return "TGA"
    return None


def inspect_foreign(data: bytes, container: Container) -> None:
    """Read the size of an image of these kinds into `container`, and how to decode it."""
    kind = container.kind
    sizes: list[tuple[int, int]] = []
    if kind == "TGA":
        sizes = [struct.unpack_from("<HH", data, 12)]
        container.opaque = data[17] & 15 == 0
    elif kind == "JPEG 2000":
        marker = data.find(b"\xff\x4f\xff\x51")  # the codestream begins with its size
        right, bottom, left, top = struct.unpack_from(">IIII", data, max(marker, 0) + 8)
        sizes = [(right - left, bottom - top)]
    elif kind != "JPEG XL":
        sizes = [struct.unpack_from(">II", data, match.end() + 4) for match in re.finditer(b"ispe", data[: 1 << 20])]
    if sizes:
        container.width, container.height = max(sizes, key=lambda size: size[0] * size[1])
    else:
        container.width = container.height = 1  # unknown until it is decoded
    decode: Callable[[bytes, Container], npt.NDArray[Any]] = _DECODERS[kind]
    container.decode = lambda: decode(data, container)
    if kind != "HEIC":
        container.notes.append(f"only the pixels of {kind} are read: its metadata and colour profile were dropped")


def _with_opencv(data: bytes, container: Container) -> npt.NDArray[Any]:
    import cv2

    try:
        pixels: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UnusableImageError(
            f"is damaged, or {container.kind} that this OpenCV cannot read: install a newer opencv-python, "
            "or convert the image"
        )
    if container.kind == "AVIF":
        # The box of properties alone: the pixels' data may hold the same bytes by chance.
        start = data.find(b"meta")
        properties = data[start : start + int.from_bytes(data[start - 4 : start], "big")]
        return _turned_avif(properties, _full_range(properties, pixels))
    return np.ascontiguousarray(pixels)


def _full_range(properties: bytes, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the levels of an AVIF image by the range of 16 bits: OpenCV gives those of 10 or 12 as they are."""
    position = properties.find(b"av1C")
    if pixels.dtype != np.uint16 or position < 0:
        return pixels
    bits = 12 if properties[position + 6] & 0x20 else 10
    most = (1 << bits) - 1
    levels = (np.minimum(pixels, most).astype(np.uint32) * 65535 + most // 2) // most
    return np.asarray(levels, np.uint16)


def _turned_avif(properties: bytes, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn and mirror an image as its container says, which OpenCV does not."""
    turn, mirror = properties.find(b"irot"), properties.find(b"imir")
    if turn >= 0:
        pixels = np.rot90(pixels, properties[turn + 4] & 3)
    if mirror >= 0:
        pixels = np.flip(pixels, properties[mirror + 4] & 1)
    return np.ascontiguousarray(pixels)


def _with_ffmpeg(data: bytes, container: Container) -> npt.NDArray[Any]:
    import av

    name = {"TGA": "targa", "JPEG XL": "libjxl"}[container.kind]
    try:
        decoder: Any = av.CodecContext.create(name, "r")
        decoder.options = {"max_pixels": str(1 << 28)}
        packet = av.Packet(data)
        frames = decoder.decode(packet) or decoder.decode(None)
    except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        raise UnusableImageError(
            f"is damaged, or {container.kind} that this FFmpeg (PyAV) cannot read: convert the image to PNG"
        ) from error
    if not frames:
        raise UnusableImageError("is damaged: it holds no image")
    frame = frames[0]
    container.width, container.height = frame.width, frame.height
    parts = frame.format.components
    deep = max(part.bits for part in parts) > 8
    alpha = len(parts) in (2, 4) or frame.format.name.startswith("pal")
    container.grey = len(parts) <= 2 and not frame.format.has_palette
    layout = ("bgra" if alpha else "bgr24") if not deep else ("rgba64le" if alpha else "rgb48le")
    pixels: npt.NDArray[Any] = frame.to_ndarray(format=layout)
    return np.ascontiguousarray(pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]) if deep else pixels


def _with_libheif(data: bytes, container: Container) -> npt.NDArray[Any]:
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise UnusableImageError("is HEIC: pip install 'overnet[heic]' reads it, or convert the image") from error
    try:
        # Turned upright by the library, so that an orientation in the EXIF block must not turn it again.
        image = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
        rgb: npt.NDArray[Any] = np.asarray(image)
    except (ValueError, RuntimeError, OSError, SyntaxError, EOFError, IndexError, MemoryError) as error:
        raise UnusableImageError("is damaged, or HEIC that pillow-heif cannot read") from error
    container.width, container.height = image.size
    container.notes.append("only the pixels of HEIC are read: its metadata and colour profile were dropped")
    if rgb.ndim == 2:
        return rgb
    return np.ascontiguousarray(rgb[..., [2, 1, 0, 3][: rgb.shape[2]]])


_DECODERS = {
    "AVIF": _with_opencv,
    "JPEG 2000": _with_opencv,
    "HEIC": _with_libheif,
    "JPEG XL": _with_ffmpeg,
    "TGA": _with_ffmpeg,
}
