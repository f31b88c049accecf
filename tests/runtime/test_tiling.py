import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnet.files.engine_sidecar import SMALLEST_TILE
from overnet.files.onnx_metadata import exact_scale
from overnet.runtime.tiling import FEATHER, MARGIN, cut_into_tiles, spans, tile_for_memory, why_not_cut
from tests.support.local_backend import LocalBackend, enlarge, upscale_tiled


@given(length=st.integers(1, 3000), tile=st.integers(SMALLEST_TILE, 600))
def test_spans_cover_everything_with_their_margins(length, tile):
    cut = spans(length, tile)
    assert (cut[0].start, cut[0].keep_start, cut[-1].stop, cut[-1].keep_stop) == (0, 0, length, length)
    assert len({span.stop - span.start for span in cut}) == 1, "tiles have one size"
    for before, after in pairwise(cut):
        assert after.keep_start - after.start >= MARGIN
        assert before.stop - before.keep_stop >= MARGIN
        assert before.keep_stop - after.keep_start == after.fade >= FEATHER


@given(length=st.integers(1, 1000), tile=st.integers(64, 300), align=st.integers(2, 16), margin=st.integers(0, 20))
def test_tiles_on_a_grid_cover_everything_with_their_margins(length, tile, align, margin):
    """Networks with windows or strides need tiles that begin on their grid; the last may be shorter."""
    if tile <= 2 * margin + align - 1:
        return
    cut = spans(length, tile, margin=margin, feather=0, align=align)
    assert (cut[0].start, cut[0].keep_start, cut[-1].stop, cut[-1].keep_stop) == (0, 0, length, length)
    assert all(span.start % align == 0 and span.stop - span.start <= tile for span in cut)
    for before, after in pairwise(cut):
        assert after.keep_start - after.start >= margin and before.stop - before.keep_stop >= margin
        assert before.keep_stop >= after.keep_start


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 300), width=st.integers(1, 300), tile=st.integers(SMALLEST_TILE, 200))
def test_tiles_of_a_local_operation_join_exactly(height, width, tile):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(upscale_tiled(image, tile, LocalBackend()), enlarge(image[None])[0])


def test_a_reach_of_margin_pixels_is_invisible():
    """An operation that looks as far as MARGIN, and is wrong at its borders, leaves no trace where tiles meet."""

    def blur(images, means):
        padded = np.pad(images.astype(float), ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
        height, width = images.shape[1:3]
        shifted = (padded[:, 0:height, 0:width] + padded[:, 2 * MARGIN :, 2 * MARGIN :]) / 2
        return np.rint(shifted).astype(np.uint8)

    image = np.random.default_rng(0).integers(0, 256, (250, 310, 3), dtype=np.uint8)
    assert np.array_equal(upscale_tiled(image, 128, LocalBackend(blur, scale=1.0)), blur(image[None], None)[0])


def test_a_difference_between_tiles_fades():
    """Tiles that come out 12 levels apart, as channel_means over a tile may do, meet without a step."""
    levels = iter(range(100, 220, 12))

    def tint(images, means):
        return np.full_like(images, next(levels))

    image = np.zeros((SMALLEST_TILE, 300, 3), np.uint8)
    joined = upscale_tiled(image, SMALLEST_TILE, LocalBackend(tint, scale=1.0)).astype(int)
    steps = np.abs(np.diff(joined[:, :, 0], axis=1))
    assert joined.max() - joined.min() >= 24
    assert steps.max() <= 2


@settings(deadline=None, max_examples=30)
@given(height=st.integers(97, 300), width=st.integers(1, 300), tile=st.integers(SMALLEST_TILE, 200))
def test_tiles_are_given_the_means_of_the_whole(height, width, tile):
    """Every tile, whatever its place, is upscaled with the image's means, those that follow from others too."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[: height // 2] //= 4
    used = []

    def means(images, given=None):
        own = images.mean(axis=(1, 2), dtype=np.float32)[:, :, None, None]
        return [own, own * (own if given is None else given[0])]

    def upscale(images, given):
        used.append(given)
        return enlarge(images)

    upscale_tiled(image, tile, LocalBackend(upscale, means))
    assert used
    if height <= tile and width <= tile:
        assert used == [None], "the whole has its own means"
        return
    for first, second in used:
        np.testing.assert_allclose(first, means(image[None])[0], rtol=1e-4)
        np.testing.assert_allclose(second, means(image[None])[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("tile", "scale", "reason"),
    [
        (SMALLEST_TILE - 1, 2.0, "at least"),
        (SMALLEST_TILE, 1.333, "no image is cut"),
        (SMALLEST_TILE, 4 / 3, "multiples of 3"),
    ],
)
def test_what_cannot_be_joined_is_refused(tile, scale, reason):
    with pytest.raises(ValueError, match=reason):
        upscale_tiled(np.zeros((200, 200, 3), np.uint8), tile, LocalBackend(scale=scale))


@settings(deadline=None, max_examples=30)
@given(
    scale=st.sampled_from([1.5, 2.5, 2.25, 2.3, 4 / 3, 3.0625]),
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    tile=st.integers(SMALLEST_TILE, 160),
)
def test_tiles_at_fractional_scales_join_exactly(scale, rows, columns, tile):
    """A nearest-neighbour enlargement by p/q, whose pixels repeat every q rows and columns."""
    exact = exact_scale(scale)

    def enlarge_nearest(images, means):
        for axis in (1, 2):
            assert images.shape[axis] % exact.denominator == 0
            places = (np.arange(int(images.shape[axis] * exact)) / exact).astype(int)
            images = images.take(places, axis=axis)
        return images

    size = rows * exact.denominator * 16 // math.gcd(16, exact.denominator), columns * exact.denominator
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert why_not_cut(size, scale) is None
    joined = upscale_tiled(image, tile, LocalBackend(enlarge_nearest, scale=scale))
    assert np.array_equal(joined, enlarge_nearest(image[None], None)[0])


@pytest.mark.parametrize(
    ("size", "scale", "reason"),
    [
        ((1080, 1920), 2.5, None),
        ((1080, 1920), 2.3, None),
        ((1081, 1921), 2, None),
        ((1081, 1920), 2.5, "at x2.5 only images whose sides are multiples of 2 are cut into tiles"),
        ((1080, 1921), 2.5, "at x2.5 only images whose sides are multiples of 2 are cut into tiles"),
        ((1000, 2000), 1.333, "at x1.333 no image is cut into tiles"),
        ((1000, 2000), math.pi, "at x3.14159 no image is cut into tiles"),
    ],
)
def test_which_images_are_cut(size, scale, reason):
    assert why_not_cut(size, scale) == reason


@pytest.mark.parametrize(
    ("size", "most", "reach", "tiles", "tile"),
    [
        # Square tiles of 720 took 6, with 1.5 times the pixels of the frame.
        ((1080, 1920), (720, 1280), None, (2, 2), (560, 992)),
        ((720, 1280), (540, 960), None, (2, 2), (384, 672)),
        ((1280, 720), (640, 360), None, (3, 3), (464, 272)),
        ((640, 360), (640, 360), None, (1, 1), (640, 360)),
        ((720, 1280), (360, 640), 9, (3, 3), (256, 448)),
    ],
)
def test_tiles_are_few_and_small(size, most, reach, tiles, tile):
    cut = cut_into_tiles(size, most, reach=reach)
    assert (len(cut.rows), len(cut.columns)) == tiles
    assert cut.tile == tile
    assert {(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in cut.tiles} == {tile}


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    most=st.tuples(st.integers(SMALLEST_TILE, 700), st.integers(SMALLEST_TILE, 700)),
)
def test_no_part_is_larger_than_a_tile_and_no_tile_than_allowed(size, most):
    cut = cut_into_tiles(size, most)
    assert all(side <= largest for side, largest in zip(cut.tile, most, strict=True))
    assert len(cut.parts) == len(cut.tiles)
    assert sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in cut.parts) == (
        size[0] * size[1]
    )
    for rows, columns in cut.parts:
        assert 0 < rows.stop - rows.start <= cut.tile[0] and 0 < columns.stop - columns.start <= cut.tile[1]


def test_tile_follows_memory():
    assert tile_for_memory(100, 100, 1000, available_bytes=1 << 30) is None
    small, large = (tile_for_memory(4000, 4000, 20_000, available_bytes=size << 30) for size in (1, 8))
    assert small[0] == small[1] and large[0] == large[1]
    assert SMALLEST_TILE < small[0] < large[0]
    assert large[0] ** 2 * 20_000 <= 4 << 30
    assert tile_for_memory(4000, 4000, 20_000, available_bytes=0) == (SMALLEST_TILE, SMALLEST_TILE)
