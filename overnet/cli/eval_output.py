"""The files of ``overnet eval --save``: each result, and its most improved detail side by side with others."""

from pathlib import Path

from overnet.errors import InputError, OutputError, printable
from overnet.evaluation.datasets import Pair
from overnet.evaluation.measure import Comparison
from overnet.evaluation.side_by_side import largest_gain, overview_and_detail
from overnet.files.atomic import check_target, ensure_folder
from overnet.imaging.image_io import DecodedImage
from overnet.imaging.image_write import write_image
from overnet.types import Image

# The side of the square detail in pixels of the high-resolution image, and its height when it is enlarged.
_DETAIL = 96
_DETAIL_SHOWN = 288

_ORIGINAL = "original"


def set_name(folder: Path) -> str:
    """Return the name of a set: that of its folder."""
    return folder.resolve().name or "set"


class Targets:
    """The files to write: ``FOLDER/SET/x2/NAME.png`` and ``FOLDER/SET/x2/side_by_side/NAME.png``.

    Args:
        folder: created if missing, with the folders in it.
        sets: the pairs of each set at each scale.

    Raises:
        InputError: two sets have the same name.
        OutputError: a file exists already, is a test image itself, or could not be written.
    """

    def __init__(self, folder: Path, sets: dict[tuple[Path, float], list[Pair]], *, overwrite: bool) -> None:
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

    def _place(self, source: Path, scale: float) -> Path:
        return self._folder / set_name(source) / f"x{scale:g}"

    def _paths(self, source: Path, scale: float, pair: Pair) -> tuple[Path, Path]:
        place = self._place(source, scale)
        return place / f"{pair.name}.png", place / "side_by_side" / f"{pair.name}.png"

    def write(self, source: Path, scale: float, comparison: Comparison, *, before: str, after: str) -> None:
        """Write the image of the method `after`, and beside the others the detail where it gained most over `before`.

        Raises:
            OutputError: a file cannot be written.
        """
        drawn = comparison.upscaled[after], draw_comparison(comparison, before=before, after=after)
        for path, rgb in zip(self._paths(source, scale, comparison.pair), drawn, strict=True):
            write_image(DecodedImage(rgb, None, False, None, None), path, overwrite=self._overwrite)


def draw_comparison(comparison: Comparison, *, before: str, after: str) -> Image:
    """Draw the original, and enlarged in each image the detail where `after` gained most over `before`.

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
