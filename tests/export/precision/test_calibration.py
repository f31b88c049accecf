import cv2
import numpy as np
import pytest

from overnet.errors import InputError
from overnet.export.precision.calibration import MOST_PICTURES, calibration_pictures, middle, own_pictures, pairs_of
from overnet.imaging.resample import imresize


def test_the_packages_own_pictures():
    pictures, remarks = calibration_pictures(None)
    assert len(pictures) == len(own_pictures()) == 8
    assert remarks == []
    for picture in pictures:
        assert picture.shape == (144, 144, 3) and picture.dtype == np.uint8
        assert picture.std() > 10


def test_a_folder_of_the_users(tmp_path, picture):
    (tmp_path / "below").mkdir()
    cv2.imwrite(str(tmp_path / "below/a.png"), picture[..., ::-1])
    cv2.imwrite(str(tmp_path / "large.png"), np.tile(picture, (4, 4, 1)))
    cv2.imwrite(str(tmp_path / "small.png"), picture[:20])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("nothing")
    pictures, remarks = calibration_pictures(tmp_path)
    assert [each.shape for each in pictures] == [(50, 66, 3), (144, 144, 3)]
    assert np.array_equal(pictures[0], picture)
    assert len(remarks) == 2
    assert any("broken.jpg" in remark for remark in remarks) and any("small.png" in remark for remark in remarks)


def test_of_a_large_folder_a_part_is_taken_from_all_over_it(tmp_path, picture):
    for index in range(3 * MOST_PICTURES):
        cv2.imwrite(str(tmp_path / f"{index:03}.bmp"), np.full((48, 48, 3), index, np.uint8))
    pictures, _ = calibration_pictures(tmp_path)
    assert [int(each[0, 0, 0]) for each in pictures] == list(range(0, 3 * MOST_PICTURES, 3))


def test_folders_that_serve_for_nothing(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        calibration_pictures(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no picture in it that can be read"):
        calibration_pictures(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no picture in it .*broken\.png"):
        calibration_pictures(tmp_path)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pairs_are_what_the_protocol_makes(picture, scale):
    (pair,) = pairs_of([picture], scale)
    height, width = picture.shape[0] // scale, picture.shape[1] // scale
    assert pair.low.shape == (height, width, 3) and pair.low.dtype == np.uint8
    assert np.array_equal(pair.high, picture[: height * scale, : width * scale])
    assert np.array_equal(pair.low, imresize(pair.high, size=(height, width)))


def test_the_middle_of_a_picture(picture):
    assert np.array_equal(middle(picture, 20), picture[15:35, 23:43])
    assert np.array_equal(middle(picture, 60), picture[:, 3:63])
