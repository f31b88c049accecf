"""The choice of the engine for an image's size: the given one, or one built at first use and stored.

An engine takes images up to the size that it was built for. So engines are built for a few sizes, and an image goes to
the smallest engine that takes it; where the GPU's memory is too short for that, to a smaller one, in tiles.
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from overnet.errors import ArtifactError, BackendError, InputError, printable
from overnet.files.engine_sidecar import SMALLEST_TILE, Profile, RuntimeName, Sidecar, load_engine, remarks
from overnet.files.onnx_metadata import PRECISIONS, read_artifact
from overnet.runtime.backends.base import ENGINE_SIZES, BackendOptions, LoadBackend, engine_size, memory_per_pixel
from overnet.runtime.backends.trt.cuda import Gpu
from overnet.runtime.backends.trt.engine_cache import cache_folder, cached_engine
from overnet.runtime.backends.trt.engine_check import (
    LEAST_BICUBIC_DB,
    LEAST_PSNR_DB,
    check_images,
    check_ways,
    enlarged,
    passed_before,
    remember,
    ways_to_run,
)
from overnet.runtime.backends.trt.engine_child import EngineRequest
from overnet.runtime.backends.trt.loaded_engine import LoadedEngine, start_runtime
from overnet.runtime.backends.trt.slot_ring import SlotRing
from overnet.system.converted_model import refuse_if_others_write
from overnet.system.environment import current_environment
from overnet.types import Image, Upscale
from overnet.weights import MODEL_NAMES, bundled_folder

Size = tuple[int, int]

# The smallest image that the deployed graph is exact for.
_MINIMUM = (16, 16)
# Where the memory is short, images are cut into tiles of at most this size.
_SMALLEST: Size = (192, 192)
# Activation memory for each input pixel: a quarter more than builds of TensorRT-RTX 1.7.1 stated for the bundled
# network; of plain networks, as a multiple of their tensors' memory. And the share of the free memory to plan with for
# running: building takes more, for which `overnet.export` plans itself.
_BYTES_PER_PIXEL = {"fp32": 6_000, "fp16": 3_000, "bf16": 3_000, "int8": 4_500}
_PLAIN_RATIO = 1.45
_MEMORY_SHARE = 0.75
# Number of engines kept loaded, such as one for landscape and one for portrait images.
_KEPT_ENGINES = 2


@dataclass(frozen=True)
class ReadyEngine:
    """A loaded engine with its slots."""

    profile: Profile
    engine: LoadedEngine
    ring: SlotRing

    def close(self) -> None:
        """Free everything."""
        self.ring.close()
        with self.ring.gpu.current():
            self.engine.keep_kernels()
            self.engine.close()


class Engines:
    """The engines for one model at one scale on one GPU.

    Args:
        gpu: the GPU that runs them.
        model: an engine, or an ONNX file to build engines from.
        runtime: the library that runs them.
        scale: must be the model's own.
        options: of the backend.
        note: called with remarks for the user.
        load_reference: loads the backend on the CPU that engines built here are compared with.

    Attributes:
        precision: of the engines' arithmetic.

    Raises:
        ArtifactError: the model is broken, not made by OverNet, or an engine for another machine.
    """

    def __init__(
        self,
        gpu: Gpu,
        model: Path,
        runtime: RuntimeName,
        scale: float,
        options: BackendOptions,
        note: Callable[[str], None],
        *,
        load_reference: LoadBackend,
    ) -> None:
        self._gpu, self._model, self._runtime, self._scale = gpu, model, runtime, scale
        self._options, self._note, self._load_reference = options, note, load_reference
        self._ready: OrderedDict[Profile, ReadyEngine] = OrderedDict()
        self._given: Profile | None = None
        self._environment = current_environment(runtime, gpu.ordinal)
        if model.suffix.lower() == ".engine":
            serialized, sidecar = load_engine(model, self._environment)
            self.precision = sidecar.artifact.precision
            if options.precision not in (None, self.precision):
                raise InputError(f"{model}: an engine in {self.precision}, not in {options.precision}")
            for remark in remarks(sidecar, self._environment):
                note(f"{model.name} may not be as fast as it could be: {remark}")
            self._given = sidecar.profile
            ready = self._load(serialized, sidecar, sidecar.profile)
            try:
                if not passed_before(sidecar.engine_sha256, self._environment):
                    self._check(ready, model, sidecar, _network_of(model, sidecar), advice="export it again")
            except BaseException:
                self.close()
                raise
        else:
            with gpu.current():
                start_runtime(runtime)  # its engines come later, and a library that does not start is to be known now
            artifact = read_artifact(model)
            self.precision = options.precision or ("fp16" if artifact.precision == "fp32" else artifact.precision)
            self._bytes_per_pixel = memory_per_pixel(artifact, _BYTES_PER_PIXEL[self.precision], _PLAIN_RATIO)

    def for_size(self, size: Size) -> ReadyEngine:
        """Return the engine for images of this size, whole or in tiles, after building and loading it where needed.

        Raises:
            OverNetError: it cannot be built or loaded.
            MemoryError: the GPU has too little memory for it.
        """
        profile = self._given or self._loaded(size) or self._planned(size)
        if profile not in self._ready:
            self._load_cached(profile)
        self._ready.move_to_end(profile)
        return self._ready[profile]

    @property
    def latest(self) -> ReadyEngine | None:
        """Return the engine that ran last, or the given one; None before the first is built."""
        return next(reversed(self._ready.values()), None)

    def _loaded(self, size: Size) -> Profile | None:
        """Return the most recently used loaded engine that takes this size.

        So the tiles of an image, and the parts that its means are computed from, go to the engine they were cut for.
        """
        for profile, ready in reversed(self._ready.items()):
            if all(side <= most for side, most in zip(size, ready.profile.maximum, strict=True)):
                return profile
        return None

    def _planned(self, size: Size) -> Profile:
        portrait = size[0] > size[1]
        wanted = engine_size((min(size), max(size))) or ENGINE_SIZES[-1]
        if self._gpu.shares_memory:
            # CUDA's figure does not include caches that the system frees on demand.
            free_bytes = int(psutil.virtual_memory().available)
        else:
            with self._gpu.current():
                free_bytes = self._gpu.free_memory_bytes()[0]
        usable_bytes = free_bytes * _MEMORY_SHARE
        # An engine that is already loaded needs no further memory.
        fitting = [
            known
            for known in (_SMALLEST, *ENGINE_SIZES[: ENGINE_SIZES.index(wanted) + 1])
            if known[0] * known[1] * self._bytes_per_pixel <= usable_bytes
            or _profile(known, portrait=portrait) in self._ready
        ]
        return _profile(fitting[-1] if fitting else _SMALLEST, portrait=portrait)

    def _load_cached(self, profile: Profile) -> None:
        path, sidecar, ready = self._load_or_build(profile)
        if not passed_before(sidecar.engine_sha256, self._environment):
            try:
                self._check(ready, path, sidecar, self._model, advice="try --precision fp32")
            except BaseException:
                self._ready.pop(profile).close()
                raise

    def _load_or_build(self, profile: Profile) -> tuple[Path, Sidecar, ReadyEngine]:
        request = EngineRequest(self._model, self._runtime, self.precision, profile)
        unusable = ""
        while True:
            path = cached_engine(
                request,
                device=self._gpu.ordinal,
                on_progress=self._options.on_progress,
                on_note=self._report_and_note,
                unusable_sha256=unusable,
            )
            serialized, sidecar = load_engine(path, self._environment)
            try:
                return path, sidecar, self._load(serialized, sidecar, profile)
            except BackendError as error:
                # Most engines run with another driver too; the library knows those that do not.
                if unusable or not remarks(sidecar, self._environment, exactly=True):
                    raise
                self._report_and_note(f"an engine in the cache is not used, and is built again: {error}")
                unusable = sidecar.engine_sha256

    def _report_and_note(self, line: str) -> None:
        """Report a line at once, such as that another process builds the engine, and note it for the end."""
        self._note(line)
        if self._options.on_progress is not None:
            self._options.on_progress(line, 0, 0)

    def _load(self, serialized: bytes, sidecar: Sidecar, requested: Profile) -> ReadyEngine:
        while len(self._ready) >= _KEPT_ENGINES:
            self._ready.popitem(last=False)[1].close()
        # For the kernels that TensorRT-RTX compiles of this engine for this kind of GPU.
        kernels = f"{sidecar.engine_sha256[:16]}-{self._environment.compute_capability}.kernels"
        kernel_cache = cache_folder().with_name("kernels") / kernels
        if self._runtime == "tensorrt-rtx":
            refuse_if_others_write(kernel_cache.parent)
        with self._gpu.current():
            engine = LoadedEngine(
                serialized, self._runtime, cuda_graphs=self._options.cuda_graphs, kernel_cache=kernel_cache
            )
        stated = (sidecar.profile.minimum, sidecar.profile.maximum)
        if (engine.minimum, engine.maximum) != stated:
            with self._gpu.current():
                engine.close()
            raise ArtifactError(f"{printable(self._model)}: its sidecar states other image sizes than it takes")
        ring = SlotRing(self._gpu, engine, self._scale, self._options)
        # Where memory was short, the engine was built for smaller images than requested.
        self._ready[requested] = ReadyEngine(sidecar.profile, engine, ring)
        return self._ready[requested]

    def _check(self, ready: ReadyEngine, path: Path, sidecar: Sidecar, network: Path | None, *, advice: str) -> None:
        """Compare an engine with the same network on the CPU, or at least with bicubic enlargement.

        Args:
            path: of the engine, for messages.
            network: an ONNX file of the network; None where there is none.
            advice: what to do about a wrong engine.
        """
        ways = ways_to_run(ready.ring, ready.engine.means, self._scale)
        images = check_images(ready.profile)
        expected = None if network is None else self._on_cpu(network, images)
        reference, least_db = "the same network on the CPU", LEAST_PSNR_DB[sidecar.artifact.precision]
        if expected is None:
            reference, least_db = "bicubic enlargement", LEAST_BICUBIC_DB
            self._note(
                f"{printable(path.name)} was compared with bicubic enlargement only: no ONNX file of its weights is "
                "beside it, or the CPU's memory is too short"
            )
        name = f"{printable(path)}: on {self._gpu.name} the engine"
        try:
            check_ways(ways, images, expected or self._enlarged, least_db, name=name, reference=reference)
        except BackendError as error:
            raise BackendError(f"{error}; {advice}") from error
        remember(sidecar.engine_sha256, self._environment)

    def _on_cpu(self, network: Path, images: list[Image]) -> Upscale | None:
        """Return a function that upscales with an ONNX file on the CPU; None where the memory is too short."""
        backend = self._load_reference(network, self._scale, BackendOptions())
        if any(backend.tile_for(image.shape[0], image.shape[1]) for image in images):
            return None
        return lambda image: backend.upscale(image[None])[0]

    def _enlarged(self, image: Image) -> Image:
        return enlarged(image, self._scale)

    def pop_notes(self) -> list[str]:
        """Return and clear the remarks of the slots since the last call."""
        notes = []
        for ready in self._ready.values():
            notes.extend(ready.ring.notes)
            ready.ring.notes.clear()
        return notes

    def close(self) -> None:
        """Free everything."""
        for ready in self._ready.values():
            ready.close()
        self._ready.clear()


def largest_tile(profile: Profile, size: Size) -> Size | None:
    """Return height and width of the largest tiles of an image for an engine; None where it takes the image whole.

    Raises:
        BackendError: the engine's largest image is smaller than the smallest tile.
    """
    if size[0] <= profile.maximum[0] and size[1] <= profile.maximum[1]:
        return None
    if min(profile.maximum) < SMALLEST_TILE:
        raise BackendError(
            f"the engine takes images up to {profile.maximum[1]}x{profile.maximum[0]}: too small even for the tiles "
            f"of {size[1]}x{size[0]}; overnet-export --shape makes a larger one"
        )
    return profile.maximum


def _profile(maximum: Size, *, portrait: bool) -> Profile:
    size = maximum[::-1] if portrait else maximum
    return Profile(_MINIMUM, size, size)


def _network_of(engine: Path, sidecar: Sidecar) -> Path | None:
    """Return an ONNX file of an engine's weights and scale, from its folder or bundled; None where there is none."""
    wanted = (sidecar.artifact.weights_sha256, sidecar.artifact.scale)
    folders = (engine.parent, *map(bundled_folder, MODEL_NAMES))
    found: list[tuple[int, Path]] = []
    for path in (path for folder in folders for path in sorted(folder.glob("*.onnx"))):
        with suppress(ArtifactError):  # others' files
            artifact = read_artifact(path)
            if (artifact.weights_sha256, artifact.scale) == wanted:
                found.append((PRECISIONS.index(artifact.precision), path))
    return min(found, key=lambda each: each[0])[1] if found else None
