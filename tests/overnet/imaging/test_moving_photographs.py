import subprocess
import sys

import numpy as np
import pytest

from overnet.errors import InputError
from overnet.imaging.moving_photographs import batch_of, frames, image


@pytest.mark.parametrize(("width", "height"), [(1, 1), (143, 145), (640, 360), (2000, 30)])
def test_an_image_of_any_size_is_the_same_every_time_and_has_content(width, height):
    made = image(width, height)
    assert made.shape == (height, width, 3)
    assert made.dtype == np.uint8
    assert made.flags.c_contiguous
    assert np.array_equal(made, image(width, height))
    if min(width, height) > 1:
        assert made.std() > 20
        # As in photographs, neighbours are alike: noise of this contrast differs by more than its deviation.
        assert np.abs(np.diff(made.astype(int), axis=1)).mean() < made.std() / 2


def test_all_parts_of_a_large_image_differ():
    made = image(144 * 4, 144 * 4)
    parts = {
        made[144 * row : 144 * (row + 1), 144 * column : 144 * (column + 1)].tobytes()
        for row in range(4)
        for column in range(4)
    }
    assert len(parts) > 10


def test_returned_images_may_be_written_to():
    before = image(64, 48)
    before[:] = 0
    assert image(64, 48).any()


def test_frames_differ_and_move_little():
    made = list(frames(96, 64, 5))
    assert len({frame.tobytes() for frame in made}) == 5
    assert np.array_equal(made[1][1:, 3:], made[0][:-1, :-3])


def test_a_batch_is_its_frames():
    batch = batch_of(40, 30, 3)
    assert batch.shape == (3, 30, 40, 3)
    assert batch.flags.c_contiguous
    assert all(np.array_equal(one, frame) for one, frame in zip(batch, frames(40, 30, 3), strict=True))


@pytest.mark.parametrize("arguments", [(0, 5, 1), (5, 0, 1), (5, 5, 0)])
def test_sizes_that_are_none_are_refused(arguments):
    with pytest.raises(InputError):
        batch_of(*arguments)


def test_no_torch_is_needed():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from overnet.imaging.moving_photographs import image; print(image(8, 8).shape)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.strip() == "(8, 8, 3)"
