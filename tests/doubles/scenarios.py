"""The functions that test_cuda_driver.py runs over the doubles, each in its own process."""

import atexit
import ctypes
import functools
import importlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pycuda.driver as cuda

from tests.doubles.cuda_driver import READ, WRITE, Access, CudaDriver

SLOTS, FRAMES, SIZE = 2, 10, 1000
NON_BLOCKING = 1


@functools.cache
def primary_context(ordinal: int) -> Any:
    """Retain a device's primary context until the process ends, so that its objects may be freed late."""
    cuda.init()
    primary = cuda.Device(ordinal).retain_primary_context()
    atexit.register(primary.detach)
    return primary


@contextmanager
def context(ordinal: int = 0) -> Iterator[CudaDriver]:
    """Make a device's primary context current within a `with` block."""
    primary = primary_context(ordinal)
    primary.push()
    try:
        yield CudaDriver()
    finally:
        primary.pop()


def error_of(call: Callable[[], Any]) -> str:
    """Return the error of a call; empty where there is none."""
    try:
        call()
    except cuda.Error as error:
        return str(error)
    return ""


def view(driver: CudaDriver, address: int) -> Any:
    """Return device memory as an array, for functions in a launch."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * SIZE).from_address(driver.resolve(address, SIZE)))


def launch_plus_one(driver: CudaDriver, stream: Any, source: int, target: int) -> int:
    """Launch a function that writes each byte of one memory, plus one, to another."""

    def plus_one() -> None:
        view(driver, target)[:] = view(driver, source) + 1

    return driver.launch_host(stream.handle, plus_one, [Access(source, SIZE, READ), Access(target, SIZE, WRITE)])


def frames(missing: str, seed: int, most_microseconds: int, *, hold: bool = False) -> dict[str, Any]:
    """Process frames in three streams and two slots, with one of the waits missing."""
    with context() as driver:
        driver.reset()
        driver.set_delay(seed, most_microseconds)
        up, run, down = (cuda.Stream(NON_BLOCKING) for _ in range(3))
        pinned = [[cuda.pagelocked_empty(SIZE, np.uint8) for _ in range(2)] for _ in range(SLOTS)]
        device = [[cuda.mem_alloc(SIZE) for _ in range(2)] for _ in range(SLOTS)]
        events = [[cuda.Event() for _ in range(3)] for _ in range(SLOTS)]
        held = {"upload": up, "compute": run, "reuse": down}[missing].handle if hold else None
        if held is not None:
            driver.hold(held)
        wrong = 0
        for frame in range(FRAMES + SLOTS):
            (source, result), (d_source, d_result) = pinned[frame % SLOTS], device[frame % SLOTS]
            uploaded, computed, downloaded = events[frame % SLOTS]
            if frame >= SLOTS:
                if missing != "reuse":
                    downloaded.synchronize()
                    driver.host_access(result.ctypes.data, SIZE, writes=False)
                wrong += not (result == frame - SLOTS + 1).all()
            if frame >= FRAMES:
                continue
            source[:] = frame
            cuda.memcpy_htod_async(d_source, source, up)
            uploaded.record(up)
            if missing != "upload":
                run.wait_for_event(uploaded)
            launch_plus_one(driver, run, int(d_source), int(d_result))
            computed.record(run)
            if missing != "compute":
                down.wait_for_event(computed)
            cuda.memcpy_dtoh_async(result, d_result, down)
            downloaded.record(down)
        if held is not None:
            driver.release(held)
        cuda.Context.synchronize()
        counters = driver.counters()
        assert driver.callback_errors() == []
        assert driver.messages() == []
        return {"wrong": wrong, "races": driver.races(), "null": counters.null_stream_operations}


def many_frames(missing: str, seeds: int, most_microseconds: int) -> list[dict[str, Any]]:
    """Run `frames` for each seed, and return the objects that are left."""
    found = [frames(missing, seed, most_microseconds) for seed in range(seeds)]
    live = CudaDriver().counters().live
    assert live == {"contexts": 1}, live
    return found


def held_frames() -> dict[str, int]:
    """Count the wrong frames for each missing wait, while the stream that is not waited for is held."""
    return {missing: frames(missing, 0, 0, hold=True)["wrong"] for missing in ("upload", "compute", "reuse")}


def memory() -> dict[str, Any]:
    """Use memory wrongly, and return the messages."""
    found: dict[str, Any] = {}
    with context() as driver:
        block, array = cuda.mem_alloc(SIZE), np.zeros(SIZE, np.uint8)
        cuda.memcpy_dtoh(array, block)
        found["fresh"] = int(array[0])
        found["beyond"] = error_of(lambda: cuda.memcpy_dtoh(np.zeros(SIZE + 1, np.uint8), block))
        found["beyond, within"] = error_of(lambda: cuda.memcpy_htod(int(block) + 10, array))
        address = int(block)
        block.free()
        found["freed"] = error_of(lambda: cuda.memcpy_dtoh(array, address))
        found["nowhere"] = error_of(lambda: cuda.memset_d8(12345, 0, 1))
        found["messages"] = driver.messages()
        driver.set_memory_limit(1 << 20, host_bytes=1 << 20)
        half = cuda.mem_alloc(1 << 19)
        found["info"] = cuda.mem_get_info()
        found["too much"] = error_of(lambda: cuda.mem_alloc((1 << 19) + 1))
        found["too much of the host"] = error_of(lambda: cuda.pagelocked_empty((1 << 20) + 1, np.uint8))
        found["live"] = driver.counters().live
        half.free()
        driver.fail_next("cuMemAlloc", 2, after=1, times=2)
        found["injected"] = [error_of(lambda: cuda.mem_alloc(10).free()) for _ in range(3)]
    return found


def event_times() -> dict[str, Any]:
    """Measure the time between events while the host waits in between, and of events without a time."""
    found: dict[str, Any] = {}
    with context() as driver:
        stream = cuda.Stream(NON_BLOCKING)
        first, second, untimed = cuda.Event(), cuda.Event(), cuda.Event(cuda.event_flags.DISABLE_TIMING)
        found["never recorded"] = error_of(lambda: first.time_till(second))
        driver.hold(stream.handle)
        driver.set_rates(launch_microseconds=20_000)
        first.record(stream)
        driver.launch_host(stream.handle, lambda: None, [])
        # The stream reaches both after this, whenever they were enqueued.
        time.sleep(0.3)
        second.record(stream)
        untimed.record(stream)
        found["not reached"] = error_of(lambda: first.time_till(second))
        driver.release(stream.handle)
        stream.synchronize()
        found["without time"] = error_of(lambda: first.time_till(untimed))
        found["milliseconds"] = [first.time_till(second), second.time_since(first), second.time_till(first)]
        found["launch"] = [(timing.end_s - timing.start_s) * 1e3 for timing in driver.timeline()]
        found["records"] = driver.counters().event_records
    return found


def freed_while_in_use() -> list[int]:
    """Free memory while work that uses it waits: the work still reads its content."""
    with context() as driver:
        stream = cuda.Stream(NON_BLOCKING)
        source, target = cuda.mem_alloc(SIZE), cuda.mem_alloc(SIZE)
        cuda.memset_d8(source, 7, SIZE)
        cuda.Context.synchronize()
        result = cuda.pagelocked_empty(SIZE, np.uint8)
        driver.hold(stream.handle)
        launch_plus_one(driver, stream, int(source), int(target))
        cuda.memcpy_dtoh_async(result, target, stream)
        source.free()
        target.free()
        counted = driver.counters().device_bytes
        driver.release(stream.handle)
        stream.synchronize()
        assert driver.callback_errors() == []
        return [counted, *result[:2].tolist()]


def mapped() -> dict[str, Any]:
    """Use memory that host and device share."""
    flags = cuda.host_alloc_flags.DEVICEMAP
    with context() as driver:
        stream = cuda.Stream(NON_BLOCKING)
        source, target = (cuda.pagelocked_empty(SIZE, np.uint8, mem_flags=flags) for _ in range(2))
        addresses = [array.base.get_device_pointer() for array in (source, target)]
        source[:] = 7
        driver.hold(stream.handle)
        launch_plus_one(driver, stream, *addresses)
        early = int(target[0])
        driver.host_access(target.ctypes.data, SIZE, writes=False, label="a look")
        races = driver.races()
        driver.release(stream.handle)
        stream.synchronize()
        driver.reset()
        driver.host_access(target.ctypes.data, SIZE, writes=False)
        plain = cuda.pagelocked_empty(SIZE, np.uint8)
        refused = error_of(plain.base.get_device_pointer)
        return {
            "one address": addresses == [source.ctypes.data, target.ctypes.data],
            "early": early,
            "races": races,
            "races after waiting": driver.races(),
            "result": int(target[0]),
            "not mapped": refused,
            "not mapped, launched": launch_plus_one(driver, stream, plain.ctypes.data, addresses[1]),
        }


def captured() -> dict[str, Any]:
    """Capture a graph with cuda.core in a stream of PyCUDA, and try what a capture does not allow."""
    core = importlib.import_module("cuda.core")  # without types
    core_error = importlib.import_module("cuda.core._utils.cuda_utils").CUDAError
    found: dict[str, Any] = {}
    with context() as driver:
        stream, other = cuda.Stream(NON_BLOCKING), cuda.Stream(NON_BLOCKING)
        source, result = (cuda.pagelocked_empty(SIZE, np.uint8) for _ in range(2))
        d_source, d_result = cuda.mem_alloc(SIZE), cuda.mem_alloc(SIZE)
        handle = core.Stream.from_handle(stream.handle)

        def capture(work: Callable[[], Any]) -> Any:
            """Return the graph, or the error."""
            builder = handle.create_graph_builder()
            builder.begin_building(mode="thread_local")
            said = error_of(work)
            if not said:
                graph = builder.end_building().complete()
                builder.close()
                return graph
            try:
                builder.close()  # which ends the capture first
            except core_error as error:
                said += f" | {str(error).partition(':')[0]}"
            return said

        def frame() -> None:
            cuda.memcpy_htod_async(d_source, source, stream)
            launch_plus_one(driver, stream, int(d_source), int(d_result))
            cuda.memcpy_dtoh_async(result, d_result, stream)

        graph = capture(frame)
        found["ran while captured"] = len(driver.timeline())
        found["results"] = []
        for value in (5, 6):
            source[:] = value
            graph.launch(handle)
            stream.synchronize()
            found["results"].append(int(result[0]))
        found["kinds"] = [timing.kind for timing in driver.timeline()]
        found["races"] = driver.races()
        graph.launch(handle)
        cuda.memcpy_htod_async(d_source, source, other)
        found["unordered"] = driver.races()
        stream.synchronize()
        other.synchronize()
        d_result.free()
        try:
            graph.launch(handle)
        except core_error as error:
            found["freed"] = str(error).partition(":")[0]
        graph.close()
        event = cuda.Event()
        event.record(other)
        found["event from outside"] = capture(lambda: stream.wait_for_event(event))
        found["synchronised"] = capture(stream.synchronize)
        found["allocated"] = capture(lambda: cuda.mem_alloc(10))
        found["all synchronised"] = capture(cuda.Context.synchronize)
        blocking = cuda.Stream()
        handle = core.Stream.from_handle(blocking.handle)
        found["null stream"] = capture(lambda: cuda.memset_d8(d_source, 0, 1))
        found["counters"] = driver.counters()._asdict()
    return found


def devices() -> dict[str, Any]:
    """List the devices, and use a stream in another device's context."""
    cuda.init()
    count = cuda.Device.count()
    names = [cuda.Device(ordinal).name() for ordinal in range(count)]
    found: dict[str, Any] = {"names": names, "ids": [cuda.Device(ordinal).pci_bus_id() for ordinal in range(count)]}
    with context(0) as driver:
        stream, block = cuda.Stream(), cuda.mem_alloc(SIZE)
        with context(1):
            other_stream, other = cuda.Stream(), cuda.mem_alloc(SIZE)
            found["stream of another"] = launch_plus_one(driver, stream, int(block), int(block))
            found["memory of another"] = launch_plus_one(driver, other_stream, int(block), int(other))
            found["event of another"] = error_of(lambda: cuda.Event().record(stream))
        del other_stream, other
    found["messages"] = driver.messages()
    return found


def what_there_is() -> dict[str, Any]:
    """Return the driver's description of its first device, or the error where there is none."""
    error = error_of(cuda.init)
    if error:
        return {"error": error}
    device, attributes = cuda.Device(0), cuda.device_attribute
    return {
        "name": device.name(),
        "capability": device.compute_capability(),
        "memory": device.total_memory(),
        "integrated": device.get_attribute(attributes.INTEGRATED),
        "can map": device.get_attribute(attributes.CAN_MAP_HOST_MEMORY),
        "driver": cuda.get_driver_version(),
    }


def overlap() -> dict[str, bool]:
    """Return whether operations of two streams overlap, and those of one stream do not."""
    with context() as driver:
        driver.reset()
        driver.set_rates(launch_microseconds=100_000)
        first, second = cuda.Stream(NON_BLOCKING), cuda.Stream(NON_BLOCKING)
        for stream in (first, second, first):
            driver.launch_host(stream.handle, lambda: None, [])
        cuda.Context.synchronize()
        number = driver.stream_number(first.handle)
        one, after = (timing for timing in driver.timeline() if timing.stream == number)
        (beside,) = (timing for timing in driver.timeline() if timing.stream == driver.stream_number(second.handle))
        return {
            "two streams": one.start_s < beside.end_s and beside.start_s < one.end_s,
            "one stream": after.start_s < one.end_s,
        }


def failing_launch() -> dict[str, Any]:
    """Let a launch fail: all later calls fail, except those that free."""

    def fail() -> None:
        raise ValueError("on purpose")

    with context() as driver:
        stream, block = cuda.Stream(), cuda.mem_alloc(SIZE)
        driver.launch_host(stream.handle, fail, [])
        found = {"waited": error_of(stream.synchronize), "then": error_of(lambda: cuda.mem_alloc(10))}
        found["raised"] = str(driver.callback_errors())
        del stream, block
        return {**found, "live": driver.counters().live}


def legacy_stream() -> dict[str, Any]:
    """Check that the null stream is ordered with blocking streams, but not with non-blocking ones."""
    with context() as driver:
        blocking, free = cuda.Stream(), cuda.Stream(NON_BLOCKING)
        block, result = cuda.mem_alloc(SIZE), cuda.pagelocked_empty(SIZE, np.uint8)
        driver.set_delay(1, 2000)
        cuda.memset_d8(block, 1, SIZE)
        launch_plus_one(driver, blocking, int(block), int(block))
        cuda.memcpy_dtoh(result, block)
        first, counters, races = int(result[0]), driver.counters(), driver.races()
        cuda.memset_d8(block, 1, SIZE)
        cuda.memcpy_dtoh_async(result, block, free)
        array = np.zeros(SIZE, np.uint8)
        cuda.memcpy_dtoh_async(array, block, free)
        return {
            "result": first,
            "null": counters.null_stream_operations,
            "sync": counters.dtoh_sync,
            "races": races,
            "races of the other": driver.races(),
            "pageable": driver.counters().pageable_copies,
        }


def forked() -> int:
    """Return the driver's error in a forked process."""
    cuda.init()
    child = os.fork()
    if not child:
        os._exit(ctypes.CDLL("libcuda.so.1").cuInit(0))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def touch_device_memory() -> None:
    """Read device memory on the host, which ends the process."""
    with context():
        ctypes.string_at(int(cuda.mem_alloc(SIZE)), 1)


def leave_context() -> None:
    """Leave a context current, for which PyCUDA aborts the process at exit."""
    cuda.init()
    cuda.Device(0).retain_primary_context().push()
