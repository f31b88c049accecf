"""The results of an evaluation for each set and image, as a table and as JSON. Needs no torch."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from overnet.errors import printable
from overnet.evaluation.measure import Quality, mean_quality
from overnet.words import counted


@dataclass(frozen=True)
class Row:
    """One image, or the mean over several.

    Attributes:
        bicubic, model, reference: the quality of each; `reference` is None where there is none.
    """

    bicubic: Quality
    model: Quality
    reference: Quality | None

    @property
    def gain_db(self) -> float:
        """The PSNR gain over bicubic enlargement; NaN where both are without error."""
        return self.model.psnr_db - self.bicubic.psnr_db

    @property
    def loss_db(self) -> float:
        """The PSNR loss against the reference; NaN where there is none, or both are without error."""
        return math.nan if self.reference is None else self.reference.psnr_db - self.model.psnr_db


@dataclass(frozen=True)
class ImageResult(Row):
    """One image.

    Attributes:
        name: of the image.
        width, height: of the high-resolution side, in pixels.
    """

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class SetResult:
    """One set at one scale.

    Attributes:
        folder: the folder of the set.
        name: of the set.
        low_made: number of low-resolution images that were made, because none were given.
        model, reference: the model and what it is compared with, as text.
    """

    folder: Path
    name: str
    scale: float
    low_made: int
    model: str
    reference: str | None
    images: list[ImageResult]

    def mean(self) -> Row:
        """Return the mean over the images."""
        references = [image.reference for image in self.images if image.reference is not None]
        return Row(
            mean_quality([image.bicubic for image in self.images]),
            mean_quality([image.model for image in self.images]),
            mean_quality(references) if references else None,
        )


def as_table(result: SetResult) -> list[str]:
    """Return a heading and the lines of a table: one row for each image, the mean last."""
    count = len(result.images)
    given = "low-resolution side made with imresize, " if result.low_made else ""
    reference = f"; loss against {result.reference}" if result.reference else ""
    heading = f"{printable(result.name)} x{result.scale:g}, {given}{counted(count, 'image')}: "
    rows = [
        ["image", "pixels", "bicubic", "", "model", "", "gain"],
        ["", "", "PSNR dB", "SSIM", "PSNR dB", "SSIM", "dB"],
    ]
    for image in result.images:
        rows.append([printable(image.name), f"{image.width}x{image.height}", *_cells(image)])
    rows.append(["mean", "", *_cells(result.mean())])
    if result.reference:
        losses = [image.loss_db for image in (*result.images, result.mean())]
        rows = [[*row, cell] for row, cell in zip(rows, ["loss", "dB", *map(_decibels, losses)], strict=True)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        figures = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *figures]).rstrip())
    return [f"{heading}{result.model}{reference}", *lines]


def _cells(row: Row) -> list[str]:
    cells = [cell for quality in (row.bicubic, row.model) for cell in (f"{quality.psnr_db:.2f}", f"{quality.ssim:.4f}")]
    return [*cells, _decibels(row.gain_db, digits=2)]


def _decibels(value: float, *, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:+.{digits}f}"


def as_json(result: SetResult) -> dict[str, Any]:
    """Return a dictionary for JSON: None stands for an infinite (no error) or undefined value."""
    return {
        "data": str(result.folder),
        "set": result.name,
        "scale": result.scale,
        "low_resolution": "made" if result.low_made else "given",
        "model": result.model,
        "reference": result.reference,
        "mean": _figures(result.mean()),
        "images": [
            {"image": image.name, "width": image.width, "height": image.height, **_figures(image)}
            for image in result.images
        ],
    }


def _figures(row: Row) -> dict[str, Any]:
    return {
        **_quality(row.model),
        "bicubic": _quality(row.bicubic),
        "reference": None if row.reference is None else _quality(row.reference),
        "gain_db": _finite(row.gain_db),
        "loss_db": _finite(row.loss_db),
    }


def _quality(quality: Quality) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in asdict(quality).items()}


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
