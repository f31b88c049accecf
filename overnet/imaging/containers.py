"""The structure of PNG, JPEG, WebP, BMP and PNM files: read sizes and metadata, and add metadata to encoded files.

OpenCV decodes and encodes the pixels, but before 4.11 it neither reads nor writes EXIF and ICC profiles, and every
release fills the missing part of a truncated file silently. Pillow finds truncation only by decoding all pixels, which
doubles the time of reading, and refuses PNG files with a profile of more than 1 MiB. The data may be damaged or
hostile: lengths are compared with the data before use, and every loop advances.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

# The largest profile, in bytes: a few kilobytes of compressed zeros must not become gigabytes.
_MOST_PROFILE = 1 << 26
_JPEG_SEGMENT = 65533
MOST_JPEG_EXIF = _JPEG_SEGMENT - 6
_JPEG_PROFILE_PART = _JPEG_SEGMENT - 14
MOST_JPEG_PROFILE = 255 * _JPEG_PROFILE_PART

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7\x01]", re.DOTALL)  # without those that occur inside pixel data
_PNM_HEADER = re.compile(rb"P([56])" + 3 * rb"(?:\s|#[^\n]*\n)+(\d{1,9})" + rb"\s")

TRUNCATED = "is truncated: the end of the image is missing"


class UnusableImageError(ValueError):
    """A file that cannot be read as an image; the message continues its name, such as "is truncated"."""


@dataclass
class Container:
    """The size and metadata of an image file, and how to correct its decoded pixels."""

    kind: str
    width: int = 0
    height: int = 0
    grey: bool | None = None  # None: the decoder's number of channels decides
    exif: bytes | None = None
    icc_profile: bytes | None = None
    notes: list[str] = field(default_factory=list)
    # The bytes to decode where they differ from the file's, and the corrections of the decoded pixels.
    decodable: bytes | None = None
    opaque: bool = False
    inverted: bool = False
    premultiplied: bool = False
    transparent_grey: int | None = None


def png_with(encoded: bytes, *, exif: bytes | None, icc_profile: bytes | None) -> bytes:
    """Return a PNG file with metadata added after its header, where both chunks are allowed."""
    added = b""
    if icc_profile is not None:
        added += png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))
    if exif is not None:
        added += png_chunk(b"eXIf", exif)
    return encoded[:33] + added + encoded[33:]


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a PNG chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_from_samples(samples: npt.NDArray[Any]) -> bytes:
    """Return a PNG file of H x W x 2 uint8 or uint16 samples, grey and alpha, which OpenCV reads but cannot write."""
    height, width, _ = samples.shape
    bits = 8 * samples.dtype.itemsize
    rows = samples.astype(samples.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    # Filter 2 stores each byte as its difference from the one above, which compresses natural images well.
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    header = struct.pack(">IIBBBBB", width, height, bits, 4, 0, 0, 0)
    pixels = zlib.compress(filtered.tobytes())
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg_with(encoded: bytes, *, exif: bytes | None, icc_profile: bytes | None) -> bytes:
    """Return a JPEG file with metadata added, of at most `MOST_JPEG_EXIF` and `MOST_JPEG_PROFILE` bytes."""
    added = b""
    if exif is not None:
        added += _jpeg_segment(0xE1, b"Exif\0\0" + exif)
    if icc_profile is not None:
        starts = range(0, len(icc_profile), _JPEG_PROFILE_PART)
        for number, start in enumerate(starts, 1):
            part = icc_profile[start : start + _JPEG_PROFILE_PART]
            added += _jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([number, len(starts)]) + part)
    # Both JFIF and EXIF are specified to be first; readers accept EXIF after JFIF, but not JFIF after EXIF.
    start = 2
    if encoded[2:4] == b"\xff\xe0":
        start += 2 + struct.unpack_from(">H", encoded, 4)[0]
    return encoded[:start] + added + encoded[start:]


def webp_with(encoded: bytes, *, exif: bytes | None, icc_profile: bytes | None) -> bytes:
    """Return a WebP file with metadata added, in the extended layout where there is any."""
    if exif is None and icc_profile is None:
        return encoded
    container = Container("WebP")
    inspect_webp(encoded, container)
    chunks = dict(_riff_chunks(encoded))
    flags = chunks[b"VP8X"][0] if b"VP8X" in chunks else 0
    # The data of a lossless image include alpha, which one bit after the two sizes states.
    if b"VP8L" in chunks and chunks[b"VP8L"][4] & 0x10:
        flags |= 0x10
    flags |= (0x20 if icc_profile is not None else 0) | (0x08 if exif is not None else 0)
    sizes = (container.width - 1).to_bytes(3, "little") + (container.height - 1).to_bytes(3, "little")
    body = b"WEBP" + _riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sizes)
    if icc_profile is not None:
        body += _riff_chunk(b"ICCP", icc_profile)
    for name in (b"ALPH", b"VP8 ", b"VP8L"):
        if name in chunks:
            body += _riff_chunk(name, chunks[name])
    if exif is not None:
        body += _riff_chunk(b"EXIF", exif)
    return _riff_chunk(b"RIFF", body)


def inspect_png(data: bytes, container: Container) -> None:
    """Read the chunks of a PNG file into `container`."""
    header = b""
    seen: set[bytes] = set()
    for name, content, intact in _png_chunks(data):
        if not intact:
            # Names of chunks that are necessary for decoding begin with a capital letter.
            if name[:1].isupper():
                raise UnusableImageError(f"is damaged: the checksum of its {name.decode('latin-1')!r} chunk is wrong")
            continue
        if name == b"IHDR":
            header = content
        elif name == b"acTL" and b"IDAT" not in seen and int.from_bytes(content[:4], "big") > 1:
            raise UnusableImageError("is an animated PNG; only single images are supported")
        elif name == b"eXIf":
            container.exif = content
        elif name == b"iCCP":
            container.icc_profile = _inflated_profile(content)
        elif name == b"tRNS" and len(content) == 2:
            container.transparent_grey = int.from_bytes(content, "big")
        seen.add(name)
    if len(header) != 13 or b"IDAT" not in seen:
        raise UnusableImageError("is damaged: its header or its pixels are missing")
    container.width, container.height, depth, colours = struct.unpack_from(">IIBB", header)
    container.grey = colours in (0, 4)
    if colours != 0:
        container.transparent_grey = None
    elif container.transparent_grey is not None and depth < 8:
        container.transparent_grey = container.transparent_grey * 255 // ((1 << depth) - 1)  # as OpenCV scales it


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield the name, the content and whether the checksum is right, of each chunk up to IEND."""
    position = 8
    name = b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise UnusableImageError(TRUNCATED)
        covered = memoryview(data)[position + 4 : end - 4]
        content = b"" if name == b"IDAT" else bytes(covered[4:])  # not needed here, so not copied
        yield name, content, zlib.crc32(covered) == struct.unpack_from(">I", data, end - 4)[0]
        position = end


def _inflated_profile(content: bytes) -> bytes:
    """Return the profile of an iCCP chunk, as far as it can be decompressed: `image_inspect` checks it."""
    _, _, rest = content.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(rest[1:], _MOST_PROFILE)
    except zlib.error:
        return b""


def inspect_jpeg(data: bytes, container: Container) -> None:
    """Read the segments of a JPEG file into `container`, up to the marker that ends its first image."""
    parts: dict[int, bytes] = {}
    part_count = 0
    components = 0
    scanned = False
    position = 2
    while True:
        marker = _JPEG_MARKER.search(data, position)
        if marker is None:
            raise UnusableImageError(TRUNCATED)
        code = data[marker.start() + 1]
        if code == 0xD9:
            break
        start = marker.end()
        (length,) = struct.unpack_from(">H", data, start)
        position = start + length
        if length < 2 or position > len(data):
            raise UnusableImageError(TRUNCATED if position > len(data) else "is damaged: a JPEG segment has no length")
        content = data[start + 2 : position]
        scanned |= code == 0xDA
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            precision, height, width, components = struct.unpack_from(">BHHB", content)
            if precision != 8:
                raise UnusableImageError(f"is a JPEG of {precision} bits per channel; only 8 are supported")
            # The standard forbids a second header; where there is one, the larger size is checked against the limit.
            container.width, container.height = max(container.width, width), max(container.height, height)
        elif code == 0xE1 and container.exif is None and content.startswith(b"Exif\0"):
            container.exif = content[6:]
        elif code == 0xE2 and content.startswith(b"ICC_PROFILE\0") and len(content) > 14:
            part_count = max(part_count, content[13])
            parts[content[12]] = content[14:]
    if not scanned or not components:
        raise UnusableImageError("is damaged: it ends before its pixels begin")
    container.grey = components == 1
    if components == 4:
        container.notes.append("its CMYK colours were converted to RGB without a colour profile")
    if parts:
        complete = sorted(parts) == list(range(1, part_count + 1))
        container.icc_profile = b"".join(parts[number] for number in sorted(parts)) if complete else b""


def _jpeg_segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def inspect_webp(data: bytes, container: Container) -> None:
    """Read the chunks of a WebP file into `container`."""
    names: set[bytes] = set()
    for name, content in _riff_chunks(data):
        width = height = 0
        if name == b"VP8X":
            if content[0:1] and content[0] & 0x02:
                raise UnusableImageError("is an animated WebP; only single images are supported")
            width = int.from_bytes(content[4:7], "little") + 1
            height = int.from_bytes(content[7:10], "little") + 1
        elif name == b"VP8 ":
            width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", content, 6))
        elif name == b"VP8L":
            (sizes,) = struct.unpack_from("<I", content, 1)
            width, height = (sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1
        elif name == b"EXIF":
            container.exif = content
        elif name == b"ICCP":
            container.icc_profile = content
        container.width, container.height = max(container.width, width), max(container.height, height)
        names.add(name)
    if not names & {b"VP8 ", b"VP8L"}:
        raise UnusableImageError("is damaged: it holds no pixels")
    container.grey = False


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each chunk of a WebP file."""
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise UnusableImageError(TRUNCATED)
    position = 12
    while position + 8 <= size + 8:
        name, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length
        if end > size + 8:
            raise UnusableImageError(TRUNCATED)
        yield name, data[position + 8 : end]
        position = end + length % 2


def _riff_chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def inspect_bmp(data: bytes, container: Container) -> None:
    """Read the header of a BMP file into `container`."""
    pixels, header_size = struct.unpack_from("<II", data, 10)
    compression = stored = 0
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression, stored = struct.unpack_from("<iiHHII", data, 18)
    container.width, container.height = width, abs(height)  # a negative height means that the top row comes first
    if compression in (0, 3, 6):
        stored = (width * bits + 31) // 32 * 4 * abs(height)
    if pixels + max(stored, 1) > len(data):
        raise UnusableImageError(TRUNCATED)


def inspect_pnm(data: bytes, container: Container) -> None:
    """Read the header of a binary PPM (colour) or PGM (grey) file into `container`."""
    header = _PNM_HEADER.match(data)
    if header is None:
        raise UnusableImageError("is damaged: its header is not that of a PPM or PGM image")
    container.grey = header[1] == b"5"
    container.width, container.height, most = (int(number) for number in header.group(2, 3, 4))
    samples = container.width * container.height * (1 if container.grey else 3)
    if header.end() + samples * (1 if most < 256 else 2) > len(data):
        raise UnusableImageError(TRUNCATED)
