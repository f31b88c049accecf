"""The chunks of WebP files: read size and metadata, and add metadata to encoded files."""

import struct
from collections.abc import Iterator

from overnet.imaging.formats.containers import TRUNCATED, Container, UnusableImageError
from overnet.imaging.formats.metadata import exif_density


def inspect_webp(data: bytes, container: Container) -> None:
    """Read the chunks of a WebP file into `container`."""
    names: set[bytes] = set()
    for name, content in _chunks(data):
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
            container.extras.lossless = True
        elif name == b"EXIF":
            container.exif = content
        elif name == b"ICCP":
            container.icc_profile = content
        elif name == b"XMP ":
            container.extras.xmp = content
        elif name not in (b"ALPH", b"ANIM"):
            container.notes.append(f"its chunk {name.decode('latin-1')!r} was dropped")
        container.width, container.height = max(container.width, width), max(container.height, height)
        names.add(name)
    if not names & {b"VP8 ", b"VP8L"}:
        raise UnusableImageError("is damaged: it holds no pixels")
    container.grey = False
    container.extras.density = exif_density(container.exif)
    if data[8 + struct.unpack_from("<I", data, 4)[0] :].strip(b"\0"):
        container.notes.append("the data after the end of the image were dropped")


def webp_with(encoded: bytes, *, exif: bytes | None, icc_profile: bytes | None, xmp: bytes | None) -> bytes:
    """Return a WebP file with metadata added, in the extended layout where there is any."""
    if exif is None and icc_profile is None and xmp is None:
        return encoded
    container = Container("WebP")
    inspect_webp(encoded, container)
    chunks = dict(_chunks(encoded))
    flags = chunks[b"VP8X"][0] if b"VP8X" in chunks else 0
    # The data of a lossless image include alpha, which one bit after the two sizes states.
    if b"VP8L" in chunks and chunks[b"VP8L"][4] & 0x10:
        flags |= 0x10
    for flag, block in ((0x20, icc_profile), (0x08, exif), (0x04, xmp)):
        flags |= flag if block is not None else 0
    sizes = (container.width - 1).to_bytes(3, "little") + (container.height - 1).to_bytes(3, "little")
    body = b"WEBP" + _chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sizes)
    pixels = ((name, chunks.get(name)) for name in (b"ALPH", b"VP8 ", b"VP8L"))
    for name, block in ((b"ICCP", icc_profile), *pixels, (b"EXIF", exif), (b"XMP ", xmp)):
        if block is not None:
            body += _chunk(name, block)
    return _chunk(b"RIFF", body)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
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


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
