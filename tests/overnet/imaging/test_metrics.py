import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnet.errors import InputError
from overnet.imaging.metrics import largest_difference, luma, psnr, psnr_luma, ssim_luma
from overnet.imaging.resample import imresize

SHARED = Path(__file__).parents[3].parent / "shared"
needs_sets = pytest.mark.skipif(not (SHARED / "sets").is_dir(), reason="the test images are not here")


def read_rgb(path: Path) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return image[..., ::-1]


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- the published numbers


@needs_sets
@pytest.mark.parametrize(
    ("name", "scale", "published_psnr", "published_ssim"),
    [
        ("Set5", 2, 33.67, 0.9303),
        ("Set5", 3, 30.40, 0.8689),
        ("Set5", 4, 28.43, 0.8111),
        ("Set14", 2, 30.33, 0.8698),
        ("Set14", 3, 27.63, 0.7759),
        ("Set14", 4, 26.09, 0.7048),
    ],
)
def test_bicubic_enlargement_measures_as_published(name, scale, published_psnr, published_ssim):
    # Measured: 33.674/0.93029, 30.405/0.86891, 28.430/0.81114; 30.326/0.86985, 27.634/0.77588, 26.091/0.70480.
    psnrs, ssims = [], []
    for path in sorted((SHARED / "sets" / name / f"image_SRF_{scale}").glob("*_HR.png")):
        high = read_rgb(path)
        enlarged = imresize(read_rgb(path.with_name(path.name.replace("_HR", "_LR"))), scale=scale)
        assert enlarged.shape == high.shape
        psnrs.append(psnr_luma(high, enlarged, border=scale))
        ssims.append(ssim_luma(high, enlarged, border=scale))
    assert len(psnrs) == {"Set5": 5, "Set14": 14}[name]
    assert np.mean(psnrs) == pytest.approx(published_psnr, abs=0.005)
    assert np.mean(ssims) == pytest.approx(published_ssim, abs=0.0002)


# --- luma


def test_luma_of_known_colours():
    colours = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]]
    expected = [[16, 235, 81.481, 144.553, 40.966, 16 + 219 * 128 / 255]]
    for dtype in (np.uint8, np.float32, np.float64):
        result = luma(np.array([colours], dtype=dtype))
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected, atol=1e-12)


@settings(deadline=None)
@given(red=st.integers(0, 255), green=st.integers(0, 255), blue=st.integers(0, 255))
def test_luma_lies_in_the_studio_range(red, green, blue):
    result = luma(np.array([[[red, green, blue]]], dtype=np.uint8))
    assert result.shape == (1, 1)
    assert 16 <= result[0, 0] <= 235 + 1e-12


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (4, 4, 1), (1, 4, 4, 3)])
def test_luma_refuses_what_is_not_rgb(shape):
    with pytest.raises(InputError, match="H x W x 3"):
        luma(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.bool_, np.complex128])
def test_luma_refuses_values_of_another_range(dtype):
    with pytest.raises(InputError, match=f"not {np.dtype(dtype)}"):
        luma(np.zeros((4, 4, 3), dtype))


# --- PSNR


def test_psnr_of_known_errors():
    zeros = np.zeros((8, 8), np.uint8)
    assert psnr(zeros, zeros + np.uint8(255), border=0) == 0
    assert psnr(zeros, zeros + np.uint8(1), border=2) == pytest.approx(20 * math.log10(255))
    # Unsigned values must not wrap around.
    assert psnr(zeros + np.uint8(1), zeros, border=0) == pytest.approx(20 * math.log10(255))
    assert psnr(zeros + 0.0, zeros + 0.1, border=0, peak=1.0) == pytest.approx(20)


@settings(deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_identical_images(height, width, seed):
    image = noise((height, width, 3), seed)
    assert psnr(image, image.copy(), border=0) == math.inf
    assert psnr_luma(image, image.copy(), border=0) == math.inf
    assert largest_difference(image, image.copy()) == 0


def test_the_border_is_left_out_on_all_four_sides():
    image = noise((12, 14, 3))
    changed = image.copy()
    changed[:2] ^= 255
    changed[-2:] ^= 255
    changed[:, :2] ^= 255
    changed[:, -2:] ^= 255
    assert psnr(image, changed, border=2) == math.inf
    assert psnr_luma(image, changed, border=2) == math.inf
    assert psnr(image, changed, border=1) < 20
    for row, column in ((2, 5), (-3, 5), (5, 2), (5, -3)):
        inner = image.copy()
        inner[row, column] ^= 255
        assert psnr(image, inner, border=2) < math.inf


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), border=st.integers(0, 3))
def test_psnr_is_symmetric_and_falls_with_the_error(seed, border):
    image = noise((16, 17, 3), seed)
    near, far = image ^ 1, image ^ 8
    assert psnr(image, near, border=border) == psnr(near, image, border=border)
    assert psnr(image, near, border=border) > psnr(image, far, border=border)
    assert psnr_luma(image, far, border=border) == psnr(luma(image), luma(far), border=border)


# --- SSIM


def direct_ssim(reference: np.ndarray, test: np.ndarray) -> float:
    """The formula of Wang et al., window after window, as the paper writes it."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for row in range(reference.shape[0] - 10):
        for column in range(reference.shape[1] - 10):
            x = reference[row : row + 11, column : column + 11]
            y = test[row : row + 11, column : column + 11]
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            variance_x = (window * (x - mean_x) ** 2).sum()
            variance_y = (window * (y - mean_y) ** 2).sum()
            covariance = (window * (x - mean_x) * (y - mean_y)).sum()
            values.append(
                (2 * mean_x * mean_y + 6.5025)
                * (2 * covariance + 58.5225)
                / ((mean_x**2 + mean_y**2 + 6.5025) * (variance_x + variance_y + 58.5225))
            )
    return float(np.mean(values))


@settings(max_examples=15, deadline=None)
@given(height=st.integers(11, 18), width=st.integers(11, 18), strength=st.integers(0, 7), seed=st.integers(0, 99))
def test_ssim_is_the_formula_of_the_paper(height, width, strength, seed):
    image = noise((height, width, 3), seed)
    changed = image ^ (noise(image.shape, seed + 1) >> strength)
    assert ssim_luma(image, changed, border=0) == pytest.approx(direct_ssim(luma(image), luma(changed)), abs=1e-10)


@settings(deadline=None)
@given(height=st.integers(13, 24), width=st.integers(13, 24), seed=st.integers(0, 99))
def test_ssim_of_identical_images_is_one_exactly(height, width, seed):
    image = noise((height, width, 3), seed)
    assert ssim_luma(image, image.copy(), border=1) == 1


def test_ssim_of_flat_and_of_opposite_images():
    flat = np.full((20, 20, 3), 100, np.uint8)
    assert ssim_luma(flat, flat, border=0) == 1
    image = noise((40, 40, 3))
    assert -1 <= ssim_luma(image, 255 - image, border=0) < -0.5
    assert ssim_luma(image, noise((40, 40, 3), seed=1), border=0) == pytest.approx(0, abs=0.1)


def test_ssim_leaves_the_border_out():
    image = noise((20, 20, 3))
    changed = image.copy()
    changed[:3] ^= 255
    changed[:, -3:] ^= 255
    assert ssim_luma(image, changed, border=3) == 1
    assert ssim_luma(image, changed, border=2) < 1


def test_ssim_needs_room_for_one_window():
    assert ssim_luma(noise((15, 15, 3)), noise((15, 15, 3)), border=2) == 1
    with pytest.raises(InputError, match=r"11 x 11 pixels, and 10 x 16 are left inside a border of 2"):
        ssim_luma(noise((14, 20, 3)), noise((14, 20, 3)), border=2)


# --- largest_difference


def test_largest_difference_of_known_images():
    zeros, full = np.zeros((3, 4), np.uint8), np.full((3, 4), 255, np.uint8)
    assert largest_difference(zeros, full) == 255
    assert largest_difference(full, zeros) == 255
    assert largest_difference(np.array([5], np.int8), np.array([60000], np.uint16)) == 59995
    assert type(largest_difference(zeros, full)) is int


@pytest.mark.parametrize("dtype", [np.float32, np.uint64, np.complex64])
def test_largest_difference_is_of_whole_numbers(dtype):
    with pytest.raises(InputError, match="whole numbers"):
        largest_difference(np.zeros(3, dtype), np.zeros(3, np.uint8))
    with pytest.raises(InputError, match="whole numbers"):
        largest_difference(np.zeros(3, np.uint8), np.zeros(3, dtype))


def test_largest_difference_of_nothing_is_refused():
    with pytest.raises(InputError, match="empty"):
        largest_difference(np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.uint8))


# --- what all of them refuse


def test_different_shapes_are_named():
    first, second = noise((20, 20, 3)), noise((20, 21, 3))
    message = r"\(20, 20, 3\) and \(20, 21, 3\)"
    with pytest.raises(ValueError, match=message):
        psnr(first, second, border=0)
    with pytest.raises(ValueError, match=message):
        psnr_luma(first, second, border=0)
    with pytest.raises(ValueError, match=message):
        ssim_luma(first, second, border=0)
    with pytest.raises(ValueError, match=message):
        largest_difference(first, second)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        psnr(np.zeros((5, 5, 3)), np.zeros((5, 5, 1)), border=0)


@pytest.mark.parametrize("measure", [psnr, psnr_luma, ssim_luma])
def test_borders_out_of_range_are_refused(measure):
    image = noise((20, 30, 3))
    with pytest.raises(ValueError, match="negative, and is -1"):
        measure(image, image, border=-1)
    with pytest.raises(InputError, match="nothing is left of 20 x 30 pixels inside a border of 10"):
        measure(image, image, border=10)


def test_psnr_refuses_what_is_no_image():
    with pytest.raises(InputError, match="H x W or H x W x C"):
        psnr(np.zeros(5), np.zeros(5), border=0)
    with pytest.raises(InputError, match="nothing is left"):
        psnr(np.zeros((0, 5)), np.zeros((0, 5)), border=0)


# --- its place in the project


def test_importing_it_loads_no_torch():
    code = "import sys, overnet.imaging.metrics; assert not {'torch', 'cv2', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
