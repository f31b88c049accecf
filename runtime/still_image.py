"""Upscaling of a decoded still image, with its transparency and metadata."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnet.errors import InputError
from overnet.imaging.image_io import DecodedImage
from overnet.imaging.resample import network_bicubic, with_hidden_filled
from overnet.runtime.upscaler import Upscaler
from overnet.system.memory import available_memory_bytes

# Bytes for each pixel of a result, by the bytes of a sample: the image, its copy in the encoder's order, the file, and
# with 16 bits the float32 images that the result is made of. Measured on random pixels, which compress worst; alpha
# takes as much again and half as much.
_RESULT_BYTES_PER_PIXEL = {1: 12, 2: 62}
_ALPHA_FACTOR = 2.5
_SMALL_RESULT_BYTES = 1 << 28  # not worth a look at the free memory
_STRIP_ROWS = 64


def enlarge_image(image: DecodedImage, upscaler: Upscaler) -> DecodedImage:
    """Upscale an image; alpha is enlarged bicubically, and metadata are kept, see `DecodedImage.enlarged`.

    Raises:
        InputError: the result does not fit into memory.
        BackendError: see `Upscaler`.
    """
    _check_memory(image, upscaler)
    rgb: NDArray[Any] = upscaler(image.rgb if image.alpha is None else with_hidden_filled(image.rgb, image.alpha))
    if image.grey:
        make_grey(rgb)
    alpha = None if image.alpha is None else network_bicubic(image.alpha, (rgb.shape[0], rgb.shape[1]))
    return image.enlarged(rgb, alpha)


def _check_memory(image: DecodedImage, upscaler: Upscaler) -> None:
    """Refuse an image whose result cannot be held, before the work: a small file may state a huge size."""
    height, width = upscaler.output_size(*image.rgb.shape[:2])
    needed_bytes = height * width * _RESULT_BYTES_PER_PIXEL[image.rgb.dtype.itemsize]
    if image.alpha is not None:
        needed_bytes = int(needed_bytes * _ALPHA_FACTOR)
    if needed_bytes > _SMALL_RESULT_BYTES and needed_bytes > (free_bytes := available_memory_bytes()):
        raise InputError(
            f"the result of {width}x{height} pixels takes {needed_bytes / 1e9:.1f} GB of memory, and "
            f"{free_bytes / 1e9:.1f} GB are free"
        )


def make_grey(rgb: NDArray[Any]) -> None:
    """Make the channels equal in place: the network tints some grey pixels by a level, and the file is to stay grey."""
    for top in range(0, rgb.shape[0], _STRIP_ROWS):
        strip = rgb[top : top + _STRIP_ROWS]
        strip[:] = (strip.sum(axis=2, dtype=np.uint32, keepdims=True) + 1) // 3  # thirds, rounded to the nearest
