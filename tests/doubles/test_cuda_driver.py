"""Tests that the stand-in for the CUDA driver runs correct programs and detects errors."""

import pytest

from tests.doubles.running import needs_cuda_core, run_over_stand_in

PLACE = "tests.doubles.scenarios"


def run(name, *args, **options):
    return run_over_stand_in(f"{PLACE}:{name}", *args, **options)


@pytest.mark.parametrize("most_microseconds", [0, 300, 3000])
def test_frames_that_are_ordered_come_out_right(most_microseconds):
    seeds = 2 if most_microseconds > 1000 else 8
    assert run("many_frames", "", seeds, most_microseconds) == [{"wrong": 0, "races": [], "null": 0}] * seeds


@pytest.mark.parametrize(
    ("missing", "first", "second"),
    [("upload", "launch on stream 2", "HtoD on stream 1"), ("compute", "DtoH on stream 3", "launch on stream 2")],
)
def test_a_missing_wait_is_found_at_any_timing(missing, first, second):
    for found in run("many_frames", missing, 3, 300):
        assert len(found["races"]) >= 9
    race = run("frames", missing, 0, 0)["races"][0]
    assert race.startswith(first) or race.startswith(second)
    assert first in race and second in race
    assert "of a device allocation of 1000 bytes" in race


def test_a_slot_that_is_used_again_too_early_is_found():
    for found in run("many_frames", "reuse", 3, 300):
        assert len(found["races"]) >= 9


def test_a_missing_wait_shows_in_the_frames_where_a_stream_is_held():
    wrong = run("held_frames")
    assert set(wrong) == {"upload", "compute", "reuse"}
    assert min(wrong.values()) >= 8


def test_memory():
    found = run("memory")
    assert found["fresh"] == 0xCB
    for what in ("beyond", "beyond, within", "freed", "nowhere"):
        assert "invalid argument" in found[what]
    assert [message.partition(":")[0] for message in found["messages"]] == ["DtoH", "HtoD", "DtoH", "memset"]
    assert "1001 bytes from byte 0 of an allocation of 1000 bytes" in found["messages"][0]
    assert "1000 bytes from byte 10 of" in found["messages"][1]
    assert "of memory that was freed" in found["messages"][2]
    assert "no allocation" in found["messages"][3]
    assert found["info"] == [1 << 19, 8 << 30]
    assert "out of memory" in found["too much"]
    assert "out of memory" in found["too much of the host"]
    assert found["live"] == {"device_allocations": 1, "contexts": 1}
    assert ["out of memory" in error for error in found["injected"]] == [False, True, False]


@pytest.mark.timing
def test_the_time_between_events():
    found = run("event_times")
    (launch,) = found["launch"]
    till, since, backwards = found["milliseconds"]
    assert till == since == -backwards
    # The host waited for 300 ms before it recorded the second.
    assert 20 <= launch <= till + 0.01 and till < launch + 50
    assert "invalid resource handle" in found["never recorded"]
    assert "invalid resource handle" in found["without time"]
    assert "device not ready" in found["not reached"]
    assert found["records"] == 3


def test_memory_that_is_freed_while_in_use():
    assert run("freed_while_in_use") == [0, 8, 8]


def test_mapped_memory():
    found = run("mapped")
    assert found["one address"]
    assert (found["early"], found["result"]) == (0xA5, 8)
    assert len(found["races"]) == 1
    assert "a look on the host reads bytes 0 to 1000 of a host allocation" in found["races"][0]
    assert found["races after waiting"] == []
    assert "invalid argument" in found["not mapped"]
    assert found["not mapped, launched"] == 700


@needs_cuda_core
def test_a_captured_graph():
    found = run("captured")
    assert found["ran while captured"] == 0
    assert found["results"] == [6, 7]
    assert found["kinds"] == ["HtoD", "launch", "DtoH"] * 2
    assert found["races"] == []
    assert len(found["unordered"]) == 2  # the graph both writes and reads what is copied
    assert "HtoD on stream 2" in found["unordered"][0] and "on stream 1" in found["unordered"][0]
    assert found["freed"] == "CUDA_ERROR_INVALID_VALUE"
    invalidated = "| CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    for what, error in (
        ("event from outside", "dependency created on uncaptured work in another stream"),
        ("synchronised", "operation not permitted when stream is capturing"),
        ("allocated", "operation not permitted when stream is capturing"),
        ("all synchronised", "operation not permitted when stream is capturing"),
        ("null stream", "would make the legacy stream depend on a capturing blocking stream"),
    ):
        assert error in found[what], what
        assert found[what].endswith(invalidated), what
    counters = found["counters"]
    assert (counters["captures"], counters["graph_launches"], counters["launches"]) == (1, 3, 3)
    assert (counters["graphs"], counters["graph_execs"]) == (0, 0)


def test_two_devices():
    found = run("devices", env={"OVERNET_CUDA_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "1,0"})
    assert found["names"] == ["Stand-in 1", "Stand-in 0"]
    assert found["ids"] == ["0000:02:00.0", "0000:01:00.0"]
    assert (found["stream of another"], found["memory of another"]) == (201, 700)
    assert "invalid resource handle" in found["event of another"]
    assert len(found["messages"]) == 3


def test_the_device_is_what_it_is_told_to_be():
    assert run("what_there_is") == {
        "name": "Stand-in",
        "capability": [8, 7],
        "memory": 8 << 30,
        "integrated": 0,
        "can map": 1,
        "driver": 13000,
    }
    told = {
        "OVERNET_CUDA_NAME": "Orin",
        "OVERNET_CUDA_CAPABILITY": "7.5",
        "OVERNET_CUDA_INTEGRATED": "1",
        "OVERNET_CUDA_CAN_MAP": "0",
        "OVERNET_CUDA_MEMORY": "12345678",
    }
    found = run("what_there_is", env=told)
    found.pop("driver")
    assert list(found.values()) == ["Orin", [7, 5], 12345678, 1, 0]


def test_no_device():
    assert "no CUDA-capable device" in run("what_there_is", env={"CUDA_VISIBLE_DEVICES": "-1"})["error"]


@pytest.mark.timing
def test_streams_overlap():
    assert run("overlap") == {"two streams": True, "one stream": False}


def test_a_launch_that_fails():
    found = run("failing_launch")
    assert "unspecified launch failure" in found["waited"]
    assert "unspecified launch failure" in found["then"]
    assert "on purpose" in found["raised"]
    assert found["live"] == {"contexts": 1}


def test_the_null_stream():
    found = run("legacy_stream")
    assert (found["result"], found["null"], found["sync"], found["races"]) == (2, 2, 1, [])
    assert len(found["races of the other"]) == 2
    assert found["pageable"] == 1


def test_a_forked_process_has_no_driver():
    assert run("forked") == 3


def test_the_host_cannot_touch_device_memory():
    with pytest.raises(AssertionError, match="exit code -11") as raised:
        run("touch_device_memory")
    assert "in touch_device_memory" in str(raised.value)


def test_an_abort_at_exit_is_an_error():
    with pytest.raises(AssertionError, match="exit code -6"):
        run("leave_context")
