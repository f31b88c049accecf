"""An ONNX graph of ours to a TensorRT engine, through one code path for TensorRT and TensorRT-RTX."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from overnet.errors import ArtifactError, InputError, MissingDependency, OverNetError, printable
from overnet.export.engine.engine_graph import with_means
from overnet.export.engine.messages import BuildMessages, one_line
from overnet.export.engine.trt_api import Build, Library, Shapes, Tensor
from overnet.files.atomic import atomic_write
from overnet.files.engine_sidecar import TITLES, Environment, Profile, RuntimeName
from overnet.files.onnx_metadata import GIVEN_MEANS_NAME, INPUT_NAME, MEANS_NAME, OUTPUT_NAME, USE_GIVEN_MEANS_NAME
from overnet.system.cuda_device import cuda_device
from overnet.system.environment import bindings, current_environment
from overnet.types import Progress

_Result = TypeVar("_Result")
# Called with the name of the builder's phase, how many of its steps are done, and how many there are.

_INPUT = Tensor(INPUT_NAME, "UINT8", (-1, -1, -1, 3))
_OUTPUT = Tensor(OUTPUT_NAME, "UINT8", (-1, -1, -1, 3))
_USE_GIVEN_MEANS = Tensor(USE_GIVEN_MEANS_NAME, "FLOAT", (1, 1, 1, 1))


class BuildError(OverNetError):
    """TensorRT cannot build an engine from the graph, or not on this machine."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine, not yet checked.

    Attributes:
        serialized: what to write into the file.
        activation_memory_bytes: what it needs beside its weights for the profile's largest batch: from the engine
            itself where there is a GPU, else as the builder stated it. None where neither said.
        environment: what it is tied to. An engine of TensorRT-RTX names no device.
        seconds: that the build took.
        notes: what the user should know, one line each.
    """

    serialized: bytes
    activation_memory_bytes: int | None
    environment: Environment
    seconds: float
    notes: tuple[str, ...]


def buildable_targets() -> list[RuntimeName]:
    """Which engines can be built here: TensorRT's where it is installed and a GPU is, TensorRT-RTX's where it is."""
    return [target for target in TITLES if _is_buildable(target)]


def _is_buildable(target: RuntimeName) -> bool:
    if target == "tensorrt" and cuda_device() is None:
        return False
    try:
        bindings(target, purpose="building")
    except MissingDependency:
        return False
    return True


def build_engine(
    onnx_model: bytes,
    profile: Profile,
    *,
    target: RuntimeName,
    workspace_bytes: int | None = None,
    compute_capability: str | None = None,
    timing_cache: Path | None = None,
    log: Path | None = None,
    progress: Progress | None = None,
) -> BuiltEngine:
    """Build an engine. Ctrl-C stops the builder after its current step and is raised again when it has stopped.

    Args:
        onnx_model: a graph from `overnet.export.graph.network_graph.build_onnx` in any precision, serialised.
        profile: which images it is to take.
        target: the library that is to run it. TensorRT builds on the GPU that it is for; TensorRT-RTX needs none.
        workspace_bytes: the most scratch memory that it may need; None sets no limit.
        compute_capability: for TensorRT-RTX, the one to build for, such as ``"7.5"``; None is Ampere and later.
        timing_cache: for TensorRT, a file with timings of earlier builds, which make the next faster; made if it is not
            there, ignored if it is of another machine.
        log: file to append the builder's messages to.
        progress: called from another thread after each of the builder's steps. What it raises stops the build.

    Raises:
        MissingDependency: the library is not installed.
        InputError: the profile or the compute capability is impossible.
        BuildError: the graph is broken or is not one of ours, the workspace is too small, or the library cannot build
            it.
        OutputError: the log cannot be opened.
        KeyboardInterrupt: the user stopped it.
    """
    problem = profile.problem()
    if problem:
        raise InputError(f"shape {profile} {problem}")
    library = Library(target)
    if compute_capability is not None and compute_capability not in library.compute_capabilities():
        known = ", ".join(library.compute_capabilities()) or "the device's own only"
        raise InputError(f"{TITLES[target]} cannot build for compute capability {compute_capability[:20]!r}; {known}")
    work = _Work(onnx_model, profile, target, workspace_bytes, compute_capability, timing_cache)
    watch = _Watch(progress)
    started = time.perf_counter()
    with BuildMessages(log, f"{TITLES[target]}, {profile}") as messages, library.listening(messages.add):
        serialized, memory_bytes = _run_stoppable(lambda: work.run(library, messages, watch), watch)
    if messages.log_failure:
        work.notes.append(messages.log_failure)
    environment = _tied_to(target, compute_capability)
    return BuiltEngine(serialized, memory_bytes, environment, time.perf_counter() - started, tuple(work.notes))


def _tied_to(target: RuntimeName, compute_capability: str | None) -> Environment:
    environment = current_environment(target)
    if target == "tensorrt":
        return environment
    return replace(environment, device_name=None, compute_capability=compute_capability, driver=None, jetpack=None)


def _shapes(profile: Profile, channels: int) -> dict[str, Shapes]:
    """The smallest, most usual and largest shape of each input that varies."""
    return {
        INPUT_NAME: (
            (1, *profile.minimum, 3),
            (profile.batch, *profile.optimum, 3),
            (profile.batch, *profile.maximum, 3),
        ),
        GIVEN_MEANS_NAME: ((1, channels, 1, 1), (profile.batch, channels, 1, 1), (profile.batch, channels, 1, 1)),
    }


@dataclass
class _Work:
    """The build itself, which runs in a thread of its own."""

    onnx_model: bytes
    profile: Profile
    target: RuntimeName
    workspace_bytes: int | None
    compute_capability: str | None
    timing_cache: Path | None

    def __post_init__(self) -> None:
        self.notes: list[str] = []

    def run(self, library: Library, messages: BuildMessages, watch: _Watch) -> tuple[bytes, int | None]:
        title = TITLES[self.target]
        build = library.start()
        if build is None:
            raise BuildError(f"{title} does not start: {messages.error}")
        channels = self._parse(build)
        if not build.add_profile(_shapes(self.profile, channels)):
            raise BuildError(f"{title} cannot build for shape {self.profile}: {messages.error}")
        if self.workspace_bytes is not None:
            build.limit_workspace(self.workspace_bytes)
        if self.compute_capability is not None:
            build.set_compute_capability(self.compute_capability)
        if self.timing_cache is not None and not library.is_rtx:
            self._use_timing_cache(build, self.timing_cache)
        serialized = build.run(watch)
        if serialized is None:
            raise self._failure(messages)
        if self.timing_cache is not None and not library.is_rtx:
            self._keep_timing_cache(build, self.timing_cache)
        by_engine = library.activation_memory_bytes(serialized) if cuda_device() is not None else None
        return serialized, by_engine or messages.activation_memory_bytes

    def _parse(self, build: Build) -> int:
        """Read the graph; returns how many channels its means have."""
        title = TITLES[self.target]
        try:
            errors = build.parse(with_means(self.onnx_model))
        except ArtifactError as error:
            errors = [str(error)]
        if errors:
            raise BuildError(f"{title} cannot read the graph: {one_line(errors[0])}")
        channels = build.outputs[-1].shape[1] if build.outputs and len(build.outputs[-1].shape) == 4 else 0
        given, means = (Tensor(name, "FLOAT", (-1, channels, 1, 1)) for name in (GIVEN_MEANS_NAME, MEANS_NAME))
        if build.inputs != [_INPUT, given, _USE_GIVEN_MEANS] or build.outputs != [_OUTPUT, means]:
            raise BuildError(f"{title} cannot use the graph: it is none of ours (uint8 images in and out)")
        return channels

    def _failure(self, messages: BuildMessages) -> BuildError:
        reason = messages.error
        if messages.is_out_of_workspace and self.workspace_bytes is not None:
            reason = f"{self.workspace_bytes / 1e6:.0f} MB of workspace are too little for {self.profile} ({reason})"
        return BuildError(f"{TITLES[self.target]} cannot build the engine: {reason}")

    def _use_timing_cache(self, build: Build, path: Path) -> None:
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            stored = b""
        except OSError as error:
            self.notes.append(f"{printable(path)} is not used: {error.strerror or error}")
            stored = b""
        if not build.use_timing_cache(stored):
            self.notes.append(f"{printable(path)} is not used: it is damaged or of another machine")

    def _keep_timing_cache(self, build: Build, path: Path) -> None:
        try:
            with atomic_write(path, overwrite=True) as temporary:
                temporary.write_bytes(build.timing_cache())
        except OverNetError as error:
            # The engine is what was wanted; without the file, the next build only takes longer.
            self.notes.append(str(error))


class _Watch:
    """Hands the builder's progress on, and makes it stop when asked to, or when handing on fails."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._stopped = threading.Event()
        self._steps: dict[str, int] = {}
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._stopped.set()

    def phase_started(self, phase: str, steps: int) -> None:
        self._steps[phase] = steps

    def step_done(self, phase: str, step: int) -> bool:
        if self._progress is not None and not self._stopped.is_set():
            try:
                self._progress(phase, step + 1, self._steps.get(phase, step + 1))
            except BaseException as error:  # may not pass through the library, and is raised again after it
                self.failure = error
                self.stop()
        return not self._stopped.is_set()


def _run_stoppable(work: Callable[[], _Result], watch: _Watch) -> _Result:
    """Run in another thread, so that Ctrl-C, which interrupts the main one, never strikes inside the library."""
    with ThreadPoolExecutor(1, thread_name_prefix="overnet-build") as executor:
        future = executor.submit(work)
        try:
            _wait_for(future)
        except BaseException:
            watch.stop()
            _wait_through_interrupts(future)
            raise
    if watch.failure is not None:
        raise watch.failure
    return future.result()


def _wait_for(future: Future[_Result]) -> None:
    # Without a limit, Windows would not let Ctrl-C through.
    while not future.done():
        wait([future], timeout=0.2)


def _wait_through_interrupts(future: Future[_Result]) -> None:
    """Wait to the end, whatever interrupts: a library left running would crash the process when that exits."""
    while not future.done():
        with suppress(KeyboardInterrupt):
            _wait_for(future)
