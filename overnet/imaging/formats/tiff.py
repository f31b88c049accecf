"""TIFF directories, the structure that EXIF blocks and TIFF files share: read and change their fields, not pixels.

The data may be damaged or hostile: every offset is checked to lie inside the data before use.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

IMAGE_WIDTH, IMAGE_HEIGHT, ORIENTATION, EXTRA_SAMPLES, ICC_PROFILE = 256, 257, 274, 338, 34675
_EXIF_DIRECTORY, _GPS_DIRECTORY, _INTEROPERABILITY_DIRECTORY = 34665, 34853, 40965
_SUBDIRECTORIES = frozenset({_EXIF_DIRECTORY, _GPS_DIRECTORY, _INTEROPERABILITY_DIRECTORY})
_PIXEL_X_DIMENSION, _PIXEL_Y_DIMENSION = 0xA002, 0xA003

_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_FOCAL_PLANE_X, _FOCAL_PLANE_Y = 0xA20E, 0xA20F  # pixels per unit of length on the sensor
_SUBJECT_AREA, _SUBJECT_LOCATION = 0x9214, 0xA214  # x and y in pixels, then a diameter, or width and height
XMP, IPTC, PHOTOSHOP = 700, 33723, 34377
PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS = 33550, 33922, 34264, 34735

# Cameras write absolute offsets into it, which are wrong once it has been moved.
_MAKER_NOTE = 0x927C

# The tags of a TIFF page that describe the image and not how its pixels are stored: title, make, model,
# orientation, resolution, software, time, artist, host, copyright, Windows' titles, and the EXIF and GPS directories.
_DESCRIPTIVE_TAGS = frozenset(
    {270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 316, 33432, *range(0x9C9B, 0x9CA0)}
    | {_EXIF_DIRECTORY, _GPS_DIRECTORY}
)

# The tags that only TIFF holds: the name of the document and its page, primaries, GeoTIFF, and GDAL's.
_TIFF_ONLY_TAGS = frozenset(
    {269, 285, 286, 287, 297, 318, 319, PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS, 34736, 34737}
    | {42112, 42113}
)
# The tags of how pixels are stored, which the new file states for itself, and those that are read elsewhere.
_STORAGE_TAGS = frozenset(
    {*range(254, 260), 262, 263, 264, 265, 266, 273, *range(277, 282), 284, *range(288, 294), 317, *range(320, 329)}
    | {332, 334, EXTRA_SAMPLES, 339, 340, 341, 342, 347, *range(512, 522), *range(529, 533)}
    | {XMP, IPTC, PHOTOSHOP, ICC_PROFILE}
)

_BYTE, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 3, 4, 5, 7
# Per field type: bytes of one value, and bytes of the number in it (a rational is two numbers of four bytes).
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_NUMBER_BYTES = {**_VALUE_BYTES, 5: 4, 10: 4}

# The most bytes copied from one file: directories may share and repeat values, which would multiply them.
_MOST_METADATA = 1 << 24


class TiffStructureError(ValueError):
    """Directories that contradict themselves or lie outside the data; the message says which."""


@dataclass(frozen=True)
class Entry:
    """One field of a directory: the offsets of its twelve-byte record and of its value in the data."""

    tag: int
    kind: int
    count: int
    record: int
    value: int
    size: int


@dataclass(frozen=True)
class Directory:
    """One directory; `following` is the offset of the next one, 0 where there is none."""

    order: str
    entries: tuple[Entry, ...]
    end_of_entries: int
    following: int

    def find(self, tag: int) -> Entry | None:
        """Return the first readable field with a tag."""
        return next((entry for entry in self.entries if entry.tag == tag), None)


@dataclass(frozen=True)
class Field:
    """A field copied from its file: little-endian bytes, or the fields of the directory it points to."""

    tag: int
    kind: int
    count: int
    content: bytes | tuple[Field, ...]


def read_first_directory(data: bytes | bytearray) -> Directory:
    """Read the header of a TIFF structure and its first directory.

    Raises:
        TiffStructureError: no TIFF header, or the directory lies outside the data.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    if order is None or len(data) < 8:
        raise TiffStructureError("no TIFF header")
    return read_directory(data, order, struct.unpack_from(order + "I", data, 4)[0])


def read_directory(data: bytes | bytearray, order: str, offset: int) -> Directory:
    """Read the directory at `offset` without fields of unknown type or with a value outside the data.

    Raises:
        TiffStructureError: the directory lies outside the data.
    """
    if not 8 <= offset <= len(data) - 2:
        raise TiffStructureError("a directory lies outside the data")
    (count,) = struct.unpack_from(order + "H", data, offset)
    end = offset + 2 + 12 * count
    if count == 0 or end > len(data):
        raise TiffStructureError("a directory is empty or cut short")
    entries = []
    for record in range(offset + 2, end, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", data, record)
        size = _VALUE_BYTES.get(kind, 0) * values
        value = record + 8 if size <= 4 else struct.unpack_from(order + "I", data, record + 8)[0]
        if size > 0 and value + size <= len(data):
            entries.append(Entry(tag, kind, values, record, value, size))
    following = struct.unpack_from(order + "I", data, end)[0] if end + 4 <= len(data) else 0
    return Directory(order, tuple(entries), end, following)


def read_numbers(data: bytes | bytearray, directory: Directory, tag: int) -> npt.NDArray[np.int64]:
    """Return the whole numbers of a field as int64; an empty array where it is missing or of another type."""
    entry = directory.find(tag)
    if entry is None or entry.kind not in (1, _SHORT, _LONG, 13):
        return np.zeros(0, np.int64)
    dtype = f"{directory.order}u{_VALUE_BYTES[entry.kind]}"
    return np.frombuffer(data, dtype, entry.count, entry.value).astype(np.int64)


def read_number(data: bytes | bytearray, directory: Directory, tag: int, default: int) -> int:
    """Return the first whole number of a field, or `default` where it is missing."""
    numbers = read_numbers(data, directory, tag)
    return int(numbers[0]) if numbers.size else default


def read_bytes(data: bytes | bytearray, directory: Directory, tag: int) -> bytes | None:
    """Return the raw value of a field, or None where it is missing."""
    entry = directory.find(tag)
    return None if entry is None else bytes(data[entry.value : entry.value + entry.size])


def with_short(data: bytes | bytearray, directory: Directory, tag: int, value: int) -> bytes:
    """Return a copy of `data` in which each one-valued field `tag` of `directory` is the SHORT `value`."""
    changed = bytearray(data)
    for entry in directory.entries:
        if entry.tag == tag and entry.count == 1:
            struct.pack_into(directory.order + "HHIHH", changed, entry.record, tag, _SHORT, 1, value, 0)
    return bytes(changed)


def exif_orientation(exif: bytes) -> int:
    """Return how the stored pixels have to be turned for viewing, 1 (not at all) to 8; 1 where the block does not say.

    Raises:
        TiffStructureError: the block is not a TIFF structure.
    """
    orientation = read_number(exif, read_first_directory(exif), ORIENTATION, 1)
    return orientation if 1 <= orientation <= 8 else 1


def exif_for_size(exif: bytes, *, width: int, height: int) -> bytes:
    """Return a copy of an EXIF block with the sizes it states replaced by these, and without its thumbnail.

    The offsets of all fields stay, because maker notes hold absolute offsets.

    Raises:
        TiffStructureError: the block is not a TIFF structure.
    """
    changed = bytearray(exif)
    first = read_first_directory(changed)
    sizes = {IMAGE_WIDTH: width, IMAGE_HEIGHT: height, _PIXEL_X_DIMENSION: width, _PIXEL_Y_DIMENSION: height}
    camera = _read_subdirectory(changed, first, _EXIF_DIRECTORY)
    for entry in first.entries + (camera.entries if camera else ()):
        if entry.tag in sizes and entry.count == 1 and entry.size <= 4:
            record = (entry.tag, _LONG, 1, sizes[entry.tag])
            struct.pack_into(first.order + "HHII", changed, entry.record, *record)
    if first.end_of_entries + 4 <= len(changed):
        changed[first.end_of_entries : first.end_of_entries + 4] = bytes(4)  # the second directory is the thumbnail
    return bytes(changed)


def exif_scaled(exif: bytes, x: Fraction, y: Fraction) -> bytes:
    """Return a copy of an EXIF block with its resolutions and places in pixels multiplied by these factors.

    The offsets of all fields stay, see `exif_for_size`.

    Raises:
        TiffStructureError: the block is not a TIFF structure.
    """
    changed = bytearray(exif)
    first = read_first_directory(changed)
    camera = _read_subdirectory(changed, first, _EXIF_DIRECTORY)
    factors = {_X_RESOLUTION: x, _Y_RESOLUTION: y, _FOCAL_PLANE_X: x, _FOCAL_PLANE_Y: y}
    done: set[int] = set()  # values that two fields share are scaled once
    for entry in first.entries + (camera.entries if camera else ()):
        if entry.value in done:
            continue
        if entry.tag in factors and entry.kind == _RATIONAL and entry.count == 1:
            numerator, denominator = struct.unpack_from(first.order + "II", changed, entry.value)
            if denominator:
                scaled = _rational(Fraction(numerator, denominator) * factors[entry.tag])
                struct.pack_into(first.order + "II", changed, entry.value, *scaled)
        elif entry.tag in (_SUBJECT_AREA, _SUBJECT_LOCATION) and entry.kind == _SHORT and entry.count <= 4:
            layout = f"{first.order}{entry.count}H"
            numbers = struct.unpack_from(layout, changed, entry.value)
            moved = (min(round(number * (x, y)[i % 2]), 65535) for i, number in enumerate(numbers))
            struct.pack_into(layout, changed, entry.value, *moved)
        done.add(entry.value)
    return bytes(changed)


def density_numbers(data: bytes) -> tuple[Fraction, Fraction, int] | None:
    """Return resolution in x and y and its unit (1 none, 2 inch, 3 cm) of a TIFF structure; None where it has none."""
    try:
        first = read_first_directory(data)
    except TiffStructureError:
        return None
    numbers = []
    for tag in (_X_RESOLUTION, _Y_RESOLUTION):
        entry = first.find(tag)
        if entry is None or entry.kind != _RATIONAL:
            return None
        numerator, denominator = struct.unpack_from(first.order + "II", data, entry.value)
        if not numerator or not denominator:
            return None
        numbers.append(Fraction(numerator, denominator))
    return numbers[0], numbers[1], read_number(data, first, _RESOLUTION_UNIT, 2)


def exif_of_density(x: Fraction, y: Fraction, unit: int) -> bytes:
    """Return an EXIF block that holds only a resolution, see `density_numbers`."""
    return b"II*\0\x08\0\0\0" + _lay_out(_density_fields(x, y, unit), 8)


def _density_fields(x: Fraction, y: Fraction, unit: int) -> list[Field]:
    return [
        *(
            Field(tag, _RATIONAL, 1, struct.pack("<II", *_rational(number)))
            for tag, number in ((_X_RESOLUTION, x), (_Y_RESOLUTION, y))
        ),
        Field(_RESOLUTION_UNIT, _SHORT, 1, struct.pack("<H", unit)),
    ]


def _rational(number: Fraction) -> tuple[int, int]:
    """Return the closest numerator and denominator of 32 bits."""
    number = min(number, Fraction((1 << 32) - 1))
    close = number.limit_denominator(max(1, min(1 << 20, int((1 << 32) / (number + 1)) - 1)))
    return close.numerator, close.denominator


def tiff_only_fields(data: bytes, directory: Directory) -> tuple[tuple[Field, ...], list[int]]:
    """Return the fields of a page that only TIFF holds, and the tags of those that are not kept."""
    known = _DESCRIPTIVE_TAGS | _TIFF_ONLY_TAGS | _STORAGE_TAGS
    return tuple(_take(data, directory, _TIFF_ONLY_TAGS)), sorted({entry.tag for entry in directory.entries} - known)


def has_maker_note(exif: bytes) -> bool:
    """Tell whether an EXIF block has a maker note, which TIFF files cannot hold, see `_MAKER_NOTE`."""
    camera = _read_subdirectory(exif, first := read_first_directory(exif), _EXIF_DIRECTORY)
    return bool(first.find(_MAKER_NOTE) or (camera and camera.find(_MAKER_NOTE)))


def exif_from_tiff(data: bytes, directory: Directory) -> bytes | None:
    """Return an EXIF block of the fields of a TIFF page that describe its image, or None where there are none."""
    fields = _take(data, directory, _DESCRIPTIVE_TAGS)
    return b"II*\0\x08\0\0\0" + _lay_out(fields, 8) if fields else None


def tiff_with(
    encoded: bytes,
    *,
    exif: bytes | None,
    others: Iterable[Field] = (),
    blocks: Mapping[int, bytes | None],
    density: tuple[Fraction, Fraction, int] | None = None,
    has_alpha: bool,
) -> bytes:
    """Return a little-endian, one-page TIFF file with metadata added: a new directory at its end replaces the old one.

    The maker note is left out, see `_MAKER_NOTE`.

    Args:
        encoded: the file as OpenCV encodes it.
        exif: the EXIF block.
        others: further fields.
        blocks: bytes by tag, such as those of `ICC_PROFILE`; None for those that are missing.
        density: see `density_numbers`.
        has_alpha: whether the fourth channel is alpha.

    Raises:
        TiffStructureError: `exif` is not a TIFF structure, or the file would exceed the format's 4 GiB.
    """
    fields = {field.tag: field for field in _take(encoded, read_first_directory(encoded), None)}
    added_fields = [*others, *([] if density is None else _density_fields(*density))]
    if exif is not None:
        # The resolution in the EXIF block goes before that of another part of the source.
        added_fields += _take(exif, read_first_directory(exif), _DESCRIPTIVE_TAGS)
    fields |= {field.tag: field for field in added_fields}
    for tag, raw in blocks.items():
        if raw is not None:
            kind = _BYTE if tag in (XMP, PHOTOSHOP) else _UNDEFINED
            fields[tag] = Field(tag, kind, len(raw), raw)
    if has_alpha:
        # OpenCV does not state what the fourth channel is; 2 means alpha that is not multiplied into the colours.
        fields[EXTRA_SAMPLES] = Field(EXTRA_SAMPLES, _SHORT, 1, struct.pack("<H", 2))
    offset = len(encoded) + len(encoded) % 2
    added = _lay_out(fields.values(), offset)
    if offset + len(added) >= 1 << 32:
        raise TiffStructureError("a TIFF file holds at most 4 GiB")
    return b"".join([b"II*\0", struct.pack("<I", offset), encoded[8:], bytes(offset - len(encoded)), added])


def _read_subdirectory(data: bytes | bytearray, directory: Directory, tag: int) -> Directory | None:
    """Return the directory a field points to; None where it is missing or broken, so that the others stay usable."""
    try:
        return read_directory(data, directory.order, read_number(data, directory, tag, 0))
    except TiffStructureError:
        return None


def _take(data: bytes, directory: Directory, wanted: frozenset[int] | None, depth: int = 0) -> list[Field]:
    """Return the fields of a directory with these tags (None: all), and all fields of its subdirectories.

    Repeated fields, broken subdirectories, and everything beyond `_MOST_METADATA` bytes are left out.
    """
    fields: dict[int, Field] = {}
    taken = 0
    for entry in directory.entries:
        if entry.tag == _MAKER_NOTE or entry.tag in fields or (wanted is not None and entry.tag not in wanted):
            continue
        taken += entry.size
        if taken > _MOST_METADATA:
            break
        if entry.tag in _SUBDIRECTORIES:
            # EXIF inside TIFF, interoperability inside EXIF; anything deeper is a loop.
            subdirectory = _read_subdirectory(data, directory, entry.tag) if depth < 2 else None
            if subdirectory is not None:
                inner = _take(data, subdirectory, None, depth + 1)
                fields[entry.tag] = Field(entry.tag, _LONG, 1, tuple(inner))
            continue
        raw: npt.NDArray[Any] = np.frombuffer(data, np.uint8, entry.size, entry.value)
        number = _NUMBER_BYTES[entry.kind]
        if directory.order == ">":
            raw = raw.reshape(-1, number)[:, ::-1]
        fields[entry.tag] = Field(entry.tag, entry.kind, entry.count, raw.tobytes())
    return list(fields.values())


def _lay_out(fields: Iterable[Field], offset: int) -> bytes:
    """Return the bytes of a little-endian directory at `offset`, followed by the values that do not fit into it."""
    ordered = sorted(fields, key=lambda field: field.tag)
    records = bytearray(struct.pack("<H", len(ordered)))
    values = bytearray()
    first_value = offset + 2 + 12 * len(ordered) + 4
    for field in ordered:
        records += struct.pack("<HHI", field.tag, field.kind, field.count)
        content = field.content
        position = first_value + len(values)
        if isinstance(content, tuple):
            content = _lay_out(content, position)
        elif len(content) <= 4:
            records += content.ljust(4, b"\0")
            continue
        records += struct.pack("<I", position)
        values += content + bytes(len(content) % 2)
    return bytes(records + bytes(4) + values)
