"""Progress of all commands: rows that vanish when the work is done on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO, cast

from overnet.cli.common import MessageStream, print_status
from overnet.words import counted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from overnet.runtime.live.report import LiveReport
    from overnet.runtime.pipeline import PipelineReport

_LINE_SECONDS = 60.0  # between two lines of a long work where there are no rows, as under nohup
_TIME_WIDTH, _SHORTEST_NAME = 7, 8
_LIVE_SECONDS = 0.5  # between two updates of a live run's figures, so that they can be read


class ProgressDisplay:
    """Rows of progress on standard error: a name, a bar, the time since the row appeared, and figures.

    A context manager that may be entered again: rows are shown while it is entered and standard error is a terminal.

    Args:
        quiet: show and print nothing; also an attribute, for what is printed beside the rows.
        step_lines: print each step as a line where there are no rows.
    """

    def __init__(self, *, quiet: bool, step_lines: bool = False) -> None:
        self.quiet, self._step_lines = quiet, step_lines
        self._rows: Progress | None = None
        self._work: TaskID | None = None
        self._wait: TaskID | None = None
        self._announced = ""
        self._bar_width = 0
        self._lined = self._began = time.monotonic()

    def __enter__(self) -> ProgressDisplay:
        if not self.quiet and sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
            from rich.table import Column

            name = TextColumn("{task.description}", markup=False)
            elapsed = TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=_TIME_WIDTH))
            figures = TextColumn("{task.fields[figures]}", markup=False)
            # Standard output is for results, and may be a pipe or a file.
            console = Console(file=cast(TextIO, MessageStream()))
            self._bar_width = 24 if console.width >= 100 else 12
            columns = name, BarColumn(bar_width=self._bar_width), elapsed, figures
            self._rows = Progress(*columns, console=console, transient=True, redirect_stdout=False)
            self._rows.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._rows is not None:
            self._rows.stop()
        self._rows = self._work = self._wait = None

    def step(self, doing: str, done: int, total: int) -> None:
        """Show a step of the work; `total` is 0 where the number of steps is not known."""
        if self._rows is not None:
            self._show_work(doing, done, total, f"{done}/{total}" if total else "")
        elif self._step_lines and not self.quiet:
            print_status(f"[{done + 1}/{total}] {doing}")

    def announce(self, doing: str, done: int, total: int) -> None:
        """Show what the work waits for, such as the building of an engine; may be called from any thread.

        It has a row below that of the work until the work goes on. Where there are no rows, a new `doing` is a line.
        """
        if self._rows is not None:
            # A row that once had a known number of steps cannot lose it, so other work gets another row.
            if self._wait is not None and doing != self._announced:
                self._rows.remove_task(self._wait)
                self._wait = None
            self._wait = self._show(self._wait, doing, done, total, f"{done}/{total}" if total else "")
        elif doing != self._announced:
            print_status(doing, quiet=self.quiet)
        self._announced = doing

    def frames(self, name: str) -> Callable[[PipelineReport, int | None], None]:
        """Return a function that shows a video's progress; call it once for each upscaled frame."""
        counter = itertools.count(1)

        def show(report: PipelineReport, expected: int | None) -> None:
            done = next(counter)
            rate = done / max(report.wall_seconds, 1e-9)
            left = f", {timedelta(seconds=int((expected - done) / rate))} left" if expected and expected >= done else ""
            self._show_work(name, done, expected, f"{_of(done, expected, 'frame')}, {rate:.1f} fps{left}")

        return show

    def file(self, name: str, done: int, total: int) -> None:
        """Show how many of several files are done, and which is next; call it with 0 before the first."""
        now = time.monotonic()
        if not done:
            self._began = now
        rate = done / max(now - self._began, 1e-9)
        left = f", {rate:.2g} files/s, {timedelta(seconds=int((total - done) / rate))} left" if done else ""
        self._show_work(name, done, total, f"{_of(done, total, 'file')}{left}")

    def live(self) -> Callable[[LiveReport], None]:
        """Return a function that shows the figures of a live run; call it as often as they change."""
        shown = 0.0

        def show(report: LiveReport) -> None:
            nonlocal shown
            if self._rows is not None and report.frames and time.monotonic() - shown >= _LIVE_SECONDS:
                shown = time.monotonic()
                self._show_work("live", 0, None, report.line())

        return show

    def _show_work(self, name: str, done: int, total: int | None, figures: str) -> None:
        if self._rows is not None and self._wait is not None:
            self._rows.remove_task(self._wait)
            self._wait = None
        self._work = self._show(self._work, name, done, total, figures)
        if self._rows is None and time.monotonic() - self._lined >= _LINE_SECONDS:
            self._lined = time.monotonic()
            print_status(f"{name}: {figures}".removesuffix(": "), quiet=self.quiet)

    def _show(self, row: TaskID | None, name: str, done: int, total: int | None, figures: str) -> TaskID | None:
        if self._rows is None:
            return None
        # On a narrow terminal the bars and the names become shorter, not the figures: Rich would leave out all columns.
        gaps = 3
        room = self._rows.console.width - self._bar_width - _TIME_WIDTH - len(figures) - gaps
        name = _shortened(name, max(room, _SHORTEST_NAME))
        if row is None:
            return self._rows.add_task(name, completed=done, total=total or None, figures=figures)
        self._rows.update(row, description=name, completed=done, total=total or None, figures=figures)
        return row


def _of(done: int, total: int | None, noun: str) -> str:
    return f"{done}/{counted(total, noun)}" if total else f"{done}/? {noun}s"


def _shortened(name: str, room: int) -> str:
    """Return a name in at most `room` columns, without its middle where it is longer."""
    from rich.cells import cell_len

    shown, kept = name, len(name)
    while cell_len(shown) > room and kept > 2:
        kept -= 1
        shown = f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"
    return shown
