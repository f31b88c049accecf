"""Building an engine in a process of its own, which is our ``overnet-export``.

What a builder took of the memory goes back when its process ends, before the engine runs on a small board; and a
builder that crashes, or that the system kills, is one clear error here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from overnet.errors import BackendError, printable
from overnet.files.engine_sidecar import Profile, RuntimeName
from overnet.system.child_process import child_environment, exit_reason, parse_json_line
from overnet.types import Progress

_COMMAND = ("-m", "overnet", "export")
_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


def build_in_child(
    model: Path,
    folder: Path,
    *,
    runtime: RuntimeName,
    precision: str,
    profile: Profile,
    device: int,
    on_progress: Progress | None,
) -> list[str]:
    """Build an engine from an ONNX file with ``overnet-export``.

    Args:
        model: the ONNX file.
        folder: an empty one, for the engine, its sidecar, and the builder's log.
        device: which GPU, counted from 0 among those that ``CUDA_VISIBLE_DEVICES`` leaves.
        on_progress: is told what is being done, how much of it is done, and how much there is. What it raises, and
            Ctrl-C, end the process before they are raised again.

    Returns:
        What the user should know, one line each.

    Raises:
        BackendError: it cannot be built; with the process's own line.
    """
    sizes = (profile.minimum, profile.optimum, profile.maximum)
    shape = ":".join(f"{height}x{width}" for height, width in sizes)
    options = ["--target", runtime, "--precision", precision, "--shape", shape, "--batch", str(profile.batch)]
    process = [sys.executable, *_COMMAND, str(model.resolve()), *options, "-o", ".", "--progress-lines", "--quiet"]
    with tempfile.TemporaryFile() as errors:
        code, report = _run(process, folder, _environment(device), errors, on_progress)
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace")
    if code or report is None:
        reason = exit_reason("the process that builds it", code, said)
        raise BackendError(f"the engine for {printable(model.name)} cannot be built: {reason}")
    return [str(note) for file in report["files"] for note in file["notes"]]


def _run(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    errors: IO[bytes],
    on_progress: Progress | None,
) -> tuple[int, dict[str, Any] | None]:
    """Run the process to its end; returns its exit code and its report, where it made one."""
    report = None
    process = subprocess.Popen(
        command,
        # Python looks for modules in the folder it is started in: in this one there are none.
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        encoding="utf-8",
        errors="replace",
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said = parse_json_line(line)
            if "files" in said:
                report = said
            elif "doing" in said and on_progress is not None:
                on_progress(said["doing"], said["done"], said["total"])
        return process.wait(), report
    finally:
        # After a regular end this does nothing. All that it writes lies in its folder, so it need not end gently.
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _environment(device: int) -> dict[str, str]:
    """What the process is to see: the same modules, and one GPU."""
    environment = child_environment()
    visible = [entry.strip() for entry in environment.get(_VISIBLE_DEVICES, "").split(",") if entry.strip()]
    if _VISIBLE_DEVICES not in environment:
        environment[_VISIBLE_DEVICES] = str(device)
    elif device < len(visible):
        environment[_VISIBLE_DEVICES] = visible[device]
    return environment
