"""Find the kind, size and metadata of an image file before its pixels are decoded, and refuse what OpenCV misreads."""

import re
import struct
from collections.abc import Callable

from overnet.imaging.formats.bmp import BMP_HEADERS, inspect_bmp, inspect_pnm
from overnet.imaging.formats.containers import TRUNCATED, Container, UnusableImageError
from overnet.imaging.formats.foreign import foreign_kind, inspect_foreign
from overnet.imaging.formats.jpeg import inspect_jpeg
from overnet.imaging.formats.png import inspect_png, is_animated_png
from overnet.imaging.formats.tiff import TiffStructureError, exif_orientation
from overnet.imaging.formats.tiff_pages import inspect_tiff
from overnet.imaging.formats.webp import inspect_webp

_PNM_START = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d")

# The first bytes of a file that decide what it is.
START_BYTES = 4096


def image_kind(start: bytes, suffix: str) -> str | None:
    """Return the kind of still image that a file is, by its first `START_BYTES` bytes; None where it is none.

    It is empty for an animated PNG.

    Args:
        start: the first bytes of the file.
        suffix: its suffix, for the kinds that have no signature, and for videos that consist of images.
    """
    if suffix.lower() in (".mjpeg", ".mjpg"):
        return None
    if start.startswith(b"\x89PNG") and is_animated_png(start):
        return ""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start.startswith(b"BM"):
        return "BMP" if int.from_bytes(start[14:18], "little") in BMP_HEADERS else None
    if _PNM_START.match(start):
        return "PNM"
    signatures = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
    return next((kind for sign, kind in signatures.items() if start.startswith(sign)), foreign_kind(start, suffix))


def inspect(data: bytes, suffix: str = "") -> Container:
    """Find the kind of image, its size and its metadata, without decoding pixels.

    Args:
        data: the file.
        suffix: of its name, which matters only for kinds without a signature (TGA).

    Raises:
        UnusableImageError: the data is not an image of a known kind, is truncated or animated, or OpenCV misreads it.
    """
    if not data:
        raise UnusableImageError("is empty")
    # An animated PNG is a video to those who ask for the kind, and here it is refused by its own message.
    kind = "PNG" if data.startswith(b"\x89PNG") else image_kind(data[:START_BYTES], suffix)
    if not kind:
        raise UnusableImageError(
            f"is not a PNG, JPEG, WebP, TIFF, BMP, PPM, JPEG 2000, AVIF, HEIC, JPEG XL or TGA image{_what_else(data)}"
        )
    container = Container(kind)
    try:
        _INSPECTORS.get(kind, inspect_foreign)(data, container)
    except struct.error as error:  # a field of fixed position lies beyond the end of the data
        raise UnusableImageError(TRUNCATED) from error
    if container.width < 1 or container.height < 1:
        raise UnusableImageError("states no size, or a size of zero")
    _check_metadata(container)
    return container


def profile_colours(profile: bytes) -> str | None:
    """Return the colours an ICC profile describes, such as ``"RGB"`` or ``"GRAY"``; None where it is broken."""
    if len(profile) < 132 or profile[36:40] != b"acsp" or int.from_bytes(profile[:4], "big") > len(profile):
        return None
    return profile[16:20].decode("latin-1").strip()


def _what_else(data: bytes) -> str:
    """Return what a file that is no image that can be read looks like, for a message; empty where it is unknown."""
    for position, start, name in (
        (0, b"GIF8", "GIF"),
        (0, b"II+\0", "BigTIFF"),
        (0, b"MM\0+", "BigTIFF"),
        (0, b"v/1\x01", "OpenEXR"),
        (0, b"#?R", "Radiance HDR"),
        (0, b"%PDF", "PDF"),
        (0, b"FUJIFILMCCD-RAW", "a camera's raw file"),
        (0, b"IIU\0", "a camera's raw file"),
        (0, b"IIRO", "a camera's raw file"),
        (4, b"ftypcrx", "a camera's raw file"),
        (4, b"ftypavis", "animated AVIF"),
        (4, b"ftyp", "video"),
    ):
        if data.startswith(start, position):
            return f" (it looks like {name})"
    return ""


def _check_metadata(container: Container) -> None:
    """Drop a broken EXIF block, and a profile that is broken or of other colours, with a note for each."""
    if container.exif is not None:
        # Some programs write JPEG's marker in front of the EXIF block of WebP and PNG files too.
        exif = container.exif.removeprefix(b"Exif\0\0")
        try:
            exif_orientation(exif)
            container.exif = exif
        except TiffStructureError as error:
            container.exif = None
            container.notes.append(f"its EXIF block is broken and was dropped ({error})")
    if container.icc_profile is not None:
        colours = profile_colours(container.icc_profile)
        if colours not in ("RGB", "GRAY"):
            container.icc_profile = None
            reason = "is broken" if colours is None else f"describes {colours} colours, which are not kept,"
            container.notes.append(f"its ICC profile {reason} and was dropped")


_INSPECTORS: dict[str, Callable[[bytes, Container], None]] = {
    "PNG": inspect_png,
    "JPEG": inspect_jpeg,
    "WebP": inspect_webp,
    "TIFF": inspect_tiff,
    "BMP": inspect_bmp,
    "PNM": inspect_pnm,
}
