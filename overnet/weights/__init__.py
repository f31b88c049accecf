"""The bundled models by name: checkpoints, the ONNX files made from them, and their model card. Needs no torch."""

from pathlib import Path

_FOLDER = Path(__file__).parent

BEST = "best"
# Each model's folder, and the name of its checkpoint there; the fastest first. `BEST` is OverNet.
_MODELS = {
    "realtime": (_FOLDER / "realtime", "realtime.safetensors"),
    "fast": (_FOLDER / "fast", "fast.safetensors"),
    BEST: (_FOLDER, "overnet_multiscale.safetensors"),
}
MODEL_NAMES = tuple(_MODELS)
# Those that have ONNX files in INT8 beside those in FP32.
INT8_MODEL_NAMES = tuple(name for name in MODEL_NAMES if name != BEST)


def bundled_checkpoint(name: str = BEST) -> Path:
    """Return a bundled model as a checkpoint, which holds all of its scales.

    Args:
        name: one of `MODEL_NAMES`.
    """
    folder, checkpoint = _MODELS[name]
    return folder / checkpoint


def int8_checkpoint(name: str) -> Path:
    """Return the path of a bundled model's weights for INT8; where there is no file, `bundled_checkpoint`'s serve.

    Args:
        name: one of `INT8_MODEL_NAMES`.
    """
    return bundled_folder(name) / f"{name}_int8.safetensors"


def bundled_folder(name: str = BEST) -> Path:
    """Return the folder of a bundled model's ONNX files, one for each scale; `name` as for `bundled_checkpoint`."""
    return _MODELS[name][0]


def model_path(model: str | Path | None, *, checkpoint: bool = False) -> Path:
    """Return the path of a model that may be named.

    Args:
        model: one of `MODEL_NAMES`; a path, which is returned as it is (``./fast`` is a file of that name); or None for
            the best bundled model.
        checkpoint: whether a named model is wanted as its checkpoint, not as its folder of ONNX files.
    """
    name = BEST if model is None else str(model)
    if name not in _MODELS:
        return Path(name)
    return bundled_checkpoint(name) if checkpoint else bundled_folder(name)


def checkpoint_of_folder(folder: Path) -> Path | None:
    """Return the checkpoint in a bundled model's folder; None for other folders.

    It is known by the checkpoint's name, as a process may see the package in another place than its parent does.
    """
    checkpoints = (folder / checkpoint for _, checkpoint in _MODELS.values())
    return next((checkpoint for checkpoint in checkpoints if checkpoint.is_file()), None)
