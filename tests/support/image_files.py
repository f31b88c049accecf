"""Image files with any segment, chunk or field, put together byte by byte, and the parts of files that were written."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDTH, HEIGHT = 40, 24


def picture(alpha: bool = False) -> np.ndarray:
    """Smooth colours, H x W x 3 or 4."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [x * 6, y * 10, 255 - x * 3 - y * 3] + ([x * 4 + 60] if alpha else [])
    return np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)


def encoded(kind: str, *, mode: str = "RGB", **options: Any) -> bytes:
    """The image of `picture`, as Pillow writes it."""
    image = Image.fromarray(picture(mode == "RGBA"))
    buffer = io.BytesIO()
    (image if mode == "RGBA" else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


# JPEG


def segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def jpeg(*segments: tuple[int, bytes], after: bytes = b"", **options: Any) -> bytes:
    """A JPEG file with segments after its JFIF header, and bytes after its end."""
    data = encoded("JPEG", quality=100, **options)
    return data[:20] + b"".join(segment(*one) for one in segments) + data[20:] + after


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """The segments of a JPEG file before its pixels."""
    found, position = [], 2
    while data[position + 1] != 0xDA:
        code, length = struct.unpack_from(">xBH", data, position)
        found.append((code, data[position + 4 : position + 2 + length]))
        position += 2 + length
    return found


def resource(number: int, content: bytes, name: bytes = b"") -> bytes:
    """One of Photoshop's image resources."""
    label = bytes([len(name)]) + name
    label += bytes(len(label) % 2)
    size = struct.pack(">I", len(content))
    return b"8BIM" + struct.pack(">H", number) + label + size + content + bytes(len(content) % 2)


# PNG


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*added: tuple[bytes, bytes], after: bytes = b"", **options: Any) -> bytes:
    """A PNG file with chunks before its pixels, and bytes after its end."""
    data = encoded("PNG", **options)
    at = data.index(b"IDAT") - 4
    return data[:at] + b"".join(chunk(*one) for one in added) + data[at:] + after


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a PNG file."""
    found, position = [], 8
    while position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        found.append((name, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


# WebP


def webp(*added: tuple[bytes, bytes], flags: int = 0, **options: Any) -> bytes:
    """A WebP file in the extended layout with chunks after its pixels."""
    plain = encoded("WEBP", **options)
    sizes = (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    body = b"WEBP" + _riff(b"VP8X", bytes([flags, 0, 0, 0]) + sizes) + plain[12:]
    return _riff(b"RIFF", body + b"".join(_riff(*one) for one in added))


def _riff(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def riff_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a WebP file."""
    found, position = [], 12
    while position < len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        found.append((name, data[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    return found


# TIFF


def tiff(fields: dict[int, tuple[int, Any]] | None = None, *, order: str = "<", **options: Any) -> bytes:
    """A TIFF file with fields: type and value by tag."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II" if order == "<" else b"MM")
    for tag, (kind, value) in (fields or {}).items():
        directory.tagtype[tag] = kind
        directory[tag] = value
    return encoded("TIFF", **({"tiffinfo": directory} if fields else {}), **options)


def tiff_fields(path: Path) -> dict[int, Any]:
    with Image.open(path) as image:
        return dict(image.tag_v2)


# BMP


def bmp(
    masks: Sequence[int] | None,
    bits: int,
    *,
    header: int = 40,
    alpha: int = 0,
    metre: int = 0,
    profile: bytes = b"",
    kind: bytes = b"BGRs",
    gamma: int = 0,
    top_down: bool = False,
) -> bytes:
    """A BMP file of pixels of 16 or 32 bits whose channels lie where the masks say (red, green, blue, alpha)."""
    places = masks or ([0x7C00, 0x3E0, 0x1F] if bits == 16 else [0xFF0000, 0xFF00, 0xFF])
    values = np.zeros((HEIGHT, WIDTH), np.uint32)
    planes = [*np.moveaxis(picture().astype(np.uint32), 2, 0), np.full((HEIGHT, WIDTH), alpha, np.uint32)]
    for mask, plane in zip(places, planes, strict=False):
        shift = (mask & -mask).bit_length() - 1
        values |= (plane * (mask >> shift) + 127) // 255 << shift
    pixels = (values if top_down else values[::-1]).astype(f"<u{bits // 8}").tobytes()
    compression = 3 if masks else 0
    size = -HEIGHT if top_down else HEIGHT
    info = struct.pack("<IiiHHIIiiII", header, WIDTH, size, 1, bits, compression, len(pixels), metre, metre, 0, 0)
    stored = struct.pack(f"<{len(masks)}I", *masks) if masks else b""
    if header == 40:
        info += stored
    else:
        info += stored.ljust(16, b"\0")
        info += (kind + bytes(36) + 3 * struct.pack("<I", gamma)).ljust(header - 56, b"\0")
        if header == 124 and profile:
            info = info[:112] + struct.pack("<II", header + len(pixels), len(profile)) + info[120:]
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(pixels) + len(profile), 0, 0, start) + info + pixels + profile


def written(path: Path) -> np.ndarray:
    """The pixels of a file that was written, as OpenCV reads them, in the order RGB."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
