"""The messages of TensorRT's builder: written to a log file, and the first error as one line for the user."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import IO

from overnet.errors import OutputError, file_errors, printable
from overnet.system.tensorrt_logger import Severity

# The place in the library's source, which does not help a user.
_PLACE = re.compile(r"^\[[^\]]*\]\s*|\s*In \S+ at \S+:\d+\b")
# Without a GPU, TensorRT-RTX reports the missing driver beside every other error.
_NO_DRIVER = "(cudaError 35:"
_ACTIVATION_MEMORY = re.compile(r"Total Activation Memory: (\d+)")
_OUT_OF_WORKSPACE = re.compile(r"OutOfMemory|insufficient workspace|workspace memory greater than", re.IGNORECASE)
# What TensorRT says where tensors are too large for it, or for the memory.
_TOO_LARGE = re.compile(r"out of memory|tensor volume|volume (of|exceeds)|2\^31|2147483647|INT32_MAX", re.IGNORECASE)
# It may have a kernel for smaller tensors, or for other number types.
_NO_KERNEL = re.compile(r"Could not find any implementation", re.IGNORECASE)


class BuildMessages:
    """The messages of one build; a context, within which the log file is open.

    Args:
        log: file to append them to, except the verbose ones, of which there are thousands; None writes no log.
        title: a heading for the log.
    """

    def __init__(self, log: Path | None, title: str) -> None:
        self._log, self._title = log, title
        self._file: IO[str] | None = None
        self._errors: list[str] = []
        self.activation_memory_bytes: int | None = None
        self.log_failure: str | None = None

    def __enter__(self) -> BuildMessages:
        if self._log is not None:
            with file_errors(OutputError, self._log, " cannot be written"):
                # Written line by line, so that the messages before a crash of the library are kept.
                self._file = self._log.open("a", encoding="utf-8", buffering=1)
            self._write(f"# {self._title}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            # A failure was recorded when the line was written.
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
            self.log_failure = f"the log is incomplete: {error.strerror or error}"

    @property
    def error(self) -> str:
        """The first error, which causes the later ones, on one line; or a text that there was none."""
        significant = [text for text in self._errors if _NO_DRIVER not in text] or self._errors
        return one_line(significant[0]) if significant else "it gave no reason"

    def forget_errors(self) -> None:
        """Forget the errors so far, before another attempt."""
        self._errors.clear()

    @property
    def is_too_large(self) -> bool:
        """Whether the build failed because of the size of the images, so that one for smaller ones may succeed."""
        return self.is_out_of_workspace or any(_TOO_LARGE.search(text) for text in self._errors)

    @property
    def lacks_kernel(self) -> bool:
        """Whether the library has no kernel for a layer, which smaller images or other number types may change."""
        return any(_NO_KERNEL.search(text) for text in self._errors)

    @property
    def is_out_of_workspace(self) -> bool:
        """Whether the build failed because of too little workspace."""
        return any(_OUT_OF_WORKSPACE.search(text) for text in self._errors)


def one_line(text: str) -> str:
    """Return a message on one line, without places in the library's source."""
    lines = [line for line in text.splitlines() if _NO_DRIVER not in line] or text.splitlines()
    shortened = [_PLACE.sub("", line).strip() for line in lines]
    return printable(" ".join(" ".join(shortened).split()))[:500]
