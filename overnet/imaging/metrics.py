"""PSNR and SSIM as super-resolution papers report them: on the luma of MATLAB's ``rgb2ycbcr``, without the border.

Luma is left unrounded. With `overnet.imaging.resample.imresize` this gives the published numbers of bicubic
enlargement on Set5 and Set14; luma rounded to whole grey levels, as ``rgb2ycbcr`` does with uint8 images, measures
up to 0.034 dB less.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from overnet.errors import InputError

# ITU-R BT.601: white is 16 + 65.481 + 128.553 + 24.966 = 235. https://www.mathworks.com/help/images/ref/rgb2ycbcr.html
_LUMA_OFFSET = 16.0
LUMA_WEIGHTS = (65.481, 128.553, 24.966)

# The constants of Wang et al. for values of 0 to 255.
_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_C1 = (0.01 * 255) ** 2
_SSIM_C2 = (0.03 * 255) ** 2


def luma(rgb: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Y of MATLAB's ``rgb2ycbcr`` (ITU-R BT.601, studio range), not rounded.

    Args:
        rgb: H x W x 3, uint8 or floats of 0 to 255.

    Returns:
        H x W, float64, 16 (black) to 235 (white).

    Raises:
        InputError: another shape or dtype.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise InputError(f"luma needs an RGB image, H x W x 3, not an array of shape {rgb.shape}")
    if rgb.dtype != np.uint8 and rgb.dtype.kind != "f":
        raise InputError(f"luma needs an image of uint8 or floats of 0 to 255, not {rgb.dtype}")
    red, green, blue = (rgb[..., channel].astype(np.float64) for channel in range(3))
    weighted = LUMA_WEIGHTS[0] * red + LUMA_WEIGHTS[1] * green + LUMA_WEIGHTS[2] * blue
    return _LUMA_OFFSET + weighted / 255


def psnr(reference: npt.NDArray[Any], test: npt.NDArray[Any], *, border: int, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB: ``10 log10(peak^2 / mean squared error)``.

    Args:
        reference, test: H x W or H x W x C, of the same shape; any real dtype, read as float64.
        border: pixels left out on each of the four sides.
        peak: the largest value there can be.

    Returns:
        `math.inf` for identical images.

    Raises:
        ValueError: the shapes differ, or `border` is negative.
        InputError: nothing is left inside the border, or the arrays are no images.
    """
    reference, test = _inside(reference, test, border)
    error = float(np.mean(np.square(reference - test)))
    if error == 0:
        return math.inf
    return 10 * math.log10(peak**2 / error)


def psnr_luma(reference_rgb: npt.NDArray[Any], test_rgb: npt.NDArray[Any], *, border: int) -> float:
    """`psnr` of the `luma` of two H x W x 3 images, uint8 or floats of 0 to 255; raises what these two raise."""
    _check_same_shape(reference_rgb, test_rgb)
    return psnr(luma(reference_rgb), luma(test_rgb), border=border)


def ssim_luma(reference_rgb: npt.NDArray[Any], test_rgb: npt.NDArray[Any], *, border: int) -> float:
    """Structural similarity of the `luma` of two images, as the authors' ``ssim_index.m`` computes it.

    Z. Wang, A. Bovik, H. Sheikh, E. Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE Trans. Image Processing 13(4), 2004: an 11 x 11 Gaussian window of sigma 1.5, K1 = 0.01,
    K2 = 0.03, values of 0 to 255, the mean over all windows that lie inside the image, no downsampling before.

    Args:
        reference_rgb, test_rgb: H x W x 3 of the same shape, uint8 or floats of 0 to 255.
        border: pixels left out on each of the four sides.

    Returns:
        1.0 for identical images, less for others, at least -1.

    Raises:
        ValueError: the shapes differ, or `border` is negative.
        InputError: less than 11 x 11 pixels are left inside the border, or the arrays are no RGB images (see `luma`).
    """
    _check_same_shape(reference_rgb, test_rgb)
    reference, test = _inside(luma(reference_rgb), luma(test_rgb), border)
    if min(reference.shape) < _SSIM_WINDOW:
        raise InputError(
            f"SSIM needs {_SSIM_WINDOW} x {_SSIM_WINDOW} pixels, and {reference.shape[0]} x {reference.shape[1]} "
            f"are left inside a border of {border}"
        )
    reference_mean, test_mean = _gaussian(reference), _gaussian(test)
    mean_product = reference_mean * test_mean
    mean_squares = reference_mean * reference_mean + test_mean * test_mean
    covariance = _gaussian(reference * test) - mean_product
    variances = _gaussian(reference * reference + test * test) - mean_squares
    luminance = (2 * mean_product + _SSIM_C1) / (mean_squares + _SSIM_C1)
    contrast_and_structure = (2 * covariance + _SSIM_C2) / (variances + _SSIM_C2)
    return float(np.mean(luminance * contrast_and_structure))


def largest_difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> int:
    """Find the largest absolute difference of two integer arrays of the same shape, in grey levels.

    Raises:
        ValueError: the shapes differ.
        InputError: the arrays are empty, or not of integers that fit int64.
    """
    _check_same_shape(a, b)
    if a.size == 0:
        raise InputError(f"there is nothing to compare: the arrays are empty, of shape {a.shape}")
    for array in (a, b):
        if not np.can_cast(array.dtype, np.int64):
            raise InputError(f"grey levels are whole numbers, not {array.dtype}")
    # uint8 arithmetic would wrap around.
    return int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max())


def _check_same_shape(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"cannot compare images of different shapes: {a.shape} and {b.shape}")


def _inside(
    reference: npt.NDArray[Any], test: npt.NDArray[Any], border: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Both images as float64 without their border."""
    _check_same_shape(reference, test)
    if border < 0:
        raise ValueError(f"the border left out must not be negative, and is {border}")
    if reference.ndim not in (2, 3):
        raise InputError(f"an image is H x W or H x W x C, not an array of shape {reference.shape}")
    height, width = reference.shape[:2]
    inside = (slice(border, height - border), slice(border, width - border))
    if min(height, width) <= 2 * border or reference.size == 0:
        raise InputError(f"nothing is left of {height} x {width} pixels inside a border of {border}")
    return reference[inside].astype(np.float64), test[inside].astype(np.float64)


def _gaussian(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weighted means under the SSIM window, wherever it fits whole: 10 rows and 10 columns less than `values`."""
    offsets = np.arange(_SSIM_WINDOW) - _SSIM_WINDOW // 2
    window = np.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    window /= window.sum()
    for axis in (0, 1):
        # The window is the product of a column and a row, and so one dimension can go after the other.
        lines = np.moveaxis(values, axis, 0)
        length = lines.shape[0] - _SSIM_WINDOW + 1
        filtered = window[0] * lines[:length]
        for offset in range(1, _SSIM_WINDOW):
            filtered += window[offset] * lines[offset : offset + length]
        values = np.moveaxis(filtered, 0, axis)
    return values
