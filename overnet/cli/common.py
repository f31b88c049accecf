"""Set-up that all commands share: how their functions become commands, and how they print."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnet.errors import InterruptedRun, printable

if TYPE_CHECKING:
    from overnet.types import Progress

# Drawing the help with Rich takes longer than everything else that --help does.
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
# Commands of the group `overnet` inherit it.
WITH_SHORT_HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Prepare a function for Typer.

    A parameter whose type is a dataclass becomes one option for each field, and Ctrl-C becomes an `InterruptedRun`:
    Typer would end the program without a message.
    """
    signature = inspect.signature(function, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for parameter in signature.parameters.values():
        group = parameter.annotation
        if not (isinstance(group, type) and dataclasses.is_dataclass(group)):
            parameters.append(parameter)
            continue
        groups[parameter.name] = group
        types = inspect.get_annotations(group, eval_str=True)
        for field in dataclasses.fields(group):
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            option = inspect.Parameter(field.name, parameter.kind, default=default, annotation=types[field.name])
            parameters.append(option)

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        for name, group in groups.items():
            options[name] = group(**{field.name: options.pop(field.name) for field in dataclasses.fields(group)})
        try:
            function(*arguments, **options)
        except KeyboardInterrupt as error:
            raise InterruptedRun("interrupted") from error

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


class MessageStream:
    """Standard error for messages, which never raises: a run goes on where nobody can read its remarks any more.

    The reader may have died, the disk may be full, the stream may be closed.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        """Write a text as far as possible."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush as far as possible."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def print_status(text: str, *, quiet: bool = False) -> None:
    """Print lines for people on standard error; standard output is for results."""
    if not quiet and sys.stderr is not None:
        print("\n".join(map(printable, text.splitlines())), file=MessageStream(), flush=True)


def converted_model(model: Path | None, announce: Progress, *, quiet: bool) -> Path | None:
    """Return a model, converted where it is another program's ONNX file; says what was found when it is converted."""
    if model is None:
        return None
    from overnet.system.converted_model import own_model

    def note(line: str) -> None:
        print_status(f"note: {line}", quiet=quiet)

    return own_model(model, on_progress=announce, on_note=note)


def own_scale(model: Path | None) -> float | None:
    """Return the only scale of a model file; None for a folder, a checkpoint or the bundled models."""
    from overnet.evaluation.model_choice import describe, is_folder
    from overnet.weights import model_path

    path = model_path(model)
    artifact = None if is_folder(path) else describe(path)
    return None if artifact is None else artifact.scale


def print_error(error: BaseException | str) -> None:
    """Print an error as one line on standard error."""
    print_status(f"overnet: {' '.join(str(error).split())}")
