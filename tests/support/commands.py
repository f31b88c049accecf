"""The commands: in this process, or in one of their own as a user starts them."""

import os
import subprocess
import sys
import tempfile
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import cv2

from overnet.cli import main
from tests.conftest import ROOT

_ENTRY_POINTS = {
    "overnet": "run_program",
    "overnet-run": "main_run",
    "overnet-export": "main_export",
    "overnet-bench": "main_bench",
}
_IGNORED_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def run_command(*arguments, program="overnet-run", cwd=None):
    """Run a command in this process, which takes a twentieth of the time of a process of its own.

    Standard input is empty. Output is taken from the file descriptors, which C libraries write to as well. The command
    has to leave the process as it was: its threads have ended and its signal handlers are gone.

    Returns:
        The same as `run_process`.

    Raises:
        AssertionError: a thread is left.
        Exception: what `main` does not expect, and a process would print as a traceback.
    """
    argv = [str(argument) for argument in arguments]
    threads = set(threading.enumerate())
    level = cv2.utils.logging.getLogLevel()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        # As `main` has it where OpenCV is not loaded yet.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            with _standard_files(stdout, stderr), _environment_kept(), _folder(cwd), _warnings_printed():
                code = main(argv, program)
        finally:
            cv2.utils.logging.setLogLevel(level)
        said = [_text(file) for file in (stdout, stderr)]
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)
        assert not thread.is_alive(), f"{program} left {thread}"
    return subprocess.CompletedProcess([program, *argv], code, *said)


def run_process(*arguments, program="overnet-run", cwd=None, **options):
    """Run a command as a user does, in a process of its own."""
    return subprocess.run(
        command_line(*arguments, program=program),
        **{"text": True, "timeout": 300, "env": environment(), **options},
        capture_output=True,
        cwd=cwd,
        check=False,
    )


def command_line(*arguments, program="overnet-run"):
    """Return the command line that starts a command in a process of its own."""
    entry = _ENTRY_POINTS[program]
    return [sys.executable, "-c", f"from overnet.__main__ import {entry}; {entry}()", *map(str, arguments)]


def environment(**variables):
    """Return the environment of a process that imports this checkout's modules."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


@contextmanager
def _standard_files(stdout, stderr):
    """Let the descriptors 0 to 2, and Python's files of them, be /dev/null and the given files."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in range(3)]
    empty = os.open(os.devnull, os.O_RDONLY)
    try:
        for descriptor, other in enumerate((empty, stdout.fileno(), stderr.fileno())):
            os.dup2(other, descriptor)
        with (
            open(0, closefd=False) as in_file,
            open(1, "w", closefd=False) as out_file,
            open(2, "w", closefd=False) as error_file,
            mock.patch.multiple(sys, stdin=in_file, stdout=out_file, stderr=error_file),
        ):
            yield
    finally:
        for descriptor, other in enumerate(kept):
            os.dup2(other, descriptor)
            os.close(other)
        os.close(empty)


def _text(file):
    file.seek(0)
    return file.read().decode(errors="replace")


@contextmanager
def _environment_kept():
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextmanager
def _folder(path):
    before = Path.cwd()
    os.chdir(path or before)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _warnings_printed():
    """Print warnings on stderr, as Python does, and not in pytest's report."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for category in _IGNORED_WARNINGS:
            warnings.simplefilter("ignore", category)
        yield
        for warning in caught:
            print(
                warnings.formatwarning(warning.message, warning.category, warning.filename, warning.lineno),
                file=sys.stderr,
                end="",
            )
