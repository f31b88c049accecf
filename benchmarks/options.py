"""The options of a benchmark, and their ranges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from overnet.benchmarks.baselines.race import ImageSize
from overnet.errors import InputError
from overnet.files.engine_sidecar import LARGEST_BATCH
from overnet.files.onnx_metadata import PRECISIONS

_HIGHEST_SCALE = 8


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure.

    Attributes:
        backends: names of `overnet.runtime.backends.registry.BACKENDS`, or ``"auto"``.
        scales, sizes, precisions: all combinations with each backend; without a precision, the backend's usual one.
        model: see `overnet.runtime.upscaler.Upscaler`; None for the bundled one.
        seconds: the minimum duration of each measurement.
        batch: images per call.
        data: a folder of real images for the ground truth; None for the bundled photographs.
        baselines: whether to compare with alternative methods.
        baseline_models: see `overnet.benchmarks.baselines.registry.BaselineOptions`.
        video: whether to upscale a short clip from file to file.
        power: whether to measure the machine's power.
        sustained_seconds: how long to run each case without pause for its sustained throughput; 0: not at all.
        threads, device, provider, slots: see `overnet.runtime.upscaler.Upscaler`.
        images: whether to make the images for a report.
        memory_bytes: the memory for which to report the largest image; None for the available memory.
    """

    backends: list[str]
    scales: list[int]
    sizes: list[ImageSize]
    precisions: list[str]
    model: Path | None = None
    seconds: float = 10.0
    batch: int = 1
    data: Path | None = None
    baselines: bool = False
    baseline_models: Path | None = None
    video: bool = True
    power: bool = True
    sustained_seconds: float = 0.0
    threads: int | None = None
    device: int = 0
    provider: str = "cpu"
    slots: int = 3
    images: bool = False
    memory_bytes: int | None = None

    def as_texts(self) -> dict[str, str]:
        """Return each option as text for a report; of paths only the name."""
        return {
            "backend": " ".join(self.backends),
            "scale": " ".join(map(str, self.scales)),
            "size": " ".join(f"{size.width}x{size.height}" for size in self.sizes),
            "precision": " ".join(self.precisions) or "the backend's usual one",
            "model": "bundled" if self.model is None else self.model.name,
            "seconds": f"{self.seconds:g}",
            "batch": str(self.batch),
            "data": "bundled photographs" if self.data is None else self.data.name,
            "baselines": "yes" if self.baselines else "no",
            "sustained": f"{self.sustained_seconds:g}",
            "threads": "all" if self.threads is None else str(self.threads),
            "device": str(self.device),
            "provider": self.provider,
            "slots": str(self.slots),
        }


def check_options(options: BenchmarkOptions) -> None:
    """Check the ranges of the options.

    Raises:
        InputError: an option is out of range.
    """
    for scale in options.scales:
        if not 2 <= scale <= _HIGHEST_SCALE:
            raise InputError(f"scale is {scale}; it must be from 2 to {_HIGHEST_SCALE}")
    for size in options.sizes:
        size.check()
    for precision in options.precisions:
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision[:40]!r}; it can be {', '.join(PRECISIONS)}")
    if not 1 <= options.batch <= LARGEST_BATCH:
        raise InputError(f"batch is {options.batch}; it must be from 1 to {LARGEST_BATCH}")
