"""A run as Markdown, short enough for a README, and as tables for a terminal."""

import shlex
import textwrap
from collections.abc import Sequence
from itertools import takewhile

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from overnet.benchmarks.compare_runs import RunComparison
from overnet.benchmarks.report.comparison_table import comparison_table
from overnet.benchmarks.report.contents import (
    all_tables,
    errors_of,
    growth_table,
    ratio_table,
    summary_table,
    video_table,
    warnings_of,
)
from overnet.benchmarks.report.table import NAMES, WORDS, Table
from overnet.benchmarks.results import BenchmarkRun
from overnet.errors import printable

# Characters with a meaning within a line of Markdown, including GitHub's.
_SPECIAL = frozenset("\\`*_[]|~#$@")
_AS_ENTITY = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it literally and on one line, also in a table."""
    characters = (
        f"\\{character}" if character in _SPECIAL else _AS_ENTITY.get(character, character)
        for character in printable(text)
    )
    return "".join(characters)


def markdown_table(shown: Table) -> str:
    """Return a table as lines of Markdown, with its title as a heading and its notes below."""
    heading = "| " + " | ".join(escape_markdown(heading) for heading in shown.headings) + " |"
    rule = "|" + "|".join(":---" if heading in WORDS else "---:" for heading in shown.headings) + "|"
    rows = ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in shown.rows]
    lines = [f"### {escape_markdown(shown.title)}", ""]
    if shown.rows:
        lines += [heading, rule, *rows, ""]
    return "\n".join([*lines, *_listed(shown.notes)]) + "\n"


def _listed(lines: Sequence[str]) -> list[str]:
    return [*(f"- {escape_markdown(line)}" for line in lines), ""] if lines else []


def markdown_report(run: BenchmarkRun, comparison: RunComparison | None = None) -> str:
    """Return the main tables for a README, with the machine and the command that repeats the run.

    Args:
        run: the run; all text from it is escaped. The HTML report and the JSON also have all percentiles and parts.
        comparison: with an older run; shown in the first table.
    """
    machine = run.machine
    hardware = ", ".join([machine.processor, f"{machine.cores} cores", *machine.gpus])
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    parts = [
        f"## Benchmark: {escape_markdown(machine.name)}\n",
        f"{escape_markdown(f'{run.started}; {hardware}; {machine.system}.')}\n",
    ]
    tables = [summary_table(run), ratio_table(run), growth_table(run), video_table(run)]
    if comparison is not None:
        tables.insert(0, comparison_table(comparison))
    parts += [markdown_table(each) for each in tables if each.rows or each.notes]
    for title, lines in (("Notes", [*run.notes, *warnings_of(run)]), ("Failed", errors_of(run))):
        if lines:
            parts.append("\n".join([f"### {title}", "", *_listed(lines)]))
    parts.append(f"Measured with {escape_markdown(versions)}. To repeat the run:\n")
    # Indented code, because no text on the line can end such a block.
    parts.append(f"    {printable(shlex.join(run.command))}\n")
    return "\n".join(parts)


class _FittedTable:
    """A table for a terminal; where it is wider, as several tables that all begin with the columns of names.

    Headings are wrapped and cells are not, but for words: no number is broken in two.
    """

    def __init__(self, shown: Table) -> None:
        cells = [[printable(cell) for cell in row] for row in shown.rows]
        self._title = Text(printable(shown.title), style="bold")
        self._names = max(1, len(list(takewhile(NAMES.__contains__, shown.headings))))
        self._columns: list[tuple[str, list[str], bool]] = []
        for index, heading in enumerate(map(printable, shown.headings)):
            column, is_words = [row[index] for row in cells], heading in WORDS
            width = max(map(len, [*column, *heading.split()]))
            self._columns.append(("\n".join(textwrap.wrap(heading, width)), column, is_words))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Three columns of the terminal lie between two cells; words longer than a third of a line are wrapped.
        widths = [min(_width(column), options.max_width // 3) + 3 for column in self._columns]
        names = self._columns[: self._names]
        whole = room = options.max_width - 1 - sum(widths[: self._names])
        parts = [list(names)]
        for column, width in zip(self._columns[self._names :], widths[self._names :], strict=True):
            if width > room and len(parts[-1]) > len(names):
                parts.append(list(names))
                room = whole
            room -= width
            parts[-1].append(column)
        for number, part in enumerate(parts):
            title = self._title if number == 0 else None
            made = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
            for heading, _, is_words in part:
                made.add_column(
                    Text(heading), justify="left" if is_words else "right", no_wrap=not is_words, overflow="fold"
                )
            for row in zip(*(cells for _, cells, _ in part), strict=True):
                made.add_row(*map(Text, row))
            yield made


def _width(column: tuple[str, list[str], bool]) -> int:
    heading, cells, _ = column
    return max(map(len, [*heading.splitlines(), *cells]))


def console_table(shown: Table) -> RenderableType:
    """Return a table for a terminal; its text is neither markup nor a control sequence."""
    notes = [Padding(Text(printable(note), style="dim"), (0, 0, 0, 2)) for note in shown.notes]
    return Group(*([_FittedTable(shown)] if shown.rows else []), *notes, Text())


def console_tables(run: BenchmarkRun, comparison: RunComparison | None = None) -> RenderableType:
    """Return all tables of a run, its warnings and failures, for ``rich.console.Console().print``.

    Args:
        run: the run.
        comparison: with an older run; shown last, next to the prompt.
    """
    shown: list[RenderableType] = [console_table(each) for each in all_tables(run)]
    for lines, style in (
        ([*run.notes, *(f"warning: {line}" for line in warnings_of(run))], "yellow"),
        ([f"failed: {line}" for line in errors_of(run)], "red"),
    ):
        shown += [Text(printable(line), style=style) for line in lines]
    if comparison is not None:
        shown.append(console_table(comparison_table(comparison)))
    return Group(*shown)
