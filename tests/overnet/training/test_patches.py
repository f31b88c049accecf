import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overnet.errors import InputError
from overnet.imaging.resample import imresize
from overnet.training.data.packed_images import pack
from overnet.training.patches import Patches, cut_patch, load_batches
from overnet.training.settings import PRESETS, settings_from
from tests.conftest import ROOT


def small(**changes):
    return settings_from({"patch": 8, "batch": 4, **changes}, PRESETS["multiscale"], name="test")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number, size in enumerate([(60, 50), (41, 77), (20, 90)]):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 256, (*size, 3), np.uint8))
    return pack([folder], folder / "p.packed", report=print)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(8, 40), st.integers(50, 70), st.integers(50, 70))
def test_a_patch_is_what_lies_there_in_the_whole_image_reduced(data, eighths, height, width):
    """At any place, the borders too: cutting before resizing changes nothing."""
    scale = Fraction(eighths, 8)
    unit = scale.denominator
    image = np.random.default_rng(eighths).integers(0, 256, (height, width, 3), np.uint8)
    limits = [int(side / scale) // unit * unit for side in (height, width)]
    place = tuple(data.draw(st.integers(0, (limit - 8) // unit)) * unit for limit in limits)
    low, high = cut_patch(image, place, 8, [scale])
    whole = image[: int(limits[0] * scale), : int(limits[1] * scale)]
    reduced = imresize(whole, size=tuple(limits), edge="replicate")
    np.testing.assert_array_equal(low, reduced[place[0] : place[0] + 8, place[1] : place[1] + 8])
    top, left, side = (int(each * scale) for each in (*place, 8))
    np.testing.assert_array_equal(high, image[top : top + side, left : left + side])


def test_targets_of_lesser_scales_are_the_image_reduced_to_their_size():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    low, *targets = cut_patch(image, (3, 5), 8, [Fraction(4), Fraction(3), Fraction(2)])
    for scale, target in zip((4, 3, 2), targets, strict=True):
        whole = imresize(image, size=(16 * scale, 16 * scale), edge="replicate") if scale < 4 else image
        np.testing.assert_array_equal(target, whole[3 * scale : 11 * scale, 5 * scale : 13 * scale])
    assert low.shape == (8, 8, 3)


def same(a, b):
    return (
        a.scales == b.scales
        and torch.equal(a.low, b.low)
        and all(torch.equal(x, y) for x, y in zip(a.targets, b.targets, strict=True))
    )


def test_a_step_gives_the_same_patches_whoever_asks_and_whenever(images):
    first, again = Patches(images, small()), Patches(images, small())
    for step in (5, 0, 123_456_789):
        assert same(first[step], again[step])
    assert not same(first[0], first[1])
    assert not same(first[0], Patches(images, small(seed=1))[0])


def test_processes_share_the_batch_of_one(images):
    alone = Patches(images, small())
    parts = [Patches(images, small(), rank=rank, world=2) for rank in (0, 1)]
    for step in range(3):
        assert torch.equal(torch.cat([part[step].low for part in parts]), alone[step].low)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_batches_in_order(images, workers):
    patches = Patches(images, small())
    batches = list(load_batches(patches, 3, 9, workers=workers, timeout_seconds=60, pin=False))
    assert len(batches) == 6
    assert all(same(batch, patches[3 + k]) for k, batch in enumerate(batches))


def test_no_thread_outlives_the_batches(images):
    """Threads that feed the workers' queues hold semaphores, of which Python would warn."""
    before = set(threading.enumerate())
    batches = load_batches(Patches(images, small()), 0, 1000, workers=2, timeout_seconds=60, pin=False)
    next(batches)
    batches.close()
    assert set(threading.enumerate()) <= before


def test_scales_are_drawn_from_those_asked_for(images):
    patches = Patches(images, small(fractional_share=0.5))
    drawn = [patches.scales(step)[0] for step in range(400)]
    whole = [scale for scale in drawn if scale in (2, 3, 4)]
    assert {float(scale) for scale in whole} == {2.0, 3.0, 4.0}
    assert 150 < len(drawn) - len(whole) < 220
    assert all(1 < scale <= 4 and (scale * 8).denominator == 1 for scale in drawn)
    assert Patches(images, small(joint_scales=True)).scales(0) == [4, 3, 2]


@pytest.mark.parametrize("joint", [False, True])
def test_shapes_and_types(images, joint):
    batch = Patches(images, small(joint_scales=joint))[0]
    assert (batch.low.shape, batch.low.dtype) == ((4, 3, 8, 8), torch.uint8)
    for scale, target in zip(batch.scales, batch.targets, strict=True):
        assert (target.shape, target.dtype) == ((4, 3, 8 * scale, 8 * scale), torch.uint8)


def test_the_two_sides_of_a_turned_patch_still_fit(images):
    """The target reduced is the low side again, but for the border, whichever way both were turned."""
    patches = Patches(images, small(scales=[2], fractional_share=0, patch=16, batch=16, candidates=1))
    batch = patches[0]
    for low, high in zip(batch.low, batch.targets[0], strict=True):
        reduced = imresize(high.permute(1, 2, 0).numpy(), scale=0.5).astype(int)
        # Rounding goes rows first, which a quarter turn makes columns first.
        assert np.abs(reduced - low.permute(1, 2, 0).numpy())[3:-3, 3:-3].max() <= 1


def test_flips_and_rotations_are_all_drawn(tmp_path):
    # An image that is one patch, so that nothing else is drawn.
    cv2.imwrite(str(tmp_path / "one.png"), np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    images = pack([tmp_path], tmp_path / "p.packed", report=print)
    patches = Patches(images, small(scales=[2], fractional_share=0, batch=64))
    assert len({target.numpy().tobytes() for target in patches[0].targets[0]}) == 8
    plain = Patches(images, small(scales=[2], fractional_share=0, batch=64, augment=False))
    assert len({target.numpy().tobytes() for target in plain[0].targets[0]}) == 1


def test_images_too_small_for_a_patch_are_not_drawn_from(images):
    patches = Patches(images, small(scales=[4], fractional_share=0))
    assert patches[0].targets[0].shape == (4, 3, 32, 32)
    with pytest.raises(InputError, match="no image has 96 x 96 pixels"):
        Patches(images, small(patch=24))


def test_a_batch_that_cannot_be_shared_is_refused(images):
    with pytest.raises(InputError, match="by 3 processes"):
        Patches(images, small(), world=3)


CONSUMER = """
import os, sys
from pathlib import Path
from overnet.training.patches import load_batches, lost_worker
from overnet.errors import BackendError
from overnet.training.data.packed_images import PackedImages
from tests.overnet.training import test_patches as test_data
path, broken, timeout_seconds = sys.argv[1:]
patches = getattr(test_data, broken)(PackedImages(Path(path)), test_data.small())
try:
    list(load_batches(patches, 0, 9, workers=1, timeout_seconds=float(timeout_seconds), pin=False))
except BackendError as error:
    print(error, flush=True)
except Exception as error:
    print(lost_worker(error), flush=True)
os._exit(0)
"""


class Dying(Patches):
    def __getitem__(self, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(step)


class Hanging(Patches):
    def __getitem__(self, step):
        if step == 2:
            signal.pause()
        return super().__getitem__(step)


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "timeout_seconds"), [(Dying, 60), pytest.param(Hanging, 1, marks=pytest.mark.slow)])
def test_a_lost_or_hung_worker_is_an_error_and_no_stall(images, broken, timeout_seconds):
    # In a process of its own, since PyTorch raises the error in whatever the main thread does just then.
    arguments = [str(images.path), broken.__name__, str(timeout_seconds)]
    result = subprocess.run(
        [sys.executable, "-c", CONSUMER, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    assert result.stdout.startswith("a process that prepares patches was lost or hangs"), result.stderr
