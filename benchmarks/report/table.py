"""Tables of a report as plain text, independent of the output format, and the format of figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

NOTHING = "-"
"""The cell of a figure that could not be measured."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its heading.
        unit: of its figures, such as ``"ms"``; empty if the cells name it themselves.
        numeric: whether it holds figures, which are aligned to the right.
    """

    name: str
    unit: str = ""
    numeric: bool = True

    @property
    def heading(self) -> str:
        """Return name and unit in one line."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


@dataclass(frozen=True)
class Table:
    """A table as plain text; its text is not escaped for any output format.

    Attributes:
        title: of the table.
        columns, rows: every row has as many cells as there are columns.
        notes: sentences shown below it.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=list)


def columns(headings: str, *, words: str = "") -> list[Column]:
    """Make columns from headings such as ``"Method | Median, ms"``: names, after a comma the unit.

    Args:
        words: the headings of those columns that hold words instead of figures.
    """
    split = [(heading, *heading.partition(", ")) for heading in headings.split(" | ")]
    return [Column(name, unit, numeric=heading not in words.split(" | ")) for heading, name, _, unit in split]


def table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], *notes: str) -> Table:
    """Make a table without the columns that are `NOTHING` in every row, and without empty notes. See `Table`."""
    kept = [index for index in range(len(columns)) if any(row[index] != NOTHING for row in rows)]
    return Table(
        title,
        [columns[index] for index in kept],
        [[row[index] for index in kept] for row in rows],
        [note for note in notes if note],
    )


def figure(value: float | None, *, digits: int = 3) -> str:
    """Format a number with thousands separators.

    Args:
        value: the number; None becomes `NOTHING`.
        digits: the number of significant digits; digits before the decimal point are never rounded.
    """
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -6 <= magnitude <= 12:
        return f"{value:.{digits}g}"
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def decibels(value: float | None) -> str:
    """Format a PSNR with two decimals, as papers do."""
    return NOTHING if value is None else f"{value:.2f}"


def memory_text(value_bytes: float | None) -> str:
    """Format bytes in MB (10^6) or, from 1000 MB on, in GB."""
    if value_bytes is None:
        return NOTHING
    return f"{figure(value_bytes / 1e9)} GB" if abs(value_bytes) >= 1e9 else f"{figure(value_bytes / 1e6)} MB"


def percent(value: float | None, *, signed: bool = False) -> str:
    """Format a percentage with one decimal; None becomes `NOTHING`.

    Args:
        signed: whether to write a plus sign.
    """
    if value is None:
        return NOTHING
    # Adding 0.0 turns a negative zero into a positive one.
    return f"{round(value, 1) + 0.0:{'+' if signed else ''},.1f}%"


def size_text(width: int, height: int) -> str:
    """Format an image's size in pixels."""
    return f"{width}x{height}"
