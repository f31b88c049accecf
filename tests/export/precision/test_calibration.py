import cv2
import numpy as np
import pytest

from overnet.errors import InputError
from overnet.export.precision.calibration import MOST_IMAGES, calibration_images, pairs_of
from overnet.files.onnx_metadata import scaled_size
from overnet.imaging.resample import imresize
from overnet.imaging.sample_images import sample_photographs


def test_the_packages_sample_photographs():
    images, remarks = calibration_images(None)
    assert len(images) == len(sample_photographs()) == 8
    assert remarks == []
    for image in images:
        assert image.shape == (144, 144, 3) and image.dtype == np.uint8
        assert image.std() > 10


def test_a_folder_of_the_users(tmp_path, image):
    (tmp_path / "below").mkdir()
    cv2.imwrite(str(tmp_path / "below/a.png"), image[..., ::-1])
    cv2.imwrite(str(tmp_path / "large.png"), np.tile(image, (4, 4, 1)))
    cv2.imwrite(str(tmp_path / "small.png"), image[:20])
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("nothing")
    images, remarks = calibration_images(tmp_path)
    assert [each.shape for each in images] == [(50, 66, 3), (144, 144, 3)]
    assert np.array_equal(images[0], image)
    assert len(remarks) == 2
    assert any("broken.jpg" in remark for remark in remarks) and any("small.png" in remark for remark in remarks)


def test_of_a_large_folder_a_part_is_taken_from_all_over_it(tmp_path, image):
    for index in range(3 * MOST_IMAGES):
        cv2.imwrite(str(tmp_path / f"{index:03}.bmp"), np.full((48, 48, 3), index, np.uint8))
    images, _ = calibration_images(tmp_path)
    assert [int(each[0, 0, 0]) for each in images] == list(range(0, 3 * MOST_IMAGES, 3))


def test_folders_that_serve_for_nothing(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        calibration_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no image in it that can be read"):
        calibration_images(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no image in it .*broken\.png"):
        calibration_images(tmp_path)


@pytest.mark.parametrize("scale", [2, 3, 4, 2.5, 2.3])
def test_pairs_are_what_the_protocol_makes(image, scale):
    (pair,) = pairs_of([image], scale)
    height, width = int(image.shape[0] / scale), int(image.shape[1] / scale)
    assert pair.low.shape == (height, width, 3) and pair.low.dtype == np.uint8
    rows, columns = scaled_size(height, width, scale)
    assert np.array_equal(pair.high, image[:rows, :columns]) and image.shape[0] - rows < scale
    assert np.array_equal(pair.low, imresize(pair.high, size=(height, width)))
