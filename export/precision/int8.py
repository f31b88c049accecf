"""The conversion of an FP32 graph to INT8 on calibration images."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from overnet.export.precision.calibration import Pair, pairs_of
from overnet.export.precision.convert import beyond_notes
from overnet.export.precision.fp16_range import nodes_beyond_half
from overnet.export.precision.half import to_half
from overnet.export.precision.layer_choice import choose_layers
from overnet.export.precision.quantizer import largest_inputs
from overnet.imaging.sample_images import synthetic_frames
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


def range_images(pairs: list[Pair]) -> list[Image]:
    """Return the images whose activations INT8 must hold: the pairs' low-resolution images, and synthetic frames.

    Text has larger activations than photographs. Noise and checkerboards of single pixels have far larger ones: a range
    that held these too would cost 1.7 to 2.6 dB on photographs, so theirs are clipped instead.
    """
    return [*(pair.low for pair in pairs), *synthetic_frames()]


def quantized(
    exact: onnx.ModelProto, scale: int, images: list[Image], calibration: Calibration, progress: Progress
) -> tuple[onnx.ModelProto, list[str]]:
    """Convert a graph to INT8, and to FP16 where that costs too much; return it with notes for the user.

    Args:
        exact: in FP32, from `overnet.export.graph.network_graph.build_onnx`.
        images: H x W x 3 uint8 each: nodes whose numbers on them come near FP16's largest stay in FP32.
        progress: called with each step.

    Raises:
        InputError: no layer can be INT8 within the allowed loss.
    """
    progress("calibrating", 0, 0)
    pairs = pairs_of(calibration.images, scale)
    beyond = nodes_beyond_half(exact, images)
    choice = choose_layers(
        exact,
        largest_inputs(exact, range_images(pairs)),
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
