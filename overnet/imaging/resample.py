"""Two bicubic resizes on numpy arrays: MATLAB's, which makes the test images, and the network's own.

Both are Keys' cubic convolution [1] along one dimension after the other, and differ in everything around it:

========== ============================ =================================
.           `imresize`                   `network_bicubic`
========== ============================ =================================
like        MATLAB's ``imresize`` [2]    ``torch.nn.functional.interpolate``
``a``       -0.5                         -0.75
shrinking   kernel widened (antialias)   kernel as it is
borders     mirrored or repeated         repeated
integers    rounded after each pass      rounded once
========== ============================ =================================

[1] R. Keys, "Cubic convolution interpolation for digital image processing", IEEE Trans. ASSP 29(6), 1981.
[2] https://www.mathworks.com/help/images/ref/imresize.html
"""

from __future__ import annotations

import math
from operator import index
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from overnet.errors import InputError

Edge = Literal["symmetric", "replicate"]

_INTEGER_TYPES = (np.uint8, np.uint16)
_FLOAT_TYPES = (np.float16, np.float32, np.float64)

# Keys' parameter a of the network's own bicubic, which is PyTorch's; MATLAB's is -0.5.
NETWORK_SHARPNESS = -0.75

# A mistyped size or scale is refused with a message, before it can end in a MemoryError.
_LARGEST_SIDE = 1 << 20
_LARGEST_SCALE = 1024.0

# Output values computed at a time: the sum and the products stay in the processor's cache.
_BLOCK_VALUES = 1 << 16


def imresize(
    image: npt.NDArray[Any],
    *,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    antialias: bool = True,
    edge: Edge = "symmetric",
) -> npt.NDArray[Any]:
    """Resize as MATLAB's ``imresize(image, scale)`` or ``imresize(image, size)`` does with its default, bicubic.

    The dimension that shrinks more goes first (rows, where both are alike) and integers are rounded, half up, and
    clipped after each of the two passes. That is what MATLAB does, and gives bit-identical results:
    the low-resolution images of Set5 and Set14 are ``imresize(high, scale=1 / s, edge="replicate")`` exactly.

    Args:
        image: H x W or H x W x C; uint8, uint16, float16, float32 or float64, floats of any range.
        scale: factor of both dimensions, 1/1024 to 1024; the result has ``ceil(scale * H)`` x ``ceil(scale * W)``
            pixels.
        size: height and width of the result; instead of `scale`, and each dimension then has its own factor.
        antialias: widen the kernel by the factor of reduction where the image shrinks.
        edge: what lies outside the image: its mirror image, ``"symmetric"``, as in today's MATLAB, or its outermost
            pixels repeated, ``"replicate"``, as in the older MATLAB that made the published Set5 and Set14.

    Returns:
        A new array of the dtype of `image`, height x width or height x width x C. Integers are clipped to their range;
        floats are computed in float64, are not clipped, and overshoot beside sharp edges.

    Raises:
        ValueError: both or neither of `scale` and `size` are given, or `edge` is not one of the two.
        InputError: the image is empty, of another dtype or number of dimensions; `scale` or `size` is out of range.
    """
    _check_image(image)
    if edge not in ("symmetric", "replicate"):
        raise ValueError(f"edge is 'symmetric' or 'replicate', not {edge!r}")
    height, width = image.shape[:2]
    if scale is not None and size is None:
        if not 1 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE:
            raise InputError(f"cannot resize by {scale}: the scale must lie between 1/1024 and 1024")
        target = _checked_size((math.ceil(scale * height), math.ceil(scale * width)))
        scales = (scale, scale)
    elif size is not None and scale is None:
        target = _checked_size(size)
        scales = (target[0] / height, target[1] / width)
    else:
        raise ValueError("imresize takes either scale or size")

    result = image
    for axis in sorted((0, 1), key=lambda each: scales[each]):
        weights, indices = _contributions(
            image.shape[axis], target[axis], scales[axis], sharpness=-0.5, antialias=antialias, edge=edge
        )
        result = _as_type(_resize_axis(result, weights, indices, axis), image.dtype)
    return result


def network_bicubic(image: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Resize as the network does inside: ``interpolate(mode="bicubic", align_corners=False)`` of PyTorch.

    ``a = -0.75``, half-pixel centres, borders repeated, no antialiasing when shrinking; the factor of each dimension
    is the ratio of the sizes.

    Args:
        image: H x W or H x W x C; uint8, uint16, float16, float32 or float64, floats of any range.
        size: height and width of the result.

    Returns:
        A new array of the dtype of `image`, height x width or height x width x C. Computed in float64, float32 images
        in float32; integers are rounded, half up, and clipped once at the end; floats are not clipped.

    Raises:
        InputError: the image is empty, of another dtype or another number of dimensions; `size` is out of range.
    """
    _check_image(image)
    target = _checked_size(size)
    if image.dtype == np.float32 and (image.ndim == 2 or image.shape[2] <= 4):
        import cv2

        # 20 times as fast. For values of 0 to 255 it differs from float64 by at most 8e-5 where it enlarges and 4e-4
        # where it shrinks, with OpenCV 4.8 and 5.0; PyTorch's float32 differs by up to 0.08. The other types stay here:
        # OpenCV rounds their weights, so that up to 0.3% of uint8 and uint16 values differ by 1, and float64 by 5e-3.
        resized = cv2.resize(np.ascontiguousarray(image), target[::-1], interpolation=cv2.INTER_CUBIC)
        return np.asarray(resized).reshape(*target, *image.shape[2:])
    result = image
    for axis in (0, 1):
        scale = target[axis] / image.shape[axis]
        weights, indices = _contributions(
            image.shape[axis], target[axis], scale, sharpness=NETWORK_SHARPNESS, antialias=False, edge="replicate"
        )
        result = _resize_axis(result, weights, indices, axis)
    return _as_type(result, image.dtype)


def _check_image(image: npt.NDArray[Any]) -> None:
    if image.ndim not in (2, 3):
        raise InputError(f"an image is H x W or H x W x C, not an array of shape {image.shape}")
    if image.size == 0:
        raise InputError(f"the image is empty: its shape is {image.shape}")
    if image.dtype not in (*_INTEGER_TYPES, *_FLOAT_TYPES):
        raise InputError(f"an image is uint8, uint16, float16, float32 or float64, not {image.dtype}")


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (index(side) for side in size)
    if not (1 <= height <= _LARGEST_SIDE and 1 <= width <= _LARGEST_SIDE):
        raise InputError(f"cannot resize to {height} x {width}: each side must be between 1 and {_LARGEST_SIDE} pixels")
    return height, width


def cubic_kernel(distance: npt.NDArray[np.float64], sharpness: float) -> npt.NDArray[np.float64]:
    """Compute Keys' cubic convolution kernel (1981), zero from a distance of 2 on; `sharpness` is his parameter a.

    Args:
        distance: from the sample, in pixels; any shape.

    Returns:
        The weights, of the same shape.
    """
    distance = np.abs(distance)
    near = ((sharpness + 2) * distance - (sharpness + 3)) * distance**2 + 1
    far = sharpness * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _contributions(
    input_length: int, output_length: int, scale: float, *, sharpness: float, antialias: bool, edge: Edge
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Return the weights and indices of the input pixels of each output pixel of one axis: output_length x taps."""
    stretch = 1 / scale if antialias and scale < 1 else 1.0
    centres = (np.arange(output_length) + 0.5) / scale - 0.5
    kernel_width = 4 * stretch
    first = np.floor(centres - kernel_width / 2).astype(np.intp)
    indices = first[:, None] + np.arange(math.ceil(kernel_width) + 2)
    weights = cubic_kernel((centres[:, None] - indices) / stretch, sharpness)
    # The widened kernel's samples do not sum to a constant by themselves.
    weights /= weights.sum(axis=1, keepdims=True)

    used = weights.any(axis=0)
    weights, indices = weights[:, used], indices[:, used]
    if edge == "symmetric":
        # A small image under a wide kernel is mirrored more than once.
        indices %= 2 * input_length
        indices = np.minimum(indices, 2 * input_length - 1 - indices)
    else:
        indices = indices.clip(0, input_length - 1)
    return weights, indices


def _resize_axis(
    image: npt.NDArray[Any], weights: npt.NDArray[np.float64], indices: npt.NDArray[np.intp], axis: int
) -> npt.NDArray[np.float64]:
    """Sum the weighted pixels along `axis`, in float64.

    Sums are written out tap after tap, and not left to a matrix product, whose order of summation, and with it the
    rounding of what lies halfway between two grey levels, depends on the machine.
    """
    # With the dimension in front, a pixel is a contiguous line.
    moved = np.moveaxis(image, axis, 0)
    lines = np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
    total = np.empty((len(weights), lines.shape[1]))
    step = max(1, _BLOCK_VALUES // lines.shape[1])
    for start in range(0, len(weights), step):
        block = slice(start, start + step)
        _sum_taps(lines, weights[block], indices[block], total[block])
    return np.moveaxis(total.reshape(len(weights), *moved.shape[1:]), 0, axis)


def _sum_taps(
    lines: npt.NDArray[Any],
    weights: npt.NDArray[np.float64],
    indices: npt.NDArray[np.intp],
    total: npt.NDArray[np.float64],
) -> None:
    np.multiply(lines[indices[:, 0]], weights[:, :1], out=total)
    product = np.empty_like(total)
    for tap in range(1, weights.shape[1]):
        np.multiply(lines[indices[:, tap]], weights[:, tap : tap + 1], out=product)
        total += product


def _as_type(values: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if dtype.kind == "f":
        return np.ascontiguousarray(values, dtype=dtype)
    rounded = np.floor(values + 0.5)
    return np.ascontiguousarray(rounded.clip(0, np.iinfo(dtype).max), dtype=dtype)


def with_hidden_filled(rgb: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an image whose invisible pixels have the colour of the closest visible ones.

    Otherwise an enlargement mixes the colours behind transparency, often black, into the edge that is seen.

    Args:
        rgb: H x W x 3 of any dtype.
        alpha: H x W; 0 is invisible.
    """
    import cv2

    hidden = (alpha == 0).astype(np.uint8)
    if not hidden.any() or hidden.all():
        return rgb
    _, closest = cv2.distanceTransformWithLabels(hidden, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((int(closest.max()) + 1, 3), rgb.dtype)  # by OpenCV's number of the visible pixel
    visible = hidden == 0
    colours[closest[visible]] = rgb[visible]
    return colours[closest]
