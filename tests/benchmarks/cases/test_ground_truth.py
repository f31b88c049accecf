import cv2
import numpy as np
import pytest

from overnet.benchmarks.cases.ground_truth import (
    LARGEST_JUDGED_SIDE,
    MOST_IMAGES,
    quality_figures,
    read_ground_truth,
)
from overnet.errors import InputError
from overnet.evaluation.measure import bicubic
from tests.conftest import SHARED, needs_shared


@needs_shared
def test_on_set5_bicubic_comes_to_the_published_figures():
    ground_truth = read_ground_truth(SHARED / "sets" / "Set5", 2)
    figures = quality_figures(bicubic(2), ground_truth)
    assert figures.ground_truth_psnr_db == pytest.approx(33.66, abs=0.02)
    assert figures.ground_truth_ssim == pytest.approx(0.9299, abs=0.002)
    assert figures.ground_truth == "5 images of Set5"


def test_without_a_folder_the_package_s_photographs_are_the_ground_truth():
    ground_truth = read_ground_truth(None, 4)
    assert len(ground_truth.images) == MOST_IMAGES
    assert ground_truth.words == "5 of 8 bundled photographs"
    exact = iter([image.high for image in ground_truth.images])
    perfect = quality_figures(lambda low: next(exact), ground_truth)
    assert perfect.ground_truth_psnr_db is None  # it would be infinite
    assert perfect.ground_truth_ssim == pytest.approx(1)
    figures = quality_figures(bicubic(4), ground_truth)
    assert 20 < figures.ground_truth_psnr_db < 35


def test_of_large_images_the_middle_is_taken_and_both_sides_still_fit(tmp_path):
    rows, columns = np.mgrid[0:700, 0:900]
    large = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "large.png"), large)
    ground_truth = read_ground_truth(tmp_path, 3)
    (image,) = ground_truth.images
    assert max(image.high.shape) <= LARGEST_JUDGED_SIDE
    assert image.high.shape[:2] == tuple(3 * side for side in image.low.shape[:2])
    assert ground_truth.words == f"1 image of {tmp_path.name}, large ones cropped"
    # Cut elsewhere, the reduction would be that of another part, and the enlargement far off.
    assert quality_figures(bicubic(3), ground_truth).ground_truth_psnr_db > 25


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError):
        read_ground_truth(tmp_path / "none", 2)
