"""Which images an engine is built for: read from the command line, and made to fit the device's memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import psutil

from overnet.errors import InputError
from overnet.files.engine_sidecar import Profile
from overnet.system.cuda_device import cuda_device, free_device_memory_bytes

Size = tuple[int, int]

# From the smallest that the deployed form is exact for, with a quarter of 720p the usual case, to a quarter of 1440p:
# larger images go in tiles, and memory stays below what the smallest Jetson has.
DEFAULT_SHAPE = "16x16:180x320:360x640"

# The runtime's tiles are square, at least this large, and in steps of 16 (`overnet.runtime.tile_size`).
SMALLEST_TILE = 96
_STEP = 16

# What an engine took for each pixel, divided by what `overnet.export.graph.costs` counted for the graph, was 0.95 to
# 1.24 in builds of TensorRT-RTX 1.7.1 (FP32 and FP16, default and lean-memory), and up to 1.43 in INT8. And how much an
# engine takes at least.
_HIGHEST_RATIO = {"fp32": 1.25, "fp16": 1.25, "bf16": 1.25, "int8": 1.45}
_SMALLEST_ENGINE_BYTES = 70_000_000
# Share of the free memory to plan with: while it builds, TensorRT tries out ways that need more than the final one,
# and other programs need some too.
_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class Fitted:
    """A profile that fits the device.

    Attributes:
        profile: as wanted, or smaller.
        predicted_bytes: memory that an engine for it is expected to need.
        tile: side of the tiles in pixels that larger images are cut into, where the profile became smaller; else None.
        notes: what was changed and why, one line each.
    """

    profile: Profile
    predicted_bytes: int
    tile: int | None
    notes: tuple[str, ...]


def parse_shape(text: str) -> tuple[Size, Size, Size]:
    """Read ``HxW`` (images of that size only) or ``MIN:OPT:MAX``, each ``HxW``.

    Returns:
        Height and width in pixels: smallest, most usual, largest.

    Raises:
        InputError: it is neither, a side is 0 or too large, or the sizes do not grow from minimum to maximum.
    """
    sizes = [re.fullmatch(r"([0-9]{1,9})[xX]([0-9]{1,9})", part.strip()) for part in text.split(":")]
    found = [(int(size[1]), int(size[2])) for size in sizes if size]
    if len(sizes) not in (1, 3) or len(found) < len(sizes):
        raise InputError(
            f"shape is {text[:60]!r}; expected HEIGHTxWIDTH or three of these, MIN:OPT:MAX, such as {DEFAULT_SHAPE}"
        )
    minimum, optimum, maximum = found * 3 if len(found) == 1 else found
    problem = Profile(minimum, optimum, maximum).problem()
    if problem:
        raise InputError(f"shape {text} {problem}")
    return minimum, optimum, maximum


def make_profile(text: str | None, batch: int = 1) -> Profile:
    """Make the profile that was asked for.

    Args:
        text: as in `parse_shape`; None for `DEFAULT_SHAPE`.
        batch: the most images at once.

    Raises:
        InputError: it is impossible.
    """
    profile = Profile(*parse_shape(DEFAULT_SHAPE if text is None else text), batch)
    problem = profile.problem()
    if problem:
        raise InputError(f"shape {profile} {problem}")
    return profile


def available_device_memory() -> int | None:
    """Bytes that an engine can have on the device: what is free, swap not counted. None where there is no GPU."""
    device = cuda_device()
    if device is None:
        return None
    if device.shares_memory:
        # CUDA's own figure leaves out what the system would give up on demand.
        return int(psutil.virtual_memory().available)
    return free_device_memory_bytes()


def fit_profile(
    profile: Profile,
    bytes_per_pixel: float,
    available_bytes: int | None,
    *,
    weights_bytes: int = 0,
    precision: str = "fp16",
) -> Fitted:
    """Step down where the device's memory is short: first fewer images at once, then smaller ones.

    Args:
        profile: as asked for.
        bytes_per_pixel: activation bytes for each pixel of the image, from `overnet.export.graph.costs`.
        available_bytes: from `available_device_memory`; None leaves the profile as it is.
        weights_bytes: size of the network's weights.
        precision: one of `overnet.files.onnx_metadata.PRECISIONS`.

    Raises:
        InputError: not even the smallest engine fits.
    """
    # From here on, what an engine takes.
    bytes_per_pixel *= _HIGHEST_RATIO[precision]
    predicted = _predicted_bytes(profile, bytes_per_pixel, weights_bytes)
    usable = math.inf if available_bytes is None else available_bytes * _MEMORY_SHARE
    if predicted <= usable:
        return Fitted(profile, predicted, None, ())
    reason = f"{profile} would need about {_megabytes(predicted)} of the {_megabytes(usable)} that can be used"
    fewer = profile
    while fewer.batch > 1:
        fewer = _changed(fewer, fewer.maximum, fewer.batch // 2)
        predicted = _predicted_bytes(fewer, bytes_per_pixel, weights_bytes)
        if predicted <= usable:
            return Fitted(fewer, predicted, None, (f"{reason}: batch {fewer.batch} instead of {profile.batch}",))
    pixels = max(0, int((usable - weights_bytes) / bytes_per_pixel))
    smaller = _changed(fewer, _largest_within(fewer.maximum, pixels), 1)
    predicted = _predicted_bytes(smaller, bytes_per_pixel, weights_bytes)
    if predicted > usable:
        raise InputError(
            f"the device's memory is too short: {_megabytes(usable)} can be used, and even {smaller} needs about "
            f"{_megabytes(predicted)}"
        )
    tile = min(smaller.maximum)
    tile = tile // _STEP * _STEP if tile >= SMALLEST_TILE else tile
    return Fitted(
        smaller,
        predicted,
        tile,
        (f"{reason}: {smaller} instead, and larger images in tiles of {tile}x{tile}",),
    )


def _predicted_bytes(profile: Profile, bytes_per_pixel: float, weights_bytes: int) -> int:
    activations = max(_SMALLEST_ENGINE_BYTES, profile.pixels * bytes_per_pixel)
    return math.ceil(activations) + weights_bytes


def _largest_within(size: Size, pixels: int) -> Size:
    """The largest size of about the same shape with so many pixels, or the smallest allowed if that is too few."""
    lowest = min(SMALLEST_TILE, size[0]), min(SMALLEST_TILE, size[1])
    factor = math.sqrt(pixels / (size[0] * size[1]))
    height = max(lowest[0], int(size[0] * factor) // _STEP * _STEP)
    width = max(lowest[1], min(int(size[1] * factor), pixels // height) // _STEP * _STEP)
    height = max(lowest[0], min(height, pixels // width))
    return min(height, size[0]), min(width, size[1])


def _changed(profile: Profile, maximum: Size, batch: int) -> Profile:
    def within(size: Size) -> Size:
        return min(size[0], maximum[0]), min(size[1], maximum[1])

    return Profile(within(profile.minimum), within(profile.optimum), maximum, batch)


def _megabytes(number: float) -> str:
    return f"{number / 1e6:.0f} MB"
