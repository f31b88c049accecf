import io
from fractions import Fraction

import av
import numpy as np
import pytest

from overnet.runtime.container.demux import disposition
from tests.support.clips import FONT, Clip, images, packets_of, times_of, upscale


def copied(path):
    """Kind, codec, language and default flag of every stream."""
    with av.open(str(path)) as container:
        return [
            (stream.type, stream.name, stream.language, bool(disposition(stream) & 1)) for stream in container.streams
        ]


@pytest.fixture
def rich(tmp_path):
    clip = Clip(frames=images(60), audio=["aac", "pcm_s16le"], subtitles="subrip", is_with_extras=True)
    return clip.make(tmp_path / "in.mkv")


def test_all_streams_of_a_matroska_file(tmp_path, rich):
    result = upscale(rich, tmp_path / "out.mkv")
    assert copied(result.path) == copied(rich)
    assert [kind for kind, *_ in copied(result.path)] == ["video", "audio", "audio", "subtitle", "attachment"]
    for kind, number in (("audio", 0), ("audio", 1), ("subtitles", 0)):
        assert packets_of(result.path, kind, number) == packets_of(rich, kind, number)
    assert times_of(result.path) == times_of(rich)
    with av.open(str(result.path)) as container:
        assert container.streams.attachments[0].data == FONT
        assert container.streams.attachments[0].metadata["filename"] == "font.ttf"
        assert container.metadata["title"] == "A test"
        chapters = container.chapters()
    assert [chapter["metadata"]["title"] for chapter in chapters] == ["Part 0", "Part 1"]
    assert [chapter["start"] * chapter["time_base"] for chapter in chapters] == [0, Fraction(1, 5)]
    assert result.notes == []


def test_what_mp4_cannot_hold_is_left_out_and_named(tmp_path, rich):
    result = upscale(rich, tmp_path / "out.mp4")
    assert [entry[:2] for entry in copied(result.path)[:3]] == [
        ("video", "h264"),
        ("audio", "aac"),
        ("audio", "pcm_s16le"),
    ]
    assert "subtitle stream 3 (subrip) cannot be stored in mp4: left out" in result.notes
    assert any(note.startswith("attachment stream 4 (font.ttf)") for note in result.notes)
    assert [data for _, data in packets_of(result.path, "audio")] == [data for _, data in packets_of(rich, "audio")]
    with av.open(str(result.path)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["Part 0", "Part 1"]


def test_mp4_to_mp4_is_bit_identical(tmp_path):
    clip = Clip(frames=images(60), audio=["aac", "aac"], subtitles="mov_text", is_with_extras=True)
    source = clip.make(tmp_path / "in.mp4")
    result = upscale(source, tmp_path / "out.mp4")
    assert result.notes == []
    assert copied(result.path) == copied(source)
    for kind, number in (("audio", 0), ("audio", 1), ("subtitles", 0)):
        assert packets_of(result.path, kind, number) == packets_of(source, kind, number)


def test_avi_holds_no_chapters(tmp_path):
    source = Clip(audio=["pcm_s16le"], is_with_extras=True).make(tmp_path / "in.mkv")
    result = upscale(source, tmp_path / "out.avi")
    assert any("chapters" in note for note in result.notes)
    given = b"".join(data for _, data in packets_of(source, "audio"))
    assert b"".join(data for _, data in packets_of(result.path, "audio")) == given


def test_dispositions(tmp_path):
    clip = Clip(audio=["aac", "aac"], subtitles="subrip", options={"bf": "0"})
    source = clip.make(tmp_path / "plain.mkv")
    forced = tmp_path / "forced.mkv"
    with av.open(str(source)) as given, av.open(str(forced), "w") as output:
        copies = [output.add_stream_from_template(s, opaque=True) for s in given.streams]
        for copy, flags in zip(copies, (1, 0, 1, 64), strict=True):
            copy.disposition = flags
        for packet in given.demux():
            if packet.size:
                packet.dts = packet.pts
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    path = upscale(forced, tmp_path / "out.mkv").path
    with av.open(str(path)) as container:
        assert [disposition(stream) & 65 for stream in container.streams] == [1, 0, 1, 64]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_part_is_cut_and_in_step(tmp_path, suffix):
    clip = Clip(frames=images(120), audio=["aac"], subtitles="subrip", is_with_extras=True, options={"g": "30"})
    source = clip.make(tmp_path / "in.mkv")
    path = upscale(source, tmp_path / f"out{suffix}", start_seconds=1.5, max_frames=30).path
    times = times_of(path)
    assert (len(times), times[0]) == (30, 0)
    zero = next(time for time in times_of(source) if time >= Fraction(3, 2))
    before = {data: time for time, data in packets_of(source, "audio")}
    sound = packets_of(path, "audio")
    for time, data in sound:
        assert float(before[data] - zero - time) == pytest.approx(0, abs=0.001)
    assert 0 <= sound[0][0] < 0.03
    assert sound[-1][0] < 1.001 < sound[-1][0] + Fraction(3, 100)


def test_a_subtitle_on_screen_at_the_start_of_a_part_is_kept(tmp_path):
    source = Clip(frames=images(60), subtitles="subrip").make(tmp_path / "in.mkv")
    path = upscale(source, tmp_path / "out.mkv", start_seconds=0.6).path
    lines = packets_of(path, "subtitles")
    assert lines[0] == (0, b"line at 500")
    assert lines[1][1] == b"line at 750"
    assert float(lines[1][0]) == pytest.approx(0.75 - 0.6, abs=0.035)


def test_max_frames_cuts_what_is_copied(tmp_path):
    source = Clip(frames=images(60), audio=["aac"], is_with_extras=True).make(tmp_path / "in.mp4")
    path = upscale(source, tmp_path / "out.mp4", max_frames=9).path
    sound, everything = packets_of(path, "audio"), packets_of(source, "audio")
    assert sound == everything[: len(sound)]
    assert sound[-1][0] < Fraction(9, 30) < sound[-1][0] + Fraction(3, 100)
    with av.open(str(path)) as container:
        ends = [chapter["end"] * chapter["time_base"] for chapter in container.chapters()]
    assert float(max(ends)) <= 0.301


def test_sound_longer_than_the_video_is_kept(tmp_path):
    clip = Clip(frames=images(10), audio=["aac"], audio_start_seconds=1.0)
    source = clip.make(tmp_path / "in.mp4")
    path = upscale(source, tmp_path / "out.mp4").path
    assert packets_of(path, "audio") == packets_of(source, "audio")
    assert packets_of(path, "audio")[-1][0] > 1


recent = pytest.mark.skipif(int(av.__version__.partition(".")[0]) < 18, reason="older PyAV cannot make the source")


def cover() -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format="image2pipe") as output:
        stream = output.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8))
        output.mux(stream.encode(frame) + stream.encode(None))
    return data.getvalue()


@recent
@pytest.mark.parametrize(("given", "suffix"), [(".mkv", ".mkv"), (".mkv", ".mp4"), (".mp4", ".mp4"), (".mp4", ".mkv")])
def test_a_cover_is_copied_not_upscaled(tmp_path, given, suffix):
    image = cover()
    plain = Clip(frames=images(6), audio=["aac"]).make(tmp_path / "plain.mp4")
    source = tmp_path / f"in{given}"
    with av.open(str(plain)) as container, av.open(str(source), "w") as output:
        # First in the file, where a careless reader takes it for the video.
        art = None
        if given == ".mp4":
            art = output.add_stream("mjpeg", rate=1)
            art.width, art.height, art.pix_fmt = 32, 32, "yuvj420p"
            art.disposition = 0x400
        copies = {s.index: output.add_stream_from_template(s, opaque=True) for s in container.streams}
        if art is None:
            output.add_attachment("cover.jpg", "image/jpeg", image)
        else:
            packet = av.Packet(image)
            packet.stream, packet.pts, packet.dts, packet.time_base = art, 0, 0, Fraction(1, 1)
            packet.is_keyframe = True
            output.mux(packet)
        for packet in container.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    result = upscale(source, tmp_path / f"out{suffix}")
    assert result.frames == 6
    with av.open(str(result.path)) as container:
        arts = [stream for stream in container.streams.video if disposition(stream) & 0x400]
        assert len(arts) == 1
        assert bytes(next(container.demux(arts[0]))) == image
        main = next(stream for stream in container.streams.video if stream is not arts[0])
        assert (main.width, main.height) == (128, 96)


@recent
def test_a_second_video_is_copied_with_a_note(tmp_path):
    plain = Clip(frames=images(12), options={"bf": "2"}).make(tmp_path / "plain.mp4")
    source = tmp_path / "two.mkv"
    with av.open(str(plain)) as first, av.open(str(plain)) as second, av.open(str(source), "w") as output:
        copies = [output.add_stream_from_template(c.streams.video[0], opaque=True) for c in (first, second)]
        for one, two in zip(first.demux(), second.demux(), strict=True):
            for packet, copy in ((one, copies[0]), (two, copies[1])):
                if packet.size:
                    packet.stream = copy
                    output.mux(packet)
    for suffix in (".mkv", ".mp4"):
        result = upscale(source, tmp_path / f"out{suffix}")
        assert any("video stream 1 is copied as it is" in note for note in result.notes)
        assert [d for _, d in packets_of(result.path, "video", 1)] == [d for _, d in packets_of(source, "video", 1)]
        with av.open(str(result.path)) as container, av.open(str(source)) as given:
            times, expected = (
                [frame.pts * frame.time_base for frame in opened.decode(opened.streams.video[1])]
                for opened in (container, given)
            )
        assert times == expected


def test_output_is_interleaved(tmp_path):
    source = Clip(frames=images(150), audio=["aac"]).make(tmp_path / "in.mp4")
    path = upscale(source, tmp_path / "out.mkv").path
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        order = [(packet.stream.type, float(packet.pts * packet.time_base)) for packet in packets]
    latest = {"video": 0.0, "audio": 0.0}
    for kind, time in order:
        latest[kind] = time
        assert abs(latest["video"] - latest["audio"]) < 0.5
