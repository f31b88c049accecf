import base64

import cv2
import numpy as np
import pytest

from overnet.benchmarks.report.sample_images import DETAIL_SIDE, make_samples, to_png_text
from overnet.errors import InputError
from overnet.evaluation.measure import bicubic


def _picture(text):
    content = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]


def _nearest(scale):
    return lambda picture: picture.repeat(scale, axis=0).repeat(scale, axis=1)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_without_pictures_of_ones_own_all_methods_show_the_package_s(scale):
    (sample,) = make_samples({"one": bicubic(scale), "two": _nearest(scale)}, scale)
    assert (sample.scale, list(sample.after)) == (scale, ["one", "two"])
    before, truth = _picture(sample.before), _picture(sample.truth)
    assert before.shape == truth.shape == (DETAIL_SIDE, DETAIL_SIDE, 3)
    assert np.array_equal(_picture(sample.after["one"]), before)
    two = _picture(sample.after["two"])
    assert two.shape == truth.shape
    assert np.array_equal(two[::scale, ::scale], two[scale - 1 :: scale, scale - 1 :: scale])
    # All show the same detail: of another one, the difference would be several times as large.
    for picture in (before, two):
        assert np.abs(picture.astype(int) - truth).mean() < 20


def test_of_ones_own_pictures_the_detail_that_gains_most_is_shown(tmp_path):
    random = np.random.default_rng(1)
    smooth = np.full((400, 500, 3), 90, np.uint8)
    detailed = smooth.copy()
    detailed[100:380, 200:490] = random.integers(0, 256, (280, 290, 3))
    cv2.imwrite(str(tmp_path / "a_smooth.png"), smooth)
    cv2.imwrite(str(tmp_path / "b_detailed.png"), detailed[..., ::-1])

    def knows_it(low):
        return detailed if low.std() > 1 else smooth

    (sample,) = make_samples({"knows it": knows_it}, 2, tmp_path)
    assert sample.name == "b_detailed"
    truth = _picture(sample.truth)
    assert np.array_equal(truth, _picture(sample.after["knows it"]))
    assert not np.array_equal(truth, _picture(sample.before))
    assert (truth != 90).any(axis=2).mean() > 0.9


def test_without_methods_there_is_nothing_to_show():
    assert make_samples({}, 2) == []


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="no pictures for scale 2"):
        make_samples({"one": bicubic(2)}, 2, tmp_path)


def test_colours_come_through_and_what_is_no_picture_does_not():
    picture = np.zeros((4, 5, 3), np.uint8)
    picture[..., 0] = 200
    assert np.array_equal(_picture(to_png_text(picture)), picture)
    with pytest.raises(ValueError, match="H x W x 3 uint8"):
        to_png_text(picture[..., 0])
