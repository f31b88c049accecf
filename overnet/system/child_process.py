"""What all have in common that start another Python for a part of their work: what it sees, says, and why it ended."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_LONGEST_REASON = 500


def child_environment() -> dict[str, str]:
    """The environment in which another Python imports the same modules."""
    # A checkout, too, may have been found through the folder that this process was started in.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)}


def parse_json_line(line: str) -> dict[str, Any]:
    """The JSON object in a line of output; nothing where it is none of ours, or was cut off by the process's end."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def exit_reason(title: str, code: int, complaints: str) -> str:
    """Why a process failed, in one line: in its own words where it had time for any.

    Args:
        title: what to call the process, as the beginning of a sentence.
        code: that it ended with; below 0 the signal that ended it.
        complaints: what it wrote to stderr.
    """
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{title} was ended by {name}{'; memory may have run out' if name == 'SIGKILL' else ''}"
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    if lines:
        return lines[-1].removeprefix("overnet: ")[:_LONGEST_REASON]
    return f"{title} ended with code {code} and without a word"
