"""What TensorRT's builder says: kept in a log file, and its errors made into one line for the user."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from overnet.errors import OutputError, printable
from overnet.system.tensorrt_logger import Severity

# Where in the library's source it happened; whichever thread's file that is says nothing to a user.
_PLACE = re.compile(r"^\[[^\]]*\]\s*|\s*In \S+ at \S+:\d+\b")
# Without a GPU, TensorRT-RTX complains of the missing driver beside whatever else is wrong.
_NO_DRIVER = "(cudaError 35:"
_ACTIVATION_MEMORY = re.compile(r"Total Activation Memory: (\d+)")
_OUT_OF_WORKSPACE = re.compile(r"OutOfMemory|insufficient workspace|workspace memory greater than", re.IGNORECASE)


class BuildMessages:
    """Collects one build's messages; a context, within which the log file is open.

    Args:
        log: file to append them to, but for the verbose ones, of which there are thousands; None keeps no log.
        title: what is built, for the log.
    """

    def __init__(self, log: Path | None, title: str) -> None:
        self._log, self._title = log, title
        self._file: IO[str] | None = None
        self._errors: list[str] = []
        self.activation_memory_bytes: int | None = None
        self.log_failure: str | None = None

    def __enter__(self) -> BuildMessages:
        if self._log is not None:
            try:
                # A line at a time, so that a crash of the library leaves what it said before.
                self._file = self._log.open("a", encoding="utf-8", buffering=1)
            except OSError as error:
                raise OutputError(f"{printable(self._log)} cannot be written: {error.strerror or error}") from error
            self._write(f"# {self._title}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            # What could not be written was noted when it was written.
            with suppress(OSError):
                self._file.close()

    def add(self, severity: Severity, text: str) -> None:
        """Take a message. The library calls this, so it must not raise."""
        if severity == "verbose":
            return
        if severity == "error":
            self._errors.append(text)
        found = _ACTIVATION_MEMORY.search(text)
        if found:
            self.activation_memory_bytes = int(found[1])
        self._write(f"{severity}: {text}")

    def _write(self, line: str) -> None:
        if self._file is None or self.log_failure is not None:
            return
        try:
            self._file.write(f"{line}\n")
        except OSError as error:
            self.log_failure = f"the log is not whole: {error.strerror or error}"

    @property
    def error(self) -> str:
        """The first error, from which others follow, on one line; or that there was none."""
        significant = [text for text in self._errors if _NO_DRIVER not in text] or self._errors
        return one_line(significant[0]) if significant else "it gave no reason"

    @property
    def is_out_of_workspace(self) -> bool:
        """Whether the build failed for want of workspace."""
        return any(_OUT_OF_WORKSPACE.search(text) for text in self._errors)


def one_line(text: str) -> str:
    """A message of the library on one line, without places in its source."""
    lines = [line for line in text.splitlines() if _NO_DRIVER not in line] or text.splitlines()
    shortened = [_PLACE.sub("", line).strip() for line in lines]
    return printable(" ".join(" ".join(shortened).split()))[:500]
