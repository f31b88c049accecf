"""How a backend is to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class BackendOptions:
    """How a backend is to compute; each takes from it what it knows.

    Attributes
    ----------
    precision : of the arithmetic; None for the backend's own usual one.
    threads : how many CPU threads to compute with; None for as many as there are cores.
    device : which GPU, counted from 0 among those that CUDA_VISIBLE_DEVICES leaves.
    provider : ONNX Runtime's execution provider: ``"cpu"``, ``"cuda"``, ``"tensorrt"`` or ``"tensorrt-rtx"``.
    slots : frames that are on their way on a GPU at once.
    zero_copy : whether the GPU works on the host's memory itself; None: where both are one, as on a Jetson.
    cuda_graphs : whether the GPU's work for a frame is replayed as one graph where that can be had.
    on_progress : told what takes long: what is being done, how many of its steps are done, and how many there are (0
        where that is not known). Perhaps from another thread.
    """

    precision: str | None = None
    threads: int | None = None
    device: int = 0
    provider: str = "cpu"
    slots: int = 3
    zero_copy: bool | None = None
    cuda_graphs: bool = True
    on_progress: Callable[[str, int, int], None] | None = None
