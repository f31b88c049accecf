from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from overnet.errors import OutputError
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.reader import VideoReader
from overnet.runtime.video.writer import VideoWriter
from tests.support.clips import (
    NTSC,
    Clip,
    enlarged,
    images,
    names,
    open_writer,
    packets_of,
    rotation,
    times_of,
    upscale,
)


@pytest.fixture
def source(tmp_path):
    return Clip().make(tmp_path / "in.mp4")


def test_partial_plays_and_is_marked(tmp_path):
    source = Clip(frames=images(90), audio=["aac"], is_with_extras=True).make(tmp_path / "in.mp4")
    result = upscale(source, tmp_path / "out.mp4", stop_after=40)
    assert result.path == tmp_path / "out.partial.mp4"
    assert names(tmp_path) == {"in.mp4", "out.partial.mp4"}
    assert times_of(result.path) == times_of(source)[:40]
    sound, everything = packets_of(result.path, "audio"), packets_of(source, "audio")
    assert sound == everything[: len(sound)]
    assert sound[-1][0] == pytest.approx(float(40 / NTSC), abs=0.03)
    with av.open(str(result.path)) as container:
        assert container.metadata["title"] == "A test (partial)"
        assert "stopped after 1.33 seconds" in container.metadata["comment"]
        assert container.chapters()[-1]["end"] * container.chapters()[-1]["time_base"] <= Fraction(134, 100)


def test_partial_keeps_colour_shape_and_rotation(tmp_path):
    source = Clip(tags=(9, 1, 9, 16), aspect=Fraction(4, 3), rotation=90).make(tmp_path / "in.mp4")
    for suffix in (".mp4", ".mkv"):
        path = upscale(source, tmp_path / f"out{suffix}", stop_after=7).path
        with VideoReader(path) as reader, VideoReader(source) as given:
            assert reader.info.color == given.info.color
            assert reader.info.sample_aspect_ratio == Fraction(4, 3)
            assert rotation(reader.info) == rotation(given.info) == 90
            assert len(list(reader)) == 7


def test_partial_of_nothing_leaves_nothing(tmp_path, source):
    with open_writer(source, tmp_path / "out.mp4") as writer:
        assert writer.finish_partial() is None
    assert names(tmp_path) == {"in.mp4"}


@pytest.mark.parametrize("count", [0, 5])
def test_abort_leaves_nothing(tmp_path, source, count):
    writer = open_writer(source, tmp_path / "out.mp4")
    with VideoReader(source) as reader:
        for frame, _ in zip(reader, range(count), strict=False):
            frame.rgb = enlarged(frame.rgb, 2)
            writer.write(frame)
    assert len(names(tmp_path)) == 2
    writer.abort()
    assert names(tmp_path) == {"in.mp4"}
    writer.abort()
    with pytest.raises(ValueError, match="closed"):
        writer.write(None)
    with pytest.raises(ValueError, match="closed"):
        writer.finish()
    assert writer.finish_partial() is None


def test_an_exception_leaves_nothing(tmp_path, source):
    with pytest.raises(KeyError), open_writer(source, tmp_path / "out.mp4"):
        raise KeyError
    assert names(tmp_path) == {"in.mp4"}


def test_the_name_appears_only_when_the_file_is_whole(tmp_path, source):
    with open_writer(source, tmp_path / "out.mp4") as writer, VideoReader(source) as reader:
        for frame in reader:
            frame.rgb = enlarged(frame.rgb, 2)
            writer.write(frame)
            assert not (tmp_path / "out.mp4").exists()
        assert writer.finish() == tmp_path / "out.mp4"
    assert names(tmp_path) == {"in.mp4", "out.mp4"}


def test_finish_without_a_frame(tmp_path, source):
    with open_writer(source, tmp_path / "out.mp4") as writer, pytest.raises(OutputError, match="no frame"):
        writer.finish()
    assert names(tmp_path) == {"in.mp4"}


def test_an_existing_file_is_kept_unless_told(tmp_path, source):
    (tmp_path / "out.mp4").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        open_writer(source, tmp_path / "out.mp4")
    with open_writer(source, tmp_path / "out.mp4", overwrite=True):
        pass
    assert (tmp_path / "out.mp4").read_text() == "mine"
    upscale(source, tmp_path / "out.mp4", overwrite=True)
    assert len(times_of(tmp_path / "out.mp4")) == 12


def test_a_file_that_appears_meanwhile_is_kept(tmp_path, source):
    with open_writer(source, tmp_path / "out.mp4") as writer, VideoReader(source) as reader:
        for frame in reader:
            frame.rgb = enlarged(frame.rgb, 2)
            writer.write(frame)
        (tmp_path / "out.mp4").write_text("mine")
        assert writer.finish() == tmp_path / "out (2).mp4"
    assert (tmp_path / "out.mp4").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.xyz", {}, "cannot write '.xyz' video"),
        ("out", {}, "cannot write '' video"),
        ("out.mp4", {"codec": "nonsense"}, "no video encoder 'nonsense'"),
        ("out.mp4", {"codec": "aac"}, "no video encoder 'aac'"),
        ("out.webm", {"codec": "h264"}, "webm cannot hold"),
        ("out.mp4", {"codec": "h264_nvenc"}, "h264_nvenc"),
        ("out.mp4", {"width": 0}, "0x96"),
        ("out.mp4", {"width": 40000, "height": 40000}, "cannot start|cannot be written"),
        ("out.mp4", {"codec": "mpeg2video", "width": 93}, "odd size"),
        ("missing/out.mp4", {}, "cannot be written: No such file"),
        ("in.mp4", {"overwrite": True}, "the source itself"),
        ("folder.mp4", {"overwrite": True}, "is a folder"),
        ("in.mp4/out.mp4", {}, "cannot be written|Not a directory"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(tmp_path, source, name, options, message, capfd):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OutputError, match=message) as caught:
        open_writer(source, tmp_path / name, **options)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == {"in.mp4", "folder.mp4"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write to")
def test_an_unwritable_folder(source):
    with pytest.raises(OutputError, match="cannot be written"):
        open_writer(source, Path("/proc/self/out.mp4"))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("ending", ["finish", "partial"])
def test_a_full_disk(tmp_path, suffix, ending):
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(60)]
    source = Clip(frames=frames, options={"preset": "ultrafast"}).make(tmp_path / "in.mp4")
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot be written|no space") as caught:
            upscale(source, tmp_path / f"out{suffix}", stop_after=None if ending == "finish" else 59)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == {"in.mp4"}


def test_no_space_names_the_folder(tmp_path, source):
    with open_writer(source, tmp_path / "out.mp4") as writer:
        assert "no space is left" in str(writer._failure(OSError(28, "No space left on device")))


@pytest.mark.parametrize("name", [f"{'a' * 251}.mp4", f"{'ä' * 125}.mkv"])
@pytest.mark.parametrize("is_live", [False, True])
def test_the_longest_names_have_partial_files(tmp_path, source, name, is_live):
    """The name of the partial file had more than 255 bytes, which left the frames under a hidden name."""
    with VideoReader(source) as reader:
        output = OutputVideo(reader.info, reader.info.width * 2, reader.info.height * 2)
        frame = next(iter(reader))
    with VideoWriter(tmp_path / name, output, source=None if is_live else source) as writer:
        frame.rgb = enlarged(frame.rgb, 2)
        writer.write(frame)
        partial = writer.finish_partial()
    assert names(tmp_path) == {"in.mp4", partial.name}
    assert partial.stem.endswith(".partial") and len(times_of(partial)) == 1


def test_links_are_followed_as_for_images(tmp_path, source):
    (tmp_path / "out.mp4").symlink_to("elsewhere.mp4")
    with pytest.raises(OutputError, match="exists already"):
        open_writer(source, tmp_path / "out.mp4")
    upscale(source, tmp_path / "out.mp4", overwrite=True)
    assert (tmp_path / "out.mp4").is_symlink()
    assert len(times_of(tmp_path / "elsewhere.mp4")) == 12
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    with pytest.raises(OutputError, match="it is a link that leads back to itself"):
        open_writer(source, tmp_path / "loop.mp4", overwrite=True)
    assert names(tmp_path) == {"in.mp4", "out.mp4", "elsewhere.mp4", "loop.mp4"}
