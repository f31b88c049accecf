"""Names written beside what they belong to in a plot, where they cover nothing: a legend has to be looked up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]
"""Left, bottom, right and top in pixels."""

_FONT_POINTS = 9
_LETTER_POINTS = 6.2
# Of a panel's height, from one name to the next.
_LEAST_GAP = 0.075
# In points from the point named: to the right, above, below, at the corners, to the left, and then farther away.
_BESIDE = ((9, 0), (0, 13), (0, -13), (6, 11), (6, -11), (-6, 11), (-6, -11), (-9, 0))
_AROUND = (*_BESIDE, *((0, up) for step in range(2, 6) for up in (13 * step, -13 * step)))


def name_lines(axes: Axes, ends: Mapping[str, tuple[float, float]], colours: Mapping[str, str]) -> None:
    """Write names in a column at the panel's right, from bottom to top as the lines end, each tied to its end.

    Args:
        axes: the panel; its limits and scales are settled.
        ends: where each line ends, by name.
        colours: of the lines, by name.
    """
    to_share = axes.transData + axes.transAxes.inverted()
    heights = {label: float(to_share.transform(each)[1]) for label, each in ends.items()}
    order = sorted(heights, key=lambda label: heights[label])
    for label, height in zip(order, _apart([heights[label] for label in order], gap=_LEAST_GAP), strict=True):
        axes.annotate(
            label,
            ends[label],
            xytext=(1.06, height),
            textcoords="axes fraction",
            va="center",
            fontsize=_FONT_POINTS,
            arrowprops={
                "arrowstyle": "-",
                "color": colours[label],
                "linewidth": 0.8,
                "alpha": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 2,
            },
        )


def name_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each name beside its point: at the first place around it where it covers nothing.

    Args:
        axes: the panel, where it will be drawn: the layout is settled.
        points: by name.
    """
    centres = {label: axes.transData.transform(each) for label, each in points.items()}
    dots = axes.figure.dpi / 72
    taken = [(x - 7 * dots, y - 7 * dots, x + 7 * dots, y + 7 * dots) for x, y in centres.values()]
    for label, (x, y) in centres.items():
        width, height = _LETTER_POINTS * len(label) * dots, 11 * dots
        best: Box | None = None
        least = math.inf
        for right, up in _AROUND:
            left = x + right * dots - (width if right < 0 else width / 2 if right == 0 else 0)
            box = (left, y + up * dots - height / 2, left + width, y + up * dots + height / 2)
            covered = sum(_shared_area(box, other) for other in taken) + _outside(axes, box)
            if covered < least:
                best, least = box, covered
        if best is not None:
            taken.append(best)
            at = axes.transData.inverted().transform((best[0], (best[1] + best[3]) / 2))
            axes.text(at[0], at[1], label, va="center", fontsize=_FONT_POINTS)


def _shared_area(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _outside(axes: Axes, box: Box) -> float:
    """How much of a box lies outside a panel, as an area."""
    panel = axes.get_window_extent()
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return whole - _shared_area(box, (panel.x0, panel.y0, panel.x1, panel.y1))


def _apart(heights: Sequence[float], *, gap: float) -> list[float]:
    """Keep sorted heights `gap` apart: each as little upwards as it takes, then down again from the panel's top."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    limit = max(1.0, gap * (len(placed) - 1))
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - gap
    return placed
