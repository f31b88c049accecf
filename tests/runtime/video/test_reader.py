import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from overnet.errors import InputError
from overnet.runtime.video.frame import Position, duration_seconds
from overnet.runtime.video.reader import VideoReader
from tests.support.clips import NTSC, TICK, Clip, images, rotation

IRREGULAR = [0, 1001, 1500, 4004, 9009, 9010, 12000, 20000, 20500, 30030, 30500, 45000]
SHARED = Path(__file__).parents[3].parent / "shared/clips/bbb_320x180.mp4"


def read(path: Path, **options):
    with VideoReader(path, **options) as reader:
        return list(reader), reader


def test_lossless_pixels_are_exact(tmp_path):
    made = images(5)
    source = Clip(frames=made, codec="ffv1", pixel_format="bgr0").make(tmp_path / "a.mkv")
    frames, reader = read(source)
    assert len(frames) == 5
    for frame, expected in zip(frames, made, strict=True):
        assert frame.rgb.dtype == np.uint8
        assert frame.rgb.flags.c_contiguous
        np.testing.assert_array_equal(frame.rgb, expected)
    assert (reader.info.codec, reader.info.width, reader.info.height) == ("ffv1", 64, 48)


def test_info_of_an_ordinary_file(tmp_path):
    path = Clip(frames=images(30), aspect=Fraction(4, 3)).make(tmp_path / "a.mp4")
    info = read(path)[1].info
    assert info.frame_rate == NTSC
    assert info.frame_count == 30
    with av.open(str(path)) as container:
        assert float(duration_seconds(container, container.streams.video[0])) == pytest.approx(1.001)
    assert info.sample_aspect_ratio == Fraction(4, 3)
    assert info.display_matrix is None
    assert (info.bit_depth, info.pixel_format, info.codec) == (8, "yuv420p", "h264")


def test_frames_of_b_images_come_in_order_of_presentation(tmp_path):
    source = Clip(frames=images(20), options={"bf": "3", "b_strategy": "0"}).make(tmp_path / "a.mp4")
    frames = read(source)[0]
    assert [frame.pts for frame in frames] == [index * 1001 for index in range(20)]
    assert {frame.time_base for frame in frames} == {TICK}
    assert {frame.duration for frame in frames} == {1001}


def test_variable_frame_rate_keeps_every_time(tmp_path):
    frames = read(Clip(pts=IRREGULAR).make(tmp_path / "a.mp4"))[0]
    assert [frame.pts for frame in frames] == IRREGULAR


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_is_told_not_applied(tmp_path, degrees):
    info = read(Clip(rotation=degrees).make(tmp_path / "a.mp4"))[1].info
    assert abs(rotation(info)) == abs(degrees)
    assert (rotation(info) - degrees) % 360 == 0
    assert (info.width, info.height) == (64, 48)
    assert len(info.display_matrix) == 9


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm", ".ts"])
def test_containers(tmp_path, suffix):
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    base = Fraction(1, 25) if suffix == ".avi" else TICK
    clip = Clip(frames=images(10), codec=codec, rate=Fraction(25), time_base=base, options={"bf": "0"})
    frames, reader = read(clip.make(tmp_path / f"a{suffix}"))
    assert len(frames) == 10
    times = [float(frame.pts * frame.time_base - reader.info.origin_seconds) for frame in frames]
    assert times == pytest.approx([index / 25 for index in range(10)], abs=0.041)
    assert reader.notes == []


@pytest.mark.parametrize("start", [0.2, 0.5, 0.967])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_start_is_exact_between_keyframes(tmp_path, start, suffix):
    clip = Clip(frames=images(60), rate=Fraction(30), options={"g": "20", "bf": "2", "keyint_min": "20"})
    source = clip.make(tmp_path / f"a{suffix}")
    everything = read(source)[0]
    frames, reader = read(source, start_seconds=start, max_frames=4)
    times = [frame.pts * frame.time_base - reader.info.origin_seconds for frame in everything]
    first = next(index for index, time in enumerate(times) if time >= start - 0.001)
    assert [frame.pts for frame in frames] == [frame.pts for frame in everything[first : first + 4]]
    for frame, expected in zip(frames, everything[first:], strict=False):
        np.testing.assert_array_equal(frame.rgb, expected.rgb)
    assert reader.expected_frames == 4
    assert reader.info.max_frames == 4


def test_expected_frames(tmp_path):
    source = Clip(frames=images(30), rate=Fraction(30)).make(tmp_path / "a.mp4")
    assert read(source)[1].expected_frames == 30
    assert read(source, start_seconds=0.5)[1].expected_frames == 15
    assert read(source, max_frames=99)[1].expected_frames == 30
    assert len(read(source, start_seconds=0.5)[0]) == 15


def test_start_after_the_end(tmp_path):
    source = Clip().make(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=r"ends before the start, 60 s$"):
        VideoReader(source, start_seconds=60)


@pytest.mark.parametrize("options", [{"start_seconds": -1}, {"start_seconds": float("nan")}, {"max_frames": 0}])
def test_nonsense_is_refused(tmp_path, options):
    with pytest.raises(InputError):
        VideoReader(Clip(frames=images(2)).make(tmp_path / "a.mp4"), **options)


def test_standing_and_backward_times_are_repaired(tmp_path):
    # MJPEG has one packet per image, and nut takes any pts: what is written is what a broken file holds.
    source = Clip(codec="mjpeg", pixel_format="yuvj420p", frames=images(6)).make(tmp_path / "a.mkv")
    with VideoReader(source) as reader:
        decoded = list(reader._frames)
        for frame, pts in zip(decoded, (0, 33, 33, 20, 100, None), strict=True):
            frame.pts = pts
        decoded[5].dts = None
        reader._frames = iter(decoded)
        times = [frame.pts for frame in reader]
    assert times[:5] == [0, 33, 34, 35, 100]
    assert times[5] > 100
    assert reader.notes == ["2 frame times ran backwards or stood still and were moved forward"]


def test_a_clock_that_starts_again_goes_on(tmp_path):
    source = Clip(frames=images(6), codec="mjpeg", pixel_format="yuvj420p").make(tmp_path / "a.mkv")
    with VideoReader(source) as reader:
        decoded = list(reader._frames)
        for frame, pts in zip(decoded, (5000, 5033, 5066, 0, 33, 66), strict=True):
            frame.pts = pts
        reader._frames = iter(decoded)
        times = [frame.pts for frame in reader]
    assert times[3] - times[2] in range(30, 40)
    assert (times[4] - times[3], times[5] - times[4]) == (33, 33)


def cut(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    noise = np.random.default_rng(1)
    frames = [noise.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(60)]
    front = Clip(frames=frames, options={"g": "10"})
    front.make(folder / "a.mkv")
    front.make(folder / "a.mp4")
    return folder


def test_what_is_left_of_a_cut_file_is_read(tmp_path, long_clip):
    frames, reader = read(cut(long_clip / "a.mkv", tmp_path / "cut.mkv", 0.5))
    assert 15 < len(frames) < 45
    assert len(reader.notes) >= 1
    assert all("\n" not in note for note in reader.notes)


def test_damage_in_the_middle_is_skipped_and_told(tmp_path, long_clip):
    data = bytearray((long_clip / "a.mp4").read_bytes())
    middle = len(data) // 3
    data[middle : middle + 4000] = bytes(4000)
    path = tmp_path / "hurt.mp4"
    path.write_bytes(data)
    frames, reader = read(path)
    assert 30 < len(frames) <= 60
    assert any("damaged" in note for note in reader.notes)
    pts = [frame.pts for frame in frames]
    assert pts == sorted(set(pts))


def broken(tmp_path: Path, kind: str, long_clip: Path) -> Path:
    path = tmp_path / f"{kind}.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("This is no video at all.\n" * 100)
    elif kind == "subtitles":
        path = path.with_suffix(".srt")
        path.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n\n")
    elif kind == "textfile":
        path = path.with_suffix(".txt")
        path.write_text("This is no video at all.\n" * 100)
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(20000))
    elif kind == "cut":
        cut(long_clip / "a.mp4", path, 0.5)  # its index is at the end
    elif kind == "headless":
        path = path.with_suffix(".mkv")
        cut(long_clip / "a.mkv", path, 0.005)
    elif kind == "sound":
        clip = Clip(frames=images(2), audio=["aac"])
        made = clip.make(tmp_path / "both.mp4")
        path = path.with_suffix(".m4a")
        only_sound(made, path)
    return path


def only_sound(source: Path, target: Path) -> None:
    import av

    with av.open(str(source)) as given, av.open(str(target), "w", format="ipod") as output:
        copy = output.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux(audio=0):
            if packet.size:
                packet.stream = copy
                output.mux(packet)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("text", "is not a video"),
        ("textfile", "text file"),
        ("subtitles", "no video stream"),
        ("noise", "is not a video"),
        ("cut", "cut off"),
        ("headless", "."),
        ("sound", "no video stream, only audio"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(tmp_path, long_clip, kind, message, capfd):
    path = broken(tmp_path, kind, long_clip)
    with pytest.raises(InputError, match=message) as caught:
        VideoReader(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_nothing_decodable(tmp_path, long_clip):
    data = bytearray((long_clip / "a.mp4").read_bytes())
    begin, index = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[begin:index] = bytes(index - begin)
    path = tmp_path / "void.mp4"
    path.write_bytes(data)
    with pytest.raises(InputError, match="no image in it can be decoded"):
        VideoReader(path)


def test_an_image_of_many_pixels_is_refused(tmp_path):
    wide = np.zeros((2, 16386, 3), np.uint8)
    source = Clip(frames=[wide], codec="ffv1", pixel_format="bgr0").make(tmp_path / "a.mkv")
    with pytest.raises(InputError, match="16386x2"):
        VideoReader(source)


def test_a_name_that_looks_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Clip(frames=images(2)).make(tmp_path / "plain.mp4").rename("http:30.mp4")
    assert len(read(Path("http:30.mp4"))[0]) == 2


def test_closing_ends_a_running_iteration(tmp_path):
    reader = VideoReader(Clip(frames=images(30)).make(tmp_path / "a.mp4"))
    frames = iter(reader)
    next(frames)
    closer = threading.Thread(target=reader.close)
    closer.start()
    closer.join()
    assert list(frames) == []
    reader.close()


def test_gif(tmp_path):
    made = [image & 0xE0 for image in images(4)]
    source = Clip(frames=made, codec="gif", pixel_format="rgb8", rate=Fraction(10), time_base=Fraction(1, 100))
    frames, reader = read(source.make(tmp_path / "a.gif"))
    assert len(frames) == 4
    assert frames[1].pts * frames[1].time_base == Fraction(1, 10)
    assert reader.info.color.full_range is False


@pytest.mark.skipif(not SHARED.exists(), reason="the shared clip is not here")
def test_the_shared_clip():
    frames, reader = read(SHARED)
    assert len(frames) == reader.expected_frames == 132
    assert reader.info.color == reader.info.color_as_tagged
    assert (reader.info.color.matrix, reader.info.color.full_range) == (1, False)
    assert reader.notes == []


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("options", [{"bf": "3", "g": "12"}, {"bf": "3", "g": "12", "flags": "-cgop"}, {"g": "500"}])
@pytest.mark.parametrize("start_seconds", [0.0, 0.6])
def test_reading_goes_on_behind_a_frame(tmp_path, suffix, options, start_seconds):
    """The same frames come as without a seek, whatever the file allows; others are not decoded where it allows much."""
    if suffix == "avi":
        options = {**options, "bf": "0"}
    path = Clip(frames=images(100), rate=Fraction(25), time_base=Fraction(1, 25), options=options).make(
        tmp_path / f"a.{suffix}"
    )
    frames, _ = read(path, start_seconds=start_seconds)
    for index in (0, 3, 47, 60, 61, 62, len(frames) - 1):
        last = frames[index]
        after = Position(index, last.pts, last.duration)
        with VideoReader(path, start_seconds=start_seconds) as reader:
            rest = list(reader.frames(skips=set(range(index + 1)).__contains__, after=after))
        assert [(frame.pts, frame.index, frame.duration) for frame in rest] == [
            (frame.pts, frame.index, frame.duration) for frame in frames[index + 1 :]
        ]
        assert all(np.array_equal(one.rgb, other.rgb) for one, other in zip(rest, frames[index + 1 :], strict=True))
        if suffix in ("mp4", "mkv") and options["g"] == "12" and index > 45:
            with VideoReader(path, start_seconds=start_seconds) as reader:
                assert frames[index].is_as_stated and reader._seek_behind(after)


def test_a_place_that_is_not_in_the_file(tmp_path):
    """Reading begins from the start then, and what is not wanted is left out."""
    path = Clip(frames=images(60), rate=Fraction(25), time_base=Fraction(1, 50)).make(tmp_path / "a.mkv")
    frames, _ = read(path)
    after = Position(49, frames[49].pts + 1, frames[49].duration)
    with VideoReader(path) as reader:
        rest = list(reader.frames(skips=lambda number: number < 50, after=after))
    assert [frame.pts for frame in rest] == [frame.pts for frame in frames[50:]]
