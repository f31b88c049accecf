"""Find test images in the folder layouts of published sets, and pair them with their low-resolution versions.

These layouts of a folder F are supported, here for scale 2. Needs no torch.

================== ===================================================================================
Set5, Set14, ...   ``F/image_SRF_2/img_001_SRF_2_HR.png`` with ``..._LR.png``, or such files in F itself
EDSR's             ``F/HR/baby.png`` with ``F/LR_bicubic/X2/babyx2.png`` (or ``.../baby.png``)
DIV2K's            ``F/DIV2K_valid_HR/0801.png`` with ``F/DIV2K_valid_LR_bicubic/X2/0801x2.png``
high only          ``F/baby.png``, or a folder as above without the low side: it is made with `imresize`
================== ===================================================================================

F may also be the folder of high-resolution images itself.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from overnet.errors import InputError, file_errors, printable
from overnet.files.onnx_metadata import scaled_size
from overnet.imaging.image_io import is_image_file, read_rgb
from overnet.imaging.resample import imresize
from overnet.types import Image

_Member = TypeVar("_Member")
# Reads a file as H x W x 3 uint8 RGB.
Read = Callable[[Path], Image]


_HIGH, _LOW = "_HR", "_LR"
_SCALE_FOLDER = re.compile(r"image_SRF_\d+")
_SCALE_IN_NAME = re.compile(r"_SRF_(\d+)$")

# Pixels that must remain inside the border: the side of SSIM's window.
_LEAST_INSIDE = 11


@dataclass(frozen=True)
class Pair:
    """A low-resolution image and the high-resolution one it was made from.

    Attributes:
        low: None where it is made from the high-resolution image.
        name: the common part of both files' names, for tables and results.
    """

    low: Path | None
    high: Path
    name: str


def find_pairs(folder: Path, scale: float) -> list[Pair]:
    """Find the test images for a scale, in any of the layouts above, sorted by name.

    Raises:
        InputError: there is no such folder, it holds no images for the scale, it mixes two layouts, or an image of one
            side has no counterpart.
    """
    folders = [entry for entry in _entries(folder) if entry.is_dir()]
    by_scale = [entry for entry in folders if _SCALE_FOLDER.fullmatch(entry.name)]
    high_folder = _high_folder(folder, folders)
    images = _images(folder)
    # With test images in two layouts it is unclear which are meant.
    forms = [f"the folder {printable(entry.name)}" for entry in (*by_scale[:1], high_folder) if entry]
    forms += [f"images of its own, as {printable(path.name)}" for path in list(images.values())[:1]]
    if len(forms) > 1:
        raise InputError(f"{printable(folder)} holds {' and '.join(forms)}: name the one that is meant")
    if by_scale:
        own = folder / f"image_SRF_{scale:g}"
        pairs = _by_ending(own, _images(own), scale) if own in by_scale else []
    elif high_folder:
        pairs = _by_folder(high_folder, _images(high_folder), scale)
    elif _is_high(folder.absolute()):
        pairs = _by_folder(folder.absolute(), images, scale)
    else:
        pairs = _by_ending(folder, images, scale)
    if pairs:
        return pairs
    hint = ""
    if by_scale:
        hint = f", only {', '.join(entry.name for entry in by_scale)}"
    elif folders and not images:
        hint = f"; a set is named by itself, as {printable(folders[0])}"
    raise InputError(f"{printable(folder)}: no images for scale {scale:g}{hint}")


def _entries(folder: Path) -> list[Path]:
    """Return the entries of a folder that are not hidden, sorted by name."""
    with file_errors(InputError, folder):
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _images(folder: Path) -> dict[str, Path]:
    """Return the images in a folder by their names without suffix, sorted."""
    found: dict[str, Path] = {}
    for entry in _entries(folder):
        if not is_image_file(entry):
            continue
        other = found.setdefault(entry.stem, entry)
        if other != entry:
            raise InputError(f"{printable(other)} and {printable(entry.name)} are two images of one name")
    return found


def _is_high(folder: Path) -> bool:
    return folder.name == _HIGH[1:] or folder.name.endswith(_HIGH)


def _high_folder(folder: Path, folders: list[Path]) -> Path | None:
    """Return the sub-folder of high-resolution images; of DIV2K's two, the one for validation."""
    found = [entry for entry in folders if _is_high(entry)]
    found = [entry for entry in found if "train" not in entry.name.lower()] or found
    if len(found) > 1:
        names = " and ".join(printable(entry.name) for entry in found)
        raise InputError(f"{printable(folder)} holds {names}: name the one that is meant")
    return found[0] if found else None


def _by_folder(high_folder: Path, highs: dict[str, Path], scale: float) -> list[Pair]:
    """Return pairs whose two sides lie in separate folders."""
    title = f"{high_folder.name.removesuffix(_HIGH[1:])}LR_bicubic"
    # DIV2K's archives unpack into one folder, or into one each.
    places = [high_folder.parent / title, high_folder.parent / f"{title}_X{scale:g}" / title]
    low_folder = next((place / f"X{scale:g}" for place in places if (place / f"X{scale:g}").is_dir()), None)
    if low_folder is None:
        return [Pair(None, high, name) for name, high in highs.items()]
    lows = _images(low_folder)
    # One naming scheme for the whole folder: where HR holds both a and ax2, a name alone would be ambiguous.
    ending = max((f"x{scale:g}", f"X{scale:g}", ""), key=lambda end: sum(f"{name}{end}" in lows for name in highs))
    return _joined(highs, {low.removesuffix(ending): path for low, path in lows.items() if low.endswith(ending)}, lows)


def _by_ending(folder: Path, images: dict[str, Path], scale: float) -> list[Pair]:
    """Return pairs in one folder, told apart by the endings of their names, or high-resolution images alone."""
    highs = {name.removesuffix(_HIGH): path for name, path in images.items() if name.endswith(_HIGH)}
    lows = {name.removesuffix(_LOW): path for name, path in images.items() if name.endswith(_LOW)}
    if not lows:
        return [Pair(None, path, name) for name, path in _of_scale(images, scale, ending=_HIGH).items()]
    others = [path for name, path in images.items() if not name.endswith((_HIGH, _LOW))]
    if others:
        raise InputError(
            f"{printable(folder)} holds pairs named *{_HIGH} and *{_LOW} and other images, as "
            f"{printable(others[0].name)}: keep them apart"
        )
    lows = _of_scale(lows, scale)
    return _joined(_of_scale(highs, scale), lows, lows)


def _of_scale(images: dict[str, Path], scale: float, *, ending: str = "") -> dict[str, Path]:
    """Return the images whose names state this scale, or no scale."""
    stated = {name: _SCALE_IN_NAME.search(name.removesuffix(ending)) for name in images}
    return {name: path for name, path in images.items() if not (found := stated[name]) or int(found[1]) == scale}


def _joined(highs: dict[str, Path], lows: dict[str, Path], every_low: dict[str, Path]) -> list[Pair]:
    """Return pairs by name; each image must have its counterpart."""
    for name, high in highs.items():
        if name not in lows:
            raise InputError(f"{printable(high)} has no low-resolution side")
    used = {lows[name] for name in highs}
    for low in every_low.values():
        if low not in used:
            raise InputError(f"{printable(low)} has no high-resolution side")
    return [Pair(lows[name], high, name) for name, high in highs.items()]


def spread_sample(members: Sequence[_Member], most: int) -> list[_Member]:
    """Return at most `most` members, evenly spread and including the first."""
    step = max(1.0, len(members) / most)
    return [members[int(index * step)] for index in range(min(len(members), most))]


def check_pair(pair: Pair, scale: float, read: Read = read_rgb) -> None:
    """Check that `read_pair` will succeed.

    Raises:
        InputError: an image cannot be read or is too small, or the sizes of both sides do not match the scale.
    """
    _read_sides(pair, scale, read)


def read_pair(pair: Pair, scale: float, read: Read = read_rgb) -> tuple[Image, Image]:
    """Read both sides of a pair; a missing low side is made.

    It is made from the high side cut to a multiple of the scale, bit-identical to MATLAB's for Set5 and Set14; for a
    fraction, to the size that upscaling by it gives.

    Args:
        scale: from the low to the high side.
        read: reads a file as H x W x 3 uint8 RGB.

    Returns:
        Low, h x w x 3, and high, at most as large as `scaled_size` of it, both uint8 RGB. Rows and columns of the high
        side without a low-resolution pixel are cut off at the bottom and right.

    Raises:
        InputError: see `check_pair`.
    """
    low, high = _read_sides(pair, scale, read)
    if low is None:
        size = math.floor(high.shape[0] / scale), math.floor(high.shape[1] / scale)
        low = np.asarray(imresize(high, size=size, edge="replicate"), dtype=np.uint8)
    return low, high


def _read_sides(pair: Pair, scale: float, read: Read) -> tuple[Image | None, Image]:
    high = read(pair.high)
    low = None if pair.low is None else read(pair.low)
    if low is None:
        height, width = (math.floor(side / scale) for side in high.shape[:2])
    else:
        assert pair.low is not None
        height, width = low.shape[:2]
        # Where a size is not a multiple of the scale, some sets cut it first, and MATLAB's imresize rounds up.
        possible = [(math.floor(side / scale), math.ceil(side / scale)) for side in high.shape[:2]]
        if height not in possible[0] or width not in possible[1]:
            raise InputError(
                f"{printable(pair.low)} has {width}x{height} pixels and {printable(pair.high.name)} "
                f"{high.shape[1]}x{high.shape[0]}: not a pair for scale {scale:g}"
            )
    whole = scaled_size(height, width, scale)
    high = high[: whole[0], : whole[1]]
    least = _LEAST_INSIDE + 2 * math.ceil(scale)
    if min(high.shape[:2]) < least:
        raise InputError(
            f"{printable(pair.high)} is too small: scale {scale:g} takes {least}x{least} pixels to measure"
        )
    return low, np.ascontiguousarray(high)
