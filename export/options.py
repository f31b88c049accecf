"""The options of an export. Needs neither torch nor onnx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overnet.files.engine_sidecar import Profile, RuntimeName

if TYPE_CHECKING:
    from overnet.export.graph.network_graph import Form


@dataclass(frozen=True)
class EngineOptions:
    """The engine to build from each ONNX file.

    Attributes:
        target: the library that runs it.
        profile: the image sizes that it takes; smaller ones where the device has too little memory.
        workspace_bytes: the largest scratch memory of a layer; None sets no limit.
        is_tiled: whether it can upscale tiles of an image, which takes more inputs for networks with means.
    """

    target: RuntimeName
    profile: Profile
    workspace_bytes: int | None = None
    is_tiled: bool = True


@dataclass(frozen=True)
class TritonOptions:
    """The models of a repository for Triton Inference Server.

    Attributes:
        platform: the backend of Triton that runs the networks: ``"onnxruntime"``, ``"openvino"`` or ``"tensorrt"``.
        batch: the largest number of images at once; without effect for OpenVINO.
    """

    platform: str = "onnxruntime"
    batch: int = 4


@dataclass(frozen=True)
class CalibrationOptions:
    """The calibration of INT8.

    Attributes:
        folder: images to calibrate on; None for the package's photographs.
        max_loss_db: the largest loss of PSNR against the ground truth on them, in dB.
    """

    folder: Path | None = None
    max_loss_db: float = 0.1


@dataclass(frozen=True)
class ForeignOptions:
    """What the user says of another program's ONNX file; None where it is found by running the file.

    Attributes:
        scale: the factor from input to output.
        input_range: a key of `overnet.export.foreign.convention.RANGES`.
        colour: ``"rgb"``, which None means too, or ``"bgr"``.
        multiple: a number that height and width must be multiples of.
    """

    scale: float | None = None
    input_range: str | None = None
    colour: str | None = None
    multiple: int | None = None


@dataclass(frozen=True)
class ExportOptions:
    """The files to export.

    Attributes:
        scales: from 1 to the network's overscale factor, with at most three decimals. None for those of 2, 3 and 4 that
            the network has, or an ONNX file's scale.
        precision: one of `overnet.files.onnx_metadata.PRECISIONS`. None for FP16, or the precision of an ONNX file that
            is not in FP32.
        form: the form of the graph. An ONNX file keeps its own.
        significant_bits: bits kept of each weight in an FP32 file; see `overnet.export.graph.builder.GraphBuilder`.
        calibration: for INT8.
        engine: the engine to build; None for ONNX files only.
        is_copied: whether an ONNX file that stays as it is may be exported, as a copy.
        foreign: for another program's ONNX file.
    """

    scales: tuple[float, ...] | None = None
    precision: str | None = None
    form: Form = "default"
    significant_bits: int = 24
    calibration: CalibrationOptions = CalibrationOptions()
    engine: EngineOptions | None = None
    is_copied: bool = False
    foreign: ForeignOptions = ForeignOptions()


def is_onnx(source: Path) -> bool:
    """Return whether a source is an ONNX file, by its name, and not a checkpoint."""
    return source.suffix.lower() == ".onnx"
