"""Options that several commands have, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import BadParameter, Option

_BACKENDS = "auto, openvino, onnxruntime, torch, tensorrt or tensorrt-rtx"
_PRECISIONS = "fp32, fp16, bf16 or int8"


def _parse_device(text: str | int) -> int:
    """Read the number of a GPU, which PyTorch writes as ``cuda:1``; Typer also passes the default, an int."""
    number = str(text).removeprefix("cuda:")
    if not number.isdecimal():
        raise BadParameter(f"{text!r} is no number of a GPU, such as 1 or cuda:1")
    return int(number)


ModelOption = Annotated[
    Path | None,
    Option(
        metavar="PATH | NAME",
        help="ONNX file, engine, folder of these, or checkpoint; or a bundled model: realtime, fast or best. "
        "Default: best.",
    ),
]
BackendOption = Annotated[str, Option(metavar="NAME", help=f"Library that runs the model: {_BACKENDS}.")]
BackendsOption = Annotated[
    list[str] | None, Option(metavar="NAME", help=f"Backend: {_BACKENDS}; repeat for several. Default: auto.")
]
PrecisionOption = Annotated[
    str | None,
    Option(metavar="TYPE", help=f"Arithmetic: {_PRECISIONS}, as the backend supports. Default: the backend's own."),
]
PrecisionsOption = Annotated[
    list[str] | None,
    Option(metavar="TYPE", help=f"Arithmetic: {_PRECISIONS}; repeat for several. Default: the backend's own."),
]
DeviceOption = Annotated[
    int,
    Option(metavar="N", parser=_parse_device, help="GPU to use, counted from 0 among those in CUDA_VISIBLE_DEVICES."),
]
ProviderOption = Annotated[
    str, Option(metavar="NAME", help="With --backend onnxruntime: cpu, cuda, tensorrt or tensorrt-rtx.")
]
SlotsOption = Annotated[int, Option(metavar="N", help="Frames in flight on a GPU at once, 1 to 16.")]
ThreadsOption = Annotated[int | None, Option(metavar="N", help="CPU threads. Default: one for each core.")]
OverwriteOption = Annotated[bool, Option("--overwrite", help="Replace existing files.")]
JsonOption = Annotated[bool, Option("--json", help="Print the result as one line of JSON on standard output.")]
QuietOption = Annotated[bool, Option("--quiet", "-q", help="Print no progress, notes or summary.")]


@dataclass(frozen=True)
class EvalOptions:
    """Options of ``overnet eval`` that say how images go through a model."""

    backend: Annotated[
        str,
        Option(
            metavar="NAME",
            help="auto, openvino, onnxruntime or torch; or declared: each tensor rounded to the type that the ONNX "
            "file states, as on a GPU (slow; needs torch and onnx).",
        ),
    ] = "auto"
    tile: Annotated[
        int | None, Option(metavar="PIXELS", help="Tile size in input pixels; 0: no tiles. Default: what fits memory.")
    ] = None
    quarters: Annotated[
        bool, Option("--quarters", help="Upscale in four overlapping quarters, as the original's test program.")
    ] = False
    self_ensemble: Annotated[
        bool, Option("--self-ensemble", help="Average over eight orientations, which takes eight times as long.")
    ] = False
    threads: ThreadsOption = None

    @property
    def is_declared(self) -> bool:
        """Whether to compute in the types that the file declares.

        Backends on a CPU compute FP16 files in FP32, and some INT8 files with saturation.
        """
        return self.backend == "declared"

    def __str__(self) -> str:
        tiles = f"tiles of {self.tile}" if self.tile else "whole images"
        return f"{'quarters' if self.quarters else tiles}{', self-ensemble x8' if self.self_ensemble else ''}"
