"""How far a network sees, measured: whether images can be cut into tiles, and how much these must overlap.

What lies beyond a line in the image is changed, or cut off as a tile cuts it off, and the result is searched for the
last pixel that notices. A network with windows or strides has a grid, and tiles must begin on it. One that sees the
whole image through means over it is measured with these means given, as its tiles are upscaled.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from overnet.export.foreign.convention import Convention, Runner
from overnet.export.foreign.probe import MULTIPLES
from overnet.export.foreign.read import title
from overnet.export.foreign.tensors import tensor_shapes
from overnet.export.foreign.wrap import MEAN
from overnet.imaging.sample_images import sample_photographs
from overnet.types import Image

# Lengths of the strips that are run, in pixels, until one is longer than the network sees; and their thickness.
_LENGTHS = (96, 224, 480)
_THICKNESS = 32
# A smaller change, in grey levels, does not show in the rounded result.
_NOTICED = 1 / 64
# Share of a strip's half that the network may see for the measurement to count.
_SURE = 0.9
# Operators that see a whole image, for the line that says why it is not cut.
_GLOBAL = ("GlobalMaxPool", "InstanceNormalization", "MeanVarianceNormalization", "GroupNormalization", "Softmax")
# Of a fixed size that is seen as a whole, tiles overlap by this share to each side.
_FIXED_SHARE = 8
# Height and width of the image that shapes are looked at for.
_SHAPED = (64, 64)


@dataclass(frozen=True)
class Tiles:
    """How images may be cut.

    Attributes:
        reach: pixels of the input to each side that a pixel of the result depends on; None where it depends on all.
        margin: the same where the means over the image are given; None where it depends on all of it even then.
        align: tiles begin at multiples of this.
        note: one line for the user.
    """

    reach: int | None
    margin: int | None
    align: int
    note: str


def measure_tiles(model: onnx.ModelProto, convention: Convention) -> Tiles:
    """Measure a wrapped FP32 graph."""
    strips = _Strips(model, convention)
    measured = strips.measured()
    if measured is not None:
        reach, align = measured
        begin = f", which begin at multiples of {align}" if align > 1 else ""
        return Tiles(reach, reach, align, f"it sees {reach} pixels to each side: images are cut into tiles{begin}")
    means = [node for node in model.graph.node if node.op_type == MEAN]
    if means:
        measured = _Strips(model, convention, means).measured()
        if measured is not None:
            margin, align = measured
            return Tiles(
                None,
                margin,
                align,
                f"it weighs {len(means)} means over the whole image, and sees {margin} pixels besides: tiles get the "
                "means of the whole image",
            )
    if strips.seen is not None and convention.largest is None:
        return Tiles(
            None,
            None,
            1,
            f"it sees {strips.seen} pixels to each side, but its results depend on the image's size as well, as those "
            "of attention masks and resized maps do: images are upscaled whole, never in tiles",
        )
    reason = _global_node(model, convention)
    if convention.largest is not None:
        margin = min(convention.largest) // _FIXED_SHARE // convention.multiple * convention.multiple
        return Tiles(
            margin,
            margin,
            convention.multiple,
            f"it sees all of its {convention.largest[1]}x{convention.largest[0]} pixels ({reason}): tiles of "
            f"larger images overlap by {2 * margin}, and their seams may show",
        )
    return Tiles(None, None, 1, f"it sees the whole image ({reason}): images are upscaled whole, never in tiles")


class _Strips:
    """A graph that returns levels before they are clipped, for long thin images; with `means`, for given means."""

    def __init__(
        self, model: onnx.ModelProto, convention: Convention, means: list[onnx.NodeProto] | None = None
    ) -> None:
        self._convention = convention
        # How far it sees where a strip of one length is changed; None until this is measured, or where it sees all.
        self.seen: int | None = None
        clip = next(node for node in model.graph.node if node.name == "clipped")
        result = clip.input[0]
        self._names = [node.output[0] for node in means or []]
        self._means = Runner(_with_outputs(model, self._names).SerializeToString()) if means else None
        copy = _with_outputs(model, [result])
        if means:
            kept = [node for node in copy.graph.node if node.op_type != MEAN]
            del copy.graph.node[:]
            copy.graph.node.extend(kept)
            copy.graph.input.extend(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None, 1, 1]) for name in self._names
            )
        self._runner = Runner(copy.SerializeToString())

    def measured(self) -> tuple[int, int] | None:
        """Return the reach and the alignment; None where even a long strip is seen as a whole."""
        reach = 0
        fixed = self._convention.largest
        lengths: tuple[int, ...] = _LENGTHS if fixed is None else (min(fixed),)
        for length in lengths:
            strip, reach = self._strip(length), 0
            for turn in range(4):
                if reach < length // 2 * _SURE:
                    reach = max(reach, self._seen(_turned(strip, turn)))
            if reach < length // 2 * _SURE:
                break
        else:
            return None
        self.seen = reach
        # A grid that the padding shows is the least that there can be.
        for align in (each for each in MULTIPLES if each % self._convention.multiple == 0):
            if fixed is None:
                length = max(length, 4 * align)
            # An image that is filled up to a fixed size also changes near its end, as far as the network sees.
            ignored = 0 if fixed is None else reach + align
            cut = [self._noticed(_turned(self._strip(length), turn), align, ignored) for turn in range(4)]
            if max(cut) < length // 2 * _SURE:
                return max(reach + align - 1, *cut), align
        return None

    def _strip(self, length: int) -> Image:
        """Return an image of photographs beside noise, thickness x length."""
        random = np.random.default_rng(5)
        step = self._convention.multiple
        thickness = -(-max(_THICKNESS, self._convention.smallest) // step) * step
        if self._convention.largest is not None:
            thickness = min(thickness, min(self._convention.largest) // 2)
        noise = random.integers(0, 256, (thickness, length, 3), dtype=np.uint8)
        photographs = np.concatenate([image[:thickness] for image in sample_photographs()], axis=1)
        wide = np.tile(photographs, (1, -(-length // photographs.shape[1]), 1))
        noise[: thickness // 2] = wide[: thickness // 2, :length]
        return noise

    def _levels(self, image: Image, given: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        levels: NDArray[np.float32] = self._runner.run(image[None], None, dict(zip(self._names, given, strict=True)))[0]
        levels = levels[0].transpose(1, 2, 0)
        return levels

    def _given(self, image: Image) -> list[NDArray[np.float32]]:
        return self._means.run(image[None]) if self._means else []

    def _seen(self, image: Image) -> int:
        """Return how many pixels behind the middle notice that the first half of the longer side is another image."""
        axis = int(image.shape[1] > image.shape[0])
        half = image.shape[axis] // 2
        given = self._given(image)
        before, lasts = self._levels(image, given), []
        # One with other edges, and a dark one, which differs in every statistic.
        lines = np.swapaxes(image, 0, axis)
        for changed in (255 - lines[:half][::-1], lines[:half][::-1] // 8):
            other = np.concatenate([changed, lines[half:]])
            after = self._levels(np.ascontiguousarray(np.swapaxes(other, 0, axis)), given)
            lasts.append(self._last(before, after, axis, half))
        return int(max(lasts) - half + 1)

    def _noticed(self, image: Image, align: int, ignored: int) -> int:
        """Return how many pixels behind a cut on the grid notice it; the last `ignored` pixels are not compared."""
        axis = int(image.shape[1] > image.shape[0])
        # An odd multiple, so that a coarser grid does not pass for this one.
        cut = (max(1, image.shape[axis] // 4 // align) | 1) * align
        if cut * 2 > image.shape[axis]:
            return int(image.shape[axis])
        given = self._given(image)
        whole = self._levels(image, given)
        part = np.swapaxes(np.swapaxes(image, 0, axis)[cut:], 0, axis)
        tile = self._levels(np.ascontiguousarray(part), given)
        skipped = np.swapaxes(np.swapaxes(whole, 0, axis)[cut * self._convention.scale :], 0, axis)
        length = image.shape[axis] - cut - ignored
        compared = slice(0, max(0, length) * self._convention.scale)
        skipped, tile = (np.swapaxes(np.swapaxes(each, 0, axis)[compared], 0, axis) for each in (skipped, tile))
        noticed = self._last(skipped, tile, axis, 0) + 1
        # Where all that is compared differs, the cut is off the grid.
        return noticed if noticed < _SURE * length else int(image.shape[axis])

    def _last(self, a: NDArray[np.float32], b: NDArray[np.float32], axis: int, start: int) -> int:
        """Return the last pixel of the input, along an axis, where two results differ; before `start` if none does."""
        with np.errstate(over="ignore", invalid="ignore"):
            # What is undefined counts as changed.
            changed = ~(np.abs(a - b).max(axis=(1 - axis, 2)) <= _NOTICED)
        found = np.flatnonzero(changed[start * self._convention.scale :])
        return start + int(found[-1]) // self._convention.scale if len(found) else start - 1


def _global_node(model: onnx.ModelProto, convention: Convention) -> str:
    """Return the node that most likely sees the whole image, for a message."""
    shapes = tensor_shapes(model, *(convention.largest or _SHAPED))
    means = []
    for node in model.graph.node:
        before, after = shapes.get(node.input[0], []) if node.input else [], shapes.get(node.output[0], [])
        if node.op_type in _GLOBAL:
            return title(node)
        if node.op_type.startswith(("Reduce", MEAN)) and math.prod(before[2:]) > 1 == math.prod(after[2:]):
            means.append(node)
    # A mean alone would be no reason: tiles can be given those.
    others = [node for node in means if node.op_type != MEAN]
    return title((others or means)[0]) if means else "no pooling or attention was found"


def _turned(image: Image, quarters: int) -> Image:
    return np.ascontiguousarray(np.rot90(image, quarters))


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return copy
