"""The build of an engine from an ONNX graph, the same for TensorRT and TensorRT-RTX."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from overnet.errors import ArtifactError, InputError, OverNetError, printable
from overnet.export.engine.engine_graph import with_means, with_signs
from overnet.export.engine.messages import BuildMessages, one_line
from overnet.export.engine.trt_api import Build, Library, Tensor, Watch, is_installed
from overnet.files.atomic import atomic_write
from overnet.files.engine_sidecar import TITLES, Environment, Profile, RuntimeName
from overnet.files.onnx_metadata import GIVEN_MEANS_NAME, INPUT_NAME, MEANS_NAME, OUTPUT_NAME, USE_GIVEN_MEANS_NAME
from overnet.system.cuda_device import cuda_device
from overnet.system.environment import current_environment
from overnet.types import Progress

_Result = TypeVar("_Result")

_INPUT = Tensor(INPUT_NAME, "UINT8", (-1, -1, -1, 3))
_OUTPUT = Tensor(OUTPUT_NAME, "UINT8", (-1, -1, -1, 3))
_USE_GIVEN_MEANS = Tensor(USE_GIVEN_MEANS_NAME, "FLOAT", (1, 1, 1, 1))


class BuildError(OverNetError):
    """TensorRT cannot build an engine from the graph, or cannot on this machine."""


class TooLargeError(BuildError):
    """The engine cannot be built for images of this size; for smaller ones it may."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that has not been compared with its reference yet.

    Attributes:
        serialized: the content of its file.
        activation_memory_bytes: memory that it needs beside its weights for the profile's largest batch, as the engine
            states where there is a GPU, otherwise as the builder states; None where neither does.
        environment: the machine and library that it runs on. An engine of TensorRT-RTX names no device.
        notes: for the user, one line each.
    """

    serialized: bytes
    activation_memory_bytes: int | None
    environment: Environment
    notes: tuple[str, ...]


def buildable_targets() -> list[RuntimeName]:
    """Return the libraries that build engines here: those that are installed, TensorRT only where there is a GPU."""
    return [target for target in TITLES if (target != "tensorrt" or cuda_device() is not None) and is_installed(target)]


def check_builder(target: RuntimeName) -> None:
    """Check what can be known of a build before the graph is made, which takes minutes.

    Raises:
        MissingDependency: the library is not installed.
        BuildError: it builds on the GPU that the engine is for, and there is none.
    """
    Library(target)
    if target == "tensorrt" and cuda_device() is None:
        raise BuildError(
            "TensorRT builds an engine on the GPU that it is for, and there is none here: export on that machine, or "
            "make ONNX files with --target onnx"
        )


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
    precision: str = "fp32",
    is_tiled: bool = True,
) -> BuiltEngine:
    """Build an engine. Ctrl-C stops the builder after its current step, and then raises KeyboardInterrupt.

    Args:
        onnx_model: a serialised graph from `overnet.export.graph.network_graph.build_onnx`, in any precision.
        profile: the image sizes that the engine takes.
        target: the library that runs the engine. TensorRT builds on the GPU it is for; TensorRT-RTX needs none.
        workspace_bytes: the largest scratch memory of a layer; None sets no limit.
        compute_capability: for TensorRT-RTX, the one to build for, such as ``"7.5"``; None is Ampere and later.
        timing_cache: for TensorRT, a file with timings of earlier builds, which make the next faster. It is created
            where it is missing, and ignored where it is from another machine.
        log: file to append the builder's messages to.
        progress: called from another thread after each of the builder's steps. An exception from it stops the build.
        precision: of the graph, one of `overnet.files.onnx_metadata.PRECISIONS`, for versions of TensorRT whose strong
            typing is not complete.
        is_tiled: whether the engine has the means over the image as input and output, with which tiles are upscaled.

    Raises:
        MissingDependency: the library is not installed.
        InputError: the profile or the compute capability is not valid.
        TooLargeError: the library cannot build the engine for images of this size, or with this workspace.
        BuildError: the graph is damaged or was not made by `overnet.export`, or the library cannot build the engine.
        OutputError: the log cannot be opened.
        KeyboardInterrupt: the user stopped the build.
    """
    problem = profile.problem()
    if problem:
        raise InputError(f"shape {profile} {problem}")
    library = Library(target)
    if compute_capability is not None and compute_capability not in library.compute_capabilities():
        known = ", ".join(library.compute_capabilities()) or "the device's own only"
        raise InputError(f"{TITLES[target]} cannot build for compute capability {compute_capability[:20]!r}; {known}")
    work = _Work(onnx_model, profile, target, workspace_bytes, compute_capability, timing_cache, precision, is_tiled)
    watch = Watch(progress)
    with BuildMessages(log, f"{TITLES[target]}, {profile}") as messages, library.listening(messages.add):
        serialized, memory_bytes = _run_stoppable(lambda: work.run(library, messages, watch), watch)
    if messages.log_failure:
        work.notes.append(messages.log_failure)
    environment = current_environment(target)
    if library.is_rtx:
        environment = replace(
            environment,
            device_name=None,
            compute_capability=compute_capability,
            driver=None,
            jetpack=None,
            multiprocessors=None,
            memory_bytes=None,
        )
    return BuiltEngine(serialized, memory_bytes, environment, tuple(work.notes))


@dataclass
class _Work:
    """The build itself, which runs in its own thread."""

    onnx_model: bytes
    profile: Profile
    target: RuntimeName
    workspace_bytes: int | None
    compute_capability: str | None
    timing_cache: Path | None
    precision: str
    is_tiled: bool
    notes: list[str] = field(default_factory=list)

    def run(self, library: Library, messages: BuildMessages, watch: Watch) -> tuple[bytes, int | None]:
        try:
            return self._attempt(library, messages, watch)
        except BuildError as error:
            if messages.is_too_large or watch.is_stopped or not library.has_weak_typing:
                raise
            messages.forget_errors()
            try:
                built = self._attempt(library, messages, watch, weak_precision=self.precision)
            except BuildError:
                raise error from None
            self.notes.append(f"built with weak typing, as the strongly typed network failed ({error})")
            return built

    def _attempt(
        self, library: Library, messages: BuildMessages, watch: Watch, *, weak_precision: str | None = None
    ) -> tuple[bytes, int | None]:
        title = TITLES[self.target]
        build = library.start(weak_precision)
        if build is None:
            raise BuildError(f"{title} does not start: {messages.error}")
        channels = self._parse(build)
        batch, sizes = self.profile.batch, (self.profile.minimum, self.profile.optimum, self.profile.maximum)
        smallest, usual, largest = ((images, *size, 3) for images, size in zip((1, batch, batch), sizes, strict=True))
        shapes = {INPUT_NAME: (smallest, usual, largest)}
        if channels:
            shapes[GIVEN_MEANS_NAME] = ((1, channels, 1, 1), (batch, channels, 1, 1), (batch, channels, 1, 1))
        if not build.add_profile(shapes):
            kind = TooLargeError if messages.is_too_large or messages.lacks_kernel else BuildError
            raise kind(f"{title} cannot build for shape {self.profile}: {messages.error}")
        if self.workspace_bytes is not None:
            build.limit_workspace(self.workspace_bytes)
        if self.compute_capability is not None:
            build.set_compute_capability(self.compute_capability)
        if self.timing_cache is not None and not library.is_rtx:
            self._use_timing_cache(build, self.timing_cache)
        serialized = build.run(watch)
        if serialized is None:
            reason = messages.error
            if messages.is_out_of_workspace and self.workspace_bytes is not None:
                megabytes = f"{self.workspace_bytes / 1e6:.0f} MB"
                reason = f"{megabytes} of workspace are too little for {self.profile} ({reason})"
            kind = TooLargeError if messages.is_too_large or messages.lacks_kernel else BuildError
            raise kind(f"{title} cannot build the engine: {reason}")
        if self.timing_cache is not None and not library.is_rtx:
            self._keep_timing_cache(build, self.timing_cache)
        by_engine = library.activation_memory_bytes(serialized) if cuda_device() is not None else None
        return serialized, by_engine or messages.activation_memory_bytes

    def _parse(self, build: Build) -> int:
        """Read the graph, and return the number of channels of its means; 0 where it has none."""
        title = TITLES[self.target]
        try:
            errors = build.parse((with_means if self.is_tiled else with_signs)(self.onnx_model))
        except ArtifactError as error:
            errors = [str(error)]
        if errors:
            raise BuildError(f"{title} cannot read the graph: {one_line(errors[0])}")
        # Some graphs of other programs compute for one image only.
        is_for_one = bool(build.outputs) and build.outputs[0] == replace(_OUTPUT, shape=(1, *_OUTPUT.shape[1:]))
        if is_for_one and self.profile.batch > 1:
            raise BuildError(f"{title} cannot use the graph for {self.profile.batch} images: it is for one at once")
        if build.inputs == [_INPUT] and (is_for_one or build.outputs == [_OUTPUT]):
            return 0
        channels = build.outputs[-1].shape[1] if build.outputs and len(build.outputs[-1].shape) == 4 else 0
        given, means = (Tensor(name, "FLOAT", (-1, channels, 1, 1)) for name in (GIVEN_MEANS_NAME, MEANS_NAME))
        if build.inputs != [_INPUT, given, _USE_GIVEN_MEANS] or build.outputs != [_OUTPUT, means]:
            raise BuildError(
                f"{title} cannot use the graph: it was not made by overnet export (uint8 images in and out)"
            )
        return channels

    def _use_timing_cache(self, build: Build, path: Path) -> None:
        stored = b""
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            pass
        except OSError as error:
            self.notes.append(f"{printable(path)} is not used: {error.strerror or error}")
        if not build.use_timing_cache(stored):
            self.notes.append(f"{printable(path)} is not used: it is damaged or from another machine")

    def _keep_timing_cache(self, build: Build, path: Path) -> None:
        try:
            with atomic_write(path, overwrite=True) as temporary:
                temporary.write_bytes(build.timing_cache())
        except OverNetError as error:
            # Without the file, the next build only takes longer.
            self.notes.append(str(error))


def _run_stoppable(work: Callable[[], _Result], watch: Watch) -> _Result:
    """Run `work` in another thread, so that Ctrl-C, which interrupts the main thread, never interrupts the library."""
    interrupt: BaseException | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="overnet-build") as executor:
        future = executor.submit(work)
        # To the end, even after further interrupts: a library that is left running crashes the process at exit.
        while True:
            try:
                while not future.done():
                    # Without a time limit, Ctrl-C has no effect on Windows.
                    wait([future], timeout=0.2)
                break
            except BaseException as error:
                interrupt = interrupt or error
                watch.stop()
    failure = interrupt or watch.failure
    if failure is not None:
        raise failure
    return future.result()
