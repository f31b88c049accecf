"""The segments of JPEG files: read size and metadata, and add metadata to encoded files."""

import re
import struct
from collections.abc import Iterator
from fractions import Fraction

from overnet.imaging.formats.containers import TRUNCATED, Container, UnusableImageError
from overnet.imaging.formats.metadata import Density, Extras, exif_density, read_resources, resource_bytes

_SEGMENT = 65533
MOST_JPEG_EXIF = _SEGMENT - 6
_PROFILE_PART = _SEGMENT - 14
MOST_JPEG_PROFILE = 255 * _PROFILE_PART
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
MOST_JPEG_XMP = _SEGMENT - len(_XMP)
_PHOTOSHOP = b"Photoshop 3.0\0"

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7\x01]", re.DOTALL)  # without those that occur inside pixel data

# Application data by segment and start, which are dropped because they describe the smaller image or its coding; an
# empty text: the new file states it for itself, or it is a thumbnail.
_NAMES = {
    (0xE0, b"JFXX"): "",
    (0xE2, b"MPF\0"): "the index of its further images (MPF)",
    (0xE2, b"FPXR"): "a FlashPix extension",
    (0xE2, b"urn:iso:std:iso:ts:21496:-1\0"): "the description of a gain map (ISO 21496-1)",
    (0xEB, b"JP"): "JUMBF data, such as the seal of content credentials (C2PA),",
    (0xEC, b"Ducky"): "the quality of Photoshop's export (Ducky)",
    (0xEC, b"PictureInfo"): "a note of the camera (PictureInfo)",
    (0xEE, b"Adobe"): "",
}


def inspect_jpeg(data: bytes, container: Container) -> None:
    """Read the segments of a JPEG file into `container`, up to the marker that ends its first image."""
    profile: dict[int, bytes] = {}
    profile_parts = components = end = 0
    resources = b""
    scanned = False
    for code, content, end in _segments(data):  # noqa: B007
        scanned |= code == 0xDA
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            precision, height, width, components = struct.unpack_from(">BHHB", content)
            if precision != 8:
                raise UnusableImageError(f"is a JPEG of {precision} bits per channel; only 8 are supported")
            # The standard forbids a second header; where there is one, the larger size is checked against the limit.
            container.width, container.height = max(container.width, width), max(container.height, height)
        elif code == 0xE2 and content.startswith(b"ICC_PROFILE\0") and len(content) > 14:
            profile_parts = max(profile_parts, content[13])
            profile[content[12]] = content[14:]
        elif code == 0xED and content.startswith(_PHOTOSHOP):
            resources += content[len(_PHOTOSHOP) :]
        elif 0xE0 <= code <= 0xEF or code == 0xFE:
            _take(code, content, container)
    if not scanned or not components:
        raise UnusableImageError("is damaged: it ends before its pixels begin")
    container.grey = components == 1
    if components == 4:
        container.notes.append("its CMYK colours were converted to RGB without a colour profile")
    if profile:
        complete = sorted(profile) == list(range(1, profile_parts + 1))
        container.icc_profile = b"".join(profile[number] for number in sorted(profile)) if complete else b""
    container.extras.photoshop = read_resources(resources, container.notes)
    container.extras.density = container.extras.density or exif_density(container.exif)
    if data[end:].strip(b"\0"):
        container.notes.append("the data after the image were dropped, such as further images, a gain map or a video")


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield the code, the content and the end of each segment, up to the marker that ends the first image."""
    position = 2
    while (marker := _MARKER.search(data, position)) is not None:
        code = data[marker.start() + 1]
        start = marker.end()
        if code == 0xD9:
            yield code, b"", start
            return
        (length,) = struct.unpack_from(">H", data, start)
        position = start + length
        if length < 2 or position > len(data):
            raise UnusableImageError(TRUNCATED if position > len(data) else "is damaged: a JPEG segment has no length")
        yield code, data[start + 2 : position], position
    raise UnusableImageError(TRUNCATED)


def _take(code: int, content: bytes, container: Container) -> None:
    """Read an application segment or a comment into `container`, or note that it is dropped."""
    extras = container.extras
    if code == 0xFE:
        try:
            comment = content.decode()
        except UnicodeDecodeError:
            comment = content.decode("latin-1")
        extras.comments += (comment.rstrip("\0"),)
    elif code == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 12:
        unit, x, y = struct.unpack_from(">BHH", content, 7)
        if x and y and (unit in (1, 2) or x != y):
            extras.density = Density(Fraction(x), Fraction(y), {1: "inch", 2: "cm"}.get(unit, ""))
    elif code == 0xE1 and container.exif is None and content.startswith(b"Exif\0"):
        container.exif = content[6:]
    elif code == 0xE1 and extras.xmp is None and content.startswith(_XMP):
        extras.xmp = content[len(_XMP) :]
    elif code == 0xE1 and content.startswith(_EXTENDED_XMP):
        extras.extended_xmp += (content,)
    else:
        known = (text for (at, start), text in _NAMES.items() if at == code and content.startswith(start))
        label = re.sub(r"[^ -~]", "", content[:32].partition(b"\0")[0].decode("latin-1"))
        lost = next(known, f"its application segment {code - 0xE0} ({label or 'unnamed'})")
        note = f"{lost} was dropped"
        if lost and note not in container.notes:
            container.notes.append(note)


def jpeg_with(encoded: bytes, *, exif: bytes | None, icc_profile: bytes | None, extras: Extras) -> bytes:
    """Return a JPEG file with metadata added, of at most `MOST_JPEG_EXIF` and `MOST_JPEG_PROFILE` bytes."""
    added = b""
    if exif is not None:
        added += _segment(0xE1, b"Exif\0\0" + exif)
    if extras.xmp is not None:
        added += _segment(0xE1, _XMP + extras.xmp)
    for part in extras.extended_xmp:
        added += _segment(0xE1, part)
    if icc_profile is not None:
        starts = range(0, len(icc_profile), _PROFILE_PART)
        for number, start in enumerate(starts, 1):
            part = icc_profile[start : start + _PROFILE_PART]
            added += _segment(0xE2, b"ICC_PROFILE\0" + bytes([number, len(starts)]) + part)
    if extras.photoshop is not None:
        resources = resource_bytes(extras.photoshop)
        most = _SEGMENT - len(_PHOTOSHOP)
        for start in range(0, len(resources), most):
            added += _segment(0xED, _PHOTOSHOP + resources[start : start + most])
    for comment in extras.comments:
        raw = comment.encode()
        for start in range(0, len(raw), _SEGMENT):
            added += _segment(0xFE, raw[start : start + _SEGMENT])
    # Both JFIF and EXIF are specified to be first; readers accept EXIF after JFIF, but not JFIF after EXIF.
    start = 2
    if encoded[2:4] == b"\xff\xe0":
        start += 2 + struct.unpack_from(">H", encoded, 4)[0]
        if extras.density is not None and encoded[6:11] == b"JFIF\0":
            encoded = encoded[:13] + _jfif_density(extras.density) + encoded[18:]
    return encoded[:start] + added + encoded[start:]


def _jfif_density(density: Density) -> bytes:
    x: Fraction
    y: Fraction
    x, y = density.per("inch") if density.unit else (density.x, density.y)
    # Whole numbers of 16 bits: a ratio, and what is out of range, are divided by the same number.
    divisor = max(Fraction(1), max(x, y) / 65535)
    whole = (max(1, min(round(number / divisor), 65535)) for number in (x, y))
    return struct.pack(">BHH", bool(density.unit), *whole)


def _segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content
