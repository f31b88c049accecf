"""The options of a benchmark, and their ranges."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from overnet.errors import InputError
from overnet.files.engine_sidecar import LARGEST_BATCH
from overnet.files.onnx_metadata import PRECISIONS

_HIGHEST_SCALE = 8
_LARGEST_INPUT_SIDE = 1 << 14


@dataclass(frozen=True)
class ImageSize:
    """An input's size in pixels."""

    width: int
    height: int

    def check(self) -> None:
        """Refuse a size that cannot be benchmarked.

        Raises:
            InputError: a side is out of range.
        """
        if not 1 <= min(self.width, self.height) <= max(self.width, self.height) <= _LARGEST_INPUT_SIDE:
            raise InputError(f"size is {self.width}x{self.height}; each side must be from 1 to {_LARGEST_INPUT_SIDE}")


@dataclass(frozen=True, kw_only=True)
class MeasuringOptions:
    """The options that the benchmark passes on to the processes that measure.

    Attributes:
        model: see `overnet.runtime.upscaler.Upscaler`; None for the bundled one.
        seconds: the minimum duration of each measurement; of a race, the approximate duration of all rounds.
        sustained_seconds: how long to run each case without pause for its sustained throughput; 0: not at all.
        data: a folder of real images for the ground truth; None for the bundled photographs.
        baseline_models: a folder with models for OpenCV's dnn_superres (``ESPCN_x2.pb``; ``.onnx`` from OpenCV 5 on)
            and for ncnn (``.param`` with ``.bin``), or None.
        threads, device, provider, slots: see `overnet.runtime.backends.base.BackendOptions`; the provider is only for
            ONNX Runtime.
    """

    model: Path | None = None
    seconds: float = 10.0
    sustained_seconds: float = 0.0
    data: Path | None = None
    baseline_models: Path | None = None
    threads: int | None = None
    device: int = 0
    provider: str = "cpu"
    slots: int = 3

    def passed_on(self) -> dict[str, Any]:
        """Return these options by name, without those that a subclass adds."""
        return {field.name: getattr(self, field.name) for field in fields(MeasuringOptions)}


@dataclass(frozen=True)
class BenchmarkOptions(MeasuringOptions):
    """What to measure.

    Attributes:
        backends: names of `overnet.runtime.backends.registry.BACKENDS`, or ``"auto"``.
        scales, sizes, precisions: all combinations with each backend; without a precision, the backend's usual one.
        batch: images per call.
        baselines: whether to compare with alternative methods.
        video: whether to upscale a short clip from file to file.
        power: whether to measure the machine's power.
        images: whether to make the images for a report.
        memory_bytes: the memory for which to report the largest image; None for the available memory.
    """

    backends: list[str]
    scales: list[int]
    sizes: list[ImageSize]
    precisions: list[str]
    batch: int = 1
    baselines: bool = False
    video: bool = True
    power: bool = True
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
        if not 1 <= scale <= _HIGHEST_SCALE:
            raise InputError(f"scale is {scale}; it must be from 1 to {_HIGHEST_SCALE}")
    for size in options.sizes:
        size.check()
    for precision in options.precisions:
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision[:40]!r}; it can be {', '.join(PRECISIONS)}")
    if not 1 <= options.batch <= LARGEST_BATCH:
        raise InputError(f"batch is {options.batch}; it must be from 1 to {LARGEST_BATCH}")
