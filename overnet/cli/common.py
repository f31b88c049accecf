"""What the commands share: how they are set up, how they speak, and what Ctrl-C is to them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from overnet.errors import InterruptedRun

# Drawing the help with Rich takes longer than everything else that --help does.
PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Make Ctrl-C an error like others: Typer would end the program without a word."""

    @functools.wraps(command)
    def interruptible_command(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as error:
            raise InterruptedRun("interrupted") from error

    return interruptible_command


class SeveralValuesCommand(TyperCommand):
    """A command without arguments, whose repeatable options also take several values at once: ``--scale 2 3 4``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write ``--scale 2 3`` out as ``--scale 2 --scale 3``, and go on as usual."""
        repeatable = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        written_out: list[str] = []
        for word in args:
            # A value that follows another value.
            if not word.startswith("-") and len(written_out) > 1 and written_out[-2] in repeatable:
                written_out.append(written_out[-2])
            written_out.append(word)
        return super().parse_args(ctx, written_out)


def print_status(text: str, *, quiet: bool = False) -> None:
    """Print a line on stderr, for people; stdout is for results."""
    if not quiet:
        typer.echo(text, err=True)


def print_error(error: BaseException | str) -> None:
    """Print an error as one line on stderr."""
    typer.echo(f"overnet: {' '.join(str(error).split())}", err=True)
