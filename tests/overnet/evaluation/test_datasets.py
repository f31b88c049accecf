import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnet.errors import InputError
from overnet.evaluation.datasets import check_pair, find_pairs, read_pair
from overnet.imaging.image_io import read_rgb
from overnet.imaging.resample import imresize
from tests.conftest import SHARED, needs_shared

NAMES = ["baby", "bird"]


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


@pytest.fixture
def highs(image):
    """Two images of 48 x 60 by name."""
    image = image[:48, :60]
    return dict(zip(NAMES, (image, image[::-1]), strict=True))


def by_scale(folder, highs):
    for scale in (2, 3):
        for name, high in highs.items():
            place = folder / f"image_SRF_{scale}"
            write(place / f"{name}_SRF_{scale}_HR.png", high)
            write(place / f"{name}_SRF_{scale}_LR.png", imresize(high, scale=1 / scale, edge="replicate"))


def side_by_side(folder, highs):
    for name, high in highs.items():
        write(folder / f"{name}_HR.png", high)
        write(folder / f"{name}_LR.png", imresize(high, scale=1 / 2, edge="replicate"))


def in_folders(prefix="", ending="x{}", nested=False):
    def make(folder, highs):
        for name, high in highs.items():
            write(folder / f"{prefix}HR" / f"{name}.png", high)
            for scale in (2, 3):
                low = imresize(high, scale=1 / scale, edge="replicate")
                place = folder / f"{prefix}LR_bicubic_X{scale}" if nested else folder
                write(place / f"{prefix}LR_bicubic/X{scale}" / f"{name}{ending.format(scale)}.png", low)

    return make


def high_only(folder, highs):
    for name, high in highs.items():
        write(folder / f"{name}.png", high)


FORMS = {
    "by scale": by_scale,
    "side by side": side_by_side,
    "folders": in_folders(),
    "folders, names alike": in_folders(ending=""),
    "DIV2K": in_folders("DIV2K_valid_"),
    "DIV2K as unpacked": in_folders("DIV2K_valid_", nested=True),
    "high only": high_only,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(tmp_path, highs, form):
    FORMS[form](tmp_path, highs)
    (tmp_path / "README.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"not looked at")
    pairs = find_pairs(tmp_path, 2)
    assert [pair.name.removesuffix("_SRF_2") for pair in pairs] == NAMES
    assert all((pair.low is None) == (form == "high only") for pair in pairs)
    for pair, expected in zip(pairs, highs.values(), strict=True):
        check_pair(pair, 2)
        low, high = read_pair(pair, 2)
        assert np.array_equal(high, expected)
        assert np.array_equal(low, imresize(expected, scale=1 / 2, edge="replicate"))


def test_the_folder_of_high_resolution_images_may_be_named_itself(tmp_path, highs, monkeypatch):
    in_folders("DIV2K_valid_")(tmp_path, highs)
    expected = find_pairs(tmp_path, 3)
    assert all(pair.low is not None for pair in expected)
    assert find_pairs(tmp_path / "DIV2K_valid_HR", 3) == expected
    monkeypatch.chdir(tmp_path / "DIV2K_valid_HR")
    assert [pair.low for pair in find_pairs(Path(), 3)] == [pair.low for pair in expected]


def test_of_div2k_the_images_for_validation_are_taken(tmp_path, highs):
    in_folders("DIV2K_valid_")(tmp_path, highs)
    in_folders("DIV2K_train_")(tmp_path, highs)
    assert {pair.high.parent.name for pair in find_pairs(tmp_path, 2)} == {"DIV2K_valid_HR"}
    assert {pair.high.parent.name for pair in find_pairs(tmp_path / "DIV2K_train_HR", 2)} == {"DIV2K_train_HR"}
    in_folders("Urban100_")(tmp_path, highs)
    with pytest.raises(InputError, match="holds DIV2K_valid_HR and Urban100_HR: name the one"):
        find_pairs(tmp_path, 2)


def test_a_scale_without_a_low_side_gets_one_made(tmp_path, highs):
    in_folders()(tmp_path, highs)
    assert [pair.low for pair in find_pairs(tmp_path, 4)] == [None, None]


def test_names_state_the_scale(tmp_path, highs):
    """Files of several scales in one folder: those for this one, paired among themselves."""
    by_scale(tmp_path, highs)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in tmp_path.glob("image_SRF_*/*"):
        shutil.copy(path, flat)
    assert [pair.high.name for pair in find_pairs(flat, 3)] == ["baby_SRF_3_HR.png", "bird_SRF_3_HR.png"]
    with pytest.raises(InputError, match=r"no images for scale 4$"):
        find_pairs(flat, 4)
    with pytest.raises(InputError, match=r"no images for scale 4, only image_SRF_2, image_SRF_3$"):
        find_pairs(shutil.copytree(tmp_path, tmp_path / "set", ignore=shutil.ignore_patterns("flat", "set")), 4)


@settings(max_examples=60, deadline=None)
@given(
    names=st.sets(st.text("ax2X", min_size=1, max_size=5), min_size=1, max_size=6),
    ending=st.sampled_from(["x2", "X2", ""]),
)
def test_every_name_finds_its_own(tmp_path_factory, names, ending):
    """Also names that end as the low side's do: with a and ax2 on both sides, each has one partner."""
    folder = tmp_path_factory.mktemp("names")
    for place in ("HR", "LR_bicubic/X2"):
        (folder / place).mkdir(parents=True)
    for name in names:
        (folder / "HR" / f"{name}.png").write_bytes(b"")
        (folder / "LR_bicubic/X2" / f"{name}{ending}.png").write_bytes(b"")
    pairs = find_pairs(folder, 2)
    assert {pair.name for pair in pairs} == names
    # All that is asked of names that fit in more than one way is that nothing is left over or used twice.
    assert len({pair.low for pair in pairs}) == len(names)
    if not any(name.lower().endswith("x2") for name in names):
        assert all(pair.low.stem == f"{pair.name}{ending}" for pair in pairs)


def spoil(change):
    def make(folder, highs):
        side_by_side(folder, highs)
        change(folder)

    return make


def spoil_folders(change):
    def make(folder, highs):
        in_folders()(folder, highs)
        change(folder)

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, highs: folder.rmdir(), "No such file or directory"),
        (lambda folder, highs: folder.rmdir() or folder.write_text("a file"), "Not a directory"),
        (lambda folder, highs: None, "no images for scale 2$"),
        (
            lambda folder, highs: (folder / "Set5").mkdir(),
            r"a set is named by itself, as .*Set5",
        ),
        (lambda folder, highs: (folder / "notes.txt").write_text("words"), "no images for scale 2$"),
        (lambda folder, highs: (folder / "a.png").mkdir(), "no images for scale 2; a set is named by itself"),
        (spoil(lambda folder: (folder / "baby_LR.png").unlink()), r"baby_HR\.png has no low-resolution side"),
        (spoil(lambda folder: (folder / "baby_HR.png").unlink()), r"baby_LR\.png has no high-resolution side"),
        (
            spoil(lambda folder: (folder / "more.png").write_bytes(b"")),
            r"as more\.png: keep them apart",
        ),
        (
            spoil(lambda folder: (folder / "HR").mkdir()),
            r"the folder HR and images of its own, as baby_HR",
        ),
        (spoil_folders(lambda folder: (folder / "image_SRF_2").mkdir()), "the folder image_SRF_2 and the folder HR"),
        (spoil_folders(lambda folder: (folder / "more.png").write_bytes(b"")), r"images of its own, as more\.png"),
        (spoil_folders(lambda folder: (folder / "HR/baby.png").unlink()), r"babyx2\.png has no high-resolution side"),
        (spoil_folders(lambda folder: (folder / "LR_bicubic/X2/babyx2.png").unlink()), r"baby\.png has no low-resol"),
        (spoil_folders(lambda folder: (folder / "HR/baby.bmp").write_bytes(b"")), "two images of one name"),
    ],
)
def test_what_is_no_set_is_refused(tmp_path, highs, make, message):
    folder = tmp_path / "set"
    folder.mkdir()
    make(folder, highs)
    with pytest.raises(InputError, match=message) as caught:
        find_pairs(folder, 2)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


def test_names_that_no_folder_can_have():
    for name in ("nul\0", "x" * 300):
        with pytest.raises(InputError):
            find_pairs(Path(name), 2)


@pytest.mark.skipif(os.name == "nt", reason="file names that Windows does not allow")
def test_hostile_names(tmp_path, highs):
    """They are found, and a message about them stays one line."""
    names = ["two\nlines", "[bold]", "-rf", "%s {0}", "é"]
    for name in names:
        write(tmp_path / "HR" / f"{name}.png", highs["baby"])
        write(tmp_path / "LR_bicubic/X2" / f"{name}x2.png", highs["baby"][::2, ::2])
    assert sorted(pair.name for pair in find_pairs(tmp_path, 2)) == sorted(names)
    (tmp_path / "LR_bicubic/X2/two\nlinesx2.png").unlink()
    with pytest.raises(InputError, match=r"two\?lines\.png has no low-resolution side"):
        find_pairs(tmp_path, 2)


@pytest.mark.parametrize("rounded_up", [False, True])
def test_sizes_that_are_no_multiple_of_the_scale(tmp_path, image, rounded_up):
    """Whether the low side was made from the cut image or from the whole, all that it stands for is measured."""
    high = image[:50, :65]
    source = high if rounded_up else high[:48, :63]
    write(tmp_path / "a_HR.png", high)
    write(tmp_path / "a_LR.png", imresize(source, scale=1 / 3))
    (pair,) = find_pairs(tmp_path, 3)
    low, read = read_pair(pair, 3)
    assert low.shape[:2] == ((17, 22) if rounded_up else (16, 21))
    assert np.array_equal(read, source)


@pytest.mark.parametrize(
    ("low_size", "high_size", "message"),
    [
        ((24, 29), (48, 60), r"a_LR\.png has 29x24 pixels and a_HR\.png 60x48: not a pair for scale 2"),
        ((48, 60), (48, 60), "not a pair for scale 2"),
        ((30, 24), (48, 60), "not a pair for scale 2"),
        ((16, 20), (48, 60), "not a pair for scale 2"),
        ((7, 30), (14, 60), r"a_HR\.png is too small: scale 2 takes 15x15 pixels"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path, low_size, high_size, message):
    write(tmp_path / "a_HR.png", np.zeros((*high_size, 3), np.uint8))
    write(tmp_path / "a_LR.png", np.zeros((*low_size, 3), np.uint8))
    (pair,) = find_pairs(tmp_path, 2)
    for function in (check_pair, read_pair):
        with pytest.raises(InputError, match=message):
            function(pair, 2)


def test_a_high_resolution_image_alone_that_is_too_small(tmp_path):
    write(tmp_path / "a.png", np.zeros((15, 14, 3), np.uint8))
    (pair,) = find_pairs(tmp_path, 2)
    with pytest.raises(InputError, match=r"a\.png is too small"):
        check_pair(pair, 2)


def test_the_smallest_image_that_can_be_measured(tmp_path):
    from overnet.evaluation.measure import bicubic, evaluate

    write(tmp_path / "a.png", np.zeros((15, 15, 3), np.uint8))
    with pytest.raises(InputError, match="too small"):
        evaluate(bicubic(2), find_pairs(tmp_path, 2), 2)  # cut to 14 x 14
    write(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    (quality,) = evaluate(bicubic(2), find_pairs(tmp_path, 2), 2)
    assert quality.ssim == 1


def test_unreadable_image(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png"):
        read_rgb(tmp_path / "broken.png")


@needs_shared
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_low_side_that_is_made_is_the_one_that_was_given(scale, tmp_path):
    for pair in find_pairs(SHARED / "sets/Set5", scale):
        shutil.copy(pair.high, tmp_path / f"{pair.name}.png")
    made = find_pairs(tmp_path, scale)
    assert [pair.low for pair in made] == [None] * 5
    for given_pair, made_pair in zip(find_pairs(SHARED / "sets/Set5", scale), made, strict=True):
        for given_side, made_side in zip(read_pair(given_pair, scale), read_pair(made_pair, scale), strict=True):
            assert np.array_equal(given_side, made_side)
