"""The chunks of PNG files: read size and metadata, and add metadata to encoded files."""

import re
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from overnet.imaging.formats.containers import TRUNCATED, Container, UnusableImageError, inflated
from overnet.imaging.formats.metadata import Density, Extras, read_resources, resource_bytes, with_iptc

_XMP_KEYWORD = b"XML:com.adobe.xmp"
# What ImageMagick and older programs write other metadata into: hexadecimal numbers in a text.
_RAW_PROFILE = re.compile(rb"Raw profile type (exif|APP1|xmp|iptc|8bim|icc|icm)\Z", re.IGNORECASE)
_COLOURS = frozenset({b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi"})
_KEPT = _COLOURS | {b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pCAL", b"sTER"}
# How pixels are stored, which the new file states for itself, and the chunks that are read apart.
_STORAGE = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"iDOT", b"hIST"})
_NAMES = {
    b"caBX": "the seal of its content credentials (C2PA), which does not hold for other pixels,",
    b"oFFs": "the offset on its page (oFFs)",
    b"sCAL": "the physical scale (sCAL)",
    b"vpAg": "the size of its page (vpAg)",
    b"sPLT": "a suggested palette (sPLT)",
}
# What sRGB states in the chunks of gamma and primaries, and in cICP: no news to readers that expect sRGB.
_SRGB_PRIMARIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def inspect_png(data: bytes, container: Container) -> None:
    """Read the chunks of a PNG file into `container`."""
    stored: dict[bytes, bytes] = {}
    others: list[tuple[bytes, bytes]] = []
    for name, content in _png_chunks(data, container):
        if name == b"acTL" and b"IDAT" not in stored and int.from_bytes(content[:4], "big") > 1:
            raise UnusableImageError("is an animated PNG; only single images are supported")
        if name in _STORAGE:
            stored[name] = content
        else:
            others.append((name, content))
    header = stored.get(b"IHDR", b"")
    if len(header) != 13 or b"IDAT" not in stored:
        raise UnusableImageError("is damaged: its header or its pixels are missing")
    container.width, container.height, depth, colours = struct.unpack_from(">IIBB", header)
    if depth not in (1, 2, 4, 8, 16):
        raise UnusableImageError(f"is damaged: it states {depth} bits per channel")
    container.grey = colours in (0, 4)
    if colours == 0 and len(stored.get(b"tRNS", b"")) == 2:
        level = int.from_bytes(stored[b"tRNS"], "big")
        container.transparent_grey = level if depth >= 8 else level * 255 // ((1 << depth) - 1)  # as OpenCV scales it
    kept = []
    for name, content in others:
        if name == b"bKGD":
            background = _background(content, depth, colours, stored.get(b"PLTE", b""))
            kept += [] if background is None else [(name, background)]
        else:
            kept += _take(name, content, container)
    container.extras.png_chunks = tuple(kept)


def _take(name: bytes, content: bytes, container: Container) -> list[tuple[bytes, bytes]]:
    """Read a chunk into `container`; return it where only PNG can hold it."""
    extras = container.extras
    if name == b"eXIf":
        container.exif = content
    elif name == b"iCCP":
        container.icc_profile = inflated(content.partition(b"\0")[2][1:])  # as far as it goes: `inspect` checks it
    elif name == b"pHYs" and len(content) == 9:
        x, y, unit = struct.unpack(">IIB", content)
        if x and y and (unit == 1 or x != y):
            extras.density = Density(Fraction(x), Fraction(y), "m" if unit == 1 else "")
    elif name in (b"tEXt", b"zTXt", b"iTXt"):
        return [] if _take_text(name, content, container) else [(name, content)]
    elif name in _KEPT:
        return [(name, content)]
    elif name == b"sBIT":
        if content and min(content) < 8:
            container.notes.append("its number of significant bits (sBIT) was dropped: the result uses all")
    else:
        # A small last letter: safe to copy, whatever is done to the pixels.
        if name[3:].islower() and name not in _NAMES:
            return [(name, content)]
        lost = _NAMES.get(name) or f"its chunk {name.decode('latin-1')!r}"
        container.notes.append(f"{lost} was dropped")
    return []


def _take_text(name: bytes, content: bytes, container: Container) -> bool:
    """Read a text that other formats can hold too into `container`; return whether it is one."""
    keyword, text = _text(name, content)
    if keyword == _XMP_KEYWORD and name == b"iTXt":
        container.extras.xmp = text
    elif profile := _RAW_PROFILE.match(keyword):
        return _take_raw_profile(profile[1].lower(), text, container)
    elif keyword == b"Comment":
        container.extras.comments += (text.decode("utf-8" if name == b"iTXt" else "latin-1", "replace"),)
    else:
        return False
    return True


def _text(name: bytes, content: bytes) -> tuple[bytes, bytes]:
    """Return the keyword and the text of a text chunk, UTF-8 in iTXt and Latin-1 in the others."""
    keyword, _, text = content.partition(b"\0")
    if name == b"zTXt":
        return keyword, inflated(text[1:])
    if name == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
        return keyword, inflated(text) if compressed else text
    return keyword, text


def _take_raw_profile(kind: bytes, text: bytes, container: Container) -> bool:
    """Read metadata that are written as hexadecimal numbers into `container`; return whether they are sound."""
    # A line with the name, one with the number of bytes, and the digits.
    parts = text.split(None, 2)
    try:
        content = bytes.fromhex(parts[2].decode("ascii"))
    except (IndexError, ValueError):
        return False
    extras = container.extras
    if kind in (b"exif", b"app1") and not content.startswith(b"http:"):
        container.exif = container.exif or content
    elif kind in (b"xmp", b"app1"):
        extras.xmp = extras.xmp or content.partition(b"\0")[2] if content.startswith(b"http:") else content
    elif kind in (b"icc", b"icm"):
        container.icc_profile = container.icc_profile or content
    else:
        content = content.removeprefix(b"Photoshop 3.0\0")
        if content.startswith(b"8BIM"):
            extras.photoshop = read_resources(content, container.notes)
        else:
            extras.photoshop = with_iptc(extras.photoshop, content)
    return True


def _background(content: bytes, depth: int, colours: int, palette: bytes) -> bytes | None:
    """Return a bKGD chunk for the file that is written: grey or RGB, of 8 or 16 bits."""
    if colours == 3:
        colour = palette[3 * content[0] : 3 * content[0] + 3] if content else b""
        return struct.pack(">HHH", *colour) if len(colour) == 3 else None
    if len(content) != (2 if colours in (0, 4) else 6):
        return None
    if depth < 8:
        return struct.pack(">H", int.from_bytes(content, "big") * 255 // ((1 << depth) - 1))
    return content


def _png_chunks(data: bytes, container: Container) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each chunk up to IEND; those of pixels without their content.

    Damaged chunks that decoding does not need are left out with a note, and so are data after the end.
    """
    position = 8
    name = b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise UnusableImageError(TRUNCATED)
        covered = memoryview(data)[position + 4 : end - 4]
        if zlib.crc32(covered) == struct.unpack_from(">I", data, end - 4)[0]:
            yield name, b"" if name == b"IDAT" else bytes(covered[4:])
        elif name[:1].isupper():  # as the names of chunks that are necessary for decoding begin
            raise UnusableImageError(f"is damaged: the checksum of its {name.decode('latin-1')!r} chunk is wrong")
        else:
            container.notes.append(f"its damaged {name.decode('latin-1')!r} chunk was dropped")
        position = end
    if data[position:].strip(b"\0"):
        container.notes.append("the data after the end of the image were dropped")


def is_animated_png(start: bytes) -> bool:
    """Tell whether the first bytes of a PNG file state several frames."""
    position = start.find(b"acTL")
    return position > 0 and start.find(b"IDAT", 0, position) < 0 and start[position + 4 : position + 8] > b"\0\0\0\1"


def lost_colours(extras: Extras, *, has_profile: bool) -> list[str]:
    """Return what a format other than PNG loses of the colours that PNG chunks state, where they are not sRGB's."""
    chunks = dict(extras.png_chunks)
    lost = []
    if b"cICP" in chunks and chunks[b"cICP"] not in (b"\1\r\0\1", b"\1\1\0\1"):
        lost.append("the code of its colours (cICP), which are not sRGB")
    if b"sRGB" not in chunks and not has_profile:
        if b"gAMA" in chunks and abs(int.from_bytes(chunks[b"gAMA"], "big") - 45455) > 1000:
            lost.append("its gamma (gAMA)")
        if b"cHRM" in chunks and chunks[b"cHRM"] != struct.pack(">8I", *_SRGB_PRIMARIES):
            lost.append("its primaries (cHRM)")
    if chunks.keys() & {b"mDCV", b"mDCv", b"cLLI", b"cLLi"}:
        lost.append("its mastering display and light levels (mDCV, cLLI)")
    return lost


def lost_chunks(extras: Extras) -> list[str]:
    """Return what a format other than PNG loses of the other PNG chunks: texts by their keywords, chunks by name."""
    texts, others = [], []
    for name, content in extras.png_chunks:
        if name in (b"tEXt", b"zTXt", b"iTXt"):
            texts.append(content.partition(b"\0")[0].decode("latin-1"))
        elif name not in _COLOURS:
            others.append(name.decode("latin-1"))
    lost = [f"the text{'s' if len(texts) > 1 else ''} {', '.join(texts)}"] if texts else []
    return lost + ([f"the chunk{'s' if len(others) > 1 else ''} {', '.join(others)}"] if others else [])


def png_with(encoded: bytes, *, exif: bytes | None, icc_profile: bytes | None, extras: Extras) -> bytes:
    """Return a PNG file with metadata added after its header, where all of these chunks are allowed."""
    chunks: list[tuple[bytes, bytes]] = []
    if icc_profile is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)))
    chunks += extras.png_chunks
    if exif is not None:
        chunks.append((b"eXIf", exif))
    if extras.density is not None:
        metric = extras.density.unit != ""
        numbers = extras.density.per("m") if metric else (extras.density.x, extras.density.y)
        whole = (max(1, min(round(number), (1 << 31) - 1)) for number in numbers)
        chunks.append((b"pHYs", struct.pack(">IIB", *whole, metric)))
    if extras.xmp is not None:
        chunks.append((b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + extras.xmp))
    if extras.photoshop is not None:
        raw = resource_bytes(extras.photoshop)
        digits = re.sub(rb"(.{72})", rb"\1\n", raw.hex().encode())
        text = b"\niptc\n%8d\n%s\n" % (len(raw), digits)
        chunks.append((b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text)))
    for comment in extras.comments:
        try:
            chunks.append((b"tEXt", b"Comment\0" + comment.encode("latin-1")))
        except UnicodeEncodeError:
            chunks.append((b"iTXt", b"Comment\0\0\0\0\0" + comment.encode()))
    return encoded[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + encoded[33:]


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
