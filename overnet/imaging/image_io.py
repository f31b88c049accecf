"""Read and write still images: PNG, JPEG, WebP, TIFF and BMP, with their EXIF block and ICC profile.

OpenCV decodes and encodes the pixels; `image_inspect` checks files first, `containers` and `tiff` add metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overnet.errors import InputError, MissingDependency, OutputError, printable, require
from overnet.files.atomic import atomic_write, check_target, read_file
from overnet.imaging import containers
from overnet.imaging.image_inspect import inspect, profile_colours
from overnet.imaging.tiff import TiffStructureError, exif_for_size, exif_orientation, tiff_with
from overnet.types import Image

Pixels = npt.NDArray[Any]  # uint8 or uint16

_KIND_BY_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}

# The suffixes of images that are written, and of those that a folder is searched for.
IMAGE_SUFFIXES: frozenset[str] = frozenset(_KIND_BY_SUFFIX)
READABLE_SUFFIXES = IMAGE_SUFFIXES | {".ppm", ".pgm"}


@dataclass(frozen=True)
class _Capabilities:
    """What a kind of file can hold."""

    alpha: bool
    deep: bool  # 16 bits per channel
    grey: bool
    longest_side: int
    most_exif: int  # bytes; 0 where the format holds no metadata
    most_profile: int


_CAPABILITIES = {
    "PNG": _Capabilities(True, True, True, 1_000_000, 1 << 30, 1 << 30),
    # libjpeg's limit is a little below the standard's 65535.
    "JPEG": _Capabilities(False, False, True, 65500, containers.MOST_JPEG_EXIF, containers.MOST_JPEG_PROFILE),
    "WebP": _Capabilities(True, False, False, 16383, 1 << 30, 1 << 30),
    "TIFF": _Capabilities(True, True, True, 1_000_000, 1 << 30, 1 << 30),
    "BMP": _Capabilities(False, False, True, 1_000_000, 0, 0),
}


@dataclass(frozen=True)
class DecodedImage:
    """A decoded still image with its metadata.

    Args:
        rgb: H x W x 3 in the order red, green, blue, uint8 or uint16, as stored: not turned by the EXIF orientation.
        alpha: H x W of the same dtype, not multiplied into `rgb`; None where the image is opaque.
        grey: whether the file was grey. The three channels are then equal, and written as one where the format can.
        exif: the EXIF block, a TIFF structure without the ``Exif\\0\\0`` that JPEG puts before it.
        icc_profile: the colour profile of the stored pixels.
        notes: one line for each thing in the file that was dropped or converted.

    Raises:
        ValueError: a shape or dtype is another.
    """

    rgb: Pixels
    alpha: Pixels | None
    grey: bool
    exif: bytes | None
    icc_profile: bytes | None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rgb.dtype not in (np.uint8, np.uint16) or self.rgb.ndim != 3 or self.rgb.shape[2] != 3:
            raise ValueError(f"rgb is {self.rgb.dtype} {self.rgb.shape}, not uint8 or uint16 H x W x 3")
        if 0 in self.rgb.shape:
            raise ValueError("rgb holds no pixels")
        if self.alpha is not None and (self.alpha.dtype != self.rgb.dtype or self.alpha.shape != self.rgb.shape[:2]):
            raise ValueError(
                f"alpha is {self.alpha.dtype} {self.alpha.shape}, and rgb {self.rgb.dtype} {self.rgb.shape}"
            )


def read_image(path: Path, *, max_pixels: int = 1 << 28) -> DecodedImage:
    """Read one image. Its content decides what kind of file it is, not its suffix.

    Args:
        path: the file.
        max_pixels: an image that states more pixels is refused before memory is taken for them.

    Raises:
        InputError: the file is missing, a folder, empty, truncated, damaged, too large, animated, of several pages, or
            not an image.
        MissingDependency: OpenCV is not installed.
    """
    data = read_file(path, most_bytes=8 * max_pixels + (1 << 26))  # 8 bytes: 16 bits for each of RGB and alpha
    try:
        container = inspect(data)
        if container.width * container.height > max_pixels:
            raise containers.UnusableImageError(
                f"is too large: {container.width} x {container.height} pixels, the limit is {max_pixels}"
            )
        pixels = _decode(container.decodable or data, container)
    except containers.UnusableImageError as error:
        raise InputError(f"{printable(path)} {error}") from error
    rgb, alpha = _channels(pixels, container)
    grey = pixels.ndim == 2 if container.grey is None else container.grey
    return DecodedImage(rgb, alpha, grey, container.exif, container.icc_profile, tuple(container.notes))


def read_rgb(path: Path) -> Image:
    """Read an image as H x W x 3 uint8 RGB, turned upright as its EXIF block says.

    Grey images get three equal channels, 16 bits are rounded to 8, and transparency is dropped.

    Raises:
        InputError: see `read_image`.
        MissingDependency: OpenCV is not installed.
    """
    image = read_image(path)
    rgb = image.rgb if image.rgb.dtype == np.uint8 else _eight_bits(image.rgb)
    orientation = 1 if image.exif is None else exif_orientation(image.exif)
    return np.ascontiguousarray(_TURNS[orientation](rgb))


def write_image(image: DecodedImage, path: Path, *, overwrite: bool = False, quality: int = 95) -> list[str]:
    """Write one image in the format of its suffix; on an error the file stays as it was before.

    Sizes in the EXIF block are set to those of `image.rgb`, and the thumbnail in it is dropped. A format that cannot
    hold the EXIF block gets the pixels turned as its orientation says.

    Args:
        image: what to write.
        path: the file to write, with one of `IMAGE_SUFFIXES`.
        overwrite: whether an existing file may be replaced.
        quality: of JPEG (without chroma subsampling) and WebP, 1 to 100. The other formats are lossless.

    Returns:
        One line for each thing that the format could not hold.

    Raises:
        InputError: `quality` is out of range.
        OutputError: the suffix is unknown, the file exists, the image is too large for the format, or the operating
            system refuses to write.
        MissingDependency: OpenCV is not installed.
    """
    kind = _KIND_BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise OutputError(
            f"{printable(path)}: cannot write an image named {path.suffix or 'without suffix'!r}; use {known}"
        )
    if not 1 <= quality <= 100:
        raise InputError(f"the quality is {quality}; it must be from 1 to 100")
    check_target(path, overwrite=overwrite)
    reduced, notes = _reduce(image, kind)
    height, width = reduced.rgb.shape[:2]
    longest = _CAPABILITIES[kind].longest_side
    if max(height, width) > longest:
        raise OutputError(
            f"{printable(path)}: {kind} holds at most {longest} pixels a side, and this is {width} x {height}"
        )
    try:
        encoded = _encode(reduced, kind, quality)
    except (TiffStructureError, _EncodingError) as error:
        raise OutputError(f"{printable(path)} cannot be written: {error}") from error
    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(encoded)
    return notes


class _EncodingError(ValueError):
    """Pixels that OpenCV cannot encode; the message says why."""


def _opencv() -> Any:
    purpose = "reading and writing images"
    try:
        return require("cv2", extra="", purpose=purpose)
    except MissingDependency as error:
        # No extra installs it: it is a base dependency, and on a Jetson it comes with the system.
        reason = str(error.__cause__).replace("\n", " ")
        raise MissingDependency(
            f"{purpose} needs OpenCV ({reason}): install opencv-python, or on a Jetson its own OpenCV"
        ) from error


def _decode(data: bytes, container: containers.Container) -> Pixels:
    """Return H x W, or H x W x 3 or 4 in OpenCV's order blue, green, red, alpha."""
    cv2 = _opencv()
    try:
        pixels: Pixels | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise containers.UnusableImageError(f"is damaged, or a {container.kind} that OpenCV cannot read") from error
    if pixels is None:
        raise containers.UnusableImageError(f"is damaged, or a {container.kind} that OpenCV cannot read")
    if pixels.shape[:2] != (container.height, container.width):
        raise containers.UnusableImageError("is damaged: its pixels do not fill the size it states")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise containers.UnusableImageError(f"holds {pixels.dtype} numbers; only 8 and 16 bits are supported")
    return pixels


def _channels(pixels: Pixels, container: containers.Container) -> tuple[Pixels, Pixels | None]:
    """Return decoded pixels as RGB and alpha."""
    cv2 = _opencv()
    most = np.iinfo(pixels.dtype).max
    if pixels.ndim == 2:
        alpha = None
        if container.transparent_grey is not None:
            alpha = np.where(pixels == container.transparent_grey, 0, most).astype(pixels.dtype)
        if container.inverted:
            pixels = most - pixels
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), alpha
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), None
    rgb: Pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB)
    if container.opaque:
        return rgb, None
    alpha = np.ascontiguousarray(pixels[..., 3])
    if container.premultiplied:
        divisor = np.maximum(alpha, 1)[..., None].astype(np.uint64)
        rgb = np.minimum((rgb.astype(np.uint64) * most + divisor // 2) // divisor, most).astype(pixels.dtype)
    return rgb, alpha


def _reduce(image: DecodedImage, kind: str) -> tuple[DecodedImage, list[str]]:
    """Return the image as this kind of file can hold it, and one line for each thing that it cannot."""
    can = _CAPABILITIES[kind]
    notes = []
    rgb, alpha = image.rgb, image.alpha
    if alpha is not None and not can.alpha:
        alpha = None
        notes.append(f"{kind} holds no transparency: it was dropped")
    if rgb.dtype == np.uint16 and not can.deep:
        rgb = _eight_bits(rgb)
        alpha = None if alpha is None else _eight_bits(alpha)
        notes.append(f"{kind} holds 8 bits per channel: the image was rounded from 16")
    exif = None
    if image.exif is not None:
        exif, turn, note = _exif_for(image.exif, kind, rgb)
        rgb, alpha = turn(rgb), None if alpha is None else turn(alpha)
        notes += [note] if note else []
    # OpenCV cannot read a grey TIFF with alpha, so none is written.
    grey = image.grey and can.grey and not (kind == "TIFF" and alpha is not None)
    profile = image.icc_profile
    if profile is not None:
        reason = _profile_misfit(profile, kind, grey=grey)
        if reason:
            profile = None
            notes.append(f"the ICC profile was dropped: {reason}")
    return DecodedImage(rgb, alpha, grey, exif, profile), notes


def _eight_bits(pixels: Pixels) -> Pixels:
    """Round uint16 to uint8, to the nearest: 65535 / 255 is 257."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _exif_for(exif: bytes, kind: str, rgb: Pixels) -> tuple[bytes | None, Callable[[Pixels], Pixels], str]:
    """Return the EXIF block to write, the function to turn the pixels by, and a note on what is lost or ""."""
    try:
        changed = exif_for_size(exif, width=rgb.shape[1], height=rgb.shape[0])
        orientation = exif_orientation(exif)
    except TiffStructureError as error:
        return None, _TURNS[1], f"the EXIF block was dropped: it is broken ({error})"
    most = _CAPABILITIES[kind].most_exif
    if len(changed) <= most:
        return changed, _TURNS[1], ""
    reason = f"{kind} holds none" if most == 0 else f"{kind} holds at most {most} bytes, and it has {len(changed)}"
    turned = "; the image was turned upright instead" if orientation != 1 else ""
    return None, _TURNS[orientation], f"the EXIF block was dropped: {reason}{turned}"


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


# How stored pixels are turned for viewing, by EXIF orientation.
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}


def _encode(image: DecodedImage, kind: str, quality: int) -> bytes:
    """Return the bytes of the file; `image` has been reduced to what this kind can hold."""
    if kind == "PNG" and image.grey and image.alpha is not None:
        encoded = containers.png_from_samples(np.dstack([_opencv_order(image), image.alpha]))
    else:
        encoded = _encode_pixels(image, kind, quality)
    exif, icc_profile = image.exif, image.icc_profile
    if kind == "TIFF":
        return tiff_with(encoded, exif=exif, icc_profile=icc_profile, has_alpha=image.alpha is not None)
    complete = {"PNG": containers.png_with, "JPEG": containers.jpeg_with, "WebP": containers.webp_with}.get(kind)
    return encoded if complete is None else complete(encoded, exif=exif, icc_profile=icc_profile)


def _encode_pixels(image: DecodedImage, kind: str, quality: int) -> bytes:
    """Return the bytes of a file without metadata."""
    cv2 = _opencv()
    # OpenCV before 4.7, which Ubuntu has on a Jetson, always halves the resolution of colour.
    full_colour = (
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR")
        else []
    )
    options = {
        "JPEG": [cv2.IMWRITE_JPEG_QUALITY, quality, *full_colour],
        "WebP": [cv2.IMWRITE_WEBP_QUALITY, quality],
    }
    try:
        done, buffer = cv2.imencode(f".{kind.lower()}", _opencv_order(image), options.get(kind, []))
    except (cv2.error, MemoryError) as error:
        raise _EncodingError(f"OpenCV cannot encode it as {kind}") from error
    if not done:
        raise _EncodingError(f"OpenCV cannot encode it as {kind}")
    return bytes(buffer)


def _opencv_order(image: DecodedImage) -> Pixels:
    """Return H x W, or H x W x 3 or 4 in the order blue, green, red, alpha."""
    cv2 = _opencv()
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
