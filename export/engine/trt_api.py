"""TensorRT and TensorRT-RTX behind one interface: every use of their Python bindings for building is in this file.

It works with `tensorrt` from 10.3 to 11.x and `tensorrt_rtx` 1.x. Objects of the bindings are annotated with the name
of their class there, so that tests/export/engine/test_trt_names.py can look up each attribute in the bindings of each
version. What only one of the two libraries has is used under ``if self.is_rtx`` or ``if not self.is_rtx``.

Networks are strongly typed: number types are those of the graph, and no version's precision flags have an effect. Only
before TensorRT 10.12, where that is not complete, a network can be weakly typed instead: the library then chooses types
by itself, among those that the flags allow. What only these versions have is used under ``if self.is_weak``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from overnet.errors import MissingDependency
from overnet.files.engine_sidecar import TITLES, RuntimeName
from overnet.system.environment import bindings
from overnet.system.tensorrt_logger import Listener, listening, tensorrt_logger
from overnet.types import Progress

# The bindings have no types that mypy could read. Other files that use them import these.
Module: TypeAlias = Any
Builder: TypeAlias = Any
IBuilderConfig: TypeAlias = Any
ICudaEngine: TypeAlias = Any
ILogger: TypeAlias = Any
INetworkDefinition: TypeAlias = Any
IOptimizationProfile: TypeAlias = Any
ITensor: TypeAlias = Any
ITimingCache: TypeAlias = Any
OnnxParser: TypeAlias = Any
ParserError: TypeAlias = Any
Runtime: TypeAlias = Any

# Of one tensor: the smallest, the one to optimise for, and the largest.
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

# From this version on, strong typing is complete.
_COMPLETE_TYPING = (10, 12)

# Builds in one process run one at a time: they share a logger, and their messages do not name the build.
_one_at_a_time = threading.Lock()


class Watch:
    """A receiver of the builder's progress that passes it on, and stops the build on request or on an exception.

    Attributes:
        failure: the exception from `progress`, to be raised after the build: it must not reach the library.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._stopped = threading.Event()
        self._steps: dict[str, int] = {}
        self.failure: BaseException | None = None

    def stop(self) -> None:
        """Stop the build after its current step."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        """Whether the build is to stop, or has."""
        return self._stopped.is_set()

    def monitor(self, trt: Module) -> Any:
        """Return the object that the library reports to, from the thread that builds."""
        watch = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                watch._steps[phase_name] = num_steps

            def phase_finish(self, phase_name: str) -> None:
                pass

            def step_complete(self, phase_name: str, step: int) -> bool:
                if watch._progress is not None and not watch._stopped.is_set():
                    try:
                        watch._progress(phase_name, step + 1, watch._steps.get(phase_name, step + 1))
                    except BaseException as error:
                        watch.failure = error
                        watch.stop()
                return not watch._stopped.is_set()

        return Monitor()


@dataclass(frozen=True)
class Tensor:
    """One input or output: its name, number type (as ``"UINT8"``) and shape, -1 for what varies."""

    name: str
    number_type: str
    shape: tuple[int, ...]


class Library:
    """TensorRT or TensorRT-RTX.

    Raises:
        MissingDependency: the library is not installed.
    """

    def __init__(self, target: RuntimeName) -> None:
        self.is_rtx = target == "tensorrt-rtx"
        self._trt: Module = bindings(target, purpose=f"building for {TITLES[target]}")
        self._logger: ILogger = tensorrt_logger(self._trt)
        self._runtime: object = None

    @property
    def version(self) -> str:
        """The library's version, such as ``"10.3.0"``."""
        return str(self._trt.__version__)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Pass the library's messages to `listener` within the context, which one thread at a time can enter."""
        with _one_at_a_time, listening(self._trt, listener):
            yield

    @property
    def has_weak_typing(self) -> bool:
        """Whether strong typing is not complete in this version, which has weak typing too."""
        numbers = tuple(int(number) for number in re.findall(r"\d+", self.version)[:2])
        return not self.is_rtx and numbers < _COMPLETE_TYPING

    def start(self, weak_precision: str | None = None) -> Build | None:
        """Begin a build. Return None where the library refuses, such as without a GPU; it sends messages then.

        Args:
            weak_precision: the precision to allow in a weakly typed network; None for strong typing.
        """
        try:
            builder: Builder = self._trt.Builder(self._logger)
        except TypeError:  # the bindings raise it where the library returns no builder
            return None
        return Build(self._trt, self._logger, builder, is_rtx=self.is_rtx, weak_precision=weak_precision)

    def compute_capabilities(self) -> list[str]:
        """Return those that can be built for, such as ``"8.6"``; none for TensorRT, which builds for the device."""
        if self.is_rtx:
            names = [str(name) for name in self._trt.ComputeCapability.__members__]
            return [f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM")]
        return []

    def load(self, serialized: bytes) -> ICudaEngine | None:
        """Load an engine, which must not outlive the library; None where it cannot be loaded here."""
        runtime: Runtime = self._trt.Runtime(self._logger)
        # The engine needs it as long as it is used.
        self._runtime = runtime
        return runtime.deserialize_cuda_engine(serialized)

    def activation_memory_bytes(self, serialized: bytes) -> int | None:
        """Return the activation memory that an engine states; None where it cannot be loaded here."""
        engine: ICudaEngine = self.load(serialized)
        return None if engine is None else int(engine.get_device_memory_size_for_profile_v2(0))


class Build:
    """One build, from an ONNX graph to an engine.

    Args:
        trt, logger, builder: the library's bindings, logger and builder.
        is_rtx: whether it is TensorRT-RTX.
        weak_precision: see `Library.start`.
    """

    def __init__(
        self, trt: Module, logger: ILogger, builder: Builder, *, is_rtx: bool, weak_precision: str | None = None
    ) -> None:
        self.is_rtx, self.is_weak = is_rtx, weak_precision is not None
        self._trt: Module = trt
        self._builder: Builder = builder
        # TensorRT 11 and TensorRT-RTX have no other typing and ignore the flag.
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        # The parser does not keep the network alive, and crashes without it.
        self._network: INetworkDefinition = builder.create_network(0 if self.is_weak else strongly_typed)
        self._parser: OnnxParser = trt.OnnxParser(self._network, logger)
        self._config: IBuilderConfig = builder.create_builder_config()
        if self.is_weak:
            flags = {
                "fp16": (trt.BuilderFlag.FP16,),
                "bf16": (trt.BuilderFlag.BF16,),
                "int8": (trt.BuilderFlag.INT8, trt.BuilderFlag.FP16),
            }
            for flag in flags.get(weak_precision or "", ()):
                self._config.set_flag(flag)

    def parse(self, onnx_model: bytes) -> list[str]:
        """Read a graph, and return the parser's errors."""
        if self._parser.parse(onnx_model):
            return []
        errors = []
        for index in range(self._parser.num_errors):
            error: ParserError = self._parser.get_error(index)
            code = str(error.code()).rpartition(".")[2]
            node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_operator() else ""
            errors.append(f"{node}{error.desc()} [{code}]")
        return errors

    @property
    def inputs(self) -> list[Tensor]:
        """The graph's inputs."""
        return [_tensor(self._network.get_input(index)) for index in range(self._network.num_inputs)]

    @property
    def outputs(self) -> list[Tensor]:
        """The graph's outputs."""
        return [_tensor(self._network.get_output(index)) for index in range(self._network.num_outputs)]

    def add_profile(self, shapes: Mapping[str, Shapes]) -> bool:
        """Set the shapes of the inputs that vary. Return False where the library refuses; it sends messages then."""
        wanted: IOptimizationProfile = self._builder.create_optimization_profile()
        for tensor, (minimum, optimum, maximum) in shapes.items():
            wanted.set_shape(tensor, minimum, optimum, maximum)
        # The result is the profile's index, or -1.
        return int(self._config.add_optimization_profile(wanted)) >= 0

    def limit_workspace(self, workspace_bytes: int) -> None:
        """Limit the scratch memory of each layer, which is otherwise all of the device's."""
        self._config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, workspace_bytes)

    def set_compute_capability(self, capability: str) -> None:
        """Build for one of `Library.compute_capabilities` instead of Ampere and later."""
        if self.is_rtx:
            members = self._trt.ComputeCapability.__members__
            self._config.num_compute_capabilities = 1
            self._config.set_compute_capability(members[f"SM{capability.replace('.', '')}"], 0)

    def use_timing_cache(self, stored: bytes) -> bool:
        """Use timings of earlier builds and record those of this one. Return False where the earlier ones are unusable.

        It has no effect in TensorRT-RTX, which measures nothing while it builds.
        """
        cache: ITimingCache = self._config.create_timing_cache(stored)
        if cache is not None and self._config.set_timing_cache(cache, False):
            return True
        self._config.set_timing_cache(self._config.create_timing_cache(b""), False)
        return False

    def timing_cache(self) -> bytes:
        """Return the timings after the build; empty where `use_timing_cache` was not called."""
        cache: ITimingCache = self._config.get_timing_cache()
        return b"" if cache is None else bytes(cache.serialize())

    def run(self, watch: Watch) -> bytes | None:
        """Build the engine, without blocking other threads. Return None where it fails or is stopped."""
        monitor = watch.monitor(self._trt)
        self._config.progress_monitor = monitor
        serialized = self._builder.build_serialized_network(self._network, self._config)
        return None if serialized is None else bytes(serialized)


def _tensor(tensor: ITensor) -> Tensor:
    return Tensor(str(tensor.name), str(tensor.dtype).rpartition(".")[2], tuple(tensor.shape))


def is_installed(target: RuntimeName) -> bool:
    """Return whether a library's bindings can be imported."""
    try:
        bindings(target, purpose="building")
    except MissingDependency:
        return False
    return True
