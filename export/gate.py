"""The gate: what an exported file must hold before it gets its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from overnet.errors import ArtifactError
from overnet.export.calibration import middle, own_pictures
from overnet.export.divergence import first_divergence, network_tensors
from overnet.export.evaluator import run_exactly
from overnet.export.parity import (
    NotFiniteError,
    Parity,
    Picture,
    Referee,
    check_pictures,
    in_declared_types,
    in_openvino,
)
from overnet.model import OverNet


@dataclass(frozen=True)
class Gate:
    """At least so near the network, in dB and in grey levels.

    Attributes
    ----------
    least_psnr_db : of the file's pictures against the network's.
    most_levels : the largest difference allowed, in grey levels.
    diverging_db : signal-to-noise ratio from which on a tensor inside counts as diverging, when the gate has failed and
        the cause is looked for.
    """

    least_psnr_db: float
    diverging_db: float
    most_levels: int = 255

    def __str__(self) -> str:
        levels = "" if self.most_levels == 255 else f", and at most {self.most_levels} grey level"
        return f"at least {self.least_psnr_db:g} dB{levels}"

    def holds(self, parity: Parity) -> bool:
        """Whether a measurement passes."""
        return parity.psnr_db >= self.least_psnr_db and parity.largest_difference <= self.most_levels


# FP32 differs in the order of additions alone. 50 dB is a mean error of 0.8 grey levels: nothing that one could see.
# INT8 is judged by what it costs against the truth (`overnet.export.layer_choice`); here is only a floor under that.
GATES = {
    "fp32": Gate(60, diverging_db=60, most_levels=1),
    "fp16": Gate(50, diverging_db=30),
    "bf16": Gate(45, diverging_db=20),
    "int8": Gate(30, diverging_db=10),
}


# Of the package's photographs, the middle: a graph that is wrong is wrong there too, and all of them take longer.
_PHOTOGRAPH_SIDE = 64


def gate_pictures() -> list[Picture]:
    """What every file is compared on: real photographs, and drawn pictures that are hard in one way each."""
    return [*(middle(picture, _PHOTOGRAPH_SIDE) for picture in own_pictures()), *check_pictures()]


def pass_gate(
    file: Path, graph: onnx.ModelProto, exact: onnx.ModelProto, model: OverNet, pictures: list[Picture], *, name: str
) -> Parity:
    """Compare an ONNX file with the network, in OpenVINO and in its declared types, and refuse it if it is too far.

    Parameters
    ----------
    file : the file as it is to be delivered.
    graph : what is in it.
    exact : the same in FP32.
    model : the network it was made from.
    pictures : H x W x 3 uint8 each, at least one.
    name : what the file is going to be called, for messages.

    Raises
    ------
    ArtifactError : it is too far, or a number inside is not finite; with the first tensor that diverges.
    """
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    precision, scale = properties["overnet.precision"], int(properties["overnet.scale"])
    referee = Referee(model, scale, pictures)
    try:
        parity = referee.compare(*in_openvino(file)).worse(referee.compare(*in_declared_types(graph)))
    except NotFiniteError as error:
        raise ArtifactError(f"{name} is refused: {error}") from error
    gate = GATES[precision]
    if gate.holds(parity):
        return parity
    raise ArtifactError(
        f"{name} is refused: it differs from the network by up to {parity.largest_difference} grey levels, "
        f"{parity.psnr_db:.1f} dB (in {parity.measured_by}), and {gate} is needed; "
        f"{_cause(graph, exact, model, scale, pictures, gate)}"
    )


def _cause(
    graph: onnx.ModelProto, exact: onnx.ModelProto, model: OverNet, scale: int, pictures: list[Picture], gate: Gate
) -> str:
    """Where it goes wrong, on the picture that is hardest for it."""
    upscale, label = in_declared_types(graph)
    worst = min(pictures, key=lambda picture: Referee(model, scale, [picture]).compare(upscale, label).psnr_db)
    # The FP32 graph has every tensor by its name; where it is wrong itself, the network's own tensors tell.
    expected = {**run_exactly(exact, worst[None], None), **network_tensors(model, worst, scale)}
    return first_divergence(graph, worst[None], expected, least_signal_to_noise_db=gate.diverging_db)
