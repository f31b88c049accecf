"""The inventory that ``overnet info`` prints: versions, machine, GPUs, backends and models."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

from overnet._version import __version__
from overnet.errors import OverNetError
from overnet.files.onnx_metadata import read_artifact
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.ort.providers import known_providers
from overnet.runtime.backends.registry import BACKENDS, BackendKind, choose_backends, how_to_install, installed_version
from overnet.system.cuda_device import cuda_device, cuda_device_count, free_device_memory_bytes
from overnet.system.memory import available_memory_bytes
from overnet.weights import MODEL_NAMES, bundled_checkpoint, bundled_folder

_LIBRARIES = ("numpy", "opencv-python", "av", "openvino", "onnxruntime", "onnx", "torch", "safetensors")


def take_inventory() -> dict[str, Any]:
    """Return versions, machine, GPUs, backends and bundled models as a dictionary for JSON."""
    return {
        "overnet": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "available_memory_bytes": available_memory_bytes(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "opencv": _opencv(),
        "gpus": [_gpu(number) for number in range(cuda_device_count())],
        "onnxruntime_providers": known_providers(),
        "backends": [_backend(kind) for kind in BACKENDS.values()],
        "models": [_model(name, path) for name in MODEL_NAMES for path in sorted(bundled_folder(name).glob("*.onnx"))],
        "checkpoints": {name: bundled_checkpoint(name).name for name in MODEL_NAMES},
        "checkpoint_paths": {name: str(bundled_checkpoint(name)) for name in MODEL_NAMES},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _opencv() -> dict[str, Any] | None:
    """Return the version of the OpenCV that is imported, and whether it has GStreamer, as Jetson's own build does."""
    try:
        import cv2
    except ImportError:
        return None
    lines = [line for line in cv2.getBuildInformation().splitlines() if "GStreamer" in line]
    return {"version": cv2.__version__, "gstreamer": any("YES" in line for line in lines)}


def _gpu(number: int) -> dict[str, Any]:
    device = cuda_device(number)
    return {
        "name": device.name if device else None,
        "compute_capability": device.compute_capability if device else None,
        "shares_memory": device.shares_memory if device else None,
        "free_memory_bytes": free_device_memory_bytes(number),
    }


def _backend(kind: BackendKind) -> dict[str, Any]:
    """Load a backend with a bundled model; return whether it works, and if not, why and what to do."""
    version = installed_version(kind)
    entry: dict[str, Any] = {"name": kind.name, "version": version, "works": False, "device": None, "reason": None}
    try:
        choose_backends(kind.name, "onnx" if kind.runs_onnx else "checkpoint")
        model = bundled_folder() / "overnet_x2.onnx" if kind.runs_onnx else bundled_checkpoint()
        entry.update(works=True, device=kind.load(model, 2, BackendOptions()).device)
    except (OverNetError, ImportError, OSError) as error:
        entry["reason"] = str(error) if version else f"not installed: {how_to_install(kind)}"
    return entry


def _model(name: str, path: Path) -> dict[str, Any]:
    artifact = read_artifact(path)
    return {
        "model": name,
        "name": path.name,
        "path": str(path),
        "scale": artifact.scale,
        "overscale": artifact.overscale,
        "precision": artifact.precision,
        "weights_sha256": artifact.weights_sha256,
    }
