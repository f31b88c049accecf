"""Builds an engine in a child process, which runs ``overnet export``.

The builder's memory is freed when the process ends, before the engine runs on a small board; and a builder that
crashes, or that the system kills, is one clear error here.
"""

from dataclasses import dataclass
from pathlib import Path

from overnet.errors import BackendError, printable
from overnet.files.engine_sidecar import Profile, RuntimeName
from overnet.system.child_process import PythonChild, child_environment
from overnet.types import Progress

_COMMAND = ("-m", "overnet", "export")
_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class EngineRequest:
    """The engine to find or build.

    Attributes:
        model: an ONNX file that OverNet exported.
        runtime: the library that is to run the engine.
        precision: of the arithmetic, one of `overnet.files.onnx_metadata.PRECISIONS`.
        profile: the sizes of images that the engine is to take.
    """

    model: Path
    runtime: RuntimeName
    precision: str
    profile: Profile


def build_in_child(request: EngineRequest, folder: Path, *, device: int, on_progress: Progress | None) -> list[str]:
    """Build an engine from an ONNX file with ``overnet export``.

    Args:
        request: the engine.
        folder: an empty one, for the engine, its sidecar, and the builder's log.
        device: the GPU, counted from 0 among those that ``CUDA_VISIBLE_DEVICES`` leaves.
        on_progress: called with each progress report of the builder. An exception in it, like Ctrl-C, ends the process
            before it is raised again.

    Returns:
        Remarks for the user, one line each.

    Raises:
        BackendError: the engine cannot be built; the message ends with the process's last line of error output.
    """
    profile = request.profile
    sizes = (profile.minimum, profile.optimum, profile.maximum)
    shape = ":".join(f"{height}x{width}" for height, width in sizes)
    options = [
        "--target",
        request.runtime,
        "--precision",
        request.precision,
        "--shape",
        shape,
        "--batch",
        str(profile.batch),
    ]
    arguments = [*_COMMAND, str(request.model.resolve()), *options, "-o", ".", "--progress-lines", "--quiet"]
    report = None
    # Started in the engine's folder: Python looks for modules where it is started, and there are none in it. All that
    # the process writes lies there too, so that it may be killed at any time.
    with PythonChild(
        arguments, title="the process that builds it", folder=folder, environment=_environment(device)
    ) as child:
        for message in child.messages():
            if "files" in message:
                report = message
            elif "doing" in message and on_progress is not None:
                on_progress(message["doing"], message["done"], message["total"])
        if child.wait() or report is None:
            raise BackendError(f"the engine for {printable(request.model.name)} cannot be built: {child.reason()}")
    return [str(note) for file in report["files"] for note in file["notes"]]


def _environment(device: int) -> dict[str, str]:
    """Return the environment of the process: the same modules, and no GPU but this one."""
    environment = child_environment()
    visible = [entry.strip() for entry in environment.get(_VISIBLE_DEVICES, "").split(",") if entry.strip()]
    if _VISIBLE_DEVICES not in environment:
        environment[_VISIBLE_DEVICES] = str(device)
    elif device < len(visible):
        environment[_VISIBLE_DEVICES] = visible[device]
    return environment
