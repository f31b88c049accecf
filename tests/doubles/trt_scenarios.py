"""The functions that test_tensorrt.py runs over the doubles, each in its own process."""

import ctypes
import importlib
from typing import Any

import numpy as np
import onnx
import pycuda.driver as cuda
from numpy.typing import NDArray

from overnet.files.engine_sidecar import Profile
from overnet.files.onnx_metadata import GIVEN_MEANS_NAME, INPUT_NAME, MEANS_NAME, OUTPUT_NAME, USE_GIVEN_MEANS_NAME
from tests.doubles.cuda_driver import SONAME, CudaDriver
from tests.doubles.engines import VERSIONS, make_engine, nearest_model
from tests.doubles.scenarios import NON_BLOCKING, context

PROFILE = Profile((4, 4), (8, 8), (16, 16), batch=2)
BYTES_PER_PIXEL = 100.0
HEIGHT, WIDTH = 6, 8


class Library:
    """One of the two modules, and an engine loaded by it."""

    def __init__(self, name: str = "tensorrt", **model: Any) -> None:
        self.trt: Any = importlib.import_module(name)
        self.messages: list[str] = []
        messages = self.messages

        class Logger(self.trt.ILogger):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, msg: str) -> None:
                messages.append(f"{severity.name}: {msg}")

        self.runtime = self.trt.Runtime(Logger())
        library = "tensorrt-rtx" if name.endswith("rtx") else "tensorrt"
        version = self.trt.__version__
        self.serialized = make_engine(
            nearest_model(**model),
            PROFILE,
            activation_bytes_per_pixel=BYTES_PER_PIXEL,
            library=library,
            version=version,
        )
        self.engine = self.runtime.deserialize_cuda_engine(self.serialized)
        self.strategies = self.trt.ExecutionContextAllocationStrategy

    def said(self) -> str:
        """Return the messages since the last call."""
        text = " | ".join(self.messages)
        self.messages.clear()
        return text


class Slot:
    """An execution context with memory for one image."""

    def __init__(self, library: Library, strategy: Any = None, activations: Any = None) -> None:
        self.context = library.engine.create_execution_context(strategy or library.strategies.USER_MANAGED)
        self.context.set_optimization_profile_async(0, 0)
        self.source, self.target = cuda.mem_alloc(HEIGHT * WIDTH * 3), cuda.mem_alloc(HEIGHT * WIDTH * 12)
        self.image = cuda.pagelocked_zeros((1, HEIGHT, WIDTH, 3), np.uint8)
        self.result = cuda.pagelocked_zeros((1, 2 * HEIGHT, 2 * WIDTH, 3), np.uint8)
        self.context.set_input_shape(INPUT_NAME, self.image.shape)
        if library.engine.num_io_tensors > 2:
            self.context.set_input_shape(GIVEN_MEANS_NAME, (1, 3, 1, 1))
        self.context.set_tensor_address(INPUT_NAME, int(self.source))
        self.context.set_tensor_address(OUTPUT_NAME, int(self.target))
        if strategy is None:
            size = self.context.update_device_memory_size_for_shapes()
            self.activations = activations or cuda.mem_alloc(size)
            self.context.set_device_memory(int(self.activations), size)

    def enqueue(self, stream: Any) -> bool:
        """Enqueue an image's copy to the device, its run, and the copy back."""
        cuda.memcpy_htod_async(self.source, self.image, stream)
        done = bool(self.context.execute_async_v3(stream.handle))
        cuda.memcpy_dtoh_async(self.result, self.target, stream)
        return done


def describe(name: str) -> dict[str, Any]:
    """Return an engine's properties."""
    with context():
        library = Library(name, means=3)
        engine = library.engine
        tensors = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return {
            "tensors": {
                tensor: [
                    str(engine.get_tensor_mode(tensor)),
                    str(engine.get_tensor_dtype(tensor)),
                    list(engine.get_tensor_shape(tensor)),
                ]
                for tensor in tensors
            },
            "profile": [list(shape) for shape in engine.get_tensor_profile_shape(INPUT_NAME, 0)],
            "profile of the means": [list(shape) for shape in engine.get_tensor_profile_shape(GIVEN_MEANS_NAME, 0)],
            "memory": engine.get_device_memory_size_for_profile_v2(0),
            "version": library.trt.__version__,
            "has config": hasattr(engine, "create_runtime_config"),
            "said": library.said(),
        }


def images(name: str) -> dict[str, Any]:
    """Run two images in two streams, and return the objects that are left."""
    with context() as driver:
        library = Library(name)
        weights = driver.counters().device_bytes
        slots, streams = [Slot(library) for _ in range(2)], [cuda.Stream(NON_BLOCKING) for _ in range(2)]
        random = np.random.default_rng(1)
        for slot in slots:
            slot.image[:] = random.integers(0, 255, slot.image.shape)
        done = [slot.enqueue(stream) for slot, stream in zip(slots, streams, strict=True)]
        cuda.Context.synchronize()
        right = [bool((slot.result == slot.image.repeat(2, 1).repeat(2, 2)).all()) for slot in slots]
        found = {"done": done, "right": right, "races": driver.races(), "said": library.said()}
        found["weights counted"] = weights == len(library.serialized)
        before = driver.counters().device_bytes
        static = library.engine.create_execution_context()
        found["static"] = driver.counters().device_bytes - before
        del static, slot, slots, library
        found["left"] = driver.counters().device_bytes
        return found


def misuse() -> dict[str, Any]:
    """Make calls that the double refuses, and return the messages."""
    found: dict[str, Any] = {}
    with context() as driver:
        library = Library()
        runtime, strategies = library.runtime, library.strategies
        found["foreign"] = [runtime.deserialize_cuda_engine(b"something else"), library.said()]
        other = make_engine(nearest_model(), PROFILE, version="10.9.0")
        found["of another version"] = [runtime.deserialize_cuda_engine(other), library.said()]
        stream = cuda.Stream(NON_BLOCKING)
        bare = library.engine.create_execution_context(strategies.USER_MANAGED)

        def run(state: Any = bare, handle: int | None = None) -> list[Any]:
            return [state.execute_async_v3(stream.handle if handle is None else handle), library.said()]

        second = library.engine.create_execution_context(strategies.USER_MANAGED)
        found["no profile"] = [second.active_optimization_profile, run(second)[1]]
        found["no shape"] = run()
        found["shape outside"] = [bare.set_input_shape(INPUT_NAME, (1, 17, 8, 3)), library.said()]
        found["size unknown"] = [bare.update_device_memory_size_for_shapes(), library.said()]
        bare.set_input_shape(INPUT_NAME, (1, HEIGHT, WIDTH, 3))
        found["no address"] = run()
        found["misaligned"] = [bare.set_tensor_address(INPUT_NAME, 100), library.said()]
        slot = Slot(library)
        for tensor in (INPUT_NAME, OUTPUT_NAME):
            bare.set_tensor_address(tensor, slot.context.get_tensor_address(tensor))
        found["no memory"] = run()
        size = bare.update_device_memory_size_for_shapes()
        bare.set_device_memory(int(slot.activations), size - 1)
        found["small memory"] = run()
        bare.set_device_memory(int(slot.activations), size)
        bare.set_input_shape(INPUT_NAME, (1, HEIGHT, WIDTH + 1, 3))
        found["memory of another shape"] = run()
        bare.update_device_memory_size_for_shapes()
        bare.set_device_memory(int(slot.activations), library.engine.device_memory_size_v2)
        found["beyond an allocation"] = run()
        slot.target.free()
        found["freed"] = run(slot.context)
        driver.set_memory_limit(driver.counters().device_bytes)
        found["no room"] = [library.engine.create_execution_context(strategies.STATIC), library.said()]
        driver.set_memory_limit(1 << 30)
        slot = Slot(library)
        found["default stream"] = run(slot.context, 0)
        cuda.Context.synchronize()
        driver.hold(stream.handle)
        slot.enqueue(stream)
        slot.context = None
        found["destroyed while running"] = [None, library.said()]
        driver.release(stream.handle)
        stream.synchronize()
    return found


def races(kind: str) -> list[str]:
    """Let two runs share what they must not, and return the races."""
    with context() as driver:
        library = Library()
        first, second = cuda.Stream(NON_BLOCKING), cuda.Stream(NON_BLOCKING)
        slot = Slot(library)
        if kind == "context":
            assert slot.context.execute_async_v3(first.handle)
            target, activations = cuda.mem_alloc(HEIGHT * WIDTH * 12), cuda.mem_alloc(1 << 16)
            slot.context.set_tensor_address(OUTPUT_NAME, int(target))
            slot.context.set_device_memory(int(activations), 1 << 16)
            assert slot.context.execute_async_v3(second.handle)
        elif kind == "activations":
            other = Slot(library, activations=slot.activations)
            slot.enqueue(first)
            other.enqueue(second)
        else:
            # The inputs' event is recorded before the outputs are written.
            driver_itself, event = ctypes.CDLL(SONAME), ctypes.c_void_p()  # PyCUDA does not expose an event's handle
            driver_itself.cuEventCreate(ctypes.byref(event), 0)
            slot.context.set_input_consumed_event(event.value)
            assert slot.context.execute_async_v3(first.handle)
            driver_itself.cuStreamWaitEvent(ctypes.c_void_p(second.handle), event, 0)
            if kind == "input":
                cuda.memcpy_htod_async(slot.source, slot.image, second)
            else:
                cuda.memcpy_dtoh_async(slot.result, slot.target, second)
        cuda.Context.synchronize()
        assert driver.callback_errors() == []
        return driver.races()


def graphs() -> dict[str, Any]:
    """Capture runs with cuda.core: refused for shapes that have not run before, and replayed with the settings."""
    core = importlib.import_module("cuda.core")  # without types
    with context() as driver:
        library = Library()
        stream, slot = cuda.Stream(NON_BLOCKING), Slot(library)
        handle = core.Stream.from_handle(stream.handle)

        def capture() -> tuple[bool, Any]:
            builder = handle.create_graph_builder()
            builder.begin_building(mode="thread_local")
            done = slot.enqueue(stream)
            graph = builder.end_building().complete()
            builder.close()
            return done, graph

        refused, _ = capture()
        said = library.said()
        slot.enqueue(stream)
        stream.synchronize()
        allowed, graph = capture()
        results = []
        for grey in (10, 20):
            slot.image[:] = grey
            graph.launch(handle)
            stream.synchronize()
            results.append(sorted(set(slot.result.ravel().tolist())))
        graph.close()
        return {"refused": refused, "said": said, "allowed": allowed, "results": results, "races": driver.races()}


def further_tensors(switch: str, switch_shape: list[int]) -> list[Any]:
    """Run an image of one grey level with its own and with given means, for one type and shape of the switch."""
    with context() as driver:
        library = Library(means=3, switch=getattr(onnx.TensorProto, switch), switch_shape=switch_shape)
        stream, slot = cuda.Stream(NON_BLOCKING), Slot(library)
        number = library.trt.nptype(library.engine.get_tensor_dtype(USE_GIVEN_MEANS_NAME))
        given, use, means = (cuda.mem_alloc(64) for _ in range(3))
        for name, memory in ((GIVEN_MEANS_NAME, given), (USE_GIVEN_MEANS_NAME, use), (MEANS_NAME, means)):
            slot.context.set_tensor_address(name, int(memory))
        slot.image[:] = 100
        cuda.memcpy_htod(given, np.array([10, 20, 30], np.float32))
        found = []
        for flag in (0, 1):
            cuda.memcpy_htod(use, np.full(switch_shape, flag, number))
            done = slot.enqueue(stream)
            stream.synchronize()
            own: NDArray[Any] = np.zeros(3, np.float32)
            cuda.memcpy_dtoh(own, means)
            found.append([done, slot.result[0, 0, 0].tolist(), own.tolist()])
        assert library.said() == ""
        assert driver.messages() == []
        return found


def bundled(engine_path: str, image: list[int]) -> list[Any]:
    """Run noise through an engine of an exported ONNX file, and return the result's shape and mean."""
    from pathlib import Path

    from overnet.files.engine_sidecar import load_engine
    from overnet.system.environment import current_environment

    serialized, _ = load_engine(Path(engine_path), current_environment("tensorrt"))
    with context() as driver:
        library = Library()
        engine = library.runtime.deserialize_cuda_engine(serialized)
        state = engine.create_execution_context()
        state.set_input_shape(INPUT_NAME, image)
        source = np.random.default_rng(1).integers(0, 255, image).astype(np.uint8)
        target: NDArray[np.uint8] = np.zeros(tuple(state.get_tensor_shape(OUTPUT_NAME)), np.uint8)
        d_source, d_target, stream = cuda.mem_alloc(source.nbytes), cuda.mem_alloc(target.nbytes), cuda.Stream()
        state.set_tensor_address(INPUT_NAME, int(d_source))
        state.set_tensor_address(OUTPUT_NAME, int(d_target))
        cuda.memcpy_htod_async(d_source, source, stream)
        assert state.execute_async_v3(stream.handle), library.said()
        cuda.memcpy_dtoh_async(target, d_target, stream)
        stream.synchronize()
        assert driver.races() == []
        return [list(target.shape), float(target.mean()), float(source.mean())]


def rtx_config() -> dict[str, Any]:
    """Use TensorRT-RTX's options."""
    with context() as driver:
        library = Library("tensorrt_rtx")
        config = library.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(library.strategies.USER_MANAGED)
        config.cuda_graph_strategy = library.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        cache = config.create_runtime_cache()
        kept = bytes(cache.serialize())
        before = driver.counters().device_bytes
        state = library.engine.create_execution_context(config)
        return {
            "allocated": driver.counters().device_bytes - before,
            "made": state is not None,
            "cache": [cache.deserialize(kept), cache.deserialize(b"damaged"), config.set_runtime_cache(cache)],
            "version": VERSIONS["tensorrt-rtx"] == library.trt.__version__,
        }


def primary_made_by_the_library() -> dict[str, int]:
    """Load an engine where no context is current: the library retains the primary context."""
    library = Library()
    assert library.engine is not None
    return CudaDriver().counters().live
