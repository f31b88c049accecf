"""Upscaling of images too large for memory: overlapping tiles, joined without a visible seam.

A result depends on about 14 input pixels around it, so a tile's outermost `MARGIN` pixels are discarded where the image
continues. OverNet also weighs its channels by means over the whole image, which a tile does not contain: tiles
upscaled alone would differ in shade, by up to 13 grey levels on Set14 with the bundled weights. So the image is
processed several times. First the means of all its parts are averaged. But a later mean depends on the earlier ones,
which were each part's own: so the means are computed again, with the averages in place of each part's. Then each tile
is upscaled with these, which leaves a difference of 3 levels at most on photographs (tests/runtime/test_upscaler.py),
and over `FEATHER` pixels a tile fades into the next. Frames of a video share means: `overnet.runtime.tiled_stream`.

A plain network has no such means and a known reach: with that as the margin, tiles give what the whole image gives.

At a fractional scale p/q, tiles begin and end at multiples of q, which are whole pixels of the result. The result's
sides are rounded, and the network resizes to them: only where the image's sides are multiples of q, too, do tiles have
the pixels of the whole image, and only then is it cut.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from overnet.errors import InputError
from overnet.files.engine_sidecar import SMALLEST_TILE
from overnet.files.onnx_metadata import Foreign, exact_scale
from overnet.system.memory import available_memory_bytes
from overnet.types import Image

# Pixels of the input that a tile's result depends on beyond itself. The network's 3x3 convolutions (one in each of 9
# blocks, the first, the overscaling one) reach 11, the bicubic resize of the features and the last convolution at most
# 3 more.
MARGIN = 16
# Input pixels over which one tile fades into the next.
FEATHER = SMALLEST_TILE // 4 - MARGIN

# The largest denominator of a scale at which images are cut: tiles have to be larger than their margins, which are
# multiples of it.
_LARGEST_STEP = 16

# Share of the available memory that a tile may take: other programs, and the decoder, need some too.
_MEMORY_SHARE = 0.5


def tile_for_memory(
    height: int, width: int, bytes_per_pixel: int, *, available_bytes: int | None = None
) -> tuple[int, int] | None:
    """Return height and width of the largest square tile that fits the memory, or None where the whole image fits.

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
    side = max(SMALLEST_TILE, math.isqrt(pixels) // 16 * 16)
    return side, side


def why_not_cut(size: tuple[int, int], scale: float) -> str | None:
    """Return why images of a height and width are not cut into tiles at a scale; None where they can be."""
    exact = exact_scale(scale)
    step = exact.denominator
    if float(exact) != scale or step > _LARGEST_STEP:
        return f"at x{scale:g} no image is cut into tiles"
    if size[0] % step or size[1] % step:
        return f"at x{scale:g} only images whose sides are multiples of {step} are cut into tiles"
    return None


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


@dataclass(frozen=True)
class Cut:
    """The tiles that images of one size are cut into, and the parts that their means are computed from.

    There are as many parts as tiles, and no part is larger than a tile.

    Attributes:
        tile: height and width of each tile, overlaps included.
        rows, columns: the tiles along both axes.
        fades: whether a tile fades into the next; otherwise they meet exactly.
    """

    tile: tuple[int, int]
    rows: list[Span]
    columns: list[Span]
    fades: bool

    @property
    def tiles(self) -> list[tuple[Span, Span]]:
        """Return rows and columns of each tile, in the order in which they are joined."""
        return list(product(self.rows, self.columns))

    @property
    def parts(self) -> list[tuple[slice, slice]]:
        """Return parts that cover the image once, without overlaps."""
        rows, columns = (
            [round(index * cut[-1].stop / len(cut)) for index in range(len(cut) + 1)]
            for cut in (self.rows, self.columns)
        )
        return [(slice(*high), slice(*wide)) for high, wide in product(pairwise(rows), pairwise(columns))]


def cut_into_tiles(
    size: tuple[int, int],
    most: tuple[int, int],
    *,
    scale: float = 1,
    reach: int | None = None,
    foreign: Foreign | None = None,
) -> Cut:
    """Cut images of one size into the fewest tiles, which are as small as so many tiles can be.

    Args:
        size: height and width of the images in pixels.
        most: height and width of the largest tile, overlaps included; at least `SMALLEST_TILE` each, or the image's.
        scale: of the backend; where an image is cut, one for which `why_not_cut` gives no reason.
        reach, foreign: see `overnet.runtime.backends.base.Backend`. Of another program's network tiles may be smaller.

    Raises:
        ValueError: the largest tile is too small.
        InputError: it is too small for what the network's results depend on.
    """
    margin, feather = (MARGIN, FEATHER) if reach is None else (reach, 0)
    align = 1 if foreign is None else foreign.align
    if foreign is not None and foreign.margin is not None:
        margin = foreign.margin
    step = exact_scale(scale).denominator
    margin, align = -(-margin // step) * step, math.lcm(align, step)
    overlap = 2 * margin + feather + align - 1
    sides: list[int] = []
    axes: list[list[Span]] = []
    for length, limit in zip(size, most, strict=True):
        side = length
        if length > limit:
            if limit < SMALLEST_TILE and foreign is None:
                raise ValueError(f"tiles of {limit}; at least {SMALLEST_TILE} are needed")
            largest = limit - limit % step
            if largest <= overlap:
                raise InputError(
                    f"tiles of {largest} pixels are too small for this network, whose results depend on {margin} to "
                    "each side"
                )
            count = math.ceil((length - overlap) / (largest - overlap))
            needed = math.ceil((length + (count - 1) * overlap) / count)
            # Multiples of 16 keep the number of shapes that a backend compiles for small.
            unit = math.lcm(16, step)
            side = min(largest, -(-needed // unit) * unit)
        sides.append(side)
        axes.append(spans(length, side, margin=margin, feather=feather, align=align))
    return Cut((sides[0], sides[1]), axes[0], axes[1], fades=reach is None)


def join(upscaled: Image, result: Image, rows: Span, columns: Span, scale: Fraction, *, fades: bool) -> None:
    """Write an upscaled tile to its place; tiles come in the order of `Cut.tiles`.

    Args:
        upscaled: the whole result, changed in place.
        result: the upscaled tile.
        rows, columns: its place in the image.
        scale: of the upscaling; all positions times it are whole.
        fades: see `Cut`.
    """
    kept = result[_scaled(rows, rows.start, scale), _scaled(columns, columns.start, scale)]
    target = upscaled[_scaled(rows, 0, scale), _scaled(columns, 0, scale)]
    if fades:
        _fade_in(target, kept, int(rows.fade * scale), int(columns.fade * scale))
    else:
        target[:] = kept


def _scaled(span: Span, origin: int, scale: Fraction) -> slice:
    return slice(int((span.keep_start - origin) * scale), int((span.keep_stop - origin) * scale))


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
