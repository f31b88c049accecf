"""What an export is to make, and from what. Needs neither torch nor onnx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overnet.files.engine_sidecar import Profile, RuntimeName

if TYPE_CHECKING:
    from overnet.export.graph.network_graph import Form


@dataclass(frozen=True)
class EngineOptions:
    """Which engine to build from each ONNX file.

    Attributes:
        target: the library that is to run it.
        profile: which images it is to take; smaller where the device's memory is short.
        workspace_bytes: the most scratch memory that it may need; None sets no limit.
    """

    target: RuntimeName
    profile: Profile
    workspace_bytes: int | None = None


@dataclass(frozen=True)
class CalibrationOptions:
    """How to come to INT8.

    Attributes:
        folder: images to calibrate on; None for the set that comes with the package.
        max_loss_db: the most PSNR against the ground truth that it may cost on them.
    """

    folder: Path | None = None
    max_loss_db: float = 0.1


@dataclass(frozen=True)
class Options:
    """What to make.

    Attributes:
        scales: whole numbers, each from 1 to the network's overscale factor. None for the usual ones, or an ONNX
            file's.
        precision: of the arithmetic inside, one of `overnet.files.onnx_metadata.PRECISIONS`. None for FP16, or that of
            an ONNX file that is not in FP32.
        form: which of the forms of the graph; an ONNX file has its own.
        significant_bits: bits kept of each weight in an FP32 file, 24 being all (see `overnet.export.graph.builder`).
        calibration: for INT8.
        engine: None for ONNX files alone.
    """

    scales: tuple[int, ...] | None = None
    precision: str | None = None
    form: Form = "default"
    significant_bits: int = 24
    calibration: CalibrationOptions = CalibrationOptions()
    engine: EngineOptions | None = None


def is_onnx(source: Path) -> bool:
    """Whether what is to be exported is an ONNX file, by its name, rather than a checkpoint."""
    return source.suffix.lower() == ".onnx"
