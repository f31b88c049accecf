"""Compare the deployed forms of the graph with the plain one: arithmetic, memory, time and error, in one table.

    python -m overnet.benchmarks.studies.deployed_forms

Times are of one 160x90 image on the CPU, medians of rounds in which all forms take turns. Memory is the figure of
TensorRT-RTX's builder in FP16 for images up to 640x360, if tensorrt-rtx is installed. `trunk` is the default form
without its tail, a lower limit of the time that no faster tail can beat.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from overnet.errors import OverNetError, require
from overnet.export.engine.build import build_engine, buildable_targets
from overnet.export.engine.profile import make_profile
from overnet.export.graph.builder import with_nodes
from overnet.export.graph.costs import count_costs
from overnet.export.graph.network_graph import Form, build_onnx
from overnet.export.precision.half import to_half
from overnet.files.onnx_metadata import INPUT_NAME
from overnet.network.checkpoint import load_overnet
from overnet.network.deploy import LEVELS, deploy
from overnet.network.model import OverNet
from overnet.system.openvino_core import openvino_core
from overnet.weights import bundled_checkpoint

HEIGHT, WIDTH = 90, 160
FORMS: tuple[Form, ...] = ("as-defined", "default", "lean-memory")
RUNTIMES = ("onnxruntime", "openvino")
_TRUNK = "trunk"


@dataclass
class FormFigures:
    """The figures of one form at one scale.

    Attributes:
        multiply_accumulates_per_pixel: of the input.
        activation_memory_bytes: of the FP16 engine; None without TensorRT-RTX.
        largest_error: the largest difference from PyTorch in FP32 before rounding, in values from 0 to 1.
        times_ms: one per round, by runtime.
    """

    multiply_accumulates_per_pixel: float
    activation_memory_bytes: int | None
    largest_error: float
    times_ms: dict[str, list[float]] = field(default_factory=dict)

    def median_ms(self, runtime: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(self.times_ms[runtime])


def compare_forms(model: OverNet, scale: int, *, rounds: int, runtimes: tuple[str, ...]) -> dict[str, FormFigures]:
    """Measure all forms at one scale, and the trunk alone.

    Args:
        model: the network.
        scale: a whole number from 1 to its overscale factor.
        rounds: see `time_graphs`.
        runtimes: of `RUNTIMES`; those that the forms are timed in.
    """
    graphs = build_forms(model, scale)
    figures = {form: _figures(graph, model, scale) for form, graph in graphs.items()}
    graphs[_TRUNK] = _ending_in(graphs["default"], "features")
    figures[_TRUNK] = FormFigures(count_costs(graphs[_TRUNK]).multiply_accumulates_per_pixel, None, 0.0)
    for runtime in runtimes:
        for form, times_ms in time_graphs(graphs, runtime, rounds=rounds).items():
            figures[form].times_ms[runtime] = times_ms
    return figures


def build_forms(model: OverNet, scale: int) -> dict[str, onnx.ModelProto]:
    """Return the FP32 graph of each of `FORMS` at one scale."""
    network = deploy(model)
    return {form: build_onnx(network, scale, form=form) for form in FORMS}


def time_graphs(graphs: dict[str, onnx.ModelProto], runtime: str, *, rounds: int) -> dict[str, list[float]]:
    """Time graphs in turns on one random image.

    Args:
        graphs: by name.
        runtime: of `RUNTIMES`.
        rounds: rounds in which each graph is timed, after a warm-up run.

    Returns:
        The milliseconds of each round, by the graph's name.
    """
    image = np.random.default_rng(0).integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    runs = {name: _loaded(runtime, graph) for name, graph in graphs.items()}
    for run in runs.values():
        run(image)
    times_ms: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(image)
            times_ms[name].append(1000 * (time.perf_counter() - start))
    return times_ms


def _figures(graph: onnx.ModelProto, model: OverNet, scale: int) -> FormFigures:
    memory_bytes = None
    if "tensorrt-rtx" in buildable_targets():
        half = to_half(graph, "fp16").SerializeToString()
        memory_bytes = build_engine(
            half, make_profile("16x16:180x320:360x640"), target="tensorrt-rtx"
        ).activation_memory_bytes
    return FormFigures(
        count_costs(graph).multiply_accumulates_per_pixel, memory_bytes, _largest_error(graph, model, scale)
    )


def _ending_in(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the part of a graph that computes one tensor."""
    nodes = model.graph.node[: [node.output[0] for node in model.graph.node].index(name) + 1]
    used = {name for node in nodes for name in node.input}
    part = with_nodes(model, nodes, [constant for constant in model.graph.initializer if constant.name in used])
    del part.graph.output[:]
    part.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None, None, None]))
    return part


def _largest_error(graph: onnx.ModelProto, model: OverNet, scale: int) -> float:
    images = np.random.default_rng(1).integers(0, 256, (1, 48, 64, 3), dtype=np.uint8)
    # The input of the Clip node is the image before rounding.
    (clip,) = [node for node in graph.graph.node if node.op_type == "Clip"]
    computed = _loaded("onnxruntime", _ending_in(graph, clip.input[0]))(images) / LEVELS
    with torch.inference_mode():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / LEVELS, scale).numpy()
    return float(np.abs(computed - expected).max())


def _loaded(runtime: str, model: onnx.ModelProto) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """Return a function that runs a graph on the CPU and returns its only output."""
    content = model.SerializeToString()
    if runtime == "onnxruntime":
        onnxruntime = require("onnxruntime", extra="ort", purpose="timing ONNX Runtime")
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

        def run(image: NDArray[np.uint8]) -> NDArray[Any]:
            result: NDArray[Any] = session.run(None, {INPUT_NAME: image})[0]
            return result

        return run
    core = openvino_core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: np.asarray(compiled(image)[0])


def _rows(scale: int, figures: dict[str, FormFigures], runtimes: tuple[str, ...]) -> list[dict[str, str]]:
    defined = figures["as-defined"]
    rows = []
    for form, found in figures.items():
        memory = found.activation_memory_bytes
        more = found.multiply_accumulates_per_pixel / defined.multiply_accumulates_per_pixel - 1
        row = {
            "Scale": f"x{scale}",
            "Form": form,
            "Multiply-accumulates per input pixel": f"{found.multiply_accumulates_per_pixel:,.0f}",
            "More than as-defined": f"{100 * more:+.1f} %",
            "FP16 activation memory, MB": "-" if memory is None else f"{memory / 1e6:,.1f}",
            "Largest error": "-" if form == _TRUNK else f"{found.largest_error:.1e}",
        }
        for runtime in runtimes:
            milliseconds = found.median_ms(runtime)
            row[f"{runtime}, ms"] = f"{milliseconds:,.0f}"
            row[f"{runtime}: times as fast as as-defined"] = f"{defined.median_ms(runtime) / milliseconds:.2f}"
        rows.append(row)
    return rows


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, action="append", help="a scale; repeat for more (default: 2 and 4)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds in which each form is timed (default: 7)")
    options = parser.parse_args()
    rows = []
    try:
        model = load_overnet(bundled_checkpoint())
        for scale in options.scale or (2, 4):
            figures = compare_forms(model, scale, rounds=max(1, options.rounds), runtimes=RUNTIMES)
            rows += _rows(scale, figures, RUNTIMES)
    except OverNetError as error:
        sys.exit(f"deployed_forms: {error}")
    header, *lines = ("| " + " | ".join(cells) + " |" for cells in (rows[0], *(row.values() for row in rows)))
    print("\n".join([header, "|" + "---|" * len(rows[0]), *lines]))


if __name__ == "__main__":
    main()
