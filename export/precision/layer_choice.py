"""The choice of the convolutions that become INT8: all, or as many as the allowed loss permits."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from overnet.errors import InputError
from overnet.export.graph.costs import count_costs
from overnet.export.precision.calibration import Pair
from overnet.export.precision.half import to_half
from overnet.export.precision.quantizer import candidates, quantize
from overnet.export.verify.declared_types import run_exactly, visit_tensors
from overnet.files.onnx_metadata import OUTPUT_NAME
from overnet.imaging.metrics import psnr_luma
from overnet.imaging.sample_images import centre_crop
from overnet.types import Image, Progress

# The number and side of the crops that single layers are measured on: their losses only have to be comparable.
_COMPARED_IMAGES, _COMPARED_SIDE = 4, 40
# Mean squared error of rounding to whole levels.
_ROUNDING_ERROR = 1 / 12


@dataclass(frozen=True)
class Arithmetic:
    """How graphs that `build_onnx` did not make are computed and converted.

    Attributes:
        candidates: names of the convolutions that can be quantised.
        by_layer: the multiply-accumulates of each layer.
        lower: converts a quantised FP32 graph to FP16.
        upscaled: runs a graph in the types that it declares: the results for several images, uint8.
        levels: the same before they are clipped and rounded.
    """

    candidates: list[str]
    by_layer: Mapping[str, float]
    lower: Callable[[onnx.ModelProto], onnx.ModelProto]
    upscaled: Callable[[onnx.ModelProto, list[Image]], list[Image]]
    levels: Callable[[onnx.ModelProto, list[Image]], list[NDArray[np.float32]]]


@dataclass(frozen=True)
class LayerChoice:
    """The layers in INT8, and their cost.

    Attributes:
        model: in FP32 except for the levels, from `overnet.export.precision.quantizer.quantize`.
        quantized: names of the convolutions in INT8.
        kept: the other candidates, which stay in FP16, the costliest first, and the PSNR in dB that each would cost
            alone, estimated from the change that its quantisation makes to the result.
        loss_db: PSNR on luma against the ground truth, of the mean squared error over all pairs, that is lost to INT8
            and FP16 together; negative if gained.
        share: the part of the graph's multiply-accumulates that is in INT8, 0 to 1.
    """

    model: onnx.ModelProto
    quantized: tuple[str, ...]
    kept: dict[str, float]
    loss_db: float
    share: float

    def notes(self, pairs: int, *, prefix: str = "") -> list[str]:
        """Return one line on the cost, and one on the layers in FP16 where there are some.

        Args:
            pairs: the number of images that the cost was measured on.
            prefix: left out of the layers' names.
        """
        notes = [
            f"{len(self.quantized)} convolutions in INT8, {self.share:.0%} of the multiply-accumulates; it costs "
            f"{self.loss_db:.3f} dB of PSNR on {pairs} calibration images"
        ]
        if self.kept:
            named = ", ".join(f"{name.removeprefix(prefix)} ({loss:.3f} dB)" for name, loss in self.kept.items())
            notes.append(f"in FP16 because of what they would cost alone: {named}")
        return notes


def choose_layers(
    model: onnx.ModelProto,
    largest: Mapping[str, float],
    pairs: list[Pair],
    scale: float,
    *,
    max_loss_db: float,
    keep: frozenset[str] = frozenset(),
    progress: Progress,
    arithmetic: Arithmetic | None = None,
    signed: bool = False,
) -> LayerChoice:
    """Quantise as many convolutions as the loss allows, leaving out those with the largest loss for their work.

    Args:
        model: in FP32, from `overnet.export.graph.network_graph.build_onnx`.
        largest: from `overnet.export.precision.quantizer.largest_inputs`.
        pairs: to measure the loss on, at least one.
        scale: the graph's; rounded up also the border that is not measured, in pixels.
        max_loss_db: the largest loss of PSNR on luma against the FP32 graph, of the mean squared error over the pairs.
        keep: nodes that compute in FP32 (see `overnet.export.precision.fp16_range`) and are not quantised.
        progress: called with each step.
        arithmetic: of graphs that `build_onnx` did not make.
        signed: see `overnet.export.precision.quantizer.quantize`.

    Raises:
        InputError: even a single quantised convolution has a larger loss.
    """
    if arithmetic is None:
        arithmetic = Arithmetic(
            candidates(model),
            count_costs(model).by_layer,
            lambda quantized: to_half(quantized, "fp16", keep=keep),
            lambda graph, images: [run_exactly(graph, image[None])[OUTPUT_NAME][0] for image in images],
            lambda graph, images: [_before_rounding(graph, image).numpy() for image in images],
        )
    possible, by_layer = [name for name in arithmetic.candidates if name not in keep], arithmetic.by_layer
    exact_db = _psnr_db(model, pairs, scale, arithmetic)
    in_int8 = partial(quantize, model, largest, signed=signed)
    measured: dict[int, float] = {}

    def loss_db(count: int) -> float:
        """Measure the loss where the first `count` layers of `order` are left out."""
        if count not in measured:
            chosen = set(possible) - set(order[:count])
            lowered = arithmetic.lower(in_int8(chosen))
            measured[count] = exact_db - _psnr_db(lowered, pairs, scale, arithmetic)
        return measured[count]

    order: list[str] = []
    losses: dict[str, float] = {}
    count = 0
    if loss_db(0) > max_loss_db:
        losses = _losses(model, in_int8, pairs, possible, exact_db, progress, arithmetic)
        order = sorted(possible, key=lambda name: -losses[name] / by_layer[name])
        # Bisect for the fewest layers left out: the loss falls with their number.
        too_few, count = 0, len(order)
        while count - too_few > 1:
            between = (too_few + count) // 2
            progress("choosing the layers that stay in FP16", len(measured), math.ceil(math.log2(len(order))) + 1)
            if loss_db(between) <= max_loss_db:
                count = between
            else:
                too_few = between
        if count == len(order):
            raise InputError(
                f"no layer can be INT8 within a loss of {max_loss_db:g} dB (--max-loss-db); the costliest alone, "
                f"{order[0]}, loses {losses[order[0]]:.2f} dB: fp16 is the lowest precision for this network"
            )
    kept = sorted(order[:count], key=lambda name: -losses[name])
    quantized = tuple(name for name in possible if name not in kept)
    return LayerChoice(
        in_int8(set(quantized)),
        quantized,
        {name: losses[name] for name in kept},
        loss_db(count),
        sum(by_layer[name] for name in quantized) / sum(by_layer.values()),
    )


def _psnr_db(model: onnx.ModelProto, pairs: list[Pair], scale: float, arithmetic: Arithmetic) -> float:
    """Return the PSNR on luma against the ground truth, of the mean squared error over the pairs.

    The graph is computed in the types that it declares. On images of one colour the error may be 0, and the PSNR of all
    pairs together is then that of rounding to levels.
    """
    upscaled = arithmetic.upscaled(model, [pair.low for pair in pairs])
    each = [psnr_luma(pair.high, one, border=math.ceil(scale)) for pair, one in zip(pairs, upscaled, strict=True)]
    mean_error = 255**2 * float(np.mean([10 ** (-decibels / 10) for decibels in each]))
    return 10 * math.log10(255**2 / max(mean_error, _ROUNDING_ERROR))


def _losses(
    model: onnx.ModelProto,
    in_int8: Callable[[set[str]], onnx.ModelProto],
    pairs: list[Pair],
    layers: list[str],
    exact_db: float,
    progress: Progress,
    arithmetic: Arithmetic,
) -> dict[str, float]:
    """Estimate each layer's loss alone, in dB: the error that its quantisation adds to the error of the FP32 graph."""
    images = [centre_crop(pair.low, _COMPARED_SIDE) for pair in pairs[:_COMPARED_IMAGES]]
    exact = arithmetic.levels(model, images)
    there = 255**2 / 10 ** (exact_db / 10)
    losses = {}
    for index, name in enumerate(layers):
        progress("measuring what each layer costs in INT8", index, len(layers))
        alone = in_int8({name})
        added = [
            float(np.mean((levels - expected) ** 2))
            for levels, expected in zip(arithmetic.levels(alone, images), exact, strict=True)
        ]
        losses[name] = 10 * math.log10(1 + float(np.mean(added)) / there)
    return losses


def _before_rounding(model: onnx.ModelProto, image: Image) -> torch.Tensor:
    for node, result in visit_tensors(model, image[None]):
        if node.op_type == "Clip":
            return result
    raise ValueError("the graph has no Clip node: it was not made by overnet export")
