"""Videos in segments: joined without a trace, and gone on with where a run was cut off."""

import errno
import json
import math
import multiprocessing
import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from overnet.errors import OutputError
from overnet.runtime.plan import make_plan
from overnet.runtime.segments import estimate as estimate_module
from overnet.runtime.segments import writer as writer_module
from overnet.runtime.segments.folder import SegmentFolder, folder_of
from overnet.runtime.segments.packet_file import PacketFile
from overnet.runtime.segments.status import read_status
from overnet.runtime.segments.writer import Cutting
from tests.support.clips import NTSC, TICK, Clip, images, names, packets_of, times_of, upscale
from tests.support.segmented import EXACT, run, segments_of

# Frames that last one to four ticks of 1/30 s each.
_VARIABLE = [sum((1, 2, 4, 1, 3)[number % 5] for number in range(index)) * 1001 for index in range(23)]
# Frames that come in pairs, closer than the ticks of a constant rate: one of each pair is moved, at all joins.
_FINE = Fraction(1, 90000)
_DENSE = [index // 2 * 6007 + index % 2 * 300 for index in range(23)]
CLIPS = {
    "mp4": (Clip(frames=images(23), audio=("aac",)), "mp4", {}),
    "variable mkv": (
        Clip(frames=images(23), pts=_VARIABLE, audio=("aac",), subtitles="subrip", is_with_extras=True),
        "mkv",
        {},
    ),
    "variable mp4": (Clip(frames=images(23), pts=_VARIABLE), "mp4", {}),
    "b-frames in": (Clip(frames=images(23), options={"bf": "3", "g": "10"}), "mov", {"crf": 30}),
    "hevc": (Clip(frames=images(13)), "mp4", {"codec": "hevc"}),
    "vp9": (Clip(frames=images(13), audio=("libopus",)), "webm", {}),
    "mpeg4": (Clip(frames=images(13)), "mp4", {"codec": "mpeg4"}),
    "avi": (Clip(frames=images(23), audio=("aac",)), "avi", {}),
    "lossless avi that begins late": (
        Clip(frames=images(23), pts=[time + 3003 for time in _VARIABLE]),
        "avi",
        {"codec": "ffv1"},
    ),
    "variable avi": (Clip(frames=images(23), pts=_VARIABLE, audio=("aac",)), "avi", {"codec": "mpeg4"}),
    "avi of frames that are moved": (Clip(frames=images(23), pts=_DENSE, time_base=_FINE), "avi", {}),
    "mpeg4 with frames that are moved": (
        Clip(frames=images(23), pts=_DENSE, time_base=_FINE),
        "mp4",
        {"codec": "mpeg4"},
    ),
    "a part of an avi": (
        Clip(frames=images(40), pts=[index * 2002 for index in range(40)], audio=("aac",)),
        "avi",
        {"start_seconds": 0.3, "max_frames": 18},
    ),
    "a part": (
        Clip(frames=images(40), audio=("aac",)),
        "mp4",
        {"start_seconds": 0.3, "max_frames": 18},
    ),
}


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="yuv420p").tobytes() for frame in container.decode(video=0)]


def decoding_times(path):
    with av.open(str(path)) as container:
        return [packet.dts * packet.time_base for packet in container.demux(video=0) if packet.dts is not None]


@pytest.mark.parametrize("name", CLIPS)
def test_the_result_is_that_of_an_uninterrupted_run(tmp_path, name):
    clip, suffix, options = CLIPS[name]
    source = clip.make(tmp_path / f"in.{'mkv' if clip.subtitles or 'libopus' in clip.audio else 'mp4'}")
    whole, cut, single = (tmp_path / f"{kind}.{suffix}" for kind in ("whole", "cut", "single"))
    in_one_run = run(source, whole, **options)
    frames = in_one_run.frames
    for done in (3, 4, 7):  # within the first segment, the first again, and within the second
        assert run(source, cut, crash_after=done, **options).path is None
    assert segments_of(cut) == {"000000.packets"}
    result = run(source, cut, **options)
    assert result.frames == frames - 5
    # Matroska has random identities.
    assert cut.read_bytes() == whole.read_bytes() or suffix in ("mkv", "webm")
    assert packets_of(cut, "video") == packets_of(whole, "video") and decoded(cut) == decoded(whole)
    assert decoding_times(cut) == decoding_times(whole)
    in_one_pass = upscale(source, single, **options)
    # AVI repeats frames that last longer than others.
    assert times_of(cut) == times_of(single) and (len(times_of(cut)) == frames or suffix == "avi")
    assert options.get("codec") != "ffv1" or decoded(cut) == decoded(single)
    times = decoding_times(cut)
    assert all(earlier < later for earlier, later in pairwise(times))
    for kind in ("audio", "subtitles"):
        with av.open(str(single)) as container:
            count = len(getattr(container.streams, kind))
        for number in range(count):
            assert packets_of(cut, kind, number) == packets_of(single, kind, number)
    assert [note for note in result.notes if "earlier run" not in note] == in_one_pass.notes == in_one_run.notes
    assert "an earlier run has done 5 of" in " ".join(result.notes)
    assert names(tmp_path) == {path.name for path in (source, whole, cut, single)}


def test_a_short_video_is_written_in_one_pass(tmp_path):
    """It costs nothing: the same bytes, and no folder at any time."""
    source = Clip(audio=("aac",)).make(tmp_path / "in.mp4")
    upscale(source, tmp_path / "single.mp4", options=EXACT)
    run(source, tmp_path / "out.mp4", cutting=Cutting())
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "single.mp4").read_bytes()
    run(source, tmp_path / "other.mp4", cutting=Cutting(), crash_after=7)
    assert not folder_of(tmp_path / "other.mp4").exists()


def test_a_video_that_turns_out_to_be_long(tmp_path, monkeypatch):
    """What was encoded until then is the beginning of the first segment."""
    source = Clip(frames=images(23)).make(tmp_path / "in.mp4")
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    codec = "mpeg4"  # gives each packet at once
    run(source, whole, frames_per_segment=12, codec=codec)
    cutting = Cutting(seconds=0, least_frames=10)  # its keyframes are 12 frames apart
    run(source, cut, cutting=cutting, crash_after=14, codec=codec)
    assert not folder_of(cut).exists()
    monkeypatch.setattr(writer_module, "_MOST_KEPT_BYTES", 1)
    run(source, cut, cutting=cutting, crash_after=14, codec=codec)
    assert segments_of(cut) == {"000000.packets"}
    run(source, cut, cutting=cutting, codec=codec)
    assert cut.read_bytes() == whole.read_bytes()


def test_changes_are_named_and_need_overwrite(tmp_path):
    source = Clip().make(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"
    run(source, target, crash_after=8)
    with pytest.raises(OutputError, match=r"in which --crf is 30 and was None: --overwrite starts anew, --no-resume"):
        run(source, target, crf=30)
    changed = Clip(frames=images(14)).make(tmp_path / "in.mp4")
    with pytest.raises(OutputError, match=r"the source's size is \d+ bytes and was \d+ bytes; the source's content"):
        run(changed, target)
    assert segments_of(target)
    result = run(changed, target, cutting=Cutting(is_wanted=False))
    assert "is not used" in " ".join(result.notes) and segments_of(target)
    assert run(changed, target, overwrite=True).frames == 14
    assert not folder_of(target).exists()


def test_overwrite_alone_starts_nothing_anew(tmp_path):
    source = Clip().make(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"
    target.write_bytes(b"an earlier result")
    run(source, target, crash_after=8, overwrite=True)
    assert target.read_bytes() == b"an earlier result"
    assert run(source, target, overwrite=True).frames == 12 - 5


@pytest.mark.parametrize("left", [0, 1, -1])
def test_a_segment_that_is_damaged_is_made_again(tmp_path, left):
    """As after a power cut, if the disk had lied: cut to nothing or by a byte; and a byte changed."""
    source = Clip(frames=images(23)).make(tmp_path / "in.mp4")
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    run(source, whole)
    run(source, target, crash_after=18)
    damaged = folder_of(target) / "000001.packets"
    content = bytearray(damaged.read_bytes())
    if left == 1:
        content[200] ^= 1
    damaged.write_bytes(content[:left] if left < 1 else content)
    result = run(source, target)
    assert "damaged segments are made again: 1" in result.notes
    # The encoder is shown two frames of the next segment again.
    assert result.frames == 5 + 2 + 23 - 15
    assert target.read_bytes() == whole.read_bytes()


def test_a_manifest_that_is_damaged(tmp_path):
    source = Clip().make(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"
    run(source, target, crash_after=8)
    manifest = folder_of(target) / "manifest.json"
    assert set(json.loads(manifest.read_text())["segments"]) == {"0"}
    manifest.write_bytes(manifest.read_bytes()[:100])
    with pytest.raises(OutputError, match=r"manifest\.json is damaged \(.*\): --overwrite starts anew"):
        run(source, target)
    assert run(source, target, overwrite=True).frames == 12


_VALUES = [None, "x", "", -1, 0, 1.5, math.nan, math.inf, 10**30, "9" * 99, "1/0", [], {}, [[]], {"x": 1}, True]


def _changed(content, value):
    """Yield copies of JSON content with a value in place of each one in it."""
    for key, held in content.items() if isinstance(content, dict) else ():
        yield {**content, key: value}
        yield from ({**content, key: changed} for changed in _changed(held, value))


def test_a_manifest_of_any_content_is_used_or_refused_in_a_line(tmp_path):
    """Fields of other types, out of range or not finite were defects in the writer: division by zero and the like."""
    source = Clip().make(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"
    run(source, target, crash_after=8)
    manifest = folder_of(target) / "manifest.json"
    good = json.loads(manifest.read_text())
    contents = [json.dumps(changed) for value in _VALUES for changed in _changed(good, value)]
    for content in (*contents, "[" * 100_000, "[]", "null", '{"format": 1}'):
        manifest.write_text(content)
        try:
            unfinished = SegmentFolder.reopen(target, good["shaped_by"], overwrite=False)
        except OutputError as error:
            assert str(error).isprintable() and len(str(error)) < 1000, content
        else:
            assert unfinished is not None and unfinished.manifest.frames_per_segment > 0
            assert Fraction(unfinished.manifest.time_base) > 0
            assert (read_status(target).left_seconds or 0) < math.inf
            unfinished.close()


def test_a_manifest_that_is_a_pipe_is_not_waited_for(tmp_path):
    folder_of(tmp_path / "out.mp4").mkdir()
    os.mkfifo(folder_of(tmp_path / "out.mp4") / "manifest.json")
    with pytest.raises(OutputError, match="it is a pipe or a device"):
        SegmentFolder.reopen(tmp_path / "out.mp4", {}, overwrite=False)


def test_a_crash_while_segments_are_joined(tmp_path, monkeypatch):
    source = Clip(frames=images(13)).make(tmp_path / "in.mp4")
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    run(source, whole)
    with monkeypatch.context() as patched:
        patched.setattr(writer_module.VideoWriter, "finish", lambda writer, on_complete: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(source, target)
    assert not target.exists() and len(segments_of(target)) == 3
    assert run(source, target).frames == 0
    assert target.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("at", ["before the removal", "within the removal"])
def test_a_kill_after_the_result_has_its_name(tmp_path, monkeypatch, at):
    """The next run of any kind removes what is not needed any more, and nothing else."""
    source = Clip(frames=images(13)).make(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"

    def kill(folder):
        if at == "within the removal":
            (folder.path / "manifest.json").unlink()
            (folder.path / "000001.packets").unlink()
        folder.close()

    def left():
        with monkeypatch.context() as patched:
            patched.setattr(SegmentFolder, "remove", kill)
            run(source, target)
        assert len(segments_of(target)) == (3 if at == "before the removal" else 2)
        assert read_status(target) is None

    left()
    with pytest.raises(OutputError, match="exists already"):
        run(source, target)
    assert names(tmp_path) == {"in.mp4", "out.mp4"}
    target.unlink()
    left()
    with pytest.raises(OutputError, match="exists already"):
        make_plan([source], target, overwrite=False)
    assert names(tmp_path) == {"in.mp4", "out.mp4"}
    target.unlink()
    left()
    target.unlink()
    assert run(source, target).frames == (0 if at == "before the removal" else 13)
    assert names(tmp_path) == {"in.mp4", "out.mp4"}


def test_segments_beside_another_file_of_the_name_of_the_result_are_kept(tmp_path):
    source = Clip().make(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"
    run(source, target, crash_after=8)
    target.write_bytes(b"another file")
    with pytest.raises(OutputError, match="exists already"):
        run(source, target)
    assert segments_of(target) == {"000000.packets"}


def test_whether_a_run_is_at_work_is_seen_without_permission_to_write(tmp_path):
    source = Clip().make(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"
    run(source, target, crash_after=8)
    for folder in (tmp_path, folder_of(target)):
        folder.chmod(0o755)
    context = multiprocessing.get_context("fork")

    def seen_by_others():
        def look(results):
            os.chdir(tmp_path)  # the folders above are not for others
            if os.getuid() == 0:
                os.setuid(65534)
            results.put(read_status(Path("out.mp4")).is_running)

        results = context.SimpleQueue()
        process = context.Process(target=look, args=(results,))
        process.start()
        seen = results.get()
        process.join()
        return seen

    if os.getuid() != 0:
        folder_of(target).chmod(0o555)
        (folder_of(target) / "lock").chmod(0o444)
    assert seen_by_others() is False
    if os.getuid() == 0:
        other = SegmentFolder(folder_of(target))
        assert seen_by_others() is True
        other.close()
    folder_of(target).chmod(0o755)


@pytest.mark.parametrize("at", ["append", "complete"])
def test_a_full_disk(tmp_path, monkeypatch, at):
    source = Clip(frames=images(13)).make(tmp_path / "in.mp4")
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    run(source, whole)
    real = getattr(PacketFile, at)
    with monkeypatch.context() as patched:

        def fill(file, *arguments):
            if file._path.name == "000001.packets":
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(file, *arguments)

        patched.setattr(PacketFile, at, fill)
        with pytest.raises(OutputError, match=r"no space is left in .*the same command goes on from there"):
            run(source, target)
    assert names(folder_of(target)) == {"000000.packets", "manifest.json", "lock"}
    assert run(source, target).frames == 8
    assert target.read_bytes() == whole.read_bytes()


def test_names_reach_the_disk_after_contents(tmp_path, monkeypatch):
    """What a power cut leaves: a segment that the manifest names is on the disk, and so is its name."""
    events = []
    for module, name in ((PacketFile, "complete"), (SegmentFolder, "save")):
        real = getattr(module, name)

        def noted(self, real=real, name=name):
            result = real(self)
            events.append(name)
            return result

        monkeypatch.setattr(module, name, noted)
    for owner, name, event in ((os, "fsync", "fsync"), (type(tmp_path), "replace", "rename")):
        real = getattr(owner, name)

        def called(*arguments, real=real, event=event):
            events.append(event)
            return real(*arguments)

        monkeypatch.setattr(owner, name, called)
    run(Clip(frames=images(13)).make(tmp_path / "in.mp4"), tmp_path / "out.mp4", crash_after=7)
    written = ["fsync", "rename", "fsync"]
    assert events == [*written, "save", "fsync", *written, "complete", *written, "save"]


def test_ctrl_c_leaves_a_playable_part_and_the_segments(tmp_path):
    source = Clip(frames=images(23), audio=("aac",)).make(tmp_path / "in.mp4")
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    run(source, whole)
    for done, before in ((3, 0), (12, 0), (4, 10)):
        result = run(source, target, stop_after=done)
        assert result.path == tmp_path / "out.partial.mp4"
        assert len(times_of(result.path)) == before + done
        assert times_of(result.path) == times_of(whole)[: before + done]
    assert "the same command goes on after 10 frames" in result.notes
    assert decoded(result.path)[:10] == decoded(whole)[:10]
    assert run(source, target).frames == 13
    assert target.read_bytes() == whole.read_bytes()


def test_two_runs_of_one_result(tmp_path):
    source = Clip().make(tmp_path / "in.mp4")
    target = tmp_path / "out.mp4"
    run(source, target, crash_after=8)
    other = SegmentFolder(folder_of(target))
    with pytest.raises(OutputError, match="another run is writing this video"):
        run(source, target)
    other.close()
    assert run(source, target).frames == 12 - 5


def test_a_folder_of_that_name_with_other_files(tmp_path):
    source = Clip().make(tmp_path / "in.mp4")
    folder_of(tmp_path / "out.mp4").mkdir()
    (folder_of(tmp_path / "out.mp4") / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="holds other files"):
        run(source, tmp_path / "out.mp4")
    assert names(tmp_path) == {"in.mp4", "out.mp4.overnet"}
    assert names(folder_of(tmp_path / "out.mp4")) == {"letter.txt"}


def test_the_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate_module, "MEASURED_SECONDS", 0.0)
    source = Clip(frames=images(20), rate=NTSC, time_base=TICK).make(tmp_path / "in.mp4")
    given = []
    run(source, tmp_path / "out.mp4", on_estimate=given.append)
    (estimate,) = given
    assert 0 < estimate.seconds < 60 and estimate.free_bytes > 0
    size = (tmp_path / "out.mp4").stat().st_size
    assert size / 5 < estimate.needed_bytes < size * 5


def test_first_times(tmp_path):
    """Where the source begins late, and where a part begins at 0."""
    source = Clip(frames=images(13), pts=[3003 + 1001 * index for index in range(13)]).make(tmp_path / "in.mp4")
    for options, first in (({}, times_of(source)[0]), ({"start_seconds": 0.15}, 0)):
        target = tmp_path / f"out{first > 0}.mp4"
        run(source, target, **options)
        assert times_of(target)[0] == first
