import base64

import cv2
import numpy as np
import pytest

from overnet.benchmarks.report.sample_images import DETAIL_SIDE, make_samples, to_png_text
from overnet.errors import InputError
from overnet.evaluation.measure import bicubic


def _image(text):
    content = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]


def _nearest(scale):
    return lambda image: image.repeat(scale, axis=0).repeat(scale, axis=1)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_without_images_of_ones_own_all_methods_show_the_package_s(scale):
    (sample,) = make_samples({"one": bicubic(scale), "two": _nearest(scale)}, scale)
    assert (sample.scale, list(sample.after)) == (scale, ["one", "two"])
    before, ground_truth = _image(sample.before), _image(sample.ground_truth)
    assert before.shape == ground_truth.shape == (DETAIL_SIDE, DETAIL_SIDE, 3)
    assert np.array_equal(_image(sample.after["one"]), before)
    two = _image(sample.after["two"])
    assert two.shape == ground_truth.shape
    assert np.array_equal(two[::scale, ::scale], two[scale - 1 :: scale, scale - 1 :: scale])
    # All show the same detail: of another one, the difference would be several times as large.
    for image in (before, two):
        assert np.abs(image.astype(int) - ground_truth).mean() < 20


def test_of_ones_own_images_the_detail_that_gains_most_is_shown(tmp_path):
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
    ground_truth = _image(sample.ground_truth)
    assert np.array_equal(ground_truth, _image(sample.after["knows it"]))
    assert not np.array_equal(ground_truth, _image(sample.before))
    assert (ground_truth != 90).any(axis=2).mean() > 0.9


def test_without_methods_there_is_nothing_to_show():
    assert make_samples({}, 2) == []


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="no images for scale 2"):
        make_samples({"one": bicubic(2)}, 2, tmp_path)


def test_colours_come_through_and_what_is_no_image_does_not():
    image = np.zeros((4, 5, 3), np.uint8)
    image[..., 0] = 200
    assert np.array_equal(_image(to_png_text(image)), image)
    with pytest.raises(ValueError, match="H x W x 3 uint8"):
        to_png_text(image[..., 0])
