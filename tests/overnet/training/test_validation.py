import cv2
import numpy as np
import pytest

from overnet.errors import InputError
from overnet.evaluation.datasets import find_pairs
from overnet.evaluation.measure import evaluate
from overnet.imaging.resample import imresize
from overnet.network.checkpoint import load_checkpoint
from overnet.network.model import OverNet, OverNetConfig, reference
from overnet.training.validation import load_examples, validate
from overnet.weights import bundled_checkpoint
from tests.conftest import SHARED, needs_shared


@needs_shared
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_measures_on_set5_what_was_published(scale):
    from overnet.imaging.metrics import psnr_luma

    values = [
        psnr_luma(example.high, imresize(example.low, scale=scale), border=scale)
        for example in load_examples(SHARED / "sets" / "Set5", [scale])
    ]
    assert len(values) == 5
    assert np.mean(values) == pytest.approx({2: 33.67, 3: 30.40, 4: 28.43}[scale], abs=0.03)


@needs_shared
@pytest.mark.slow
def test_it_measures_what_the_evaluation_measures():
    model = load_checkpoint(bundled_checkpoint())
    folder = SHARED / "sets" / "Set5"
    psnr_db, images = validate(model, load_examples(folder, [4]))
    expected = evaluate(lambda low: reference(model, low, 4), find_pairs(folder, 4), 4)
    assert psnr_db[4] == pytest.approx(np.mean([quality.psnr_db for quality in expected]), abs=1e-6)
    assert len(images) == 5


def test_every_image_serves_every_scale_and_is_cut_to_a_multiple(tmp_path, image):
    for name in ("b.png", "a.png"):
        cv2.imwrite(str(tmp_path / name), image)
    examples = load_examples(tmp_path, [3, 4])
    assert [(example.scale, example.low.shape) for example in examples] == [(3, (16, 22, 3))] * 2 + [
        (4, (12, 16, 3))
    ] * 2
    assert all(example.high.shape[0] == example.scale * example.low.shape[0] for example in examples)
    assert len(load_examples(tmp_path, [2], most=1)) == 1


def test_given_low_resolution_sides_are_used(tmp_path, image):
    """DIV2K's form, with a low side that could not have been made; 50 x 66 at x4 is 13 x 17 to MATLAB."""
    low = np.full((13, 17, 3), 99, np.uint8)
    for path, content in (("a_HR/01.png", image), ("a_LR_bicubic/X4/01x4.png", low)):
        (tmp_path / path).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / path), content)
    (example,) = load_examples(tmp_path, [4])
    assert (example.low == 99).all()
    model = OverNet(OverNetConfig(width=8, groups=1, blocks=1, expansion=1, overscale=4, squeeze=4)).eval()
    psnr_db, (upscaled,) = validate(model, [example])
    assert upscaled.shape == example.high.shape == image.shape
    expected = evaluate(lambda low: reference(model, low, 4), find_pairs(tmp_path, 4), 4)
    assert psnr_db == {4: expected[0].psnr_db}


def test_folders_without_usable_images_are_refused(tmp_path, image):
    with pytest.raises(InputError, match="no images for scale 2"):
        load_examples(tmp_path, [2])
    cv2.imwrite(str(tmp_path / "small.png"), image[:5, :5])
    with pytest.raises(InputError, match="too small"):
        load_examples(tmp_path, [4])
    content = (tmp_path / "small.png").read_bytes()
    (tmp_path / "small.png").write_bytes(content[:-20])
    with pytest.raises(InputError, match=r"small\.png is (truncated|damaged)"):
        load_examples(tmp_path, [4])
