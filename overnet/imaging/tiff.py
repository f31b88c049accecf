"""TIFF directories: the structure that EXIF blocks and TIFF files share. Bytes in, bytes out, no pixels.

Offsets in these files come from outside and may point anywhere: nothing is sliced before it was checked to lie inside.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IMAGE_WIDTH, IMAGE_HEIGHT, ORIENTATION, EXTRA_SAMPLES, ICC_PROFILE = 256, 257, 274, 338, 34675
_EXIF_DIRECTORY, _GPS_DIRECTORY, _INTEROPERABILITY_DIRECTORY = 34665, 34853, 40965
_SUBDIRECTORIES = frozenset({_EXIF_DIRECTORY, _GPS_DIRECTORY, _INTEROPERABILITY_DIRECTORY})
_PIXEL_X_DIMENSION, _PIXEL_Y_DIMENSION = 0xA002, 0xA003

# Cameras write absolute offsets into it, so that it means nothing once it has been moved.
_MAKER_NOTE = 0x927C

# The tags of a TIFF page that tell about the image and not about how its pixels are stored: title, make, model,
# orientation, resolution, software, time, artist, host, copyright, Windows' titles, and the EXIF and GPS directories.
_DESCRIPTIVE_TAGS = frozenset(
    {270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 316, 33432, *range(0x9C9B, 0x9CA0)}
    | {_EXIF_DIRECTORY, _GPS_DIRECTORY}
)

_SHORT, _LONG, _UNDEFINED = 3, 4, 7
# Per field type: bytes of one value, and bytes of the number in it (a rational is two numbers of four bytes).
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_NUMBER_BYTES = {**_VALUE_BYTES, 5: 4, 10: 4}

# All that is copied out of one file; directories may share and repeat values, and would otherwise multiply them.
_MOST_METADATA = 1 << 24


class TiffStructureError(ValueError):
    """The directories contradict themselves or lie outside the data; the message says which."""


@dataclass(frozen=True)
class Entry:
    """One field of a directory: where its twelve-byte record and its value lie in the data."""

    tag: int
    kind: int
    count: int
    record: int
    value: int
    size: int


@dataclass(frozen=True)
class Directory:
    """One directory. `following` is the offset of the next one, 0 where there is none."""

    order: str
    entries: tuple[Entry, ...]
    end_of_entries: int
    following: int

    def find(self, tag: int) -> Entry | None:
        """The first readable field of this tag."""
        return next((entry for entry in self.entries if entry.tag == tag), None)


@dataclass(frozen=True)
class _Field:
    """A field taken out of its file: little-endian bytes, or the fields of the directory it points to."""

    tag: int
    kind: int
    count: int
    content: bytes | tuple[_Field, ...]


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
    """Read the directory at `offset`; fields of unknown type or with a value outside the data are left out.

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
    """The whole numbers of a field as int64; empty where the field is missing or of another type."""
    entry = directory.find(tag)
    if entry is None or entry.kind not in (1, _SHORT, _LONG, 13):
        return np.zeros(0, np.int64)
    dtype = f"{directory.order}u{_VALUE_BYTES[entry.kind]}"
    return np.frombuffer(data, dtype, entry.count, entry.value).astype(np.int64)


def read_number(data: bytes | bytearray, directory: Directory, tag: int, default: int) -> int:
    """The first whole number of a field, or `default` where it is missing."""
    numbers = read_numbers(data, directory, tag)
    return int(numbers[0]) if numbers.size else default


def read_bytes(data: bytes | bytearray, directory: Directory, tag: int) -> bytes | None:
    """The raw value of a field, or None where it is missing."""
    entry = directory.find(tag)
    return None if entry is None else bytes(data[entry.value : entry.value + entry.size])


def with_short(data: bytes | bytearray, directory: Directory, tag: int, value: int) -> bytes:
    """A copy of `data` in which each one-valued field `tag` of `directory` is the SHORT `value`."""
    changed = bytearray(data)
    for entry in directory.entries:
        if entry.tag == tag and entry.count == 1:
            struct.pack_into(directory.order + "HHIHH", changed, entry.record, tag, _SHORT, 1, value, 0)
    return bytes(changed)


def exif_orientation(exif: bytes) -> int:
    """How the stored pixels have to be turned for viewing, 1 (not at all) to 8; 1 where the block does not say.

    Raises:
        TiffStructureError: the block is no TIFF structure.
    """
    orientation = read_number(exif, read_first_directory(exif), ORIENTATION, 1)
    return orientation if 1 <= orientation <= 8 else 1


def exif_for_size(exif: bytes, *, width: int, height: int) -> bytes:
    """A copy of an EXIF block for an image of this size: sizes where it states any, and no thumbnail.

    The block is changed in place and not rebuilt, because maker notes hold absolute offsets.

    Raises:
        TiffStructureError: the block is no TIFF structure.
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


def exif_from_tiff(data: bytes, directory: Directory) -> bytes | None:
    """An EXIF block with what a TIFF page tells about its image, or None where it tells nothing."""
    fields = _take(data, directory, _DESCRIPTIVE_TAGS)
    return b"II*\0\x08\0\0\0" + _lay_out(fields, 8) if fields else None


def tiff_with(encoded: bytes, *, exif: bytes | None, icc_profile: bytes | None, has_alpha: bool) -> bytes:
    """A little-endian, one-page TIFF file with metadata added: a new directory at its end takes the old one's place.

    The maker note is left out, see `_MAKER_NOTE`.

    Raises:
        TiffStructureError: `exif` is no TIFF structure, or the file would pass the format's 4 GiB.
    """
    fields = {field.tag: field for field in _take(encoded, read_first_directory(encoded), None)}
    if exif is not None:
        fields |= {field.tag: field for field in _take(exif, read_first_directory(exif), _DESCRIPTIVE_TAGS)}
    if icc_profile is not None:
        fields[ICC_PROFILE] = _Field(ICC_PROFILE, _UNDEFINED, len(icc_profile), icc_profile)
    if has_alpha:
        # OpenCV writes the fourth channel without saying what it is; 2 means alpha that was not multiplied in.
        fields[EXTRA_SAMPLES] = _Field(EXTRA_SAMPLES, _SHORT, 1, struct.pack("<H", 2))
    offset = len(encoded) + len(encoded) % 2
    added = _lay_out(fields.values(), offset)
    if offset + len(added) >= 1 << 32:
        raise TiffStructureError("a TIFF file holds at most 4 GiB")
    return b"".join([b"II*\0", struct.pack("<I", offset), encoded[8:], bytes(offset - len(encoded)), added])


def _read_subdirectory(data: bytes | bytearray, directory: Directory, tag: int) -> Directory | None:
    """The directory a field points to; None where it is missing or broken, which leaves the others usable."""
    try:
        return read_directory(data, directory.order, read_number(data, directory, tag, 0))
    except TiffStructureError:
        return None


def _take(data: bytes, directory: Directory, wanted: frozenset[int] | None, depth: int = 0) -> list[_Field]:
    """The fields of a directory with these tags (None: all), subdirectories with all of theirs.

    Repeated fields, broken subdirectories, and what goes past `_MOST_METADATA` are left out.
    """
    fields: dict[int, _Field] = {}
    taken = 0
    for entry in directory.entries:
        if entry.tag == _MAKER_NOTE or entry.tag in fields or (wanted is not None and entry.tag not in wanted):
            continue
        taken += entry.size
        if taken > _MOST_METADATA:
            break
        if entry.tag in _SUBDIRECTORIES:
            # EXIF inside TIFF, interoperability inside EXIF: deeper ones are loops made to trap a reader.
            subdirectory = _read_subdirectory(data, directory, entry.tag) if depth < 2 else None
            if subdirectory is not None:
                inner = _take(data, subdirectory, None, depth + 1)
                fields[entry.tag] = _Field(entry.tag, _LONG, 1, tuple(inner))
            continue
        raw: npt.NDArray[Any] = np.frombuffer(data, np.uint8, entry.size, entry.value)
        number = _NUMBER_BYTES[entry.kind]
        if directory.order == ">":
            raw = raw.reshape(-1, number)[:, ::-1]
        fields[entry.tag] = _Field(entry.tag, entry.kind, entry.count, raw.tobytes())
    return list(fields.values())


def _lay_out(fields: Iterable[_Field], offset: int) -> bytes:
    """The bytes of a little-endian directory that begins at `offset`, followed by the values that are not in it."""
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
