"""The commands: ``overnet`` with its subcommands, and ``overnet-run``, ``overnet-export`` and ``overnet-bench``.

Each command imports its libraries when it runs, so that ``--help`` answers at once.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from overnet._version import __version__
from overnet.cli.bench import bench_command
from overnet.cli.common import PLAIN, WITH_SHORT_HELP, print_error
from overnet.cli.eval import evaluate_command
from overnet.cli.export import export_command
from overnet.cli.info import info_command
from overnet.cli.plain_help import PlainCommand, PlainGroup, SeveralValuesCommand
from overnet.cli.run.command import run_command
from overnet.cli.train import train_command
from overnet.cli.web import web_command
from overnet.errors import InterruptedRun, OverNetError, did_you_mean, line_for, printable

app = typer.Typer(
    name="overnet",
    cls=PlainGroup,
    help="OverNet super-resolution: upscale images and videos.",
    context_settings=WITH_SHORT_HELP,
    **PLAIN,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"overnet {__version__}")
        raise typer.Exit


@app.callback()
def _overnet(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """OverNet super-resolution: upscale images and videos."""


app.command("run", cls=PlainCommand)(run_command)
app.command("export", cls=PlainCommand)(export_command)
app.command("eval", cls=SeveralValuesCommand)(evaluate_command)
app.command("train", cls=PlainCommand)(train_command)
app.command("bench", cls=SeveralValuesCommand)(bench_command)
app.command("web", cls=PlainCommand)(web_command)
app.command("info", cls=PlainCommand)(info_command)


# The commands that are also programs, and their default arguments: the help where arguments are required.
_PROGRAMS: dict[str, tuple[Callable[..., None], type[TyperCommand], Sequence[str]]] = {
    "overnet-run": (run_command, PlainCommand, ("--help",)),
    "overnet-export": (export_command, PlainCommand, ("--help",)),
    "overnet-bench": (bench_command, SeveralValuesCommand, ()),
}

# Names of options in earlier READMEs, which are still accepted but not in the help.
_RENAMED_OPTIONS = {"--rivals": "--baselines", "--rival-models": "--baseline-models"}


def main(argv: Sequence[str] | None = None, prog: str = "overnet", *, owns_process: bool = False) -> int:
    """Run a command line in this process; an expected error becomes one line on standard error and an exit code.

    Args:
        argv: the arguments; None for those of this process.
        prog: the program: ``overnet``, or one of its commands by its own name, such as ``overnet-run``.
        owns_process: whether an interruption before there was a result ends this process.

    Returns:
        The exit code.
    """
    # Without this OpenCV prints its own remarks on damaged files.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    program, arguments = app, [_RENAMED_OPTIONS.get(word, word) for word in (sys.argv[1:] if argv is None else argv)]
    default_arguments: Sequence[str] = ("--help",)
    if prog in _PROGRAMS:
        function, kind, default_arguments = _PROGRAMS[prog]
        program = typer.Typer(**PLAIN)
        program.command(cls=kind, context_settings=WITH_SHORT_HELP)(function)
        if arguments == ["--version"]:
            arguments, program = ["--version"], app
    try:
        return _run(program, arguments or list(default_arguments), prog)
    except OverNetError as error:
        if str(error):
            print_error(error)
        if owns_process and isinstance(error, InterruptedRun):
            # Not after the return, which releases the error and with it the backend: that waits for its image.
            _end_interrupted_process()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print_error("interrupted")
        return InterruptedRun.exit_code
    except BrokenPipeError:  # a reader that is gone, such as `head`, needs no message
        return 1
    except Exception as error:
        # Wrong usage: an exception of Typer, with the message, the exit code and the command it is about.
        if hasattr(error, "format_message"):
            print_error(_usage_message(error, arguments, prog))
            return int(getattr(error, "exit_code", 2))
        line = line_for(error)
        if line is None:
            raise
        if isinstance(error, FileNotFoundError) and not error.filename:
            line = _without_folder() or line
        name = prog.removeprefix("overnet-") if prog in _PROGRAMS else arguments[0]
        print_error(line if isinstance(error, OSError) else f"{name}: {line}")
        return 1


def _run(program: typer.Typer, arguments: list[str], prog: str) -> int:
    result = typer.main.get_command(program).main(args=arguments, prog_name=prog, standalone_mode=False)
    if sys.stdout is not None:
        sys.stdout.flush()
    if result == InterruptedRun.exit_code:
        # Typer's for what came outside of a command's own function.
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _usage_message(error: Any, arguments: Sequence[str], prog: str) -> str:
    """Return the message of wrong usage, with the near option for one that does not exist, and whose help says more."""
    context, message = getattr(error, "ctx", None), error.format_message()
    option = getattr(error, "option_name", None)
    if context and option is not None and hasattr(error, "possibilities"):
        # Typer reads -scale as -s.
        typed = next((word for word in arguments if word.startswith(option)), option).partition("=")[0]
        known = [name for each in context.command.get_params(context) for name in each.opts]
        message = f"no such option: {printable(typed)}{did_you_mean('--' + typed.lstrip('-'), known)}"
    return f"{message} ({context.command_path if context else prog} --help shows how)"


def _without_folder() -> str | None:
    """Return the message where the current folder was removed, for which no relative path has a meaning."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the current folder was removed: change to another"
    return None


def _end_interrupted_process() -> NoReturn:
    """End this process; files are written or removed by now. Do not wait for a backend that computes a large image."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # it cannot be written, or was closed from the beginning
            stream.flush()
    os._exit(InterruptedRun.exit_code)
