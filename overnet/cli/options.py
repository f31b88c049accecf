"""Options that several commands have, each declared once."""

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import BadParameter, Option

from overnet.errors import InputError
from overnet.files.onnx_metadata import PRECISIONS
from overnet.weights import MODEL_NAMES

_BACKENDS = ("auto", "openvino", "onnxruntime", "torch", "tensorrt", "tensorrt-rtx")
_MOST_DIGITS = 3  # of a GPU's number
_PROVIDERS = ("cpu", "cuda", "tensorrt", "tensorrt-rtx")
_TIME = re.compile(r"(?:(\d{1,4}):)?(\d{1,4}):(\d{1,4}(?:\.\d*)?)", re.ASCII)
_SIZE = re.compile(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})")


def under(heading: str) -> Callable[..., Any]:
    """Return `typer.Option` for the options below one heading of the help."""
    return functools.partial(Option, rich_help_panel=heading)


def among(*words: str) -> Callable[[], list[str]]:
    """Return a value for ``autocompletion``: the words that a shell offers for an option's value."""
    return lambda: list(words)


def listed(words: Sequence[str]) -> str:
    """Return words as in a sentence: ``a, b or c``."""
    return f"{', '.join(words[:-1])} or {words[-1]}"


SIZE, MODEL, HARDWARE, OUTPUT = map(under, ("Size", "Model", "Speed and memory", "Output"))


def _parse_device(text: str | int) -> int:
    """Read the number of a GPU, which PyTorch writes as ``cuda:1``; Typer also passes the default, an int."""
    number = str(text).removeprefix("cuda:")
    if not number.isdecimal() or len(number) > _MOST_DIGITS:
        raise BadParameter(f"{text!r} is no number of a GPU, such as 1 or cuda:1")
    return int(number)


ModelOption = Annotated[
    Path | None,
    MODEL(
        metavar="PATH | NAME",
        help="ONNX file (also of another program), engine, folder of these, or checkpoint; or a bundled model: "
        "realtime, fast or best. Default: best.",
        autocompletion=among(*MODEL_NAMES),
    ),
]
BackendOption = Annotated[
    str,
    MODEL(metavar="NAME", help=f"Library that runs the model: {listed(_BACKENDS)}.", autocompletion=among(*_BACKENDS)),
]
BackendsOption = Annotated[
    list[str] | None,
    MODEL(
        metavar="NAME",
        help=f"Backend: {listed(_BACKENDS)}; repeat for several. Default: auto.",
        autocompletion=among(*_BACKENDS),
    ),
]
PrecisionOption = Annotated[
    str | None,
    MODEL(
        metavar="TYPE",
        help=f"Arithmetic: {listed(PRECISIONS)}, as the backend supports. Default: the backend's own.",
        autocompletion=among(*PRECISIONS),
    ),
]
PrecisionsOption = Annotated[
    list[str] | None,
    MODEL(
        metavar="TYPE",
        help=f"Arithmetic: {listed(PRECISIONS)}; repeat for several. Default: the backend's own.",
        autocompletion=among(*PRECISIONS),
    ),
]
DeviceOption = Annotated[
    int,
    HARDWARE(metavar="N", parser=_parse_device, help="GPU to use, counted from 0 among those in CUDA_VISIBLE_DEVICES."),
]
ProviderOption = Annotated[
    str,
    HARDWARE(
        metavar="NAME",
        help=f"With --backend onnxruntime: {listed(_PROVIDERS)}.",
        autocompletion=among(*_PROVIDERS),
    ),
]
SlotsOption = Annotated[int, HARDWARE(metavar="N", help="Frames in flight on a GPU at once, 1 to 16.")]
ThreadsOption = Annotated[int | None, HARDWARE(metavar="N", help="CPU threads. Default: one for each core.")]
TileOption = Annotated[
    int | None, HARDWARE(metavar="PIXELS", help="Tile size in input pixels; 0: no tiles. Default: what fits memory.")
]
OverwriteOption = Annotated[bool, OUTPUT("--overwrite", help="Replace existing files.")]
JsonOption = Annotated[bool, Option("--json", help="Print the result as one line of JSON on standard output.")]
QuietOption = Annotated[bool, Option("--quiet", "-q", help="Print no progress, notes or summary.")]


METHOD = under("Measurement")


@dataclass(frozen=True)
class EvalOptions:
    """Options of ``overnet eval`` that say how images go through a model."""

    backend: Annotated[
        str,
        MODEL(
            metavar="NAME",
            help="auto, openvino, onnxruntime or torch; or declared: each tensor rounded to the type that the ONNX "
            "file states, as on a GPU (slow; needs torch and onnx).",
            autocompletion=among("auto", "openvino", "onnxruntime", "torch", "declared"),
        ),
    ] = "auto"
    tile: TileOption = None
    quarters: Annotated[
        bool, METHOD("--quarters", help="Upscale in four overlapping quarters, as the original's test program.")
    ] = False
    self_ensemble: Annotated[
        bool, METHOD("--self-ensemble", help="Average over eight orientations, which takes eight times as long.")
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


def check_choice(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices; None was not given."""
    if value is not None and value not in choices:
        raise BadParameter(f"{option} is {value[:40]!r}; it can be {listed(choices)}")


def check_range(option: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Refuse a number below `low` or above `high`, which are allowed, infinity and NaN; None was not given."""
    if value is not None and not (low <= value <= high and value < math.inf):  # also true for NaN
        limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise BadParameter(f"{option} is {value:g}; it must be {limits}")


def plain_number(value: float) -> float:
    """Return a whole number as an int, which JSON and names show without a fraction."""
    return int(value) if value == int(value) else value


def parse_time(text: str | float) -> float:
    """Read seconds of a text such as ``90``, ``1:30`` or ``1:02:03.5``; Typer also passes the default, a number."""
    hours, minutes, seconds = found.groups() if (found := _TIME.fullmatch(str(text))) else ("", "", text)
    try:
        return 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds)
    except ValueError:
        raise BadParameter(f"{text!r} is no time, such as 90, 1:30 or 1:02:03.5") from None


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Return width and height of a text such as ``640x480``.

    Raises:
        InputError: it is not a size.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InputError(f"{option} is {text!r}; it must be a width and a height in pixels, such as 640x480")
    return int(found[1]), int(found[2])
