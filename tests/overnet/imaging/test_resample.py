import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnet.errors import InputError
from overnet.imaging.resample import imresize, network_bicubic

SHARED = Path(__file__).parents[3].parent / "shared"
needs_sets = pytest.mark.skipif(not (SHARED / "sets").is_dir(), reason="the test images are not here")

DTYPES = [np.uint8, np.uint16, np.float16, np.float32, np.float64]
sides = st.integers(1, 40)
scales = st.floats(0.05, 8)
edges = st.sampled_from(["symmetric", "replicate"])


def read_rgb(path: Path) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return image[..., ::-1]


def pairs(name: str, scale: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """High- and low-resolution images of one of the sets."""
    paths = sorted((SHARED / "sets" / name / f"image_SRF_{scale}").glob("*_HR.png"))
    assert len(paths) == {"Set5": 5, "Set14": 14}[name]
    return [(read_rgb(path), read_rgb(path.with_name(path.name.replace("_HR", "_LR")))) for path in paths]


def noise(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        return random.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    return random.random(shape).astype(dtype)


# --- imresize against the images that MATLAB made


@needs_sets
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_shrinking_gives_the_low_resolution_images_to_the_bit(name, scale):
    for high, low in pairs(name, scale):
        np.testing.assert_array_equal(imresize(high, scale=1 / scale, edge="replicate"), low)


@needs_sets
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_mirrored_borders_differ_from_the_low_resolution_images_at_the_border_only(scale):
    for high, low in pairs("Set5", scale):
        result = imresize(high, scale=1 / scale)
        np.testing.assert_array_equal(result[2:-2, 2:-2], low[2:-2, 2:-2])
        assert np.mean(np.abs(result.astype(int) - low) <= 1) > 0.99


def test_known_values_in_one_dimension():
    # Keys' kernel with a = -0.5 at distances of 1/4, 3/4, 5/4 and 7/4, by hand.
    second, third, fourth = 29 / 128, -9 / 128, -3 / 128
    step = np.repeat([[0.0, 255.0]], 4, axis=1)

    # Twice as many: the white side lies 7/4, then 5/4, then 3/4 and 7/4 away.
    dark = np.array([0, 0, 0, 0, 0, fourth, third, second + fourth])
    enlarged = imresize(step, size=(1, 16))
    np.testing.assert_allclose(enlarged[0, :8], 255 * dark, atol=1e-12)
    np.testing.assert_allclose(enlarged[0, 8:], 255 - 255 * dark[::-1], atol=1e-12)

    # Half as many: the distances halve, and so do the weights.
    dark = np.array([fourth / 2, (second + third + fourth) / 2])
    shrunk = imresize(step, size=(1, 4))
    np.testing.assert_allclose(shrunk[0, :2], 255 * dark, atol=1e-12)
    np.testing.assert_allclose(shrunk[0, 2:], 255 - 255 * dark[::-1], atol=1e-12)


def test_each_pass_rounds_integers_half_up_and_clips_them():
    # 255 * -9/128 is clipped, 255 * (29 - 3)/128 = 51.8 is rounded.
    step = np.array([[0, 0, 255, 255]], dtype=np.uint8)
    doubled = imresize(step, size=(1, 8))
    assert doubled.tolist() == [[0, 0, 0, 52, 203, 255, 255, 255]]
    assert (imresize(np.repeat(step, 4, axis=0), scale=2) == doubled).all()
    image = noise((12, 13))
    np.testing.assert_array_equal(imresize(image, scale=2), imresize(imresize(image, size=(24, 13)), size=(24, 26)))
    for low in (1, 2):
        halfway = np.array([[low, low + 1]], dtype=np.uint8)
        assert imresize(halfway, size=(1, 1), antialias=False).tolist() == [[low + 1]]


def test_the_dimension_that_shrinks_more_goes_first():
    image = noise((40, 40), np.uint8)
    rows_first = imresize(imresize(image, size=(10, 40)), size=(10, 30))
    columns_first = imresize(imresize(image, size=(40, 30)), size=(10, 30))
    assert (rows_first != columns_first).any()
    np.testing.assert_array_equal(imresize(image, size=(10, 30)), rows_first)
    np.testing.assert_array_equal(imresize(image.T, size=(30, 10)), rows_first.T)


def test_output_size_is_rounded_up():
    assert imresize(noise((7, 10)), scale=0.5).shape == (4, 5)
    assert imresize(noise((7, 10)), scale=1 / 3).shape == (3, 4)
    assert imresize(noise((510, 3)), scale=1 / 3).shape == (170, 1)


def test_antialiasing_is_a_choice_when_shrinking_and_nothing_when_enlarging():
    stripes = np.tile([0.0, 1.0, 1.0], (4, 30))
    assert imresize(stripes, size=(4, 30)).std() < 0.1
    np.testing.assert_array_equal(imresize(stripes, size=(4, 30), antialias=False), np.ones((4, 30)))
    image = noise((9, 8), np.float64)
    np.testing.assert_array_equal(imresize(image, scale=2.5), imresize(image, scale=2.5, antialias=False))


# --- properties


@settings(deadline=None)
@given(height=sides, width=sides, scale=scales, edge=edges, level=st.integers(0, 255), antialias=st.booleans())
def test_constants_stay_constant_at_any_scale(height, width, scale, edge, level, antialias):
    image = np.full((height, width), level, dtype=np.uint8)
    result = imresize(image, scale=scale, edge=edge, antialias=antialias)
    assert result.shape == (math.ceil(scale * height), math.ceil(scale * width))
    assert (result == level).all()


@settings(deadline=None)
@given(height=sides, width=sides, new_height=sides, new_width=sides, level=st.floats(-1e3, 1e3))
def test_constants_stay_constant_at_any_size(height, width, new_height, new_width, level):
    image = np.full((height, width, 2), level)
    for result in (imresize(image, size=(new_height, new_width)), network_bicubic(image, (new_height, new_width))):
        assert result.shape == (new_height, new_width, 2)
        np.testing.assert_allclose(result, level, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(height=sides, width=sides, dtype=st.sampled_from(DTYPES), edge=edges)
def test_the_same_size_gives_the_same_image_in_a_new_array(height, width, dtype, edge):
    image = noise((height, width, 3), dtype)
    for result in (
        imresize(image, scale=1, edge=edge),
        imresize(image, size=(height, width), edge=edge),
        network_bicubic(image, (height, width)),
    ):
        np.testing.assert_array_equal(result, image)
        assert not np.shares_memory(result, image)


@settings(deadline=None)
@given(height=st.integers(20, 40), width=st.integers(20, 40), scale=st.floats(0.3, 5), edge=edges)
def test_ramps_stay_ramps_away_from_the_border(height, width, scale, edge):
    ramp = np.add.outer(3.0 * np.arange(height), 0.5 * np.arange(width))
    result = imresize(ramp, scale=scale, edge=edge, antialias=scale >= 1)
    rows = (np.arange(result.shape[0]) + 0.5) / scale - 0.5
    columns = (np.arange(result.shape[1]) + 0.5) / scale - 0.5
    expected = np.add.outer(3.0 * rows, 0.5 * columns)
    inside = np.ix_((rows >= 1) & (rows <= height - 2), (columns >= 1) & (columns <= width - 2))
    np.testing.assert_allclose(result[inside], expected[inside], atol=1e-9)


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_ramps_stay_ramps_when_shrunk_by_a_whole_number(factor):
    # Antialiased weights keep a ramp where they lie the same on both sides of each centre.
    ramp = np.tile(np.arange(20.0 * factor), (20 * factor, 1))
    result = imresize(ramp, scale=1 / factor)
    expected = (np.arange(20) + 0.5) * factor - 0.5
    np.testing.assert_allclose(result[:, 2:-2], np.tile(expected[2:-2], (20, 1)), atol=1e-9)


@settings(deadline=None)
@given(
    height=sides,
    width=sides,
    channels=st.sampled_from([None, 1, 3, 4]),
    size=st.tuples(sides, sides),
    dtype=st.sampled_from(DTYPES),
)
def test_dtype_shape_and_contiguity(height, width, channels, size, dtype):
    trailing = () if channels is None else (channels,)
    image = noise((height, width, *trailing), dtype)
    before = image.copy()
    for result in (imresize(image, size=size), network_bicubic(image, size)):
        assert result.dtype == dtype
        assert result.shape == (*size, *trailing)
        assert result.flags.c_contiguous
        assert result.flags.writeable
        assert np.isfinite(result).all()
    np.testing.assert_array_equal(image, before)


@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides, size=st.tuples(sides, sides), seed=st.integers(0, 99))
def test_channels_are_independent_and_views_give_the_same(height, width, size, seed):
    image = noise((height, width, 3), np.uint8, seed)
    for resize in (lambda each: imresize(each, size=size), lambda each: network_bicubic(each, size)):
        whole = resize(image)
        for channel in range(3):
            np.testing.assert_array_equal(resize(image[..., channel]), whole[..., channel])
        np.testing.assert_array_equal(resize(image[..., ::-1]), whole[..., ::-1])


@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides, scale=st.sampled_from([0.5, 2, 3, 4]), seed=st.integers(0, 99))
def test_turning_and_resizing_commute(height, width, scale, seed):
    # Even sizes, so that the rounded-up output is centred on the input.
    image = noise((2 * height, 2 * width), np.float64, seed)
    result = imresize(image, scale=scale)
    np.testing.assert_allclose(imresize(image[::-1], scale=scale), result[::-1], atol=1e-12)
    np.testing.assert_allclose(imresize(image[:, ::-1], scale=scale), result[:, ::-1], atol=1e-12)
    np.testing.assert_allclose(imresize(image.T, scale=scale), result.T, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_clipped_and_floats_overshoot(dtype):
    top = np.iinfo(dtype).max
    checks = (np.indices((16, 16)) // 4).sum(axis=0) % 2 * top
    for resize in (lambda each: imresize(each, scale=3), lambda each: network_bicubic(each, (48, 48))):
        overshooting = resize(checks.astype(np.float64))
        assert overshooting.min() < 0
        assert overshooting.max() > top
        clipped = resize(checks.astype(dtype))
        assert clipped.min() == 0
        assert clipped.max() == top
        assert (clipped[overshooting < 0] == 0).all()
        assert (clipped[overshooting > top] == top).all()


def test_a_kernel_far_wider_than_the_image_wraps_around():
    image = noise((3, 5), np.float64)
    assert imresize(image, scale=1 / 1024).shape == (1, 1)
    # So wide a kernel sees the mirrored image as often as itself.
    assert imresize(image, scale=1 / 1024)[0, 0] == pytest.approx(image.mean(), abs=1e-3)


def test_lines_longer_than_a_block_and_many_blocks():
    # Sums are made in blocks of lines; neither one long line nor many of them may change the result.
    image = noise((6, 30_000, 3), np.float64)
    tall, flat = imresize(image, size=(12, 30_000)), imresize(image[:, 20_000:20_010], size=(12, 10))
    np.testing.assert_array_equal(tall[:, 20_000:20_010], flat)
    turned = imresize(np.swapaxes(image, 0, 1), size=(30_000, 12))
    np.testing.assert_array_equal(np.swapaxes(turned, 0, 1), tall)


# --- network_bicubic


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, size=st.tuples(st.integers(1, 90), st.integers(1, 90)), seed=st.integers(0, 99))
def test_network_bicubic_equals_torch(height, width, size, seed):
    torch = pytest.importorskip("torch")
    image = noise((height, width, 3), np.float32, seed)

    def by_torch(image: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(image).permute(2, 0, 1)[None]
        result = torch.nn.functional.interpolate(batch, size=size, mode="bicubic", align_corners=False)
        return np.asarray(result[0].permute(1, 2, 0))

    np.testing.assert_allclose(network_bicubic(image, size), by_torch(image), rtol=0, atol=1e-5)
    double = image.astype(np.float64)
    np.testing.assert_allclose(network_bicubic(double, size), by_torch(double), rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides, size=st.tuples(sides, sides), dtype=st.sampled_from([np.uint8, np.uint16]))
def test_network_bicubic_rounds_integers_once(height, width, size, dtype):
    image = noise((height, width), dtype)
    exact = network_bicubic(image.astype(np.float64), size)
    expected = np.floor(exact + 0.5).clip(0, np.iinfo(dtype).max).astype(dtype)
    np.testing.assert_array_equal(network_bicubic(image, size), expected)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, size=st.tuples(st.integers(1, 90), st.integers(1, 90)), seed=st.integers(0, 99))
def test_network_bicubic_by_opencv_is_that_in_float64(height, width, size, seed):
    for image in (noise((height, width, 3), np.uint8, seed), noise((height, width), np.uint8, seed)):
        by_opencv = network_bicubic(image.astype(np.float32), size)
        exact = network_bicubic(image.astype(np.float64), size)
        assert by_opencv.dtype == np.float32
        np.testing.assert_allclose(by_opencv, exact, rtol=0, atol=1e-3)


# --- what is refused


@pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf, 1e-9, 2000])
def test_scales_out_of_range_are_refused(scale):
    with pytest.raises(InputError, match="scale must lie between"):
        imresize(noise((8, 8)), scale=scale)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (5, 1 << 21)])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(InputError, match="each side must be between"):
        imresize(noise((8, 8)), size=size)
    with pytest.raises(InputError, match="each side must be between"):
        network_bicubic(noise((8, 8)), size)


def test_a_scale_that_leads_to_too_large_a_side_is_refused():
    with pytest.raises(InputError, match="each side must be between"):
        imresize(noise((2, 2000)), scale=1000)


def test_either_scale_or_size_has_to_be_given():
    with pytest.raises(ValueError, match="either scale or size"):
        imresize(noise((8, 8)))
    with pytest.raises(ValueError, match="either scale or size"):
        imresize(noise((8, 8)), scale=2, size=(16, 16))


def test_an_unknown_edge_is_refused():
    with pytest.raises(ValueError, match="'symmetric' or 'replicate', not 'wrap'"):
        imresize(noise((8, 8)), scale=2, edge="wrap")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(5, np.uint8), "H x W or H x W x C"),
        (np.zeros((1, 3, 4, 4), np.uint8), "H x W or H x W x C"),
        (np.zeros((0, 5, 3), np.uint8), "empty"),
        (np.zeros((5, 5, 0), np.uint8), "empty"),
        (np.zeros((5, 5), np.int64), "not int64"),
        (np.zeros((5, 5), np.bool_), "not bool"),
        (np.zeros((5, 5), np.complex64), "not complex64"),
        (np.zeros((5, 5), object), "not object"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(InputError, match=message):
        imresize(image, scale=2)
    with pytest.raises(InputError, match=message):
        network_bicubic(image, (5, 5))


# --- its place in the project


def test_importing_it_loads_no_torch():
    code = "import sys, overnet.imaging.resample; assert not {'torch', 'cv2', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.slow
@pytest.mark.timing
def test_halving_a_720p_image_takes_well_under_a_second():
    image = noise((720, 1280, 3))
    imresize(image, scale=0.5)
    started = time.perf_counter()
    imresize(image, scale=0.5)
    assert time.perf_counter() - started < 0.5
