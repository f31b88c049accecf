"""What ``overnet eval`` shows while it works: how far it is, and that an engine is being built."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from overnet.cli.common import print_status, terminal_bar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from overnet.types import Progress


class EvalProgress:
    """On a terminal a line for each thing that is being done, gone when it is; elsewhere only what takes long is said.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Bar | None = None
        self._building: TaskID | None = None
        self._last = ""

    @contextmanager
    def steps(self) -> Iterator[Progress]:
        """Show steps that are told within; on a terminal, and not elsewhere."""
        if self._quiet or not sys.stderr.isatty():
            yield lambda doing, done, total: None
            return
        with terminal_bar() as bar:
            task = bar.add_task("", total=None)

            def step(doing: str, done: int, total: int) -> None:
                self._end_building()
                bar.update(task, description=doing, completed=done, total=total)

            self._bar = bar
            try:
                yield step
            finally:
                self._bar = self._building = None

    def building(self, doing: str, done: int, total: int) -> None:
        """Show what is done for an engine, as `overnet.runtime.upscaler.Upscaler` tells it, from whichever thread."""
        if self._quiet:
            return
        if self._bar is not None:
            # Below the line of the images, which wait for it. Only a new one can have no known end.
            if doing != self._last:
                self._end_building()
            if self._building is None:
                self._building = self._bar.add_task(doing, completed=done, total=total or None)
            else:
                self._bar.update(self._building, completed=done, total=total)
        elif doing != self._last:
            print_status(doing)
        self._last = doing

    def _end_building(self) -> None:
        if self._bar is not None and self._building is not None:
            self._bar.remove_task(self._building)
            self._building = None
