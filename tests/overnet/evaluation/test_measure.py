import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnet import Upscaler
from overnet.evaluation.datasets import find_pairs
from overnet.evaluation.measure import bicubic, compare, evaluate, mean_quality
from overnet.evaluation.side_by_side import largest_gain, overview_and_detail, side_by_side
from overnet.evaluation.upscale_variants import in_quarters, self_ensemble
from overnet.imaging.image_io import read_rgb
from overnet.imaging.metrics import psnr_luma
from overnet.imaging.resample import imresize
from tests.conftest import SHARED, needs_shared

# What the bundled weights measure; they must not fall behind, and better ones raise these.
BUNDLED_PSNR_DB = {"Set5": {2: 37.85, 3: 34.23, 4: 31.98}, "Set14": {2: 33.33, 3: 30.09, 4: 28.42}}
# Where that takes more than five seconds of both cores. `overnet.export.bundle`, which makes the figures, does it too.
_LONG = [("Set5", 2), ("Set5", 3), ("Set14", 2), ("Set14", 3)]


@pytest.fixture
def pairs_folder(tmp_path, image):
    folder = tmp_path / "image_SRF_2"
    folder.mkdir()
    for number, high in enumerate((image, image[:, ::-1])):
        low = imresize(high, scale=0.5)
        cv2.imwrite(str(folder / f"img_{number}_SRF_2_HR.png"), high[..., ::-1])
        cv2.imwrite(str(folder / f"img_{number}_SRF_2_LR.png"), low[..., ::-1])
    return tmp_path


def test_evaluation_of_pairs(pairs_folder):
    pairs = find_pairs(pairs_folder, 2)
    assert [pair.low.name for pair in pairs] == ["img_0_SRF_2_LR.png", "img_1_SRF_2_LR.png"]
    enlarged = evaluate(bicubic(2), pairs, 2)
    blurred = evaluate(lambda image: imresize(imresize(image, scale=0.2), size=(50, 66)), pairs, 2)
    assert all(good.psnr_db > bad.psnr_db + 3 for good, bad in zip(enlarged, blurred, strict=True))
    assert all(good.ssim > bad.ssim for good, bad in zip(enlarged, blurred, strict=True))
    assert mean_quality(enlarged).psnr_db == pytest.approx(np.mean([one.psnr_db for one in enlarged]))


def test_methods_compared_on_one_image(pairs_folder, image):
    pair = find_pairs(pairs_folder, 2)[0]
    comparison = compare({"bicubic": bicubic(2), "exact": lambda low: image}, pair, 2)
    assert np.array_equal(comparison.high, image)
    assert np.array_equal(comparison.upscaled["bicubic"], imresize(read_rgb(pair.low), scale=2))
    assert comparison.qualities["exact"].psnr_db == np.inf
    assert comparison.qualities["bicubic"] == evaluate(bicubic(2), [pair], 2)[0]


def test_a_low_side_that_was_rounded_up(tmp_path, image):
    """More comes out than there is to compare with; the rest is compared."""
    high = image[:49, :65]
    cv2.imwrite(str(tmp_path / "a_HR.png"), high[..., ::-1])
    low = imresize(high, scale=0.5)
    cv2.imwrite(str(tmp_path / "a_LR.png"), low[..., ::-1])
    assert low.shape[:2] == (25, 33)
    (quality,) = evaluate(bicubic(2), find_pairs(tmp_path, 2), 2)
    assert quality.psnr_db == psnr_luma(high, imresize(low, scale=2)[:49, :65], border=2)


@needs_shared
@pytest.mark.parametrize(("scale", "psnr_db", "ssim"), [(2, 33.67, 0.9303), (3, 30.40, 0.8689), (4, 28.43, 0.8111)])
def test_bicubic_on_set5_as_published(scale, psnr_db, ssim):
    found = mean_quality(evaluate(bicubic(scale), find_pairs(SHARED / "sets/Set5", scale), scale))
    assert found.psnr_db == pytest.approx(psnr_db, abs=0.03)
    assert found.ssim == pytest.approx(ssim, abs=0.0005)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(("scale", "psnr_db", "ssim"), [(2, 30.33, 0.8698), (3, 27.63, 0.7759), (4, 26.09, 0.7048)])
def test_bicubic_on_set14_as_published(scale, psnr_db, ssim):
    found = mean_quality(evaluate(bicubic(scale), find_pairs(SHARED / "sets/Set14", scale), scale))
    assert found.psnr_db == pytest.approx(psnr_db, abs=0.03)
    assert found.ssim == pytest.approx(ssim, abs=0.0005)


def nearest(image):
    return image.repeat(2, axis=0).repeat(2, axis=1)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), scale=st.integers(1, 3), overlap=st.integers(0, 40))
def test_quarters_join_to_the_whole(height, width, scale, overlap):
    """What sees no farther than the overlap gives the same in quarters as in one piece, at any size."""
    image = np.random.default_rng(height * 91 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    seen = []

    def upscale(part):
        seen.append(part.shape[:2])
        return part.repeat(scale, axis=0).repeat(scale, axis=1)

    assert np.array_equal(in_quarters(upscale, scale, overlap=overlap)(image), upscale(image))
    if min(height, width) > 1:
        most = min(height - height // 2 + overlap, height), min(width - width // 2 + overlap, width)
        assert len(seen) == 5 and max(seen[:-1]) == most


def test_quarters_of_what_looks_around_itself(image):
    """The overlap is enough for bicubic, which looks two pixels far; without any, a seam shows."""
    upscale = bicubic(3)
    assert np.array_equal(in_quarters(upscale, 3)(image), upscale(image))
    assert not np.array_equal(in_quarters(upscale, 3, overlap=0)(image), upscale(image))


def test_a_self_ensemble_sees_every_orientation_once(image):
    seen = set()

    def upscale(turned):
        seen.add(turned.tobytes())
        return nearest(turned)

    # What treats all orientations alike gains nothing by it.
    assert np.array_equal(self_ensemble(upscale)(image), nearest(image))
    assert len(seen) == 8


def test_a_self_ensemble_takes_out_what_depends_on_the_orientation():
    """An error that grows from left to right is the same everywhere in the mean."""
    flat = np.full((20, 30, 3), 100, np.uint8)

    def slanted(image):
        result = nearest(image).astype(int) + np.arange(2 * image.shape[1])[None, :, None]
        return result.astype(np.uint8)

    result = self_ensemble(slanted)(flat).astype(int)
    # The mean of 0 to 59 and of 0 to 39 is 29.5 and 19.5: turned, the columns are the rows.
    assert np.abs(result - 124.5).max() <= 0.5


def test_a_self_ensemble_rounds_to_the_nearest():
    values = iter([1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 3])
    method = self_ensemble(lambda image: np.full((4, 4, 3), next(values), np.uint8))
    assert (method(np.zeros((2, 2, 3), np.uint8)).max(), method(np.zeros((2, 2, 3), np.uint8)).max()) == (1, 0)


def test_side_by_side_shows_where_most_was_gained(image):
    before = image.copy()
    before[24:40, 32:48] = 255 - before[24:40, 32:48]
    assert largest_gain(image, before, image, side=16) == (24, 32)
    row = side_by_side({"before": before, "after": image}, top=24, left=32, side=16, enlarge=2)
    assert row.shape[1] > 2 * 32
    assert np.array_equal(row[-32:, :32], before[24:40, 32:48].repeat(2, axis=0).repeat(2, axis=1))
    assert np.array_equal(row[-32:, -32:], image[24:40, 32:48].repeat(2, axis=0).repeat(2, axis=1))


def test_an_overview_beside_the_details(image):
    row = overview_and_detail(
        {"before": image[::-1], "original": image}, top=8, left=16, side=20, enlarge=5, whole="original"
    )
    details = side_by_side({"before": image[::-1], "original": image}, top=8, left=16, side=20, enlarge=5)
    assert np.array_equal(row[:, -details.shape[1] :], details)
    # The whole image is 100 high, twice its size; the frame lies around the detail.
    overview = row[-100:, : row.shape[1] - details.shape[1] - 6]
    assert overview.shape == (100, 132, 3)
    framed = np.argwhere((overview == (255, 60, 30)).all(axis=-1))
    assert np.abs(framed.min(axis=0) - (16, 32)).max() <= 2
    assert np.abs(framed.max(axis=0) - (55, 71)).max() <= 2


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_gain_is_the_largest(seed):
    random = np.random.default_rng(seed)
    reference, before, after = random.integers(0, 256, (3, 45, 61, 3), dtype=np.uint8)
    from overnet.imaging.metrics import luma

    lost = (luma(before) - luma(reference)) ** 2 - (luma(after) - luma(reference)) ** 2
    places = [(top, left) for top in range(0, 45 - 12 + 1, 8) for left in range(0, 61 - 12 + 1, 8)]
    expected = max(places, key=lambda place: lost[place[0] : place[0] + 12, place[1] : place[1] + 12].sum())
    assert largest_gain(reference, before, after, side=12) == expected


@needs_shared
@pytest.mark.slow
def test_a_self_ensemble_of_the_bundled_weights_gains():
    pairs = find_pairs(SHARED / "sets/Set5", 4)[1:3]
    upscaler = Upscaler(4)
    once, eight_times = (mean_quality(evaluate(way, pairs, 4)) for way in (upscaler, self_ensemble(upscaler)))
    assert eight_times.psnr_db > once.psnr_db + 0.02


@needs_shared
@pytest.mark.slow
def test_quarters_of_the_bundled_weights_cost_little():
    """They see other means than the whole image has, and lose by that."""
    pairs = find_pairs(SHARED / "sets/Set5", 4)
    upscaler = Upscaler(4)
    whole, quarters = (mean_quality(evaluate(way, pairs, 4)) for way in (upscaler, in_quarters(upscaler, 4)))
    assert quarters.psnr_db == pytest.approx(whole.psnr_db, abs=0.1)
    assert quarters.psnr_db != whole.psnr_db


@needs_shared
@pytest.mark.parametrize(
    ("dataset", "scale"),
    [
        pytest.param(dataset, scale, marks=pytest.mark.weekly if (dataset, scale) in _LONG else pytest.mark.slow)
        for dataset in ("Set5", "Set14")
        for scale in (2, 3, 4)
    ],
)
def test_quality_of_the_bundled_weights(bundled_network, dataset, scale):
    """What users run has the quality of the network in PyTorch, and that is what it was."""
    pairs = find_pairs(SHARED / "sets" / dataset, scale)
    deployed = mean_quality(evaluate(Upscaler(scale), pairs, scale))
    if dataset == "Set5":  # PyTorch takes minutes for Set14
        network = mean_quality(evaluate(lambda image: bundled_network(image, scale), pairs, scale))
        assert deployed.psnr_db == pytest.approx(network.psnr_db, abs=0.01)
        assert deployed.ssim == pytest.approx(network.ssim, abs=0.0002)
    assert deployed.psnr_db == pytest.approx(BUNDLED_PSNR_DB[dataset][scale], abs=0.02)
