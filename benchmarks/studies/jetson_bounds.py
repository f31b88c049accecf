"""Bounds on the frames a second of each Jetson, on paper, from its peak arithmetic and memory bandwidth (a roofline).

    python -m overnet.benchmarks.studies.jetson_bounds

prints the tables of docs/jetson.md. Arithmetic and bytes are counted in the graphs of the bundled ONNX files. An
operation is a multiplication or an addition. Each convolution reads its input from memory and writes its result there
once; weights, and what is done between convolutions, count nothing. No Jetson reaches its peaks: real rates are lower.
"""

from dataclasses import dataclass

import onnx

from overnet.export.graph.costs import Costs, count_costs
from overnet.weights import MODEL_NAMES, bundled_folder

SCALE = 2
SIZES = ((480, 270), (640, 360), (960, 540), (1920, 1080))


@dataclass(frozen=True)
class Jetson:
    """A module's peaks.

    Attributes:
        name: of the module and, where it has several, of its power mode.
        fp16, int8: dense arithmetic of the GPU, in 10^12 operations a second.
        bandwidth: of the memory, in 10^9 bytes a second.
    """

    name: str
    fp16: float
    int8: float
    bandwidth: float


# By NVIDIA's data sheets: INT8 is half of the sparse figure, less what the DLA adds, and FP16 half of that.
JETSONS = (
    Jetson("Orin Nano 4GB", 5, 10, 34),
    Jetson("Orin Nano 8GB", 10, 20, 68),
    Jetson("Orin Nano 8GB Super", 16.75, 33.5, 102),
    Jetson("Orin NX 8GB", 12.5, 25, 102),
    Jetson("Orin NX 16GB", 15, 30, 102),
    Jetson("AGX Orin 32GB", 27, 54, 204.8),
    Jetson("AGX Orin 64GB", 42.5, 85, 204.8),
    Jetson("Thor T5000", 250, 500, 273),
)


@dataclass(frozen=True)
class Frame:
    """What a model does for one frame: operations, and the bytes that it moves in FP16 and in INT8."""

    operations: float
    fp16_bytes: float
    int8_bytes: float

    def bound(self, jetson: Jetson, precision: str) -> tuple[float, str]:
        """Return the bound on frames a second in "fp16" or "int8", and what sets it: "a" arithmetic, "m" memory."""
        peak, moved = (jetson.fp16, self.fp16_bytes) if precision == "fp16" else (jetson.int8, self.int8_bytes)
        arithmetic, memory = peak * 1e12 / self.operations, jetson.bandwidth * 1e9 / moved
        return (arithmetic, "a") if arithmetic <= memory else (memory, "m")


def frame_of(costs: Costs, width: int, height: int) -> Frame:
    """Return what a graph with these costs for each input pixel does for a frame of this size."""
    pixels = width * height
    images = 3 + 3 * SCALE**2
    return Frame(
        2 * costs.multiply_accumulates_per_pixel * pixels,
        (2 * costs.convolution_elements_per_pixel + images) * pixels,
        (costs.convolution_elements_per_pixel + images) * pixels,
    )


def tables() -> str:
    """Return both tables as Markdown."""
    costs = {
        name: count_costs(onnx.load(next(bundled_folder(name).glob(f"*_x{SCALE}.onnx"))))
        for name in reversed(MODEL_NAMES)
    }
    frames = {name: [frame_of(each, *size) for size in SIZES] for name, each in costs.items()}
    header = [f"{width}x{height}" for width, height in SIZES]
    work = [["a frame at x2", *header]] + [
        [
            f"`{name}`",
            *(
                f"{one.operations / 1e9:,.1f} G, {one.fp16_bytes / 1e6:,.0f} / {one.int8_bytes / 1e6:,.0f} MB"
                for one in each
            ),
        ]
        for name, each in frames.items()
    ]
    bounds = [["at most frames/s", *header]] + [
        [f"{jetson.name}, `{name}`", *(_cell(one, jetson) for one in each)]
        for jetson in JETSONS
        for name, each in frames.items()
    ]
    return "\n\n".join(map(_markdown, (work, bounds)))


def _cell(frame: Frame, jetson: Jetson) -> str:
    cells = []
    for precision in ("fp16", "int8"):
        bound, by = frame.bound(jetson, precision)
        cells.append(f"{bound:,.0f} {by}" if bound >= 10 else f"{bound:.1f} {by}")
    return " / ".join(cells)


def _markdown(rows: list[list[str]]) -> str:
    header, *lines = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, "|" + "---|" * len(rows[0]), *lines])


if __name__ == "__main__":
    print(tables())
