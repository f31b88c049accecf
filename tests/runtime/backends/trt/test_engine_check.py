"""The sizes and number of the images that engines are checked on, and the records of those that passed."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnet.errors import OutputError
from overnet.files.engine_sidecar import Profile
from overnet.imaging.metrics import psnr
from overnet.runtime.backends.trt.engine_check import (
    LEAST_BICUBIC_DB,
    check_images,
    enlarged,
    fitted,
    fitting,
    passed_before,
    remember,
)
from tests.overnet.files.test_engine_sidecar import ORIN


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    minimum=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    more=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_images_are_brought_to_sizes_that_the_profile_takes(height, width, minimum, more):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    maximum = minimum[0] + more[0], minimum[1] + more[1]
    fitted_image = fitting(image, Profile(minimum, minimum, maximum))
    for side, low, high, before in zip(fitted_image.shape, minimum, maximum, image.shape, strict=False):
        assert low <= side <= high
        assert side == before or not low <= before <= high
    rows, columns = min(height, fitted_image.shape[0]), min(width, fitted_image.shape[1])
    assert np.array_equal(fitted_image[:rows, :columns], image[:rows, :columns])


@pytest.mark.parametrize(("size", "count"), [((64, 64), 4), ((360, 640), 1), ((1080, 1920), 1)])
def test_of_large_images_few_are_compared(size, count):
    """The network is computed on the CPU."""
    images = check_images(Profile(size, size, size))
    assert [image.shape for image in images] == [(*size, 3)] * count
    assert len(fitted(images * 5, Profile(size, size, size), most_pixels=1)) == 1


def test_what_is_no_enlargement_is_far_from_bicubic():
    for image in check_images(Profile((16, 16), (128, 128), (128, 128))):
        expected = enlarged(image, 2)
        for wrong in (expected * 0, 255 - expected, np.random.default_rng(1).integers(0, 256, expected.shape)):
            assert psnr(expected, wrong, border=0) < LEAST_BICUBIC_DB
        nearest = image.repeat(2, 0).repeat(2, 1)
        assert psnr(expected, nearest, border=0) > LEAST_BICUBIC_DB


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_records_that_others_may_write_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERNET_CACHE", str(tmp_path))
    remember("a" * 64, ORIN)
    assert passed_before("a" * 64, ORIN)
    (tmp_path / "checked").chmod(0o777)
    with pytest.raises(OutputError, match="checked: other users may write there, and a record there"):
        passed_before("a" * 64, ORIN)
