"""What a user types in everyday use: default names, sizes, times, image formats, an image of a video, and help."""

import cv2
import numpy as np
import pytest

from overnet import Upscaler
from overnet._version import __version__
from overnet.runtime.video.reader import VideoReader
from tests.conftest import write_clip
from tests.support.commands import run_command


@pytest.fixture
def folder(tmp_path, image):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/photo.png"), image[..., ::-1])
    return tmp_path / "in"


def run(*arguments, cwd, code=0):
    result = run_command(*arguments, "--model", "realtime", cwd=cwd)
    assert result.returncode == code, result.stderr
    return result


@pytest.mark.parametrize(
    ("options", "name", "shape"),
    [
        ((), "photo_x2.png", (100, 132, 3)),
        (("--scale", "1.5"), "photo_x1.5.png", (75, 99, 3)),
        (("--height", "60"), "photo_h60.png", (60, 79, 3)),
        (("--width", "99"), "photo_w99.png", (75, 99, 3)),
        (("--format", "webp"), "photo_x2.webp", (100, 132, 3)),
    ],
)
def test_an_image_goes_beside_its_source(folder, options, name, shape):
    run("photo.png", *options, cwd=folder)
    assert cv2.imread(str(folder / name)).shape == shape
    again = run("photo.png", *options, cwd=folder, code=1)
    assert f"{name} exists already" in again.stderr


def test_a_folder_goes_beside_itself_with_all_images_in_one_format(folder):
    cv2.imwrite(str(folder / "other.bmp"), np.zeros((8, 8, 3), np.uint8))
    run(".", "--format", "jpg", "--quality", "40", cwd=folder)
    made = folder.parent / "in_x2"
    assert sorted(path.name for path in made.iterdir()) == ["other.jpg", "photo.jpg"]
    best = folder.parent / "best.jpg"
    run("photo.png", "-o", str(best), "--quality", "100", cwd=folder)
    assert best.stat().st_size > 1.5 * (made / "photo.jpg").stat().st_size


def test_a_video_of_a_width_is_even(folder):
    write_clip(folder / "clip.mp4")
    with VideoReader(folder / "clip.mp4") as reader:
        width, height = reader.info.width, reader.info.height
    run("clip.mp4", "--width", str(2 * width - 10), "--frames", "2", cwd=folder)
    with VideoReader(folder / f"clip_w{2 * width - 10}.mp4") as reader:
        assert reader.info.width == 2 * width - 10
        assert reader.info.height % 2 == 0
        assert reader.info.height == pytest.approx(height * (2 * width - 10) / width, abs=1)


def test_one_image_of_a_video(folder):
    write_clip(folder / "clip.mp4")
    with VideoReader(folder / "clip.mp4") as reader:
        frames = list(reader)
        at = float(frames[5].pts * frames[5].time_base)
    run("clip.mp4", "-o", "frame.png", "--start", f"0:00:{at:09.6f}", cwd=folder)
    expected = Upscaler(2, model="realtime")(frames[5].rgb)
    np.testing.assert_array_equal(cv2.imread(str(folder / "frame.png"))[..., ::-1], expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--scale", "2", "--width", "9"), "--scale, --height and --width exclude each other"),
        (("--start", "1:2:3:4"), "'1:2:3:4' is no time, such as 90, 1:30 or 1:02:03.5"),
        (("--format", "gif"), "--format is 'gif'; it can be png, jpg, webp, tiff, bmp or avif"),
        (("--quality", "0"), "--quality is 0; it must be from 1 to 100"),
        (("--width", "0"), "width is 0"),
    ],
)
def test_wrong_values(folder, options, expected):
    result = run_command("photo.png", *options, cwd=folder)
    assert result.returncode and expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["photo.png"]


def test_several_inputs_need_a_folder(folder):
    result = run_command("photo.png", "photo.png", cwd=folder)
    assert result.returncode == 2 and "the folder to write several inputs to" in result.stderr


def test_options_of_the_other_kind_are_refused(folder):
    write_clip(folder / "clip.mp4")
    assert "there is none" in run("clip.mp4", "-o", "out.mp4", "--quality", "9", cwd=folder, code=2).stderr
    assert "one image" in run("clip.mp4", "-o", "out.png", "--crf", "9", cwd=folder, code=2).stderr


def test_short_help_and_the_version(folder):
    assert run_command("-h", cwd=folder).stdout.startswith("Usage: overnet-run")
    assert run_command("--version", cwd=folder).stdout == f"overnet {__version__}\n"
