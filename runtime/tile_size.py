"""The size of tiles: the overlap that joins them without a seam, the smallest, and the largest that fits the memory."""

from __future__ import annotations

import math

from overnet.files.engine_sidecar import SMALLEST_TILE
from overnet.system.memory import available_memory_bytes

# Pixels of the input that a tile's result depends on beyond itself. The network's 3x3 convolutions (one in each of 9
# blocks, the first, the overscaling one) reach 11, the bicubic resize of the features and the last convolution at most
# 3 more.
MARGIN = 16
# Input pixels over which one tile fades into the next.
FEATHER = SMALLEST_TILE // 4 - MARGIN

# Share of the available memory that a tile may take: other programs, and the decoder, need some too.
_MEMORY_SHARE = 0.5


def tile_for_memory(height: int, width: int, bytes_per_pixel: int, *, available_bytes: int | None = None) -> int | None:
    """Return the side of the largest square tile that fits the memory, or None where the whole image fits.

    Args:
        height, width: of the image in pixels.
        bytes_per_pixel: memory that a backend takes for each input pixel.
        available_bytes: memory to plan with; by default what the host has available.
    """
    if available_bytes is None:
        available_bytes = available_memory_bytes()
    pixels = int(available_bytes * _MEMORY_SHARE / bytes_per_pixel)
    if height * width <= pixels:
        return None
    # Multiples of 16 keep the number of shapes that a backend compiles for small.
    return max(SMALLEST_TILE, math.isqrt(pixels) // 16 * 16)
