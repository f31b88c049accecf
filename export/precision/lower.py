"""The graph of one scale in one precision."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

from overnet.evaluation.synthetic_frames import synthetic_frames
from overnet.export.graph.network_graph import Form, artifact_of, build_onnx
from overnet.export.precision.calibration import Pair, pairs_of
from overnet.export.precision.convert import LoweredGraph, beyond_notes, converted, labelled
from overnet.export.precision.equalize import equalized
from overnet.export.precision.fp16_range import nodes_beyond_half
from overnet.export.precision.half import to_half
from overnet.export.precision.layer_choice import choose_layers
from overnet.export.precision.quantizer import largest_inputs
from overnet.network.deploy import Deployed, DeployedPlainNetwork
from overnet.types import Image, Progress


@dataclass(frozen=True)
class Calibration:
    """The images for INT8, and the loss allowed on them.

    Attributes:
        images: H x W x 3 uint8 each, from `overnet.export.precision.calibration.calibration_images`.
        remarks: on files that were left out.
        max_loss_db: the largest loss of PSNR on luma against the ground truth, in dB.
    """

    images: list[Image]
    remarks: list[str]
    max_loss_db: float


def lower(
    network: Deployed,
    scale: int,
    precision: str,
    images: list[Image],
    *,
    form: Form = "default",
    significant_bits: int = 24,
    calibration: Calibration | None = None,
    progress: Progress,
) -> LoweredGraph:
    """Build the graph of one scale in one precision.

    Args:
        precision: one of `overnet.files.onnx_metadata.PRECISIONS`.
        images: H x W x 3 uint8 each: nodes whose numbers on them come near FP16's largest stay in FP32.
        form, significant_bits: see `overnet.export.graph.network_graph.build_onnx`.
        calibration: for INT8, which needs it.
        progress: called with each step.

    Raises:
        InputError: no layer can be INT8 within the allowed loss.
    """
    exact = build_onnx(network, scale, form=form, significant_bits=significant_bits)
    if precision == "int8" and calibration is not None and isinstance(network, DeployedPlainNetwork):
        network = equalized(network, exact, _range_images(pairs_of(calibration.images, scale)))
        exact = build_onnx(network, scale, form=form, significant_bits=significant_bits)
    artifact = replace(artifact_of(network, scale), precision=precision)
    if precision == "int8" and calibration is not None:
        model, notes = _quantized(exact, scale, images, calibration, progress)
    else:
        model, notes = converted(exact, precision, images)
    return labelled(model, exact, artifact, notes)


def _range_images(pairs: list[Pair]) -> list[Image]:
    """Return the images whose activations INT8 must hold: the pairs' low-resolution images, and synthetic frames.

    Text has larger activations than photographs. Noise and checkerboards of single pixels have far larger ones: a range
    that held these too would cost 1.7 to 2.6 dB on photographs, so theirs are clipped instead.
    """
    return [*(pair.low for pair in pairs), *synthetic_frames()]


def _quantized(
    exact: onnx.ModelProto, scale: int, images: list[Image], calibration: Calibration, progress: Progress
) -> tuple[onnx.ModelProto, list[str]]:
    progress("calibrating", 0, 0)
    pairs = pairs_of(calibration.images, scale)
    beyond = nodes_beyond_half(exact, images)
    choice = choose_layers(
        exact,
        largest_inputs(exact, _range_images(pairs)),
        pairs,
        scale,
        max_loss_db=calibration.max_loss_db,
        keep=frozenset(beyond),
        progress=progress,
    )
    notes = [
        f"{len(choice.quantized)} convolutions in INT8, {choice.share:.0%} of the multiply-accumulates; it costs "
        f"{choice.loss_db:.3f} dB of PSNR on {len(pairs)} calibration images"
    ]
    if choice.kept:
        named = ", ".join(f"{name} ({loss_db:.3f} dB)" for name, loss_db in choice.kept.items())
        notes.append(f"in FP16 because of what they would cost alone: {named}")
    return to_half(choice.model, "fp16", keep=set(beyond)), [*notes, *calibration.remarks, *beyond_notes(beyond)]
