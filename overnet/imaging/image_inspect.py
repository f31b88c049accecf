"""What an image file is and states, found out before any pixel is decoded."""

from __future__ import annotations

import struct
from collections.abc import Callable

from overnet.imaging.containers import (
    TRUNCATED,
    Container,
    UnusableImageError,
    inspect_bmp,
    inspect_jpeg,
    inspect_png,
    inspect_pnm,
    inspect_webp,
)
from overnet.imaging.tiff import TiffStructureError, exif_orientation
from overnet.imaging.tiff_page import inspect_tiff

_INSPECTORS: dict[str, Callable[[bytes, Container], None]] = {
    "PNG": inspect_png,
    "JPEG": inspect_jpeg,
    "WebP": inspect_webp,
    "TIFF": inspect_tiff,
    "BMP": inspect_bmp,
    "PNM": inspect_pnm,
}


def inspect(data: bytes) -> Container:
    """Find out what kind of image `data` is and what it states, without decoding pixels.

    Raises:
        UnusableImageError: not an image of a known kind, truncated, animated, or of a kind OpenCV would read wrongly.
    """
    kind = _kind_of(data)
    container = Container(kind)
    try:
        _INSPECTORS[kind](data, container)
    except struct.error as error:  # a fixed field lies behind the end of the data
        raise UnusableImageError(TRUNCATED) from error
    if container.width < 1 or container.height < 1:
        raise UnusableImageError("states no size, or a size of zero")
    _check_metadata(container)
    return container


def profile_colours(profile: bytes) -> str | None:
    """The colours an ICC profile describes, such as ``"RGB"`` or ``"GRAY"``; None where it is no profile."""
    if len(profile) < 132 or profile[36:40] != b"acsp" or int.from_bytes(profile[:4], "big") > len(profile):
        return None
    return profile[16:20].decode("latin-1").strip()


def _kind_of(data: bytes) -> str:
    if not data:
        raise UnusableImageError("is empty")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    for start, kind in (
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"BM", "BMP"),
        (b"P5", "PNM"),
        (b"P6", "PNM"),
    ):
        if data.startswith(start):
            return kind
    other = ""
    for position, start, name in (
        (0, b"GIF8", "GIF"),
        (0, b"II+\0", "BigTIFF"),
        (0, b"MM\0+", "BigTIFF"),
        (0, b"v/1\x01", "OpenEXR"),
        (0, b"#?R", "Radiance HDR"),
        (4, b"ftypavi", "AVIF"),
        (4, b"ftyphei", "HEIC"),
        (4, b"jP  ", "JPEG 2000"),
        (4, b"JXL ", "JPEG XL"),
        (0, b"\xff\x0a", "JPEG XL"),
        (0, b"%PDF", "PDF"),
        (4, b"ftyp", "video"),
    ):
        if not other and data.startswith(start, position):
            other = f" (it looks like {name})"
    raise UnusableImageError(f"is not a PNG, JPEG, WebP, TIFF, BMP, PPM or PGM image{other}")


def _check_metadata(container: Container) -> None:
    """Drop an EXIF block or a profile that no reader could use, with a note."""
    if container.exif is not None:
        # Some writers of WebP and PNG keep the marker that belongs to JPEG only.
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
