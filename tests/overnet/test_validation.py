import cv2
import numpy as np
import pytest
import torch

from overnet.checkpoint import load_checkpoint
from overnet.errors import InputError
from overnet.evaluate import evaluate, find_pairs
from overnet.resample import imresize
from overnet.validation import load_examples, upscaled, validate
from overnet.weights import bundled_checkpoint
from tests.conftest import SHARED, needs_shared


@needs_shared
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_measures_on_set5_what_was_published(scale):
    from overnet.metrics import psnr_luma

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
    psnr_db, pictures = validate(model, load_examples(folder, [4]))
    expected = evaluate(lambda low: upscaled(model, low, 4), find_pairs(folder, 4), 4)
    assert psnr_db[4] == pytest.approx(np.mean([quality.psnr_db for quality in expected]), abs=1e-6)
    assert len(pictures) == 5


def test_every_picture_serves_every_scale_and_is_cut_to_a_multiple(tmp_path, picture):
    (tmp_path / "below").mkdir()
    for name in ("b.png", "below/a.png", "low_LR.png"):
        cv2.imwrite(str(tmp_path / name), picture)
    examples = load_examples(tmp_path, [3, 4])
    assert [(example.scale, example.low.shape) for example in examples] == [(3, (16, 22, 3))] * 2 + [
        (4, (12, 16, 3))
    ] * 2
    assert all(example.high.shape[0] == example.scale * example.low.shape[0] for example in examples)
    assert len(load_examples(tmp_path, [2], most=1)) == 1


def test_folders_without_usable_pictures_are_refused(tmp_path, picture):
    with pytest.raises(InputError, match="no picture to validate with"):
        load_examples(tmp_path, [2])
    cv2.imwrite(str(tmp_path / "small.png"), picture[:5, :5])
    with pytest.raises(InputError, match="too small"):
        load_examples(tmp_path, [4])


def test_upscaled_pictures_are_clipped_and_rounded():
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, batch, scale):
            return torch.tensor([-0.5, 100.6 / 255, 2.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)

    picture = upscaled(Constant(), np.zeros((2, 2, 3), np.uint8), 2)
    assert picture.dtype == np.uint8
    assert (picture == [0, 101, 255]).all()
