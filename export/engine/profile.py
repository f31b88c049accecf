"""The image sizes that an engine is built for: read from text, and reduced to fit the device's memory."""

import math
import re
from dataclasses import replace

import psutil

from overnet.errors import InputError
from overnet.files.engine_sidecar import SMALLEST_TILE, Profile
from overnet.system.cuda_device import cuda_device, free_device_memory_bytes

Size = tuple[int, int]

# From the smallest size, by a quarter of 720p as the most usual, to a quarter of 1440p, upright or not: larger images
# are upscaled in tiles, and the smallest Jetson has enough memory. A run takes the memory that its own image needs.
DEFAULT_SHAPE = "16x16:180x320:640x640"

# Sides are reduced in steps of this many pixels, as those of the runtime's tiles.
_STEP = 16

# The largest ratio of an engine's activation memory to that of `overnet.export.graph.costs`. In builds of TensorRT-RTX
# 1.7.1 it was 0.95 to 1.24 (FP32 and FP16, default and lean-memory), and up to 1.43 in INT8.
HIGHEST_RATIO = {"fp32": 1.25, "fp16": 1.25, "bf16": 1.25, "int8": 1.45}
# No engine took less.
_SMALLEST_ENGINE_BYTES = 70_000_000
# Share of the free memory that an engine may need for its largest images: other programs need some too. And for the
# images that it is optimised for, which it is built with: TensorRT tries implementations that need more memory than the
# final one.
RUNNING_SHARE = 0.75
MEMORY_SHARE = 0.5
# The convolutions of TensorRT take no tensor with more numbers (NVIDIA/TensorRT#4123, #4408).
_LARGEST_TENSOR = (1 << 31) - 1


def make_profile(text: str | None, batch: int = 1) -> Profile:
    """Read a profile from ``HxW`` (images of that size only) or ``MIN:OPT:MAX``, each ``HxW``.

    Args:
        text: heights and widths in pixels; None for `DEFAULT_SHAPE`.
        batch: the largest number of images at once.

    Raises:
        InputError: the text is neither, a side or the batch is out of range, or the sizes do not grow from minimum to
            maximum.
    """
    text = DEFAULT_SHAPE if text is None else text
    sizes = [re.fullmatch(r"([0-9]{1,9})[xX]([0-9]{1,9})", part.strip()) for part in text.split(":")]
    found = [(int(size[1]), int(size[2])) for size in sizes if size]
    if len(sizes) not in (1, 3) or len(found) < len(sizes):
        raise InputError(
            f"shape is {text[:60]!r}; expected HEIGHTxWIDTH or three of these, MIN:OPT:MAX, such as {DEFAULT_SHAPE}"
        )
    minimum, optimum, maximum = found * 3 if len(found) == 1 else found
    profile = Profile(minimum, optimum, maximum, batch)
    if problem := profile.problem():
        raise InputError(f"shape {profile} {problem}")
    return profile


def available_device_memory() -> int | None:
    """Return the free memory of the GPU in bytes, without swap; None where there is no GPU."""
    device = cuda_device()
    if device is None:
        return None
    if device.shares_memory:
        # CUDA's own figure leaves out memory that the system would free on demand.
        return int(psutil.virtual_memory().available)
    return free_device_memory_bytes()


def fit_profile(
    profile: Profile,
    bytes_per_pixel: float,
    available_bytes: int | None,
    *,
    weights_bytes: int = 0,
    precision: str = "fp16",
    widest_per_pixel: float = 0.0,
) -> tuple[Profile, tuple[str, ...]]:
    """Reduce a profile with too much memory or too large tensors: first to fewer images at once, then to smaller ones.

    Where there is memory to run an engine for the largest images, but too little to build it with the images that it is
    to be optimised for, it is optimised for smaller ones.

    Args:
        profile: the wanted one.
        bytes_per_pixel: activation memory for each pixel of the image, from `overnet.export.graph.costs`.
        available_bytes: from `available_device_memory`; None leaves the profile as it is.
        weights_bytes: size of the network's weights.
        precision: one of `overnet.files.onnx_metadata.PRECISIONS`.
        widest_per_pixel: numbers in the largest tensor for each pixel, from `overnet.export.graph.costs`.

    Returns:
        The wanted profile or a smaller one, and what was changed and why, one line each.

    Raises:
        InputError: even the smallest engine does not fit.
    """
    bytes_per_pixel *= HIGHEST_RATIO[precision]
    if available_bytes is None:
        return _fitted(profile, bytes_per_pixel, math.inf, weights_bytes, widest_per_pixel)
    share = MEMORY_SHARE if profile.is_static else RUNNING_SHARE
    fitted, notes = _fitted(profile, bytes_per_pixel, available_bytes * share, weights_bytes, widest_per_pixel)
    pixels = int((available_bytes * MEMORY_SHARE - weights_bytes) / bytes_per_pixel / fitted.batch)
    if fitted.is_static or fitted.optimum[0] * fitted.optimum[1] <= pixels:
        return fitted, notes
    smaller = _largest_within(fitted.optimum, max(0, pixels), fitted.optimum)
    optimum = max(fitted.minimum[0], smaller[0]), max(fitted.minimum[1], smaller[1])
    if optimum == fitted.optimum:
        return fitted, notes
    note = f"optimised for images of {optimum[0]}x{optimum[1]}: building takes more memory than running"
    return replace(fitted, optimum=optimum), (*notes, note)


def _fitted(
    profile: Profile, bytes_per_pixel: float, usable: float, weights_bytes: int, widest_per_pixel: float
) -> tuple[Profile, tuple[str, ...]]:
    """Return the profile or a smaller one within so many bytes, and what was changed; see `fit_profile`."""
    predicted = predicted_bytes(profile, bytes_per_pixel, weights_bytes)
    most_pixels = int(_LARGEST_TENSOR / widest_per_pixel) if widest_per_pixel else profile.pixels
    if predicted <= usable and profile.pixels <= most_pixels:
        return profile, ()
    if predicted <= usable:
        largest = profile.pixels * widest_per_pixel
        reason = f"{profile} would have tensors of {largest:.0f} numbers, and TensorRT takes at most {_LARGEST_TENSOR}"
    else:
        reason = f"{profile} would need about {_megabytes(predicted)} of the {_megabytes(usable)} that can be used"
    fewer = profile
    while fewer.batch > 1:
        fewer = _changed(fewer, fewer.maximum, fewer.batch // 2)
        predicted = predicted_bytes(fewer, bytes_per_pixel, weights_bytes)
        if predicted <= usable and fewer.pixels <= most_pixels:
            return fewer, (f"{reason}: batch {fewer.batch} instead of {profile.batch}",)
    by_memory = most_pixels if usable == math.inf else max(0, int((usable - weights_bytes) / bytes_per_pixel))
    smaller = _changed(fewer, _largest_within(fewer.maximum, min(by_memory, most_pixels), _shape(fewer)), 1)
    predicted = predicted_bytes(smaller, bytes_per_pixel, weights_bytes)
    if predicted > usable:
        raise InputError(
            f"the device has too little memory: {_megabytes(usable)} can be used, and even {smaller} needs about "
            f"{_megabytes(predicted)}"
        )
    height, width = smaller.maximum
    return smaller, (f"{reason}: {smaller} instead, and larger images in tiles of up to {height}x{width}",)


def stepped_down(profile: Profile) -> Profile | None:
    """Return a profile with half the pixels at once; None where there is no smaller one."""
    if profile.batch > 1:
        return _changed(profile, profile.maximum, profile.batch // 2)
    smaller = _changed(profile, _largest_within(profile.maximum, profile.pixels // 2, _shape(profile)), 1)
    return smaller if smaller.pixels < profile.pixels else None


def predicted_bytes(profile: Profile, bytes_per_pixel: float, weights_bytes: int = 0) -> int:
    """Return the memory that an engine is expected to need, whose activations take so many bytes for each pixel."""
    activations = max(_SMALLEST_ENGINE_BYTES, profile.pixels * bytes_per_pixel)
    return math.ceil(activations) + weights_bytes


def _shape(profile: Profile) -> Size:
    """Return the shape to reduce the largest size in: its own; where it is square, the usual images'."""
    height, width = profile.maximum
    return profile.optimum if height == width else profile.maximum


def _largest_within(size: Size, pixels: int, shape: Size) -> Size:
    """Return the largest size up to `size`, of about a shape, with at most `pixels`, but no smaller than a tile."""
    lowest = min(SMALLEST_TILE, size[0]), min(SMALLEST_TILE, size[1])
    factor = math.sqrt(pixels / (shape[0] * shape[1]))
    height = max(lowest[0], min(int(shape[0] * factor), size[0]) // _STEP * _STEP)
    width = max(lowest[1], min(int(shape[1] * factor), size[1], pixels // height) // _STEP * _STEP)
    height = max(lowest[0], min(height, pixels // width))
    return min(height, size[0]), min(width, size[1])


def _changed(profile: Profile, maximum: Size, batch: int) -> Profile:
    height, width = maximum
    minimum, optimum = ((min(size[0], height), min(size[1], width)) for size in (profile.minimum, profile.optimum))
    return Profile(minimum, optimum, maximum, batch)


def _megabytes(number: float) -> str:
    return f"{number / 1e6:.0f} MB"
