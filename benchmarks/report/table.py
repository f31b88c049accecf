"""A table of a report before it becomes HTML, Markdown or a terminal's lines; and how figures read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

NOTHING = "-"
"""The cell for what could not be measured."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its heading.
        unit: of its figures, such as ``"ms"``; empty where cells say it themselves.
        numeric: whether it holds figures, which are set flush right.
    """

    name: str
    unit: str = ""
    numeric: bool = True

    @property
    def heading(self) -> str:
        """Name and unit in one line."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


@dataclass(frozen=True)
class Table:
    """A table as plain text; whoever shows it escapes it.

    Attributes:
        title: of the table.
        columns, rows: as many cells a row as columns.
        notes: sentences to stand below it.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=list)


def table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], *notes: str) -> Table:
    """Make a table without the columns that hold nothing in any row.

    Args:
        title, columns, rows, notes: as of `Table`; empty notes are left out.
    """
    kept = [index for index in range(len(columns)) if any(row[index] != NOTHING for row in rows)]
    return Table(
        title,
        [columns[index] for index in kept],
        [[row[index] for index in kept] for row in rows],
        [note for note in notes if note],
    )


def printable_text(text: str) -> str:
    """Text on one line, free of control characters: a terminal would obey them, and XML cannot hold them."""
    return "".join(character if character.isprintable() else "?" for character in text)


def figure(value: float | None, *, digits: int = 3) -> str:
    """A number with so many significant digits, thousands separated.

    Args:
        value: to be written; None is `NOTHING`.
        digits: significant ones; whole numbers are not rounded.
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
    """A PSNR, with the two decimals that papers give."""
    return NOTHING if value is None else f"{value:.2f}"


def memory_text(value_bytes: float | None) -> str:
    """Bytes in MB (millions) or, from a thousand of these on, in GB."""
    if value_bytes is None:
        return NOTHING
    return f"{figure(value_bytes / 1e9)} GB" if abs(value_bytes) >= 1e9 else f"{figure(value_bytes / 1e6)} MB"


def percent(value: float | None, *, signed: bool = False) -> str:
    """A share in percent, to one decimal.

    Args:
        value: in percent; None is `NOTHING`.
        signed: whether a plus is written.
    """
    if value is None:
        return NOTHING
    # Adding nothing makes a positive zero of a negative one.
    return f"{round(value, 1) + 0.0:{'+' if signed else ''},.1f}%"


def size_text(width: int, height: int) -> str:
    """An image's size in pixels."""
    return f"{width}x{height}"
