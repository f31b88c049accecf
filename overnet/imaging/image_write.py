"""Write still images: PNG, JPEG, WebP, TIFF and BMP, with their metadata, and the pixels of AVIF.

OpenCV encodes the pixels; `png`, `jpeg`, `webp`, `bmp` and `tiff` add the metadata.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from overnet.errors import InputError, OutputError, printable
from overnet.files.atomic import atomic_write, check_target
from overnet.imaging.formats.bmp import bmp_with
from overnet.imaging.formats.jpeg import MOST_JPEG_EXIF, MOST_JPEG_PROFILE, MOST_JPEG_XMP, jpeg_with
from overnet.imaging.formats.metadata import Density, Extras, iptc_of, resource_bytes
from overnet.imaging.formats.png import lost_chunks, lost_colours, png_from_samples, png_with
from overnet.imaging.formats.tiff import (
    GEO_KEYS,
    ICC_PROFILE,
    IPTC,
    PHOTOSHOP,
    XMP,
    TiffStructureError,
    density_numbers,
    exif_for_size,
    exif_of_density,
    exif_orientation,
    has_maker_note,
    tiff_with,
)
from overnet.imaging.formats.webp import webp_with
from overnet.imaging.image_inspect import profile_colours
from overnet.imaging.image_io import IMAGE_SUFFIXES, KIND_BY_SUFFIX, TURNS, DecodedImage, Pixels, eight_bits, opencv


@dataclass(frozen=True)
class _Capabilities:
    """What a kind of file can hold."""

    alpha: bool
    deep: bool  # 16 bits per channel
    grey: bool
    longest_side: int
    most_exif: int  # bytes; 0 where the format holds none
    most_profile: int
    most_xmp: int
    iptc: bool
    comments: bool


_ANY = 1 << 30
_CAPABILITIES = {
    "PNG": _Capabilities(True, True, True, 1_000_000, _ANY, _ANY, _ANY, iptc=True, comments=True),
    # libjpeg's limit is a little below the standard's 65535.
    "JPEG": _Capabilities(
        False, False, True, 65500, MOST_JPEG_EXIF, MOST_JPEG_PROFILE, MOST_JPEG_XMP, iptc=True, comments=True
    ),
    "WebP": _Capabilities(True, False, False, 16383, _ANY, _ANY, _ANY, iptc=False, comments=False),
    "TIFF": _Capabilities(True, True, True, 1_000_000, _ANY, _ANY, _ANY, iptc=True, comments=False),
    "BMP": _Capabilities(False, False, True, 1_000_000, 0, 0, 0, iptc=False, comments=False),
    "AVIF": _Capabilities(True, False, False, 65536, 0, 0, 0, iptc=False, comments=False),
}


_USUAL_QUALITY = 95


def write_image(image: DecodedImage, path: Path, *, overwrite: bool = False, quality: int | None = None) -> list[str]:
    """Write one image in the format of its suffix; on an error the file stays as it was before.

    Sizes in the EXIF block are set to those of `image.rgb`, and the thumbnail in it is dropped. A format that cannot
    hold the EXIF block gets the pixels turned as its orientation says.

    Args:
        image: what to write.
        path: the file to write, with one of `IMAGE_SUFFIXES`.
        overwrite: whether an existing file may be replaced.
        quality: of JPEG (without chroma subsampling), WebP and AVIF, 1 to 100; None for 95, and for lossless WebP where
            the image was read from such a file. The other formats are lossless.

    Returns:
        One line for each thing that the format could not hold.

    Raises:
        InputError: `quality` is out of range.
        OutputError: the suffix is unknown, the file exists, the image is too large for the format, or the operating
            system refuses to write.
        MissingDependency: OpenCV is not installed.
    """
    kind = KIND_BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise OutputError(
            f"{printable(path)}: cannot write an image named {path.suffix or 'without suffix'!r}; use {known}"
        )
    check_target(path, overwrite=overwrite)
    encoded, notes = encode_image(image, kind, path, quality=quality)
    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(encoded)
    return notes


def encode_image(image: DecodedImage, kind: str, name: Path, *, quality: int | None = None) -> tuple[bytes, list[str]]:
    """Encode one image; see `write_image`.

    Args:
        image: what to encode.
        kind: of the file, one of the values of `KIND_BY_SUFFIX`.
        name: of the file, for messages.
        quality: see `write_image`.

    Returns:
        The file's content, and one line for each thing that the format could not hold.

    Raises:
        InputError, OutputError, MissingDependency: see `write_image`.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"the quality is {quality}; it must be from 1 to 100")
    reduced, notes = _reduce(image, kind)
    height, width = reduced.rgb.shape[:2]
    longest = _CAPABILITIES[kind].longest_side
    if max(height, width) > longest:
        raise OutputError(
            f"{printable(name)}: {kind} holds at most {longest} pixels a side, and this is {width} x {height}"
        )
    try:
        return _encode(reduced, kind, quality), notes
    except (TiffStructureError, _EncodingError) as error:
        raise OutputError(f"{printable(name)} cannot be written: {error}") from error


class _EncodingError(ValueError):
    """Pixels that OpenCV cannot encode; the message says why."""


def _reduce(image: DecodedImage, kind: str) -> tuple[DecodedImage, list[str]]:
    """Return the image as this kind of file can hold it, and one line for each thing that it cannot."""
    can = _CAPABILITIES[kind]
    notes = []
    rgb, alpha = image.rgb, image.alpha
    if alpha is not None and not can.alpha:
        alpha = None
        notes.append(f"{kind} holds no transparency: it was dropped")
    if rgb.dtype == np.uint16 and not can.deep:
        rgb = eight_bits(rgb)
        alpha = None if alpha is None else eight_bits(alpha)
        notes.append(f"{kind} holds 8 bits per channel: the image was rounded from 16")
    exif, extras = None, image.extras
    if image.exif is not None:
        exif, orientation, note = _exif_for(image.exif, kind, rgb)
        turn = TURNS[orientation]
        rgb, alpha = turn(rgb), None if alpha is None else turn(alpha)
        extras = extras.turned(orientation)
        notes += [note] if note else []
    # OpenCV cannot read a grey TIFF with alpha, so none is written.
    grey = image.grey and can.grey and not (kind == "TIFF" and alpha is not None)
    profile = image.icc_profile
    if profile is not None:
        reason = _profile_misfit(profile, kind, grey=grey)
        if reason:
            profile = None
            notes.append(f"the ICC profile was dropped: {reason}")
    if kind == "WebP" and extras.density is not None and exif is None:
        exif = exif_of_density(*_tiff_density(extras.density))
    extras, lost = _extras_for(extras, kind, exif, has_profile=image.icc_profile is not None)
    if lost:
        notes.append(f"{kind} cannot hold everything, dropped: {'; '.join(lost)}")
    return DecodedImage(rgb, alpha, grey, exif, profile, extras=extras), notes


def _extras_for(extras: Extras, kind: str, exif: bytes | None, *, has_profile: bool) -> tuple[Extras, list[str]]:
    """Return the metadata that this kind of file can hold, and the names of those that it cannot."""
    can = _CAPABILITIES[kind]
    lost = []
    if extras.xmp is not None and len(extras.xmp) > can.most_xmp:
        extras = replace(extras, xmp=extras.xmp.rstrip() if len(extras.xmp.rstrip()) <= can.most_xmp else None)
        lost += ["the XMP packet"] if extras.xmp is None else []
    if extras.extended_xmp and (kind != "JPEG" or extras.xmp is None):
        extras = replace(extras, extended_xmp=())
        lost.append("the extended XMP")
    if extras.photoshop and not can.iptc:
        extras = replace(extras, photoshop=None)
        lost.append("the IPTC record and other Photoshop resources")
    if extras.comments and not can.comments:
        extras = replace(extras, comments=())
        lost.append("the comment")
    if kind != "PNG":
        lost += [*lost_colours(extras, has_profile=has_profile), *lost_chunks(extras)]
        extras = replace(extras, png_chunks=())
    if kind != "TIFF" and extras.tiff_fields:
        geo = any(one.tag == GEO_KEYS for one in extras.tiff_fields)
        tags = ", ".join(str(one.tag) for one in extras.tiff_fields)
        lost.append(f"{'the georeference (GeoTIFF) and other ' if geo else ''}TIFF tags {tags}")
        extras = replace(extras, tiff_fields=())
    if kind == "TIFF" and exif is not None and has_maker_note(exif):
        lost.append("the camera's maker note")
    density = extras.density
    if density is not None and (
        (kind == "BMP" and not density.unit)
        or kind == "AVIF"
        or (kind == "WebP" and exif is not None and not density_numbers(exif))
    ):
        lost.append("the resolution" if density.unit else "the shape of its pixels")
    return extras, lost


def _tiff_density(density: Density) -> tuple[Fraction, Fraction, int]:
    """Return a density as TIFF states it, see `overnet.imaging.formats.tiff.density_numbers`."""
    if not density.unit:
        return density.x, density.y, 1
    x, y = density.per("inch") if density.unit == "m" else (density.x, density.y)
    # PNG and BMP round to whole numbers a metre: 11811 is meant to be 300 dpi.
    return round(x, 2), round(y, 2), 3 if density.unit == "cm" else 2


def _exif_for(exif: bytes, kind: str, rgb: Pixels) -> tuple[bytes | None, int, str]:
    """Return the EXIF block to write, the orientation to turn the pixels by, and a note on what is lost or ""."""
    try:
        changed = exif_for_size(exif, width=rgb.shape[1], height=rgb.shape[0])
        orientation = exif_orientation(exif)
    except TiffStructureError as error:
        return None, 1, f"the EXIF block was dropped: it is broken ({error})"
    most = _CAPABILITIES[kind].most_exif
    if len(changed) <= most:
        return changed, 1, ""
    reason = f"{kind} holds none" if most == 0 else f"{kind} holds at most {most} bytes, and it has {len(changed)}"
    turned = "; the image was turned upright instead" if orientation != 1 else ""
    return None, orientation, f"the EXIF block was dropped: {reason}{turned}"


def _profile_misfit(profile: bytes, kind: str, *, grey: bool) -> str:
    """Return why this ICC profile cannot be written to such a file; empty if it can."""
    colours = profile_colours(profile)
    stored = "GRAY" if grey else "RGB"
    most = _CAPABILITIES[kind].most_profile
    if most == 0:
        return f"{kind} holds none"
    if colours is None:
        return "it is broken"
    if colours != stored:
        return f"it describes {colours} colours, and the file is {stored}"
    if len(profile) > most:
        return f"{kind} holds at most {most} bytes, and it has {len(profile)}"
    return ""


def _encode(image: DecodedImage, kind: str, quality: int | None) -> bytes:
    """Return the bytes of the file; `image` has been reduced to what this kind can hold."""
    if kind == "PNG" and image.grey and image.alpha is not None:
        encoded = png_from_samples(np.dstack([_opencv_order(image), image.alpha]))
    else:
        encoded = _encode_pixels(image, kind, quality)
    exif, icc_profile, extras = image.exif, image.icc_profile, image.extras
    if kind == "PNG":
        return png_with(encoded, exif=exif, icc_profile=icc_profile, extras=extras)
    if kind == "JPEG":
        return jpeg_with(encoded, exif=exif, icc_profile=icc_profile, extras=extras)
    if kind == "WebP":
        return webp_with(encoded, exif=exif, icc_profile=icc_profile, xmp=extras.xmp)
    if kind == "AVIF":
        return encoded
    if kind == "BMP":
        return bmp_with(encoded, density=extras.density)
    resources = extras.photoshop
    return tiff_with(
        encoded,
        exif=exif,
        others=extras.tiff_fields,
        blocks={
            ICC_PROFILE: icc_profile,
            XMP: extras.xmp,
            PHOTOSHOP: None if resources is None else resource_bytes(resources),
            IPTC: iptc_of(resources),
        },
        density=None if extras.density is None else _tiff_density(extras.density),
        has_alpha=image.alpha is not None,
    )


def _encode_pixels(image: DecodedImage, kind: str, quality: int | None) -> bytes:
    """Return the bytes of a file without metadata."""
    cv2 = opencv()
    # OpenCV before 4.7, which Ubuntu has on a Jetson, always halves the resolution of colour.
    full_colour = (
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR")
        else []
    )
    options = {
        "JPEG": [cv2.IMWRITE_JPEG_QUALITY, quality or _USUAL_QUALITY, *full_colour],
        # More than 100 is without loss.
        "AVIF": [getattr(cv2, "IMWRITE_AVIF_QUALITY", 0), quality or _USUAL_QUALITY],
        "WebP": [cv2.IMWRITE_WEBP_QUALITY, quality or (101 if image.extras.lossless else _USUAL_QUALITY)],
    }
    try:
        done, buffer = cv2.imencode(f".{kind.lower()}", _opencv_order(image), options.get(kind, []))
    except (cv2.error, MemoryError) as error:
        why = ": AVIF needs opencv-python 4.10 or later" if kind == "AVIF" else ""
        raise _EncodingError(f"OpenCV cannot encode it as {kind}{why}") from error
    if not done:
        raise _EncodingError(f"OpenCV cannot encode it as {kind}")
    return bytes(buffer)


def _opencv_order(image: DecodedImage) -> Pixels:
    """Return H x W, or H x W x 3 or 4 in the order blue, green, red, alpha."""
    cv2 = opencv()
    rgb = np.ascontiguousarray(image.rgb)
    pixels: Pixels
    if image.grey:
        pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)  # exact where the channels are equal
    elif image.alpha is None:
        pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    else:
        pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA)
        pixels[..., 3] = image.alpha
    return pixels
