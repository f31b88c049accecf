"""Read still images with their metadata.

OpenCV decodes the pixels of most kinds; `image_inspect` checks files first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overnet.errors import InputError, MissingDependency, printable, require
from overnet.files.atomic import read_file
from overnet.imaging.formats.containers import Container, UnusableImageError
from overnet.imaging.formats.metadata import Extras
from overnet.imaging.formats.tiff import TiffStructureError, exif_orientation, exif_scaled
from overnet.imaging.image_inspect import START_BYTES, image_kind, inspect
from overnet.types import Image

Pixels = npt.NDArray[Any]  # uint8 or uint16

KIND_BY_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
}

# The suffix of a result whose source has another; PNG for all other kinds.
_SUFFIX_BY_KIND = {"JPEG": ".jpg", "TIFF": ".tif", "WebP": ".webp", "BMP": ".bmp"}

# The suffixes of images that are written, and of those that are images whatever they hold, so that damage is named.
IMAGE_SUFFIXES: frozenset[str] = frozenset(KIND_BY_SUFFIX)
_OTHER_SUFFIXES = {".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".pgm", ".ppm", ".tga"}
KNOWN_SUFFIXES = IMAGE_SUFFIXES | _OTHER_SUFFIXES


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
        extras: the other metadata.

    Raises:
        ValueError: a shape or dtype is another.
    """

    rgb: Pixels
    alpha: Pixels | None
    grey: bool
    exif: bytes | None
    icc_profile: bytes | None
    notes: tuple[str, ...] = ()
    extras: Extras = field(default_factory=Extras)

    def __post_init__(self) -> None:
        if self.rgb.dtype not in (np.uint8, np.uint16) or self.rgb.ndim != 3 or self.rgb.shape[2] != 3:
            raise ValueError(f"rgb is {self.rgb.dtype} {self.rgb.shape}, not uint8 or uint16 H x W x 3")
        if 0 in self.rgb.shape:
            raise ValueError("rgb holds no pixels")
        if self.alpha is not None and (self.alpha.dtype != self.rgb.dtype or self.alpha.shape != self.rgb.shape[:2]):
            raise ValueError(
                f"alpha is {self.alpha.dtype} {self.alpha.shape}, and rgb {self.rgb.dtype} {self.rgb.shape}"
            )

    def enlarged(self, rgb: Pixels, alpha: Pixels | None) -> DecodedImage:
        """Return the image with enlarged pixels, and with its metadata for their size: dpi, XMP, maps and the like."""
        x, y = (Fraction(rgb.shape[axis], self.rgb.shape[axis]) for axis in (1, 0))
        exif = self.exif
        if exif is not None:
            with contextlib.suppress(TiffStructureError):  # `write_image` names a broken block
                exif = exif_scaled(exif, x, y)
        return replace(self, rgb=rgb, alpha=alpha, exif=exif, extras=self.extras.scaled(x, y))


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
    # 8 bytes: 16 bits for each of RGB and alpha
    return decode_image(read_file(path, most_bytes=8 * max_pixels + (1 << 26)), path, max_pixels=max_pixels)


def decode_image(data: bytes, name: Path, *, max_pixels: int = 1 << 28) -> DecodedImage:
    """Decode the bytes of one image file.

    Args:
        data: the file.
        name: of the file, for messages; its suffix matters only for kinds without a signature (TGA).
        max_pixels: see `read_image`.

    Raises:
        InputError, MissingDependency: see `read_image`.
    """
    try:
        container = inspect(data, name.suffix)
        if container.width * container.height > max_pixels:
            raise UnusableImageError(
                f"is too large: {container.width} x {container.height} pixels, the limit is {max_pixels}"
            )
        pixels = _decode(container.decodable or data, container) if container.decode is None else container.decode()
        if pixels.shape[0] * pixels.shape[1] > max_pixels or not pixels.size:
            raise UnusableImageError("is damaged: its pixels do not fill the size it states")
    except UnusableImageError as error:
        raise InputError(f"{printable(name)} {error}") from error
    rgb, alpha = _channels(pixels, container)
    grey = pixels.ndim == 2 if container.grey is None else container.grey
    return DecodedImage(
        rgb, alpha, grey, container.exif, container.icc_profile, tuple(container.notes), container.extras
    )


def is_image_file(path: Path) -> bool:
    """Tell whether a file of a folder is to be read as an image: by its suffix, or else by its content."""
    is_known = path.suffix.lower() in KNOWN_SUFFIXES
    try:
        return path.is_file() and (is_known or bool(still_image_suffix(path)))
    except OSError:
        return is_known  # reading it will name the reason


def still_image_suffix(path: Path) -> str | None:
    """Return the suffix of a result for a file that is a still image by its content; None where it is none.

    It is the file's own suffix where images with it are written, and empty for an animated PNG, which is a video.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.is_file():  # a pipe would lose what is read from it
        return None
    with path.open("rb") as file:
        kind = image_kind(file.read(START_BYTES), path.suffix)
    if not kind:
        return kind
    return path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else _SUFFIX_BY_KIND.get(kind, ".png")


def read_rgb(path: Path) -> Image:
    """Read an image as H x W x 3 uint8 RGB, turned upright as its EXIF block says.

    Grey images get three equal channels, 16 bits are rounded to 8, and transparency is dropped.

    Raises:
        InputError: see `read_image`.
        MissingDependency: OpenCV is not installed.
    """
    return upright_rgb(read_image(path))


def upright_rgb(image: DecodedImage) -> Image:
    """Return an image as H x W x 3 uint8 RGB; see `read_rgb`."""
    rgb = image.rgb if image.rgb.dtype == np.uint8 else eight_bits(image.rgb)
    orientation = 1 if image.exif is None else exif_orientation(image.exif)
    return np.ascontiguousarray(TURNS[orientation](rgb))


def opencv() -> Any:
    """Import OpenCV.

    Raises:
        MissingDependency: it is not installed.
    """
    purpose = "reading and writing images"
    try:
        return require("cv2", extra="", purpose=purpose)
    except MissingDependency as error:
        # No extra installs it: it is a base dependency, and on a Jetson it comes with the system.
        reason = str(error.__cause__).replace("\n", " ")
        raise MissingDependency(
            f"{purpose} needs OpenCV ({reason}): install opencv-python, or on a Jetson its own OpenCV"
        ) from error


def _decode(data: bytes, container: Container) -> Pixels:
    """Return H x W, or H x W x 3 or 4 in OpenCV's order blue, green, red, alpha."""
    cv2 = opencv()
    failure = container.failure or f"is damaged, or a {container.kind} that OpenCV cannot read"
    pixels: Pixels | None = None
    with contextlib.suppress(cv2.error, MemoryError):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        # OpenCV reports a want of memory like damage: this raises a MemoryError where that was the reason.
        np.empty((container.height, container.width, 4), np.uint16)
        raise UnusableImageError(failure)
    if pixels.shape[:2] != (container.height, container.width):
        raise UnusableImageError("is damaged: its pixels do not fill the size it states")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UnusableImageError(f"holds {pixels.dtype} numbers; only 8 and 16 bits are supported")
    return pixels


def _channels(pixels: Pixels, container: Container) -> tuple[Pixels, Pixels | None]:
    """Return decoded pixels as RGB and alpha."""
    cv2 = opencv()
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


def eight_bits(pixels: Pixels) -> Pixels:
    """Round uint16 to uint8, to the nearest: 65535 / 255 is 257."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


# How stored pixels are turned for viewing, by EXIF orientation.
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}
