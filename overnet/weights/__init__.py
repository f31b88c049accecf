"""The bundled weights, the ONNX files made from them, and their model card. Needs no torch."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent

CHECKPOINT_NAME = "overnet_multiscale.safetensors"


def bundled_checkpoint() -> Path:
    """The bundled weights as a checkpoint: one network for every scale up to its overscale factor."""
    return _FOLDER / CHECKPOINT_NAME


def bundled_folder() -> Path:
    """The folder that holds the bundled ONNX files, one a scale."""
    return _FOLDER
