"""The description of an image file that its reader fills in before the pixels are decoded.

OpenCV decodes and encodes the pixels, but before 4.11 it neither reads nor writes EXIF and ICC profiles, and every
release fills the missing part of a truncated file silently. Pillow finds truncation only by decoding all pixels, which
doubles the time of reading, and refuses PNG files with a profile of more than 1 MiB. The data may be damaged or
hostile: lengths are compared with the data before use, and every loop advances.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from overnet.imaging.formats.metadata import Extras

TRUNCATED = "is truncated: the end of the image is missing"
# The largest profile or text, in bytes: a few kilobytes of compressed zeros must not become gigabytes.
MOST_INFLATED = 1 << 26


class UnusableImageError(ValueError):
    """A file that cannot be read as an image; the message continues its name, such as "is truncated"."""


@dataclass
class Container:
    """The size and metadata of an image file, and how to correct its decoded pixels.

    Attributes:
        grey: whether the file is grey; None where the decoder's number of channels decides.
        extras: the metadata beside EXIF block and ICC profile.
        notes: one line for each thing in the file that is not kept.
        decode: returns the pixels as OpenCV would, for files that OpenCV misreads or cannot read; None for the others.
        decodable: the bytes to decode where they differ from the file's.
        opaque: whether the fourth channel is no alpha.
        inverted, premultiplied, transparent_grey: corrections of the decoded pixels.
        failure: what to say where the decoder refuses the file; None for the general message.
    """

    kind: str
    width: int = 0
    height: int = 0
    grey: bool | None = None
    exif: bytes | None = None
    icc_profile: bytes | None = None
    extras: Extras = field(default_factory=Extras)
    notes: list[str] = field(default_factory=list)
    decode: Callable[[], npt.NDArray[Any]] | None = None
    decodable: bytes | None = None
    opaque: bool = False
    inverted: bool = False
    premultiplied: bool = False
    transparent_grey: int | None = None
    failure: str | None = None


def inflated(content: bytes) -> bytes:
    """Return decompressed data, at most `MOST_INFLATED` bytes; empty where they are damaged."""
    try:
        return zlib.decompressobj().decompress(content, MOST_INFLATED)
    except zlib.error:
        return b""
