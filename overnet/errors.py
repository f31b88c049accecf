"""The errors a user can cause or meet, each with a message of one line that says what to do.

The command line prints the message alone (no traceback) and exits with the class's ``exit_code``. Errors of the
operating system and of libraries become one line too, see `line_for`. Any other exception is a defect of OverNet and
keeps its traceback.
"""

import difflib
import errno
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

# How alike two words must be for one to be taken as a slip of the other, 0 to 1.
_LIKENESS = 0.75


def printable(text: object) -> str:
    """Return a text or a path with "?" for each control character and line break.

    A terminal would obey control characters, XML cannot hold them, and a message has to stay on one line.
    """
    return "".join(character if character.isprintable() else "?" for character in str(text))


def one_line(error: object, *, line: int | None = None) -> str:
    """Return an error's message on one printable line of at most 300 characters, without a full stop at its end.

    Args:
        error: an error, or its text. An error without a message gives the name of its type.
        line: the number of the only line to keep, such as 0 for the first or -1 for the last; None keeps all lines.
    """
    lines = [" ".join(each.split()) for each in str(error).splitlines() if each.strip()]
    kept = lines if line is None or not lines else [lines[line]]
    return printable(" ".join(kept)).rstrip(".")[:300] or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question for the end of a message, with the known word that is nearest; "" if none is near."""
    near = difflib.get_close_matches(word, list(known), 1, _LIKENESS)
    return f"; did you mean {printable(near[0])}?" if near else ""


class OverNetError(Exception):
    """Base of all expected errors: the message is one line, meant for the user."""

    exit_code = 1


class InputError(OverNetError):
    """An input that cannot be used: missing, empty, truncated, of another kind, or out of range."""


def link_problem(path: Path) -> str:
    """Return why a link cannot be followed, for a message; empty where the path is no link, or one to a file."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "it is a link that leads back to itself"
        if error.errno == errno.ENOENT and path.is_symlink():
            return f"it is a link to {printable(path.readlink())}, which does not exist"
    except ValueError:  # a NUL character
        return ""
    return ""


def no_such_file(path: Path, names: Iterable[str] = ()) -> InputError:
    """Return the error on a file that does not exist, with the nearest name in its folder or among some others."""
    if problem := link_problem(path):
        return InputError(f"{printable(path)} cannot be read: {problem}")
    try:
        beside = [str(path.with_name(each.name)) for each in path.parent.iterdir()] if path.name else []
    except (OSError, ValueError):  # ValueError: a NUL character
        beside = []
    return InputError(f"{printable(path)}: no such file{did_you_mean(str(path), [*names, *beside])}")


class OutputError(OverNetError):
    """A result that cannot be written: it exists already, the folder is unwritable, the disk is full."""


class CheckpointError(InputError):
    """A checkpoint that is foreign, truncated, of the wrong shapes, or contains code."""


class ArtifactError(InputError):
    """An exported file (ONNX, engine) that is broken or not made by OverNet."""


class BackendError(OverNetError):
    """A backend that cannot be loaded, or that failed during a run."""


class InterruptedRun(OverNetError):
    """A run that the user stopped (Ctrl-C); without a message where the lines on its results have said so."""

    exit_code = 130  # 128 + SIGINT, as shells report it


class MissingDependency(OverNetError):
    """An optional library that is not installed; the message says which extra installs it."""


# Libraries by the name of their package, for messages.
_TITLES = {
    "av": "FFmpeg",
    "cv2": "OpenCV",
    "google": "Protocol Buffers",
    "onnx": "ONNX",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "pickle": "unpickling",
    "tensorrt": "TensorRT",
    "torch": "PyTorch",
}


def line_for(error: BaseException) -> str | None:
    """Return a line on an error of the operating system or of a library: what failed, and why.

    Returns:
        None for other errors: a type of Python's own that wrong code raises, such as TypeError, is a defect.
    """
    kind = type(error)
    if isinstance(error, MemoryError):
        return f"out of memory ({one_line(error)})" if str(error) else "out of memory"
    if isinstance(error, OSError) and kind.__module__ in ("builtins", "av.error"):
        name = printable(error.filename) if error.filename else "cannot read or write"
        return f"{name}: {error.strerror or one_line(error)}"
    if kind.__module__ == "builtins" and not isinstance(error, RuntimeError | EOFError | BufferError):
        return None
    package = kind.__module__.partition(".")[0]
    if package == "builtins":
        # Most libraries raise RuntimeError: which one did is the module that was called from here.
        package, step = "", error.__traceback__
        while step is not None:
            module = str(step.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
            package = "" if module == "overnet" else package or module
            step = step.tb_next
    package = package.removeprefix("_")
    return f"{_TITLES.get(package, package or 'a library')} failed: {one_line(error)}"


@contextmanager
def naming_failures(name: object) -> Iterator[None]:
    """Raise an error of a library in the block, see `line_for`, as an `OverNetError` that begins with a name.

    A `BrokenPipeError` stays as it is: the reader of standard output has ended.
    """
    try:
        yield
    except OverNetError:
        raise
    except Exception as error:
        line = None if isinstance(error, BrokenPipeError) else line_for(error)
        if line is None:
            raise
        # The operating system's errors name the file themselves.
        raise OverNetError(line if line.startswith(f"{printable(name)}: ") else f"{printable(name)}: {line}") from error


@contextmanager
def file_errors(kind: type[OverNetError], path: object, failed: str = "") -> Iterator[None]:
    """Raise the operating system's errors in the block as errors of a kind that name the file, and what `failed`.

    A ValueError too: a NUL character in a path raises it.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise kind(f"{printable(path)}{failed}: {reason}") from error


# Importing OpenVINO sends a usage event through this package and leaves an identity in ~/intel. Where the package is
# missing, OpenVINO does without, and so it is made to look missing before OpenVINO is imported.
_OPENVINO_TELEMETRY = "openvino_telemetry"


def import_library(name: str) -> ModuleType:
    """Import a third-party module; none that this package imports may send usage data.

    Raises:
        ImportError: it is not installed, or does not load.
        KeyboardInterrupt: Ctrl-C was pressed while it was loaded.
    """
    if name.partition(".")[0] == "openvino":
        sys.modules.setdefault(_OPENVINO_TELEMETRY, None)  # type: ignore[arg-type] # None stops an import of that name
    try:
        return importlib.import_module(name)
    except ImportError as error:
        # A compiled module turns the KeyboardInterrupt of its initialisation into the cause of an ImportError.
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional library where it is used.

    Args:
        module: the module to import, such as ``"torch"``.
        extra: the extra that installs it, such as ``"export"``; empty where the base installation does.
        purpose: what needs it, as the beginning of a sentence: ``"loading a checkpoint"``.

    Raises:
        MissingDependency: the module is not installed, or is installed and does not import.
    """
    try:
        return import_library(module)
    except ImportError as error:
        name = module.partition(".")[0]
        package = f"'overnet[{extra}]'" if extra else name
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        reason = ", which is not installed" if missing else f" ({one_line(error)})"
        raise MissingDependency(f"{purpose} needs {name}{reason}: pip install {package}") from error
