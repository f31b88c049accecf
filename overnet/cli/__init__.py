"""The commands: ``overnet`` with its subcommands, of which ``overnet-run``, ``-export`` and ``-bench`` are three.

Each command imports what it needs when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer
from typer.core import TyperCommand

from overnet._version import __version__
from overnet.cli.bench import bench_command
from overnet.cli.common import PLAIN, SeveralValuesCommand, interruptible, print_error
from overnet.cli.eval import evaluate_command
from overnet.cli.export import export_command
from overnet.cli.run import run_command
from overnet.cli.train import train_command
from overnet.errors import InterruptedRun, OverNetError

app = typer.Typer(
    name="overnet",
    help="OverNet super-resolution: upscales images and videos on a plain CPU.",
    **PLAIN,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"overnet {__version__}")
        raise typer.Exit


@app.callback()
def _overnet(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """OverNet super-resolution: upscales images and videos on a plain CPU."""


app.command("run")(run_command)
app.command("export")(export_command)
app.command("eval", cls=SeveralValuesCommand)(evaluate_command)
app.command("train")(train_command)
app.command("bench", cls=SeveralValuesCommand)(bench_command)


@app.command()
@interruptible
def info(as_json: Annotated[bool, typer.Option("--json", help="As one line of JSON.")] = False) -> None:
    """Show versions, the backends that are there and why others are not, and the bundled models."""
    from overnet.runtime.inventory import describe, take_inventory

    inventory = take_inventory()
    typer.echo(json.dumps(inventory) if as_json else describe(inventory))


# The commands that are programs of their own, and what each means without arguments: where something is missing then,
# the help says more than an error.
_PROGRAMS: dict[str, tuple[Callable[..., None], type[TyperCommand], Sequence[str]]] = {
    "overnet-run": (run_command, TyperCommand, ("--help",)),
    "overnet-export": (export_command, TyperCommand, ("--help",)),
    "overnet-bench": (bench_command, SeveralValuesCommand, ()),
}

# Options by the names that they had in a README once: they go on working, and are not in the help.
_RENAMED_OPTIONS = {"--rivals": "--baselines", "--rival-models": "--baseline-models"}


def _command_line(prog: str, argv: Sequence[str]) -> tuple[typer.Typer, Sequence[str]]:
    """Return the commands of a program, and its arguments or what it means without any."""
    if prog not in _PROGRAMS:
        return app, argv or ("--help",)
    function, kind, default_argv = _PROGRAMS[prog]
    program = typer.Typer(**PLAIN)
    program.command(cls=kind)(function)
    return program, argv or default_argv


def _stop(signal_number: int, frame: FrameType | None) -> None:
    """What a service manager sends ends a run as Ctrl-C does: with a playable file."""
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None, prog: str = "overnet") -> int:
    """Run a command line in this process; expected errors become one line on stderr and an exit code.

    Args:
        argv: the arguments; those of this process where there are none.
        prog: the program: ``overnet``, or one of its commands by its own name, such as ``overnet-run``.
    """
    # OpenCV would write remarks of its own about damaged files; ours is the one line that is read.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    words = sys.argv[1:] if argv is None else argv
    commands, arguments = _command_line(prog, [_RENAMED_OPTIONS.get(word, word) for word in words])
    try:
        result = typer.main.get_command(commands).main(args=list(arguments), prog_name=prog, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except OverNetError as error:
        print_error(error)
        return error.exit_code
    except MemoryError as error:
        print_error(f"out of memory ({error})" if str(error) else "out of memory")
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        # Wrong usage: Typer's own exceptions, which carry the message and the exit code.
        if not hasattr(error, "format_message"):
            raise
        print_error(f"{error.format_message()} ({prog} --help shows how)")
        return int(getattr(error, "exit_code", 2))


def run_program(prog: str = "overnet") -> NoReturn:
    """Be the program `prog`: run its command line, and end this process with its exit code."""
    signal.signal(signal.SIGTERM, _stop)
    code = main(prog=prog)
    if code == InterruptedRun.exit_code:
        # Everything is written or removed; a backend in the middle of a large image is not waited for.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main_run() -> NoReturn:
    """``overnet-run``: the same as ``overnet run``."""
    run_program("overnet-run")


def main_export() -> NoReturn:
    """``overnet-export``: the same as ``overnet export``."""
    run_program("overnet-export")


def main_bench() -> NoReturn:
    """``overnet-bench``: the same as ``overnet bench``."""
    run_program("overnet-bench")
