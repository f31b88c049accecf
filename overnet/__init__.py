"""OverNet, the edge super-resolution toolkit; importing it loads neither torch nor a backend."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnet._version import __version__

if TYPE_CHECKING:
    from overnet.network.checkpoint import load_checkpoint, load_model
    from overnet.network.model import OverNet, OverNetConfig, OverscalingHead
    from overnet.runtime.upscaler import Upscaler

# In a checkout export/, runtime/ and benchmarks/ lie beside this package; installed, they lie inside it.
_checkout = Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "runtime").is_dir():
    __path__.append(str(_checkout))

# Public names and their modules, loaded at first use, so that the runtime works without torch.
_LAZY = {
    "OverNet": "overnet.network.model",
    "OverNetConfig": "overnet.network.model",
    "OverscalingHead": "overnet.network.model",
    "Upscaler": "overnet.runtime.upscaler",
    "load_checkpoint": "overnet.network.checkpoint",
    "load_model": "overnet.network.checkpoint",
}

__all__ = ["OverNet", "OverNetConfig", "OverscalingHead", "Upscaler", "__version__", "load_checkpoint", "load_model"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'overnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
