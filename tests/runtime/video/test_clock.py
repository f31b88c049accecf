"""Clocks that restart or jump, and sound whose frames are shorter than a tick."""

from fractions import Fraction

import av
import pytest

from overnet.runtime.container.clock import TimestampRepair
from tests.conftest import SHARED, needs_shared
from tests.support.clips import Clip, images, packets_of, times_of, upscale

CASES = SHARED / "cases/files"
MILLISECOND = Fraction(1, 1000)
RATE = Fraction(25)


def transport(path, start_seconds):
    """Write a second of picture and sound as MPEG-TS whose clock begins at a time, and return the bytes."""
    clip = Clip(
        frames=images(25), rate=RATE, time_base=Fraction(1, 90_000), audio=["mp2"], options={"bf": "0", "g": "10"}
    )
    plain = clip.make(path.with_suffix(".plain.ts"))
    with av.open(str(plain)) as given, av.open(str(path), "w") as output:
        copies = [output.add_stream_from_template(stream, opaque=True) for stream in given.streams]
        for packet in given.demux():
            if packet.size:
                ticks = round(start_seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    return path.read_bytes()


def lead_seconds(path, frame, packet):
    """Return how long a packet of sound comes after a frame."""
    return float(packets_of(path, "audio")[packet][0] - times_of(path)[frame])


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("second_start", [0, 70_000])
def test_joined_recordings_stay_in_step(tmp_path, suffix, second_start):
    first = transport(tmp_path / "first.ts", 10)
    second = transport(tmp_path / "second.ts", second_start)
    source = tmp_path / "joined.ts"
    source.write_bytes(first + second)
    result = upscale(source, tmp_path / f"out{suffix}")
    assert any("clock restarts or jumps once" in note for note in result.notes)
    assert not any("backwards" in note or "states" in note for note in result.notes)
    times = times_of(result.path)
    assert len(times) == 50
    assert float(times[-1] - times[0]) == pytest.approx(1.96, abs=0.15)
    count = len(packets_of(tmp_path / "first.ts", "audio"))
    given = lead_seconds(tmp_path / "second.ts", 0, 0)
    assert lead_seconds(result.path, 25, count) == pytest.approx(given, abs=0.002)
    assert lead_seconds(result.path, 0, 0) == pytest.approx(lead_seconds(tmp_path / "first.ts", 0, 0), abs=0.002)


@needs_shared
def test_sound_that_ends_later_than_the_image_before_a_splice(tmp_path):
    result = upscale(CASES / "joined.ts", tmp_path / "out.mkv")
    times, sound = times_of(result.path), packets_of(result.path, "audio")
    # Both parts have 15 frames; the second part's sound is packet 81, and began 11 ms before its image.
    assert float(times[15] - sound[81][0]) == pytest.approx(982 / 90_000, abs=0.002)
    assert not any("backwards" in note for note in result.notes)


@needs_shared
def test_a_clock_that_jumps_an_hour_ahead(tmp_path):
    result = upscale(CASES / "jump.ts", tmp_path / "out.mp4")
    with av.open(str(result.path)) as made:
        assert made.duration / av.time_base == pytest.approx(3.03, abs=0.05)
    assert any("clock restarts or jumps once" in note for note in result.notes)


def test_a_pause_that_a_file_states_is_kept(tmp_path):
    source = Clip(frames=images(4), rate=RATE, time_base=MILLISECOND, pts=[0, 40, 1_800_000, 1_800_040])
    result = upscale(source.make(tmp_path / "in.mkv"), tmp_path / "out.mkv")
    assert [float(time) for time in times_of(result.path)] == [0, 0.04, 1800, 1800.04]
    assert not any("clock" in note for note in result.notes)


def test_a_jump_of_many_hours_in_a_file_without_a_transport_clock(tmp_path):
    ahead = 19 * 3600 * 1000
    pts = [0, 40, ahead, ahead + 40]
    source = Clip(frames=images(4), rate=RATE, time_base=MILLISECOND, pts=pts, options={"bf": "0"})
    result = upscale(source.make(tmp_path / "in.mkv"), tmp_path / "out.mp4")
    assert [float(time) for time in times_of(result.path)] == pytest.approx([0, 0.04, 0.08, 0.12], abs=0.002)
    assert any("clock restarts or jumps once" in note for note in result.notes)


@needs_shared
def test_sound_of_short_frames_keeps_its_pace(tmp_path):
    result = upscale(CASES / "truehd.mkv", tmp_path / "out.mkv")
    assert packets_of(result.path, "audio") == packets_of(CASES / "truehd.mkv", "audio")
    assert not any("backwards" in note for note in result.notes)


def test_equal_times_of_sound_are_moved_apart_by_less_than_a_tick():
    repair = TimestampRepair(MILLISECOND, is_sound=True)
    times = [repair(ticks, 0) * repair.time_base for ticks in (0, 1, 2, 2, 3, 4, 5, 5, 6)]
    assert times == sorted(set(times))
    assert [round(time / MILLISECOND) for time in times] == [0, 1, 2, 2, 3, 4, 5, 5, 6]
    assert repair.repaired == 0
    assert repair(4, 0) * repair.time_base > times[-1]
    assert repair.repaired == 1


def test_a_late_start_is_no_early_end(tmp_path):
    source = Clip(rate=RATE, time_base=MILLISECOND, pts=[10_000 + index * 40 for index in range(12)])
    result = upscale(source.make(tmp_path / "in.mkv"), tmp_path / "out.mkv")
    assert not any("states" in note for note in result.notes)
