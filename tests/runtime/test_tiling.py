from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnet.files.engine_sidecar import SMALLEST_TILE
from overnet.runtime.tiling import FEATHER, MARGIN, spans, tile_for_memory, upscale_in_tiles


def enlarge(images, means=None):
    return images.repeat(2, axis=1).repeat(2, axis=2)


@given(length=st.integers(1, 3000), tile=st.integers(SMALLEST_TILE, 600))
def test_spans_cover_everything_with_their_margins(length, tile):
    cut = spans(length, tile)
    assert (cut[0].start, cut[0].keep_start, cut[-1].stop, cut[-1].keep_stop) == (0, 0, length, length)
    assert len({span.stop - span.start for span in cut}) == 1, "tiles have one size"
    for before, after in pairwise(cut):
        assert after.keep_start - after.start >= MARGIN
        assert before.stop - before.keep_stop >= MARGIN
        assert before.keep_stop - after.keep_start == after.fade >= FEATHER


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 300), width=st.integers(1, 300), tile=st.integers(SMALLEST_TILE, 200))
def test_tiles_of_a_local_operation_join_exactly(height, width, tile):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(upscale_in_tiles(image, tile, 2, enlarge, None), enlarge(image[None])[0])


def test_a_reach_of_margin_pixels_is_invisible():
    """An operation that looks as far as MARGIN, and is wrong at its borders, leaves no trace where tiles meet."""

    def blur(images, means):
        padded = np.pad(images.astype(float), ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
        height, width = images.shape[1:3]
        shifted = (padded[:, 0:height, 0:width] + padded[:, 2 * MARGIN :, 2 * MARGIN :]) / 2
        return np.rint(shifted).astype(np.uint8)

    image = np.random.default_rng(0).integers(0, 256, (250, 310, 3), dtype=np.uint8)
    assert np.array_equal(upscale_in_tiles(image, 128, 1, blur, None), blur(image[None], None)[0])


def test_a_difference_between_tiles_fades():
    """Tiles that come out 12 levels apart, as channel_means over a tile may do, meet without a step."""
    levels = iter(range(100, 220, 12))

    def tint(images, means):
        return np.full_like(images, next(levels))

    joined = upscale_in_tiles(np.zeros((SMALLEST_TILE, 300, 3), np.uint8), SMALLEST_TILE, 1, tint, None).astype(int)
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

    upscale_in_tiles(image, tile, 2, upscale, means)
    assert used
    for first, second in used:
        np.testing.assert_allclose(first, means(image[None])[0], rtol=1e-4)
        np.testing.assert_allclose(second, means(image[None])[1], rtol=1e-4)


@pytest.mark.parametrize(("tile", "scale"), [(SMALLEST_TILE - 1, 2), (SMALLEST_TILE, 1.5)])
def test_what_cannot_be_joined_is_refused(tile, scale):
    with pytest.raises(ValueError, match="at least"):
        upscale_in_tiles(np.zeros((200, 200, 3), np.uint8), tile, scale, enlarge, None)


def test_tile_follows_memory():
    assert tile_for_memory(100, 100, 1000, available_bytes=1 << 30) is None
    small, large = (tile_for_memory(4000, 4000, 20_000, available_bytes=size << 30) for size in (1, 8))
    assert SMALLEST_TILE < small < large
    assert large**2 * 20_000 <= 4 << 30
    assert tile_for_memory(4000, 4000, 20_000, available_bytes=0) == SMALLEST_TILE
