"""What tests of the CUDA runtime run over the stand-in of the driver; see `tests.doubles`. No test itself.

Each function runs in a process of its own, and returns what JSON has. Where it does not say otherwise, there must be no
race, no misuse of the driver and nothing left when it ends.
"""

import atexit
import os
import threading
import time
from contextlib import closing, contextmanager
from unittest import mock

import numpy as np

from overnet.benchmarks import gpu_checks
from overnet.benchmarks.gpu_setting import Setting, frames, photograph_like, stream_all
from overnet.errors import BackendError, OverNetError
from overnet.runtime.backends.trt import cuda, slot_ring
from overnet.runtime.backends.trt.cuda import Gpu
from overnet.runtime.backends.trt.slot import Slot
from overnet.runtime.backends.trt.slot_ring import SlotRing, SlotStream
from overnet.runtime.backends.trt.slot_shared import SlotShared
from overnet.runtime.backends.trt.slot_tiles import SlotTiles
from tests.doubles.cuda_driver import CudaDriver


def setting(engine, reference, **changes):
    """The checks' setting for the double: equal to ONNX Runtime to the bit."""
    small = {
        "size": (40, 48),
        "other_size": (32, 64),
        "too_large": (150, 170),
        "reference_backend": "onnxruntime",
        "least_psnr_db": None,
        "tile_levels": 3,
        "backend": "tensorrt",
    }
    return Setting(model=engine, reference=reference, **{**small, **changes})


def nothing_wrong(driver):
    """Assert that no rule was broken and nothing is left, and give what the driver counted."""
    counters = driver.counters()
    assert driver.races() == [], driver.races()[:3]
    assert driver.messages() == [], driver.messages()[:3]
    assert driver.callback_errors() == []
    assert counters.live == {}
    assert driver.thread_depth() == 0
    return counters._asdict()


def check(name, engine, reference, changes):
    """One of the checks that run on a real GPU as well."""
    driver = CudaDriver()
    with seen_by_the_driver(driver), mock.patch.object(SlotShared, "give_up_recording", unexpected):
        detail = gpu_checks.CHECKS[name](setting(engine, reference, **changes))
    return {"detail": detail, **nothing_wrong(driver)}


def unexpected(shared, reason):
    raise AssertionError(f"a recording failed: {reason}")


@contextmanager
def seen_by_the_driver(driver):
    """Tell the driver when the host fills and reads page-locked frames, which it cannot see by itself."""
    copy, fetched = np.copyto, SlotStream._fetched

    def filled(target, source, **options):
        copy(target, source, **options)
        if isinstance(target, np.ndarray) and target.dtype == np.uint8 and is_pinned(target):
            driver.host_access(target.ctypes.data, target.nbytes, writes=True, label="fill")

    @contextmanager
    def read(stream, slot):
        with fetched(stream, slot) as frame:
            driver.host_access(frame.ctypes.data, frame.nbytes, writes=False, label="fetch")
            try:
                yield frame
            finally:
                driver.host_access(frame.ctypes.data, frame.nbytes, writes=False, label="fetch")

    with (
        mock.patch.object(np, "copyto", filled),
        mock.patch.object(SlotStream, "_fetched", read),
    ):
        yield


def is_pinned(array):
    """Whether an array lies in memory that PyCUDA has page-locked."""
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return type(owner).__module__.startswith("pycuda")


def sabotaged(what, engine, reference):
    """Stream with one synchronisation taken away; returns what gives it away."""

    def nothing(*_):
        pass

    fetched = SlotStream._fetched

    @contextmanager
    def hand_back_too_early(stream, slot):
        with fetched(stream, slot) as frame:
            pass
        yield frame

    missing = {
        "nothing": [],
        "computing is not ordered": [mock.patch.object(SlotShared, "before_compute", nothing)],
        "a result is not waited for": [mock.patch.object(Slot, "wait", nothing)],
        "a slot is given back before its result is read": [
            mock.patch.object(SlotStream, "_fetched", hand_back_too_early)
        ],
    }
    for patch in missing[what]:
        patch.start()
    driver = CudaDriver()
    driver.set_delay(5, 2000)
    # Computing takes longer than a busy machine takes to fetch a frame and submit the next.
    driver.set_rates(launch_microseconds=15000)
    settings = setting(engine, reference)
    wrong = 0
    with settings.expected() as on_cpu, settings.upscaler() as upscaler, seen_by_the_driver(driver):
        expected = [on_cpu(frame) for frame in frames(settings.size, 40)]

        def receive(number, upscaled):
            nonlocal wrong
            time.sleep(0.01)  # as an encoder takes
            wrong += not np.array_equal(upscaled, expected[number])

        stream_all(upscaler, settings.size, frames(settings.size, 40), receive)
    return {"races": driver.races(), "wrong": wrong}


def overlapping(engine, reference, slots):
    """Stream frames whose copies and computing take long; when each of them ran."""
    driver = CudaDriver()
    driver.set_rates(copy_bytes_per_second=4e6, launch_microseconds=15000)
    settings = setting(engine, reference)
    with settings.upscaler(slots=slots) as upscaler:
        stream_all(upscaler, settings.size, frames(settings.size, 5), lambda *_: None)
        driver.reset()
        stream_all(upscaler, settings.size, frames(settings.size, 20), lambda *_: None)
        timeline = driver.timeline()
    nothing_wrong(driver)
    return [timing._asdict() for timing in timeline]


def no_allocation_for_a_frame(engine, reference):
    """Allocations of the first frames of two sizes, and of all frames after them."""
    driver = CudaDriver()
    settings = setting(engine, reference)
    allocations = []
    with settings.upscaler() as upscaler:
        for _ in range(3):
            driver.reset()
            for size in (settings.size, settings.other_size):
                stream_all(upscaler, size, frames(size, 30), lambda *_: None)
            image = next(frames(settings.size, 1))
            upscaler(image)
            counters = driver.counters()
            allocations.append(counters.total_device_allocations + counters.total_host_allocations)
    nothing_wrong(driver)
    return allocations


def stage_times(engine, reference, zero_copy, graphs):
    """Time two images while copies take 2 ms for 1 kB and computing at least 40 ms, on a host that is slow.

    Returns the times that the backend tells and those of the stand-in's timeline, in ms and summed over the images;
    and what came of the timed images and of one after them.
    """
    driver = CudaDriver()
    settings = setting(engine, reference)
    images = np.stack(list(frames(settings.size, 2)))
    copy_in = Gpu.copy_in

    def slowly(*arguments):
        time.sleep(0.03)
        copy_in(*arguments)

    upscaled = []
    wait = SlotRing.wait

    def looked_at(ring, slot):
        wait(ring, slot)
        upscaled.append(slot.output.copy())

    options = {"slots": 1, "zero_copy": zero_copy, "cuda_graphs": graphs}
    with settings.expected() as on_cpu, settings.upscaler(**options) as upscaler:
        expected = [on_cpu(image) for image in images]
        backend = upscaler.backend_for(2)
        before_first = backend.activation_memory_bytes
        backend.upscale_timed(images[:1])
        driver.set_rates(copy_bytes_per_second=500e3, launch_microseconds=40_000)
        driver.reset()
        with mock.patch.object(Gpu, "copy_in", slowly), mock.patch.object(SlotRing, "wait", looked_at):
            told = backend.upscale_timed(images)
        counters, timeline = driver.counters(), driver.timeline()
        driver.set_rates()
        upscaled.append(backend.upscale(images[:1])[0])
        memory_bytes = backend.activation_memory_bytes
    nothing_wrong(driver)
    spent = {
        kind: [(timing.end_s - timing.start_s) * 1e3 for timing in timeline if timing.kind == kind]
        for kind in ("HtoD", "launch", "DtoH")
    }
    return {
        "told": [told.copy_in_ms, told.compute_ms, told.copy_out_ms],
        # Every other computing is the one that keeps the GPU busy.
        "timeline": [sum(spent["HtoD"]), sum(spent["launch"][1::2]), sum(spent["DtoH"])],
        "launches": counters.launches,
        "graph launches": counters.graph_launches,
        "captures": counters.captures,
        "right": [bool(np.array_equal(*pair)) for pair in zip(upscaled, [*expected, expected[0]], strict=True)],
        "memory": [before_first, memory_bytes],
    }


def calls_of_untimed_runs(engine, reference, shares):
    """What the driver counts for five images before one is timed, and for five after."""
    driver = CudaDriver()
    settings = setting(engine, reference)
    begin = SlotShared.begin
    sharing = mock.patch.object(SlotShared, "begin", lambda self, slots: begin(self, slots, shares_activations=shares))
    image = np.stack(list(frames(settings.size, 1)))
    counted = []
    with sharing, settings.upscaler(slots=1) as upscaler:
        backend = upscaler.backend_for(2)
        for _ in range(3):  # until computing is recorded
            backend.upscale(image)
        for timed in (False, True):
            if timed:
                backend.upscale_timed(image)
            driver.reset()
            for _ in range(5):
                backend.upscale(image)
            counters = driver.counters()._asdict()
            live = {name: counters.pop(name) for name in ("events", "peak_device_bytes")}
            counted.append({**counters, "events": live["events"] - (4 if timed else 0)})
    nothing_wrong(driver)
    return counted


def short_of_memory(engine, reference, size, slots):
    """Stream with as much memory as the environment leaves; what is said, or the error."""
    driver = CudaDriver()
    settings = setting(engine, reference, size=tuple(size))
    with settings.expected() as on_cpu:
        expected = [on_cpu(frame).astype(int) for frame in frames(settings.size, 6)]
    differences, error = [], None
    try:
        with settings.upscaler(slots=slots) as upscaler:
            stream_all(
                upscaler,
                settings.size,
                frames(settings.size, 6),
                lambda number, upscaled: differences.append(int(np.abs(upscaled - expected[number]).max())),
            )
            notes = upscaler.pop_notes()
    except OverNetError as caught:
        error, notes = str(caught), []
    counters = driver.counters()
    nothing_wrong(driver)
    return {"differences": differences, "notes": notes, "error": error, "peak": counters.peak_device_bytes}


def shared_with_others(engine, reference):
    """Another library's context is current before and after, and our own is gone when the last upscaler is."""
    import pycuda.driver

    pycuda.driver.init()
    other = pycuda.driver.Device(0).make_context()
    settings = setting(engine, reference)
    driver = CudaDriver()
    depth, others = driver.thread_depth(), driver.counters().contexts
    first, second = settings.upscaler(), settings.upscaler()
    retained = driver.counters().contexts - others
    first(next(frames(settings.size, 1)))
    assert driver.thread_depth() == depth
    assert pycuda.driver.Context.get_current() == other
    first.close()
    second(next(frames(settings.size, 1)))
    second.close()
    after = driver.counters().contexts - others
    assert pycuda.driver.Context.get_current() == other
    other.pop()
    other.detach()
    return {"retained": retained, "after": after, "depth": driver.thread_depth()}


def left_open(engine, reference, how):
    """End Python with frames on their way. What is left is looked at after everything else has ended."""
    driver = CudaDriver()

    def look():
        live = driver.counters().live
        if live:
            os.write(2, f"left: {live}\n".encode())
            os._exit(3)

    _run_last(look)
    settings = setting(engine, reference)
    upscaler = settings.upscaler()
    stream = upscaler.stream(*settings.size)
    driver.set_delay(3, 20000)
    tickets = [stream.submit(frame) for frame in frames(settings.size, 2)]
    if how == "dropped":
        del upscaler, stream, tickets
    elif how == "interrupted while current":
        globals()["kept"] = (upscaler, stream, tickets)
        upscaler.backend_for(2)._gpu._context.push()
    else:
        globals()["kept"] = (upscaler, stream, tickets)


def _run_last(function):
    """Run at exit after what was registered before."""
    from overnet.runtime.backends.trt.cuda import Gpu

    atexit.unregister(Gpu.close_all)
    atexit.register(function)
    atexit.register(Gpu.close_all)


def failing_in_the_middle(engine, reference, function, code):
    """A call of the driver fails in mid-stream: one error of ours, and the next stream works."""
    driver = CudaDriver()
    settings = setting(engine, reference)
    with settings.upscaler() as upscaler:
        stream_all(upscaler, settings.size, frames(settings.size, 5), lambda *_: None)
        driver.fail_next(function, code, after=7)
        try:
            stream_all(upscaler, settings.size, frames(settings.size, 50), lambda *_: None)
        except BackendError as caught:
            error = str(caught)
        else:
            error = None
        received = []
        stream_all(upscaler, settings.size, frames(settings.size, 5), lambda number, _: received.append(number))
    assert driver.counters().live == {}, driver.counters().live
    return {"error": error, "after": received}


def devices(engine, reference, ordinal):
    """Which device an upscaler runs on, or why it does not."""
    settings = setting(engine, reference, device=ordinal)
    try:
        with settings.upscaler() as upscaler:
            upscaler(next(frames(settings.size, 1)))
            found = upscaler.backend_for(2).device
    except OverNetError as caught:
        return {"error": str(caught)}
    nothing_wrong(CudaDriver())
    return {"device": found}


def given(engine, scale=2):
    """Upscale one image with an engine; the notes and the engine's runs, or the error and what is left."""
    from overnet import Upscaler

    driver = CudaDriver()
    try:
        with Upscaler(scale, model=engine, backend="tensorrt") as upscaler:
            upscaler(next(frames((40, 48), 1)))
            notes = upscaler.pop_notes()
    except OverNetError as error:
        nothing_wrong(driver)
        return {"error": str(error)}
    return {"notes": notes, "launches": nothing_wrong(driver)["launches"]}


def chosen(model, backend):
    """Which backend is chosen for a model, and what is said."""
    from overnet import Upscaler

    with Upscaler(2, model=model, backend=backend) as upscaler:
        upscaler(next(frames((40, 48), 1)))
        return {"backend": upscaler.backend_name, "notes": upscaler.pop_notes()}


def host_copies(engine, clip, output):
    """Upscale a video, and count what is copied on the host, and where frames are decoded to and encoded from."""
    from pathlib import Path

    from av.video.frame import VideoFrame

    from overnet import Upscaler
    from overnet.runtime.plan import Job
    from overnet.runtime.upscale_file import VideoOptions, upscale_video
    from overnet.runtime.video import color

    driver = CudaDriver()
    seen = {"decoded to pinned": 0, "encoded from pinned": 0, "copied for the encoder": 0, "copied to a slot": 0}
    decode = color.RgbDecoder.__call__

    def counted_decode(self, frame, out=None):
        seen["decoded to pinned"] += out is not None and is_pinned(out)
        return decode(self, frame, out)

    class CountedFrames:
        @staticmethod
        def from_numpy_buffer(array, format):
            seen["encoded from pinned"] += is_pinned(array)
            return VideoFrame.from_numpy_buffer(array, format=format)

        @staticmethod
        def from_ndarray(array, format):
            seen["copied for the encoder"] += 1
            return VideoFrame.from_ndarray(array, format=format)

    class CountedCopies:
        uint8 = np.uint8

        @staticmethod
        def copyto(target, source):
            seen["copied to a slot"] += 1
            np.copyto(target, source)

    with (
        mock.patch.object(color.RgbDecoder, "__call__", counted_decode),
        mock.patch.object(color, "VideoFrame", CountedFrames),
        mock.patch.object(slot_ring, "np", CountedCopies),
        Upscaler(2, model=engine, backend="tensorrt") as upscaler,
    ):
        outcome = upscale_video(Job(Path(clip), Path(output), "video"), upscaler, VideoOptions(), overwrite=True)
    return {"frames": outcome.frames, **seen, **nothing_wrong(driver)}


def smaller_than_the_engine_takes(engine, reference):
    """An image smaller than the profile's smallest, which is padded."""
    driver = CudaDriver()
    settings = setting(engine, reference)
    image = next(frames((9, 30), 1))
    with settings.expected() as on_cpu, settings.upscaler() as upscaler:
        found, expected = upscaler(image), on_cpu(image)
        stream_found = []
        stream_all(upscaler, (9, 30), iter([image]), lambda _, upscaled: stream_found.append(upscaled.copy()))
        notes = upscaler.pop_notes()
    nothing_wrong(driver)
    assert np.array_equal(stream_found[0], found)
    return {"shape": found.shape, "difference": float(np.abs(found.astype(int) - expected).mean()), "notes": notes}


def stopped_while_waiting(engine, reference):
    """Whoever waits for a buffer is woken by `stop`, and what was submitted can still be fetched."""
    driver = CudaDriver()
    settings = setting(engine, reference)
    with settings.upscaler(slots=2) as upscaler, closing(upscaler.stream(*settings.size)) as stream:
        tickets = [stream.submit(frame) for frame in frames(settings.size, 2)]
        got = []
        waiting = threading.Thread(target=lambda: got.append(stream.buffer()))
        waiting.start()
        waiting.join(0.2)
        waited = waiting.is_alive()
        stream.stop()
        waiting.join(5)
        for ticket in tickets:
            with ticket as upscaled:
                assert upscaled.shape == (80, 96, 3)
    nothing_wrong(driver)
    return {"waited": waited, "got": got}


def with_tensorrt_rtx(engine, reference, graphs):
    """Stream through TensorRT-RTX's double, which records CUDA graphs by itself; what it kept of its kernels."""
    from overnet.runtime.backends.trt.engine_cache import cache_folder

    driver = CudaDriver()
    settings = setting(engine, reference, backend="tensorrt-rtx")
    differences = []
    with settings.expected() as on_cpu, settings.upscaler(cuda_graphs=graphs) as upscaler:
        expected = [on_cpu(frame) for frame in frames(settings.size, 12)]
        stream_all(
            upscaler,
            settings.size,
            frames(settings.size, 12),
            lambda number, upscaled: differences.append(int(np.abs(upscaled.astype(int) - expected[number]).max())),
        )
        notes = upscaler.pop_notes()
        strategy = str(upscaler.backend_for(2)._engines.for_size(settings.size).engine._config.cuda_graph_strategy)
    kernels = list(cache_folder().with_name("kernels").glob("*.kernels"))
    return {
        "differences": differences,
        "notes": notes,
        "kernels": len(kernels),
        "strategy": strategy,
        **nothing_wrong(driver),
    }


def built_at_first_use(model, weights, folder, sizes, backend):
    """Upscale images with an ONNX file, whose engines are "built" from `weights`; what was wished for and said."""
    from pathlib import Path

    from overnet import Upscaler
    from overnet.export.engine.engine_graph import with_means
    from overnet.runtime.backends.trt import engines
    from overnet.runtime.backends.trt.engine_cache import cache_folder
    from tests.doubles.engines import write_engine

    wished = []

    def build(request, *, device, on_progress, on_note, unusable_sha256):
        wished.append(f"{request.precision} {request.profile}")
        on_progress("building", 1, 2)
        path = Path(folder) / f"{len(wished)}.engine"
        return write_engine(path, with_means(Path(weights).read_bytes()), request.profile, library=request.runtime)

    driver, progress, differences = CudaDriver(), [], []
    with (
        mock.patch.object(engines, "cached_engine", build),
        Upscaler(2, model=model, backend="onnxruntime", tile=0) as on_cpu,
        Upscaler(2, model=model, backend=backend, on_progress=lambda *step: progress.append(step)) as upscaler,
    ):
        for size in sizes:
            image = photograph_like(tuple(size))
            differences.append(int(np.abs(upscaler(image).astype(int) - on_cpu(image)).max()))
        name, notes = upscaler.backend_name, upscaler.pop_notes()
    nothing_wrong(driver)
    checked = len(list(cache_folder().with_name("checked").glob("*")))
    return {
        "wished": wished,
        "backend": name,
        "notes": notes,
        "differences": differences,
        "checked": checked,
        "progress": progress,
    }


def after_an_update(model, folder, driver_of_engine):
    """Upscale with a stored engine that TensorRT cannot load; what was asked of the cache, and what was said."""
    import json
    from pathlib import Path

    from overnet import Upscaler
    from overnet.export.engine.engine_graph import with_means
    from overnet.files.engine_sidecar import sidecar_path
    from overnet.runtime.backends.trt import engines
    from tests.doubles.engines import write_engine

    asked = []

    def cached(request, *, device, on_progress, on_note, unusable_sha256):
        asked.append(unusable_sha256)
        path, content = Path(folder) / "x.engine", with_means(Path(model).read_bytes())
        if unusable_sha256:
            return write_engine(path, content, request.profile)
        # The file itself says that it is of another version; its sidecar, that it fits.
        write_engine(path, content, request.profile, version="10.9.0")
        sidecar = json.loads(sidecar_path(path).read_text())
        sidecar["environment"].update(runtime_version="10.3.0", driver=driver_of_engine)
        sidecar_path(path).write_text(json.dumps(sidecar))
        return path

    with mock.patch.object(engines, "cached_engine", cached):
        try:
            with Upscaler(2, model=model, backend="tensorrt") as upscaler:
                upscaler(next(frames((40, 48), 1)))
                said = upscaler.pop_notes()
        except OverNetError as error:
            said = [str(error)]
    nothing_wrong(CudaDriver())
    return {"asked": len(asked), "said": said}


def never_fetched(engine, reference):
    """Streams that end by an error of the receiver, again and again: no slot is lost by it."""
    driver = CudaDriver()
    settings = setting(engine, reference)

    def fail(number, upscaled):
        if number == 2:
            time.sleep(0.05)  # so that others are submitted and wait to be fetched
            raise ZeroDivisionError

    received = []
    with settings.upscaler() as upscaler:
        for _ in range(6):
            try:
                stream_all(upscaler, settings.size, frames(settings.size, 20), fail)
            except ZeroDivisionError:
                received.append("failed")
        free = len(upscaler.backend_for(2)._engines.for_size(settings.size).ring._free)
        stream_all(upscaler, settings.size, frames(settings.size, 5), lambda number, _: received.append(number))
    nothing_wrong(driver)
    return {"received": received, "free": free}


def live(engine, reference):
    """A camera that is faster than the engine, and changes its size: the newest frames, in order, and nothing left."""
    from overnet.runtime.live.run import LiveLimits, run_live
    from tests.runtime.live.test_run import Camera, Sink

    driver = CudaDriver()
    driver.set_rates(launch_microseconds=15000)
    settings = setting(engine, reference)
    sink = Sink()
    with settings.upscaler() as upscaler:
        camera = Camera(120, rate=150, sizes=lambda index: (64, 48) if index < 60 else (48, 40))
        outcome = run_live(camera, upscaler, sink.open, limits=LiveLimits())
    nothing_wrong(driver)
    report = outcome.report
    return {
        "frames": report.frames,
        "dropped": report.dropped,
        "captured": report.captured,
        # Those that came while the engine was loaded are no part of the run, and a note counts them.
        "before": next((int(note.split()[0]) for note in report.notes if "before the model was ready" in note), 0),
        "in order": sink.levels == sorted(sink.levels),
        "latency_ms": report.latency.to_json()["max"],
    }


def recorded_anew(engine, reference):
    """How often computing is recorded: for each size after its first run, and not again while nothing changes."""
    driver = CudaDriver()
    settings = setting(engine, reference)
    captured = []
    with (
        settings.expected() as on_cpu,
        settings.upscaler(slots=1) as upscaler,
        mock.patch.object(SlotShared, "give_up_recording", unexpected),
    ):
        for size in (settings.size, settings.other_size, settings.size):
            driver.reset()
            for frame in frames(size, 5):
                assert np.array_equal(upscaler(frame), on_cpu(frame))
            captured.append([driver.counters().captures, driver.counters().graph_launches])
    nothing_wrong(driver)
    return captured


def interrupted_while_recording(engine, reference):
    """Ctrl-C in the middle of a recording: the next image is right, and nothing is left."""
    from overnet.runtime.backends.trt.loaded_engine import EngineContext

    driver = CudaDriver()
    settings = setting(engine, reference)
    enqueue, calls = EngineContext.enqueue, []

    def interrupted(self, stream):
        calls.append(stream)
        if len(calls) == 2:
            raise KeyboardInterrupt
        enqueue(self, stream)

    # With one slot, whose second run is the one that is recorded.
    first, second, third = frames(settings.size, 3)
    with settings.expected() as on_cpu, settings.upscaler(slots=1) as upscaler:
        with mock.patch.object(EngineContext, "enqueue", interrupted):
            upscaler(first)
            try:
                upscaler(second)
            except KeyboardInterrupt:
                calls.append("interrupted")
        assert np.array_equal(upscaler(third), on_cpu(third))
    nothing_wrong(driver)
    return calls[2:]


def graphs_fail(engine, reference, where):
    """A part of cuda-core fails: the largest difference of five frames after it, and the notes."""
    import importlib
    from types import SimpleNamespace

    honest = importlib.import_module

    class Broken:
        """Stands for an object of cuda-core, one of whose methods raises."""

        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            if name == where:
                raise RuntimeError(f"{name}\nis not supported")
            method = getattr(self._inner, name)

            def call(*arguments):
                result = method(
                    *(argument._inner if isinstance(argument, Broken) else argument for argument in arguments)
                )
                return Broken(result) if name in ("from_handle", "create_graph_builder", "complete") else result

            return call

    def imported(name):
        if name != "cuda.core":
            return honest(name)
        if where == "import":
            raise OSError("libcudart.so: cannot open")
        return SimpleNamespace(Stream=Broken(honest(name).Stream))

    driver = CudaDriver()
    settings = setting(engine, reference)
    differences = []
    with (
        settings.expected() as on_cpu,
        settings.upscaler(slots=2) as upscaler,
        mock.patch.object(cuda.importlib, "import_module", imported),
    ):
        expected = [on_cpu(frame).astype(int) for frame in frames(settings.size, 5)]
        stream_all(
            upscaler,
            settings.size,
            frames(settings.size, 5),
            lambda number, upscaled: differences.append(int(np.abs(upscaled - expected[number]).max())),
        )
        notes = upscaler.pop_notes()
    assert driver.races() == [] and driver.callback_errors() == []
    return {"differences": differences, "notes": notes}


def set_up_fails_once(engine, reference, function):
    """A call fails for want of memory while the slots are set up: the results after it are right all the same."""
    driver = CudaDriver()
    settings = setting(engine, reference)
    frame = next(frames(settings.size, 1))
    with settings.expected() as on_cpu, settings.upscaler() as upscaler:
        expected = on_cpu(frame)
        driver.fail_next(function, 2, times=2 if function == "cuMemAlloc" else 1)
        found = []
        stream_all(upscaler, settings.size, iter([frame]), lambda _, upscaled: found.append(upscaled.copy()))
    nothing_wrong(driver)
    return int(np.abs(found[0].astype(int) - expected).max())


def memory_that_grows_under_a_filled_slot(engine, reference):
    """A slot is filled, a larger image makes the shared activation memory grow, and then the slot is submitted."""
    driver = CudaDriver()
    settings = setting(engine, reference, size=(24, 24))
    frame, large = next(frames((24, 24), 1)), next(frames((96, 96), 1))
    with settings.expected() as on_cpu, settings.upscaler() as upscaler, closing(upscaler.stream(24, 24)) as stream:
        buffer = stream.buffer()
        np.copyto(buffer, frame)
        wrong = [int(not np.array_equal(upscaler(large), on_cpu(large)))]
        with stream.submit(buffer) as upscaled:
            wrong.append(int(not np.array_equal(upscaled, on_cpu(frame))))
    nothing_wrong(driver)
    return wrong


def out_of_turn(engine, reference):
    """An image while a stream holds all slots, and a stream that outlives its upscaler: an error each, and no end."""
    driver = CudaDriver()
    settings = setting(engine, reference)
    frame = next(frames(settings.size, 1))
    said = []
    with settings.upscaler(slots=2) as upscaler, closing(upscaler.stream(*settings.size)) as stream:
        tickets = [stream.submit(frame) for _ in range(2)]
        with mock.patch.object(slot_ring, "_SLOT_SECONDS", 0.2):
            try:
                upscaler(frame)
            except BackendError as error:
                said.append(str(error))
        upscaler.close()
        try:
            with tickets[0]:
                pass
        except BackendError as error:
            said.append(str(error))
    nothing_wrong(driver)
    return said


def loads_for_tiles(model, folder, size, tile):
    """How many engines are loaded for each of three images that go in tiles, and which were wished for."""
    from pathlib import Path

    from overnet import Upscaler
    from overnet.runtime.backends.trt import engines
    from overnet.runtime.backends.trt.loaded_engine import LoadedEngine
    from tests.doubles.engines import mark_checked, nearest_model, write_engine

    wished, loaded = [], []

    def build(request, *, device, on_progress, on_note, unusable_sha256):
        wished.append(str(request.profile))
        path = Path(folder) / f"{len(wished)}.engine"
        # Another graph, which costs nothing: so it must not be compared with the network.
        return mark_checked(write_engine(path, nearest_model(means=3), request.profile))

    class Counted(LoadedEngine):
        def __init__(self, *arguments, **options):
            loaded.append(1)
            super().__init__(*arguments, **options)

    driver = CudaDriver()
    counts = []
    with (
        mock.patch.object(engines, "cached_engine", build),
        mock.patch.object(engines, "LoadedEngine", Counted),
        Upscaler(2, model=model, backend="tensorrt", tile=tile) as upscaler,
    ):
        for _ in range(3):
            loaded.clear()
            upscaler(photograph_like(tuple(size)))
            counts.append(len(loaded))
    nothing_wrong(driver)
    return {"wished": wished, "loaded": counts}


def tiled_video(engine, size):
    """Stream a scene of 6 frames, and 2 of another, in tiles: runs for each frame, and slots in use after each."""
    from overnet import Upscaler
    from overnet.runtime.backends.trt import backend as trt_backend

    driver = CudaDriver()
    image = photograph_like(tuple(size))
    video = [np.roll(image, 2 * index, axis=1) for index in range(6)] + [255 - image] * 2
    launches, in_flight, tickets, opened = [], [], [], []

    class Counted(SlotTiles):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            opened.append(self)

    with (
        Upscaler(2, model=engine, backend="tensorrt") as upscaler,
        seen_by_the_driver(driver),
        mock.patch.object(trt_backend, "SlotTiles", Counted),
        closing(upscaler.stream(*size)) as stream,
    ):
        for frame in video:
            before = driver.counters().launches
            tickets.append(stream.submit(frame))
            launches.append(driver.counters().launches - before)
            in_flight.extend(len(tiles._taken) for tiles in opened)
            if len(tickets) == 2:
                with tickets.pop(0) as upscaled:
                    assert upscaled.shape == (2 * size[0], 2 * size[1], 3)
        with tickets.pop(0):
            pass
        notes = upscaler.pop_notes()
    nothing_wrong(driver)
    return {"launches": launches, "in flight": in_flight, "notes": notes}
