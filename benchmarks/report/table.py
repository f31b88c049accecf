"""Tables of a report as plain text, independent of the output format, and the format of figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NOTHING = "-"
"""The cell of a figure that could not be measured."""


# The headings of the columns that hold words, which are aligned to the left, instead of figures.
WORDS = {"Method", "Baseline", "Device", "Verdict", "Clocks, MHz", "Highest temperature, °C", "Power mode", "Throttled"}
WORDS |= {"Slowest stage", "Codec"}
# The headings of the first columns, which say together what a row is about.
NAMES = {"Method", "Baseline", "Scale", "Input", "Batch"}


@dataclass(frozen=True)
class Table:
    """A table as plain text; its text is not escaped for any output format.

    Attributes:
        title: of the table.
        headings: such as ``"Method"`` or, with a unit, ``"Median, ms"``.
        rows: every row has as many cells as there are headings.
        notes: sentences shown below it.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def table(title: str, rows: Sequence[Mapping[str, str]], *notes: str) -> Table:
    """Make a table without the columns that are `NOTHING` in every row.

    Args:
        rows: cells by heading. The row with most cells determines the order; where another lacks one, it is `NOTHING`.
    """
    headings = [
        heading
        for heading in max(rows, key=len, default={})
        if any(row.get(heading, NOTHING) != NOTHING for row in rows)
    ]
    return Table(title, headings, [[row.get(heading, NOTHING) for heading in headings] for row in rows], notes)


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
