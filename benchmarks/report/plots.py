"""Plots of a run: latency and memory by size, quality against latency, and speed relative to the baselines.

Drawn by matplotlib (extra `bench`) without a display and without pyplot's global figures; the same run gives the same
bytes. SVG uses `currentColor` and no background, so that it suits a light and a dark page; PNG is dark on white. The
colours of the methods can be told apart with red-green colour blindness (M. Okabe and K. Ito, "Color Universal Design",
2008); each method also has its own marker.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnet.benchmarks.report.contents import in_order
from overnet.benchmarks.report.table import size_text
from overnet.benchmarks.results import BenchmarkRun, Case, CaseResult
from overnet.errors import printable, require
from overnet.files.atomic import atomic_write, ensure_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, without black, which cannot be seen on a dark page, and yellow, which cannot be seen on a white one.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS = "osD^vPX*"
# The colour of text and axes, used for nothing else: it is replaced in the SVG.
_INK = "#1f2327"
_GRID = "#8a9199"
# Positions of the ticks within a decade, by the largest number of decades that the axis spans.
_STEPS = ((1.0, [1.0, 1.5, 2.0, 3.0, 5.0, 7.0]), (2.0, [1.0, 2.0, 5.0]), (3.0, [1.0, 3.0]))
_LONGEST_LABEL = 34
_SHORT_LABEL = 20
_MOST_TICKS = 7
_PANEL_INCHES = (4.2, 3.7)
_LEGEND_INCHES = 1.9
_PNG_DOTS_PER_INCH = 160


@dataclass(frozen=True)
class _Point:
    """One case in one plot: its position, and the y at which its whisker ends."""

    x: float
    y: float
    whisker: float | None = None


_MakePoint = Callable[[CaseResult], _Point | None]


def _label(case: Case, longest: int = _LONGEST_LABEL) -> str:
    label = printable(case.name) + (f", batch {case.batch}" if case.batch > 1 else "")
    return label if len(label) <= longest else label[: longest - 1] + "…"


def _styles(run: BenchmarkRun) -> dict[str, dict[str, Any]]:
    """Return the colour and marker of every method, the same in all plots of a run."""
    labels = list(dict.fromkeys(_label(result.case) for result in run.results))
    return {
        label: {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}
        for index, label in enumerate(labels)
    }


@contextmanager
def _settings() -> Iterator[None]:
    """Set matplotlib's settings for all plots, independent of the user's own."""
    matplotlib = require("matplotlib", extra="bench", purpose="plotting")
    own = {
        "backend": "agg",
        "svg.hashsalt": "overnet",
        "svg.fonttype": "none",
        "text.parse_math": False,  # a name with dollars in it is no formula
        "font.size": 10.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _GRID,
        "grid.alpha": 0.25,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.titlesize": 11.0,
        "lines.markersize": 6.0,
        "figure.constrained_layout.use": True,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(own)
        yield


def _figure(panels: int, *, height_inches: float = _PANEL_INCHES[1]) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(_PANEL_INCHES[0] * panels + _LEGEND_INCHES, height_inches))
    FigureCanvasAgg(made)
    return made, list(made.subplots(1, panels, squeeze=False)[0])


def _add_legend(figure: Figure) -> None:
    """Add one legend for all panels, to their right."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(list(handles.values()), list(handles), loc="outside right upper", frameon=False, fontsize=9)


def _panel_per_scale(
    results: Sequence[CaseResult], label: str, draw: Callable[[Axes, list[CaseResult]], str]
) -> Figure | None:
    """Draw the results of each scale in a panel by `draw`, which returns what follows the scale in the title."""
    if not results:
        return None
    scales = sorted({result.case.scale for result in results})
    made, panels = _figure(len(scales))
    for axes, scale in zip(panels, scales, strict=True):
        axes.set_title(f"x{scale}{draw(axes, [result for result in results if result.case.scale == scale])}")
    panels[0].set_ylabel(label)
    _add_legend(made)
    return made


def _lines(axes: Axes, run: BenchmarkRun, results: Sequence[CaseResult], point: _MakePoint, **line: Any) -> None:
    """Draw a line through the points of each method, each point with its whisker."""
    series: dict[str, list[_Point]] = {}
    for result in in_order(results):
        if (made := point(result)) is not None:
            series.setdefault(_label(result.case), []).append(made)
    styles = _styles(run)
    for label, points in series.items():
        style = styles[label]
        axes.plot([each.x for each in points], [each.y for each in points], linewidth=1.8, label=label, **style, **line)
        for each in points:
            if each.whisker is not None:
                axes.plot([each.x, each.x], [each.y, each.whisker], color=style["color"], linewidth=1, alpha=0.7)


def _size_axis(axes: Axes, sizes: set[tuple[int, int]]) -> None:
    """Make the x axis a logarithmic axis of pixels with a tick at each measured size, at most `_MOST_TICKS` of them."""
    axes.set_xscale("log")
    by_pixels = {width * height: size_text(width, height) for width, height in sorted(sizes)}
    pixels = sorted(by_pixels)
    if len(pixels) > _MOST_TICKS:
        step = math.ceil(len(pixels) / _MOST_TICKS)
        pixels = pixels[::-1][::step][::-1]
    axes.set_xticks(pixels, [by_pixels[each] for each in pixels])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelrotation=20 if len(pixels) > 3 else 0)
    axes.set_xlabel("input, pixels")
    if len(by_pixels) == 1:
        axes.set_xlim(pixels[0] / 2, pixels[0] * 2)


def _plain_ticks(axis: Any, limits: tuple[float, float], suffix: str = "") -> None:
    """Label a logarithmic axis with plain numbers instead of powers of ten, as many as fit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    decades = math.log10(limits[1] / limits[0])
    steps = next((each for most, each in _STEPS if decades <= most), [1.0])
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}{suffix}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _figure_by_size(
    run: BenchmarkRun, results: Sequence[CaseResult], lines: Sequence[tuple[_MakePoint, dict[str, Any]]], label: str
) -> Figure | None:
    """Draw results over the input's size; `lines` are functions that return a result's point, and styles."""

    def draw(axes: Axes, of_scale: list[CaseResult]) -> str:
        for point, style in lines:
            _lines(axes, run, of_scale, point, **style)
        axes.set_yscale("log")
        _size_axis(axes, {(each.case.width, each.case.height) for each in of_scale})
        _plain_ticks(axes.yaxis, axes.get_ylim())
        return ""

    return _panel_per_scale(results, label, draw)


def _latency_figure(run: BenchmarkRun) -> Figure | None:
    def point(result: CaseResult) -> _Point | None:
        if result.latency is None:
            return None
        return _Point(result.case.pixels, result.latency.host.p50_ms, result.latency.host.p99_ms)

    results = [result for result in run.results if result.speed_is_shown]
    return _figure_by_size(run, results, [(point, {})], "latency, ms (line: median to p99)")


def _memory_figure(run: BenchmarkRun) -> Figure | None:
    def host(result: CaseResult) -> _Point | None:
        return _Point(result.case.pixels, result.memory.peak_host_bytes / 1e6) if result.memory else None

    def device(result: CaseResult) -> _Point | None:
        if result.memory is None or not result.memory.device_bytes:
            return None
        return _Point(result.case.pixels, result.memory.device_bytes / 1e6)

    results = [result for result in run.results if result.memory is not None]
    dashed = " (dashed: GPU)" if any(device(result) for result in results) else ""
    lines = [(host, {}), (device, {"linestyle": "--", "markerfacecolor": "none"})]
    return _figure_by_size(run, results, lines, f"peak memory, MB{dashed}")


def _quality_figure(run: BenchmarkRun) -> Figure | None:
    results = [result for result in run.results if result.speed_is_shown]
    to_ground_truth = any(result.quality and result.quality.ground_truth_psnr_db is not None for result in results)

    def point(result: CaseResult) -> _Point | None:
        if result.latency is None or result.quality is None:
            return None
        found = result.quality.ground_truth_psnr_db if to_ground_truth else result.quality.reference_psnr_db
        return None if found is None else _Point(result.latency.host.p50_ms, found)

    def draw(axes: Axes, of_scale: list[CaseResult]) -> str:
        # The size that most methods were measured at; of several, the largest.
        counts = Counter((result.case.width, result.case.height) for result in of_scale)
        size = max(counts, key=lambda size: (counts[size], math.prod(size)))
        shown = [result for result in of_scale if (result.case.width, result.case.height) == size]
        _lines(axes, run, shown, point, linestyle="none")
        axes.set_xscale("log")
        axes.margins(0.15, 0.15)
        _plain_ticks(axes.xaxis, axes.get_xlim())
        axes.set_xlabel("median latency, ms")
        return f", {size_text(*size)}"

    label = f"PSNR to the {'ground truth' if to_ground_truth else 'reference'}, dB"
    return _panel_per_scale([result for result in results if point(result) is not None], label, draw)


def _ratio_figure(run: BenchmarkRun) -> Figure | None:
    known = {result.case for result in run.results if result.has_quality}
    ratios = [each for each in run.ratios if each.case in known and each.baseline in known and each.low > 0]
    if not ratios:
        return None
    shown = {}
    for scale in sorted({each.case.scale for each in ratios}):
        of_scale = [each for each in ratios if each.case.scale == scale]
        size = max(((each.case.width, each.case.height) for each in of_scale), key=math.prod)
        shown[scale, size] = [each for each in of_scale if (each.case.width, each.case.height) == size]
    rows = max(len(each) for each in shown.values())
    made, panels = _figure(len(shown), height_inches=1.3 + 0.27 * rows)
    for axes, ((scale, size), compared) in zip(panels, shown.items(), strict=True):
        for height, ratio in enumerate(reversed(compared)):
            style = _styles(run)[_label(ratio.case)]
            axes.plot([ratio.low, ratio.high], [height, height], color=style["color"], linewidth=2.4, alpha=0.7)
            axes.plot([ratio.times_as_fast], [height], linestyle="none", **style)
        axes.axvline(1, color=_INK, linewidth=1, linestyle=":")
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis, axes.get_xlim(), "x")
        names = [
            f"{_label(each.case, _SHORT_LABEL)} : {_label(each.baseline, _SHORT_LABEL)}" for each in reversed(compared)
        ]
        axes.set_yticks(range(len(names)), names)
        axes.grid(False, axis="y")
        axes.set_title(f"x{scale}, {size_text(*size)}")
        axes.set_xlabel("times as fast, with 95% interval")
    return made


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        name: of its file, without suffix.
        title: what it shows, in words.
        draw: makes its figure; None if the run has nothing to show.
    """

    name: str
    title: str
    draw: Callable[[BenchmarkRun], Figure | None]

    def svg(self, run: BenchmarkRun) -> str | None:
        """Draw the plot as an ``<svg>`` element; None if the run has nothing to show.

        Raises:
            MissingDependency: matplotlib is not installed.
        """
        with _settings():
            made = self.draw(run)
            if made is None:
                return None
            written = io.StringIO()
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            made.savefig(written, format="svg", transparent=True, metadata=nothing)
        text = written.getvalue()
        text = text[text.index("<svg") :]
        # One page holds several plots, and every id in it has to be unique.
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", text)
        return text.replace(_INK, "currentColor")


LATENCY_BY_SIZE = Plot("latency_by_size", "Latency by input size", _latency_figure)
QUALITY_BY_LATENCY = Plot("quality_by_latency", "Quality against latency", _quality_figure)
MEMORY_BY_SIZE = Plot("memory_by_size", "Memory by input size", _memory_figure)
SPEEDUPS = Plot("times_as_fast", "Speed relative to baselines", _ratio_figure)
PLOTS = (LATENCY_BY_SIZE, QUALITY_BY_LATENCY, MEMORY_BY_SIZE, SPEEDUPS)


def plots_as_svg(run: BenchmarkRun) -> dict[str, str]:
    """Draw all plots that have something to show: ``<svg>`` elements by title.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    return {plot.title: svg for plot in PLOTS if (svg := plot.svg(run)) is not None}


def write_plots(run: BenchmarkRun, folder: Path, *, overwrite: bool) -> list[Path]:
    """Write all plots that have something to show as PNG files.

    Args:
        folder: is made if it is missing.
        overwrite: whether files of the same names may be replaced.

    Returns:
        The files' paths.

    Raises:
        MissingDependency: matplotlib is not installed.
        OutputError: a file exists already, or cannot be written.
    """
    paths = []
    with _settings():
        ensure_folder(folder)
        for plot in PLOTS:
            if (made := plot.draw(run)) is not None:
                path = folder / f"{plot.name}.png"
                with atomic_write(path, overwrite=overwrite) as temporary:
                    made.savefig(temporary, format="png", dpi=_PNG_DOTS_PER_INCH, metadata={"Software": None})
                paths.append(path)
    return paths
