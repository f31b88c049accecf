"""What ``overnet eval --save`` writes: each result, and the detail that gained most by it."""

from __future__ import annotations

from pathlib import Path

from overnet.errors import InputError, OutputError, printable
from overnet.evaluation.datasets import Pair
from overnet.evaluation.measure import Comparison
from overnet.evaluation.side_by_side import largest_gain, overview_and_detail
from overnet.files.atomic import ensure_folder
from overnet.imaging.image_files import check_target
from overnet.imaging.image_io import DecodedImage, write_image
from overnet.types import Image

# The side of the square that is shown enlarged, in pixels of the high-resolution image, and how tall it becomes.
_DETAIL = 96
_DETAIL_SHOWN = 288

_ORIGINAL = "original"


def set_name(folder: Path) -> str:
    """What a set is called: as its folder is."""
    return folder.resolve().name or "set"


class Targets:
    """Where results go: ``FOLDER/SET/x2/NAME.png`` and ``FOLDER/SET/x2/side_by_side/NAME.png``.

    Args:
        folder: made where it is missing, with those inside.
        sets: the pairs of each set at each scale.
        overwrite: whether existing files are replaced.

    Raises:
        InputError: two sets are called the same.
        OutputError: a file exists already, is a test image itself, or could not be written.
    """

    def __init__(self, folder: Path, sets: dict[tuple[Path, int], list[Pair]], *, overwrite: bool) -> None:
        self._folder, self._overwrite = folder, overwrite
        inputs = {path.resolve() for pairs in sets.values() for pair in pairs for path in (pair.high, pair.low) if path}
        taken: dict[Path, Path] = {}
        for (source, scale), pairs in sets.items():
            place = self._place(source, scale)
            other = taken.setdefault(place, source)
            if other != source:
                raise InputError(
                    f"{printable(other)} and {printable(source)} would both be saved in {printable(place.parent)}"
                )
            ensure_folder(place / "side_by_side")
            for pair in pairs:
                for path in self._paths(source, scale, pair):
                    if path.resolve() in inputs:
                        raise OutputError(f"{printable(path)} is a test image itself: choose another --save")
                    check_target(path, overwrite=overwrite)

    def _place(self, source: Path, scale: int) -> Path:
        return self._folder / set_name(source) / f"x{scale}"

    def _paths(self, source: Path, scale: int, pair: Pair) -> tuple[Path, Path]:
        place = self._place(source, scale)
        return place / f"{pair.name}.png", place / "side_by_side" / f"{pair.name}.png"

    def write(self, source: Path, scale: int, comparison: Comparison, *, before: str, after: str) -> None:
        """Write what the method `after` made of an image, and all methods' results where it gained most on `before`.

        Raises:
            OutputError: a file cannot be written.
        """
        drawn = comparison.upscaled[after], draw_comparison(comparison, before=before, after=after)
        for path, rgb in zip(self._paths(source, scale, comparison.pair), drawn, strict=True):
            write_image(DecodedImage(rgb, None, False, None, None), path, overwrite=self._overwrite)


def draw_comparison(comparison: Comparison, *, before: str, after: str) -> Image:
    """Draw the original with a frame around where one method gained most over another, and that part of all, enlarged.

    Args:
        before, after: the two methods.

    Returns:
        H x W x 3 uint8 RGB.
    """
    high, upscaled = comparison.high, comparison.upscaled
    side = min(_DETAIL, *high.shape[:2])
    top, left = largest_gain(high, upscaled[before], upscaled[after], side=side)
    labelled = {f"{name}: {comparison.qualities[name].psnr_db:.2f} dB": image for name, image in upscaled.items()}
    enlarge = max(1, _DETAIL_SHOWN // side)
    images = {**labelled, _ORIGINAL: high}
    return overview_and_detail(images, top=top, left=left, side=side, enlarge=enlarge, whole=_ORIGINAL)
