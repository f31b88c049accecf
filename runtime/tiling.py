"""Upscaling of images too large for memory: overlapping tiles, joined without a visible seam.

A result depends on about 14 input pixels around it, so a tile's outermost `MARGIN` pixels are discarded where the image
continues. OverNet also weighs its channels by means over the whole image, which a tile does not contain: tiles
upscaled alone would differ in shade, by up to 13 grey levels on Set14 with the bundled weights. So the image is
processed several times. First the means of all its parts are averaged. But a later mean depends on the earlier ones,
which were each part's own: so the means are computed again, with the averages in place of each part's (`_PASSES`).
Then each tile is upscaled with these, which leaves a difference of 3 levels at most (tests/runtime/test_upscaler.py),
and over `FEATHER` pixels a tile fades into the next.

A plain network has no such means and a known reach: with that as the margin, tiles give what the whole image gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from overnet.errors import InputError
from overnet.files.engine_sidecar import SMALLEST_TILE
from overnet.files.onnx_metadata import Foreign, scaled_size
from overnet.system.ending_signals import raise_if_ended
from overnet.system.memory import available_memory_bytes
from overnet.types import ChannelMeans, Image, ImageBatch

# Pixels of the input that a tile's result depends on beyond itself. The network's 3x3 convolutions (one in each of 9
# blocks, the first, the overscaling one) reach 11, the bicubic resize of the features and the last convolution at most
# 3 more.
MARGIN = 16
# Input pixels over which one tile fades into the next.
FEATHER = SMALLEST_TILE // 4 - MARGIN

# Share of the available memory that a tile may take: other programs, and the decoder, need some too.
_MEMORY_SHARE = 0.5
# Number of times that the means are computed before tiles are upscaled with them.
_PASSES = 2


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


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in input pixels.

    Attributes:
        start, stop: the pixels that the network is given.
        keep_start, keep_stop: those whose result is used.
        fade: the number of pixels from `keep_start` on which the tile before fades into this one; 0 for the first.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int
    fade: int


def spans(length: int, tile: int, *, margin: int = MARGIN, feather: int = FEATHER, align: int = 1) -> list[Span]:
    """Cut one axis into overlapping tiles of equal size.

    Args:
        length: of the axis, in pixels.
        tile: the length of a tile, overlaps included; at least `SMALLEST_TILE` unless the axis is shorter.
        margin: pixels discarded on each side where the image continues.
        feather: the least number of pixels over which a tile fades into the next.
        align: tiles begin at multiples of this; the last is shorter for it.
    """
    if length <= tile:
        return [Span(0, length, 0, length, 0)]
    overlap = 2 * margin + feather + align - 1
    count = math.ceil((length - overlap) / (tile - overlap))
    # Tiles of one size, evenly spread, so that a backend compiles for one shape only.
    starts = [-(-round(index * (length - tile) / (count - 1)) // align) * align for index in range(count)]
    cut: list[Span] = []
    for index, start in enumerate(starts):
        keep_start = start + margin if index else 0
        fade = cut[-1].keep_stop - keep_start if index else 0
        keep_stop = start + tile - margin if index < count - 1 else length
        cut.append(Span(start, min(start + tile, length), keep_start, keep_stop, fade))
    return cut


def upscale_in_tiles(
    image: Image,
    tile: int,
    scale: float,
    upscale: Callable[[ImageBatch, ChannelMeans | None], ImageBatch],
    channel_means: Callable[[ImageBatch, ChannelMeans | None], ChannelMeans] | None,
    *,
    reach: int | None = None,
    foreign: Foreign | None = None,
) -> Image:
    """Upscale an image tile by tile.

    Args:
        image: H x W x 3 uint8.
        tile: height and width of a tile in input pixels, overlaps included; at least `SMALLEST_TILE`.
        scale: factor of `upscale`; a whole number, so that tiles meet on whole pixels.
        upscale: from 1 x h x w x 3 uint8, and means to use, to 1 x scale*h x scale*w x 3 uint8; see `Backend.upscale`.
        channel_means: from 1 x h x w x 3 uint8, and means to use, to its means; see `Backend.channel_means`. None
            upscales each tile with its own.
        reach: see `Backend.reach`. Where it is known, no means are computed, and the result is that of the whole image.
        foreign: see `Backend.foreign`; its tiles may be smaller.

    Returns:
        scale*H x scale*W x 3 uint8.

    Raises:
        ValueError: the tile is too small, or the scale is not a whole number.
        InputError: the tile is too small for the reach.
    """
    if (tile < SMALLEST_TILE and foreign is None) or scale != int(scale):
        raise ValueError(f"tiles of {tile} at scale {scale:g}; at least {SMALLEST_TILE} and a whole scale are needed")
    margin, feather = (MARGIN, FEATHER) if reach is None else (reach, 0)
    align = 1 if foreign is None else foreign.align
    if foreign is not None and foreign.margin is not None:
        margin = foreign.margin
    if tile <= 2 * margin + feather + align - 1:
        raise InputError(
            f"tiles of {tile} pixels are too small for this network, whose results depend on {margin} to each side"
        )
    factor = int(scale)
    height, width = image.shape[:2]
    means = None if channel_means is None or reach is not None else _means_of_whole(image, tile, channel_means)
    upscaled = np.empty((*scaled_size(height, width, scale), 3), np.uint8)
    for rows in spans(height, tile, margin=margin, feather=feather, align=align):
        for columns in spans(width, tile, margin=margin, feather=feather, align=align):
            raise_if_ended()
            part = np.ascontiguousarray(image[None, rows.start : rows.stop, columns.start : columns.stop])
            result = upscale(part, means)[0]
            kept = result[_scaled(rows, factor), _scaled(columns, factor)]
            target = upscaled[
                rows.keep_start * factor : rows.keep_stop * factor,
                columns.keep_start * factor : columns.keep_stop * factor,
            ]
            if reach is None:
                _fade_in(target, kept, rows.fade * factor, columns.fade * factor)
            else:
                target[:] = kept
    return upscaled


def _means_of_whole(
    image: Image, tile: int, channel_means: Callable[[ImageBatch, ChannelMeans | None], ChannelMeans]
) -> ChannelMeans:
    """Return the means over the whole image: averages, weighted by area, over parts that do not overlap.

    Each pass makes one more of the network's successive means exact, except for the parts' borders, and reduces the
    error of all later ones.
    """
    height, width = image.shape[:2]
    counts = [math.ceil(length / tile) for length in (height, width)]
    rows, columns = (
        [round(index * length / count) for index in range(count + 1)]
        for length, count in zip((height, width), counts, strict=True)
    )
    means: ChannelMeans | None = None
    for _ in range(_PASSES):
        total: ChannelMeans = []
        for (top, bottom), (left, right) in product(pairwise(rows), pairwise(columns)):
            raise_if_ended()
            share = np.float32((bottom - top) * (right - left) / (height * width))
            part = channel_means(np.ascontiguousarray(image[None, top:bottom, left:right]), means)
            weighted = [share * mean for mean in part]
            total = [a + b for a, b in zip(total, weighted, strict=True)] if total else weighted
        means = total
    assert means is not None
    return means


def _scaled(span: Span, factor: int) -> slice:
    return slice((span.keep_start - span.start) * factor, (span.keep_stop - span.start) * factor)


def _fade_in(target: Image, kept: Image, fade_rows: int, fade_columns: int) -> None:
    """Write a tile into `target`, fading it in at its upper and left edge where it overlaps earlier tiles."""
    if not fade_rows and not fade_columns:
        target[:] = kept
        return
    weight = np.minimum(_ramp(kept.shape[0], fade_rows)[:, None], _ramp(kept.shape[1], fade_columns)[None, :])
    before = target.astype(np.float32)
    # The weight is below 1 only where an earlier tile was written; the corner that both ramps share is such a place.
    mixed = before + weight[..., None] * (kept - before)
    target[:] = np.rint(mixed).astype(np.uint8)


def _ramp(length: int, fade: int) -> NDArray[np.float32]:
    ramp = np.ones(length, np.float32)
    ramp[:fade] = (np.arange(fade, dtype=np.float32) + 0.5) / max(fade, 1)
    return ramp
