"""The classes of TensorRT's Python module for running engines, over the stand-in for the CUDA driver.

`tensorrt_double/tensorrt.py` and `tensorrt_rtx_double/tensorrt_rtx.py` are the modules; each has the names of its
version. An engine (`tests.doubles.engines`) is an ONNX graph with a header, and runs in ONNX Runtime. Undefined
behaviour of the real library is an error here: it is logged, and the call returns False, or None for an object.
"""

from __future__ import annotations

import ctypes
import enum
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tests.doubles.cuda_driver import READ, SONAME, WRITE, Access, CudaDriver

MAGIC = b"OVERNET STAND-IN ENGINE\n"
# Alignment of the memory that the library is given, in bytes.
ALIGNMENT_BYTES = 256


class _Enum(enum.Enum):
    """An enumeration that `int` converts, as it does the bindings' and not Python's."""

    def __int__(self) -> int:
        return int(self.value)


class Severity(_Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class DataType(_Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    INT64 = 8


class TensorIOMode(_Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(_Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class CudaGraphStrategy(_Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


_NUMPY_TYPES: dict[DataType, Any] = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
}
_ONNX_TYPES = {
    onnx.helper.np_dtype_to_tensor_dtype(np.dtype(numpy_type)): data_type
    for data_type, numpy_type in _NUMPY_TYPES.items()
}


def nptype(trt_type: DataType) -> Any:
    """Return NumPy's type for one of the library's."""
    return _NUMPY_TYPES[trt_type]


def volume(iterable: Sequence[int]) -> int:
    """Return the product of a shape."""
    return int(np.prod(tuple(iterable), dtype=np.int64))


class Dims:
    """A shape. As in the bindings, it is not a tuple, but equal to one."""

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self._shape = tuple(int(side) for side in shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: Any) -> Any:
        return self._shape[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dims | tuple | list) and self._shape == tuple(other)

    __hash__ = None

    def __repr__(self) -> str:
        return repr(self._shape)


_Severity = Severity  # `ILogger` has an attribute of this name, so its annotations need another


class ILogger:
    """The base class of loggers. As with the bindings, its constructor must be called."""

    Severity: ClassVar[type[_Severity]] = Severity
    INTERNAL_ERROR: ClassVar[_Severity] = Severity.INTERNAL_ERROR
    ERROR: ClassVar[_Severity] = Severity.ERROR
    WARNING: ClassVar[_Severity] = Severity.WARNING
    INFO: ClassVar[_Severity] = Severity.INFO
    VERBOSE: ClassVar[_Severity] = Severity.VERBOSE

    _made = False

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: _Severity, msg: str) -> None:
        """Take a message."""
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


class Logger(ILogger):
    """A logger that prints."""

    def __init__(self, min_severity: _Severity = Severity.WARNING) -> None:
        ILogger.__init__(self)
        self.min_severity = min_severity

    def log(self, severity: _Severity, msg: str) -> None:
        """Print a message that is severe enough."""
        if int(severity) <= int(self.min_severity):
            print(f"[TRT] [{severity.name}] {msg}", flush=True)


class _Cuda:
    """The driver's functions that the library calls, in the context that was current at its creation.

    Where none was, the first device's primary context becomes current, as in the CUDA runtime, which the real library
    uses.
    """

    def __init__(self) -> None:
        self.stand_in = CudaDriver()
        self._library = ctypes.CDLL(SONAME)
        self._context = ctypes.c_void_p()
        self._library.cuInit(0)
        self._library.cuCtxGetCurrent(ctypes.byref(self._context))
        if not self._context:
            self._library.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), 0)
            self._library.cuCtxSetCurrent(self._context)

    def allocate(self, size: int) -> int | None:
        address = ctypes.c_uint64()
        failed = self._in_context(lambda: self._library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)))
        return None if failed else address.value

    def free(self, address: int) -> None:
        self._in_context(lambda: self._library.cuMemFree_v2(ctypes.c_uint64(address)))

    def record(self, event: int, stream: int) -> int:
        return int(self._library.cuEventRecord(ctypes.c_void_p(event), ctypes.c_void_p(stream)))

    def _in_context(self, call: Callable[[], int]) -> int:
        error = self._library.cuCtxPushCurrent_v2(self._context)
        if error:
            return int(error)
        try:
            return int(call())
        finally:
            self._library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


class _DeviceMemory:
    """Memory that the library allocates itself, freed with the object that owns it."""

    def __init__(self, cuda: _Cuda, size: int) -> None:
        self._cuda = cuda
        self.address = cuda.allocate(size)

    def __del__(self) -> None:
        if self.address is not None:
            self._cuda.free(self.address)


class Runtime:
    """The loader of engines.

    Args:
        logger: for the messages of its engines.
    """

    # The library and version of the module that has this class.
    _library: ClassVar[str]
    _version: ClassVar[str]
    _engine_class: ClassVar[type[ICudaEngine]]

    def __init__(self, logger: ILogger) -> None:
        if not (isinstance(logger, ILogger) and logger._made):
            raise TypeError("ILogger.__init__() must be called when overriding __init__")
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """Load an engine of this library and version; return None and log an error for anything else."""
        content = bytes(serialized_engine)
        start = len(MAGIC) + 4
        if not content.startswith(MAGIC) or len(content) < start:
            return self._refused("Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.")
        (length,) = struct.unpack("<I", content[len(MAGIC) : start])
        header = json.loads(content[start : start + length])
        if (header["library"], header["version"]) != (self._library, self._version):
            return self._refused(
                f"The engine plan file is not compatible with this version of TensorRT, expecting library version "
                f"{self._version} got {header['version']}"
            )
        cuda = _Cuda()
        weights = _DeviceMemory(cuda, len(content))
        if weights.address is None:
            return self._refused(f"out of memory: {len(content)} bytes for weights")
        return self._engine_class(self, header, content[start + length :], cuda, weights)

    def _refused(self, text: str) -> ICudaEngine | None:
        self.logger.log(Severity.ERROR, f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization ({text})")
        return None


class _Graph:
    """The ONNX graph of an engine: its tensors, and its computation."""

    def __init__(self, content: bytes) -> None:
        self._model = onnx.load_from_string(content)
        graph = self._model.graph
        initializers = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in initializers]
        self.inputs = [value.name for value in inputs]
        self.outputs = [value.name for value in graph.output]
        self.types = {value.name: _ONNX_TYPES[value.type.tensor_type.elem_type] for value in (*inputs, *graph.output)}
        self.shapes = {value.name: _shape(value) for value in (*inputs, *graph.output)}
        self._inferred: dict[tuple[tuple[int, ...], ...], dict[str, tuple[int, ...]]] = {}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def output_shapes(self, inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the outputs' shapes for some of the inputs'; -1 where a side is not known."""
        key = tuple(inputs[name] for name in self.inputs)
        if key not in self._inferred:
            model = onnx.ModelProto()
            model.CopyFrom(self._model)
            for value in model.graph.input:
                if value.name in inputs:
                    for dim, side in zip(value.type.tensor_type.shape.dim, inputs[value.name], strict=True):
                        dim.dim_value = side
            for value in model.graph.output:
                for dim in value.type.tensor_type.shape.dim:
                    dim.Clear()
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
            shapes = {value.name: _shape(value) for value in inferred.graph.output}
            if any(side < 0 for shape in shapes.values() for side in shape):
                shapes = self._tried(inputs)
            self._inferred[key] = shapes
        return self._inferred[key]

    def _tried(self, inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes that only a computation of the graph gives."""
        zeros = {name: np.zeros(shape, nptype(self.types[name])) for name, shape in inputs.items()}
        results = self.session.run(self.outputs, zeros)
        return {name: tuple(result.shape) for name, result in zip(self.outputs, results, strict=True)}


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim)


class ICudaEngine:
    """A loaded engine; made by `Runtime.deserialize_cuda_engine`."""

    def __init__(
        self, runtime: Runtime, header: dict[str, Any], content: bytes, cuda: _Cuda, weights: _DeviceMemory
    ) -> None:
        self._has_made_a_context = False
        self._runtime, self._cuda, self._weights = runtime, cuda, weights
        self._graph = _Graph(content)
        self._names = [*self._graph.inputs, *self._graph.outputs]
        self._profile = {name: [tuple(shape) for shape in shapes] for name, shapes in header["profile"].items()}
        self._image = str(header["image"])
        self._bytes_per_pixel = float(header["activation_bytes_per_pixel"])
        self.error_recorder = None

    @property
    def num_io_tensors(self) -> int:
        """The number of inputs and outputs."""
        return len(self._names)

    @property
    def num_optimization_profiles(self) -> int:
        """The number of profiles, always one."""
        return 1

    @property
    def device_memory_size_v2(self) -> int:
        """Activation memory in bytes for the largest shapes of all profiles."""
        return self.get_device_memory_size_for_profile_v2(0)

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        """Return the activation memory in bytes for a profile's largest shapes."""
        if profile_index != 0:
            self._error(f"getDeviceMemorySizeForProfileV2: no profile {profile_index}")
            return 0
        return self._activation_bytes(self._profile[self._image][2])

    def get_tensor_name(self, index: int) -> str:
        """Return a tensor's name; inputs come first."""
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Return whether a tensor is an input or an output."""
        if name not in self._names:
            return TensorIOMode.NONE
        return TensorIOMode.INPUT if name in self._graph.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        """Return a tensor's number type."""
        return self._graph.types[name]

    def get_tensor_shape(self, name: str) -> Dims:
        """Return a tensor's shape; -1 for sides that vary."""
        return Dims(self._graph.shapes[name])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        """Return an input's smallest, optimal and largest shape."""
        if name not in self._profile or profile_index != 0:
            self._error(f"getProfileShape: no input {name} in profile {profile_index}")
            return []
        return [Dims(shape) for shape in self._profile[name]]

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        """Create an execution context; return None and log an error where its memory cannot be allocated."""
        if not isinstance(strategy, ExecutionContextAllocationStrategy):
            raise TypeError("create_execution_context(): incompatible function arguments")
        memory = None
        if strategy != ExecutionContextAllocationStrategy.USER_MANAGED:
            memory = _DeviceMemory(self._cuda, self.device_memory_size_v2)
            if memory.address is None:
                size = self.device_memory_size_v2
                self._error(f"Error Code 2: OutOfMemory (Requested size was {size} bytes.)")
                return None
        return IExecutionContext(self, memory)

    def _activation_bytes(self, shape: Sequence[int]) -> int:
        pixels = volume(shape[:3])
        return -(-round(pixels * self._bytes_per_pixel) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    def _error(self, text: str) -> None:
        self._runtime.logger.log(Severity.ERROR, text)


class ICudaEngineWithConfig(ICudaEngine):
    """An engine of versions from 11 on."""

    _config_class: ClassVar[type[IRuntimeConfig]]

    def create_runtime_config(self) -> IRuntimeConfig:
        """Return options for `create_execution_context`."""
        return self._config_class()

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy | IRuntimeConfig = ExecutionContextAllocationStrategy.STATIC,
        *,
        runtime_config: IRuntimeConfig | None = None,
    ) -> IExecutionContext | None:
        """Create an execution context with a strategy, as in earlier versions, or with a configuration."""
        config = strategy if isinstance(strategy, IRuntimeConfig) else runtime_config
        if config is not None:
            return super().create_execution_context(config.get_execution_context_allocation_strategy())
        assert isinstance(strategy, ExecutionContextAllocationStrategy)
        return super().create_execution_context(strategy)


class IRuntimeConfig:
    """Options for an execution context."""

    def __init__(self) -> None:
        self._strategy = ExecutionContextAllocationStrategy.STATIC

    def get_execution_context_allocation_strategy(self) -> ExecutionContextAllocationStrategy:
        """The owner of the activation memory."""
        return self._strategy

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> None:
        """Set the owner of the activation memory."""
        self._strategy = strategy


class IRuntimeCache:
    """TensorRT-RTX's compiled kernels; the double has none, but checks their bytes."""

    _CONTENT = b"kernels of the stand-in"

    def serialize(self) -> bytes:
        """Return the bytes to store."""
        return self._CONTENT

    def deserialize(self, blob: bytes) -> bool:
        """Read stored bytes; return False for others."""
        return bytes(blob) == self._CONTENT


class IRuntimeConfigOfRtx(IRuntimeConfig):
    """TensorRT-RTX's options, with CUDA graphs and compiled kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self._cache: IRuntimeCache | None = None

    def create_runtime_cache(self) -> IRuntimeCache:
        """Return an empty cache."""
        return IRuntimeCache()

    def get_runtime_cache(self) -> IRuntimeCache | None:
        """Return the cache in use."""
        return self._cache

    def set_runtime_cache(self, cache: IRuntimeCache | None = None) -> bool:
        """Use a cache."""
        self._cache = cache
        return True


class _Tensor:
    """One tensor of one enqueue, which later calls do not change."""

    def __init__(self, name: str, address: int, shape: tuple[int, ...], data_type: DataType) -> None:
        self.name, self.address, self.shape = name, address, shape
        self.type = np.dtype(nptype(data_type))
        self.size = volume(shape) * self.type.itemsize

    def array(self, stand_in: CudaDriver) -> NDArray[Any]:
        """Return the host address of its content."""
        memory = (ctypes.c_uint8 * self.size).from_address(stand_in.resolve(self.address, self.size))
        return np.frombuffer(memory, self.type).reshape(self.shape)


class IExecutionContext:
    """The state of running an engine; made by `ICudaEngine.create_execution_context`."""

    def __init__(self, engine: ICudaEngine, memory: _DeviceMemory | None) -> None:
        self.engine = engine
        self.error_recorder = None
        self._memory = memory
        self._given: tuple[int, int] | None = None
        self._needed = engine.device_memory_size_v2
        self._token = engine._cuda.stand_in.token()
        self._addresses: dict[str, int] = {}
        # Inputs with a single shape need not be set.
        self._shapes = {name: shape for name, shape in engine._graph.shapes.items() if min(shape, default=0) >= 0}
        # Only an engine's first context has the profile from the start.
        self._profile = -1 if engine._has_made_a_context else 0
        engine._has_made_a_context = True
        self._event = 0
        self._ready_to_capture = False
        self._running: set[object] = set()

    def __del__(self) -> None:
        if getattr(self, "_running", None):
            self._error("an execution context was destroyed while it was running")

    @property
    def all_binding_shapes_specified(self) -> bool:
        """Whether every input's shape is set."""
        return not self.infer_shapes()

    @property
    def active_optimization_profile(self) -> int:
        """The chosen profile; -1 for none."""
        return self._profile

    def infer_shapes(self) -> list[str]:
        """Return the inputs whose shapes are not set."""
        return [name for name in self.engine._graph.inputs if name not in self._shapes]

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """Set an input's shape; return False and log an error where the profile does not allow it."""
        wanted = tuple(int(side) for side in shape)
        if self._profile < 0:
            return self._error("IExecutionContext::setInputShape: Error Code 3: no optimization profile is chosen")
        limits = self.engine._profile.get(name)
        if limits is None:
            return self._error(f"IExecutionContext::setInputShape: Error Code 3: {name} is no input")
        smallest, _, largest = limits
        inside = len(wanted) == len(smallest) and all(
            low <= side <= high for low, side, high in zip(smallest, wanted, largest, strict=True)
        )
        if not inside:
            return self._error(
                "IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter check failed, condition: "
                f"engineDims.d[i] == dims.d[i]. {name} of {wanted} is outside of the profile: {smallest} to {largest})"
            )
        if self._shapes.get(name) != wanted:
            self._shapes[name] = wanted
            self._needed = self.engine.device_memory_size_v2
            self._ready_to_capture = False
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """Return a tensor's shape for the inputs' shapes that are set; -1 where a side is not known."""
        graph = self.engine._graph
        if name in self._shapes:
            return Dims(self._shapes[name])
        if name in graph.inputs or self.infer_shapes():
            return Dims(graph.shapes[name])
        return Dims(self._output_shapes()[name])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Set a tensor's address."""
        if name not in self.engine._names:
            return self._error(f"IExecutionContext::setTensorAddress: {name} is no tensor")
        if memory % ALIGNMENT_BYTES:
            return self._error(f"IExecutionContext::setTensorAddress: {name} is not aligned to {ALIGNMENT_BYTES} bytes")
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        """Return a tensor's address; 0 where it is not set."""
        return self._addresses.get(name, 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        """Set the activation memory."""
        if self._memory is not None:
            self._error("IExecutionContext::setDeviceMemoryV2: the context allocates its memory itself")
            return
        if memory % ALIGNMENT_BYTES:
            self._error(f"IExecutionContext::setDeviceMemoryV2: not aligned to {ALIGNMENT_BYTES} bytes")
            return
        self._given = (int(memory), int(size))

    def update_device_memory_size_for_shapes(self) -> int:
        """Return the activation memory for the shapes set; 0 and an error message where some are missing."""
        if self.infer_shapes():
            self._error("IExecutionContext::updateDeviceMemorySizeForShapes: input shapes are missing")
            return 0
        self._needed = self.engine._activation_bytes(self._shapes[self.engine._image])
        return self._needed

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Choose the profile, of which there is one."""
        if profile_index != 0:
            return self._error(f"setOptimizationProfileAsync: no profile {profile_index}")
        self._profile = 0
        return True

    def set_input_consumed_event(self, event: int) -> bool:
        """Set an event to record in each run when its inputs have been read, before the outputs are written."""
        self._event = int(event)
        return True

    def get_input_consumed_event(self) -> int:
        """Return that event; 0 for none."""
        return self._event

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Enqueue a run in a stream, with the current addresses and shapes."""
        cuda = self.engine._cuda
        stand_in = cuda.stand_in
        missing = self._missing()
        if missing:
            return self._error(f"IExecutionContext::enqueueV3: Error Code 3: API Usage Error ({missing})")
        capturing = stand_in.is_capturing(stream_handle)
        if capturing and not self._ready_to_capture:
            return self._error("IExecutionContext::enqueueV3: captured before a plain run with the shapes that are set")
        if stream_handle == 0:
            self.engine._runtime.logger.log(
                Severity.WARNING, "Using default stream in enqueueV3() may lead to performance issues"
            )
        inputs = self._tensors(self.engine._graph.inputs, self._shapes)
        outputs = self._tensors(self.engine._graph.outputs, self._output_shapes())
        run = _Run(self.engine, inputs, outputs, self._running if not capturing else set())
        memory = (self._memory.address or 0, self._needed) if self._memory else self._given or (0, 0)
        own = [Access(self._token, 1, READ | WRITE)]
        if self._needed:
            own.append(Access(memory[0], self._needed, READ | WRITE))
        reads = [Access(tensor.address, tensor.size, READ) for tensor in inputs]
        writes = [Access(tensor.address, tensor.size, WRITE) for tensor in outputs]
        if self._event:
            error = (
                stand_in.launch_host(stream_handle, run.read, own + reads, label="engine's first part")
                or cuda.record(self._event, stream_handle)
                or stand_in.launch_host(stream_handle, run.compute, own + writes, label="engine's second part")
            )
        else:
            error = stand_in.launch_host(stream_handle, run.read_and_compute, own + reads + writes, label="engine")
        if error:
            return self._error(f"IExecutionContext::enqueueV3: Error Code 1: Cuda Driver (CUresult {error})")
        self._ready_to_capture = True
        return True

    def _missing(self) -> str | None:
        """Return the settings that are missing for a run."""
        if self._profile < 0:
            return "no optimization profile is chosen"
        shapeless = self.infer_shapes()
        if shapeless:
            return f"no shape is set for {', '.join(shapeless)}"
        placeless = [name for name in self.engine._names if not self._addresses.get(name)]
        if placeless:
            return f"no address is set for {', '.join(placeless)}"
        if self._memory is None and self._needed:
            if self._given is None:
                return "no device memory is set"
            if self._given[1] < self._needed:
                return f"device memory of {self._given[1]} bytes is set, and {self._needed} are needed"
        return None

    def _output_shapes(self) -> dict[str, tuple[int, ...]]:
        graph = self.engine._graph
        return graph.output_shapes({name: self._shapes[name] for name in graph.inputs})

    def _tensors(self, names: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> list[_Tensor]:
        return [_Tensor(name, self._addresses[name], shapes[name], self.engine._graph.types[name]) for name in names]

    def _error(self, text: str) -> bool:
        self.engine._error(text)
        return False


class _Run:
    """The work of one enqueue. It references only the graph's session."""

    def __init__(
        self, engine: ICudaEngine, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor], running: set[object]
    ) -> None:
        self._session, self._stand_in = engine._graph.session, engine._cuda.stand_in
        self._inputs, self._outputs, self._running = inputs, outputs, running
        self._content: dict[str, NDArray[Any]] = {}
        running.add(self)

    def read(self) -> None:
        """Read the inputs."""
        self._content = {tensor.name: tensor.array(self._stand_in).copy() for tensor in self._inputs}

    def compute(self) -> None:
        """Compute and write the outputs."""
        try:
            results = self._session.run([tensor.name for tensor in self._outputs], self._content)
            for tensor, result in zip(self._outputs, results, strict=True):
                np.copyto(tensor.array(self._stand_in), result, casting="no")
        finally:
            self._running.discard(self)

    def read_and_compute(self) -> None:
        """Read the inputs, and write the outputs."""
        self.read()
        self.compute()
