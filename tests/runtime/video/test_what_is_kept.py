"""Videos of every kind of stream, side data, disposition and tag: each is in the result, or a note names it."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
from av.container import OutputContainer
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition

from overnet.runtime.video.reader import VideoReader
from tests.support.clips import FONT, Clip, Result, images, upscale

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")

pytestmark = pytest.mark.skipif(not hasattr(OutputContainer, "add_attachment"), reason="an older PyAV cannot do this")


def remuxed(
    source: Path, target: Path, *, tags: Mapping[str, str] = {}, stream_tags: Mapping[str, str] = {}, flags: int = 0
) -> Path:
    """Copy a clip with other tags, and with tags and flags for each of its streams."""
    with av.open(str(source)) as given, av.open(str(target), "w") as output:
        output.metadata.update(tags)
        copies: dict[int, Any] = {}
        for stream in given.streams:
            options = {"opaque": True} if stream.type == "video" else {}
            copies[stream.index] = copy = output.add_stream_from_template(stream, **options)
            copy.metadata.update({**stream.metadata, **stream_tags})
            copy.disposition = flags
        for packet in given.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                output.mux_one(packet)
    return target


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Clip(frames=images(4), audio=["aac"]).make(tmp_path_factory.mktemp("kept") / "in.mkv")


# Tags

TAGS = {
    "title": "a title", "artist": "an artist", "album": "an album", "comment": "a comment", "genre": "a genre",
    "date": "2024-01-02", "copyright": "someone's", "composer": "a composer", "publisher": "a publisher",
    "album_artist": "a band", "track": "3/9", "disc": "1/2", "lyrics": "la", "description": "described",
    "synopsis": "short", "show": "a show", "network": "a network", "episode_id": "s1e2", "encoded_by": "a person",
    "creation_time": "2024-05-06T07:08:09.000000Z", "keywords": "one two", "location": "+48.1371+011.5754/",
    "make": "a maker", "model": "a model", "mine": "private",
}  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("key", TAGS)
def test_a_tag_is_kept_or_named(tmp_path, clip, key, suffix):
    source = remuxed(clip, tmp_path / "in.mkv", tags={key: TAGS[key]})
    result = upscale(source, tmp_path / f"out{suffix}")
    with av.open(str(result.path)) as made:
        values = {value for owner in (made, *made.streams) for value in owner.metadata.values()}
    named = [note for note in result.notes if "cannot hold the tags: " in note]
    assert [note.rpartition(": ")[2].lower() for note in named] == ([] if TAGS[key] in values else [key])
    if suffix in (".mkv", ".webm"):
        assert not named


STREAM_TAGS = {"title": "a stream", "language": "fre", "comment": "of a stream", "handler_name": "own", "mine": "x"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("key", STREAM_TAGS)
def test_a_tag_of_a_stream_is_kept_or_named(tmp_path, clip, key, suffix):
    source = remuxed(clip, tmp_path / "in.mkv", stream_tags={key: STREAM_TAGS[key]})
    result = upscale(source, tmp_path / f"out{suffix}")
    with av.open(str(result.path)) as made:
        kept = {stream.type: STREAM_TAGS[key] in stream.metadata.values() for stream in made.streams}
    for kind, number in (("video", 1), ("audio", 1)):
        line = f"cannot hold the tags of {kind} stream {number}: "
        names = {name.lower() for note in result.notes if line in note for name in note.rpartition(": ")[2].split(", ")}
        # AVI holds no language, and sound always has one here.
        assert names - ({"language"} - {key}) == (set() if kept.get(kind, True) else {key})


def test_tags_of_encoders_and_statistics_are_not_named(tmp_path, clip):
    tags = {
        "BPS": "1",
        "NUMBER_OF_FRAMES": "4",
        "_STATISTICS_TAGS": "BPS",
        "encoder": "x",
        "handler_name": "SoundHandler",
    }
    result = upscale(remuxed(clip, tmp_path / "in.mkv", stream_tags=tags), tmp_path / "out.avi")
    assert not [note for note in result.notes if "cannot hold the tags" in note and "language" not in note]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_time_code_is_kept_where_the_container_states_no_rate(tmp_path, suffix):
    """The clock of the codec, of 30,000 ticks a second, is not taken for a rate of frames, which no time code has."""
    clip = Clip(frames=images(8)).make(tmp_path / "clip.mkv")
    source = remuxed(clip, tmp_path / "in.mkv", tags={"timecode": "01:00:00:00"})
    with VideoReader(source) as reader:
        assert reader.info.rate < 31
    with av.open(str(upscale(source, tmp_path / f"out{suffix}").path)) as made:
        values = {value for owner in (made, *made.streams) for value in owner.metadata.values()}
    assert "01:00:00:00" in values


# Dispositions


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("flag", [one for one in Disposition if one.name not in ("default", "attached_pic")])
def test_a_disposition_is_kept_or_named(tmp_path, clip, flag, suffix):
    # Not every flag can be stored in a file, so it is set on the stream that is read.
    source = remuxed(
        clip, tmp_path / f"in{'.mp4' if flag.name in ('captions', 'descriptions') else '.mkv'}", flags=flag.value
    )
    with av.open(str(source)) as given:
        had = {stream.type for stream in given.streams if int(stream.disposition) & flag.value}
    result = upscale(source, tmp_path / f"out{suffix}")
    with av.open(str(result.path)) as made:
        has = {stream.type for stream in made.streams if int(stream.disposition) & flag.value}
        held = {stream.type for stream in made.streams}
    named = {
        kind
        for kind in ("video", "audio")
        if any(f"of {kind} stream 1: " in note and f"the mark {flag.name}" in note for note in result.notes)
    }
    assert had & held == (has & had) | named
    assert not has & named


# Side data of frames

OF_SOUND = "of sound, which is copied as it is"
OF_CODING = "of how the old file was coded or is decoded"
NOT_LOST = {
    "MATRIXENCODING": OF_SOUND, "DOWNMIX_INFO": OF_SOUND, "REPLAYGAIN": OF_SOUND, "SKIP_SAMPLES": OF_SOUND,
    "AUDIO_SERVICE_TYPE": OF_SOUND, "MOTION_VECTORS": OF_CODING, "VIDEO_ENC_PARAMS": OF_CODING,
    "VIDEO_HINT": OF_CODING, "DISPLAYMATRIX": "kept, see test_kept",
}  # fmt: skip
NAMED = {
    "PANSCAN": "the pan and scan window",
    "STEREO3D": "the stereo layout",
    "AFD": "the active format description",
    "MASTERING_DISPLAY_METADATA": "mastering display data",
    "GOP_TIMECODE": "time codes of frames",
    "SPHERICAL": "the spherical projection",
    "CONTENT_LIGHT_LEVEL": "content light levels",
    "ICC_PROFILE": "the ICC profile",
    "S12M_TIMECODE": "time codes of frames",
    "DYNAMIC_HDR_PLUS": "HDR10+ data",
    "REGIONS_OF_INTEREST": "regions of interest",
    "SEI_UNREGISTERED": "user data (SEI)",
    "FILM_GRAIN_PARAMS": "film grain parameters",
    "DETECTION_BBOXES": "detected objects",
    "DOVI_RPU_BUFFER": "Dolby Vision data",
    "DOVI_METADATA": "Dolby Vision data",
    "DYNAMIC_HDR_VIVID": "HDR Vivid data",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient viewing data",
}


def stand_in(side_data: dict[str, bytes]) -> Any:
    """A frame with side data, which PyAV cannot make."""
    return SimpleNamespace(side_data=side_data, interlaced_frame=False, format=av.VideoFormat("yuv420p"))


@pytest.mark.parametrize("kind", [one.name for one in SideData])
def test_side_data_of_frames_are_kept_or_named(clip, kind):
    if kind in NOT_LOST or kind == "A53_CC":  # captions may come at any frame, see test_kept
        return
    with VideoReader(clip) as reader:
        reader.notes.clear()
        reader._remark(stand_in({kind: b"something"}))
        assert reader.notes == [f"{NAMED[kind]} cannot be kept: left out"]


def test_the_settings_of_the_old_encoder_are_not_named(clip):
    with VideoReader(clip) as reader:
        assert reader.notes == []
        reader._remark(stand_in({"SEI_UNREGISTERED": b"uuid x264 - core 164"}))
        assert reader.notes == []


# Streams

STREAMS = {
    "second video": dict.fromkeys((".mp4", ".mov", ".mkv", ".avi"), "is copied as it is: only the first is upscaled")
    | {".webm": "video stream 2 (h264) cannot be stored in webm: left out"},
    "sound": dict.fromkeys((".mp4", ".mov", ".mkv", ".avi"), "")
    | {".webm": "audio stream 1 (aac) cannot be copied into webm: encoded as libopus"},
    "subtitles": {".mkv": ""} | dict.fromkeys((".mp4", ".mov", ".webm", ".avi"), "(subrip) cannot be stored in"),
    "attachment": {".mkv": ""} | dict.fromkeys((".mp4", ".mov", ".webm", ".avi"), "attachment stream"),
    "chapters": dict.fromkeys((".mp4", ".mov", ".mkv", ".webm"), "") | {".avi": "chapters cannot be stored in avi"},
}


def with_stream(folder: Path, kind: str) -> Path:
    if kind == "sound":
        return Clip(frames=images(4), audio=["aac"]).make(folder / "in.mkv")
    if kind == "subtitles":
        return Clip(frames=images(12), subtitles="subrip").make(folder / "in.mkv")
    if kind == "chapters":
        return Clip(frames=images(12), is_with_extras=True).make(folder / "in.mp4")
    if kind == "attachment":
        return Clip(frames=images(12), is_with_extras=True).make(folder / "in.mkv")
    first = Clip(frames=images(4), audio=["aac"]).make(folder / "first.mkv")
    with av.open(str(first)) as given, av.open(str(first)) as again, av.open(str(folder / "in.mkv"), "w") as output:
        copies = [output.add_stream_from_template(stream, opaque=True) for stream in given.streams]
        copies.append(output.add_stream_from_template(again.streams.video[0], opaque=True))
        for container, chosen in ((given, copies), (again, [copies[2], None])):
            for packet in container.demux():
                if packet.size and chosen[packet.stream.index] is not None:
                    packet.stream = chosen[packet.stream.index]
                    output.mux_one(packet)
    return folder / "in.mkv"


def holds(path: Path, kind: str) -> bool:
    with av.open(str(path)) as made:
        if kind == "attachment":
            return any(stream.data == FONT for stream in made.streams if stream.type == "attachment")
        if kind == "chapters":
            return [chapter["metadata"]["title"] for chapter in made.chapters()] == ["Part 0", "Part 1"]
        count = {"second video": 2}.get(kind, 1)
        type_of = {"second video": "video", "sound": "audio", "subtitles": "subtitle"}[kind]
        return sum(stream.type == type_of for stream in made.streams) == count


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_is_kept_or_named(tmp_path, kind, suffix):
    result: Result = upscale(with_stream(tmp_path, kind), tmp_path / f"out{suffix}")
    named = STREAMS[kind][suffix]
    about = [note for note in result.notes if named in note] if named else []
    assert result.path is not None
    assert len(about) == (named != "")
    assert holds(result.path, kind) == ("left out" not in "".join(about))
