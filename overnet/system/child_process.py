"""Python processes started for a part of the work: requests go in and messages come out, one JSON object a line."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_LONGEST_REASON = 500


class PythonChild:
    """A Python process that imports the same modules as this one; a context manager, which ends it on every way out.

    Its standard input stays open until then: where it closes, the child can tell that this process is gone.

    Args:
        arguments: of Python, such as ``("-m", "overnet", "export")``.
        title: what to call the process in messages, as the beginning of a sentence.
        folder: where to start it; by default the current folder.
        environment: by default that of `child_environment`.
        timeout_seconds: how long it may take; it is killed then. None sets no limit.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        title: str,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> None:
        self._title, self._timeout_seconds = title, timeout_seconds
        self._timed_out = threading.Event()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env=child_environment() if environment is None else environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                encoding="utf-8",
                errors="replace",
            )
        except BaseException:
            self._errors.close()
            raise
        self._timer = None if timeout_seconds is None else threading.Timer(timeout_seconds, self._give_up)
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def _give_up(self) -> None:
        self._timed_out.set()
        self._process.kill()

    def send(self, request: object) -> None:
        """Write a request as one line of JSON, paths as text. Does nothing where the process has ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request, default=str) + "\n")
            self._process.stdin.flush()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects that the process writes, until it closes its output; other lines are skipped."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if message := parse_json_line(line):
                yield message

    def wait(self) -> int:
        """Wait for the end of the process, after its last message, and return its exit code."""
        return self._process.wait()

    def reason(self) -> str:
        """Wait for the end of the process and return in one line why it ended."""
        code = self.wait()
        if self._timed_out.is_set():
            return f"it took longer than {self._timeout_seconds:g} s"
        self._errors.seek(0)
        return exit_reason(self._title, code, self._errors.read().decode("utf-8", "replace"))

    def kill(self) -> None:
        """End the process at once; may be called from any thread."""
        self._process.kill()

    def __enter__(self) -> PythonChild:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # After a regular end this does nothing.
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def end_with_parent() -> None:
    """In a process that `PythonChild` started: end it once its parent has ended, even if that was killed.

    Call it when all requests have been read.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    # Where standard input is none of `PythonChild`'s pipes, its end says nothing.
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=wait, name="parent", daemon=True).start()


def child_environment() -> dict[str, str]:
    """Return the environment in which another Python process imports the same modules."""
    # A checkout may have been found through a path relative to the folder that this process was started in.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)}


def parse_json_line(line: str) -> dict[str, Any]:
    """Return the JSON object in a line of output; {} for a library's own output, and for a line that was cut off."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def exit_reason(title: str, code: int, error_output: str) -> str:
    """Return in one line why a process failed: the last line of its error output, where it wrote any.

    Args:
        title: what to call the process, as the beginning of a sentence.
        code: its exit code; the negative number of the signal that ended it.
        error_output: what it wrote to stderr.
    """
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{title} was ended by {name}{'; memory may have run out' if name == 'SIGKILL' else ''}"
    lines = [line.strip() for line in error_output.splitlines() if line.strip()]
    if lines:
        return lines[-1].removeprefix("overnet: ")[:_LONGEST_REASON]
    return f"{title} ended with code {code} and no error output"
