"""The choice of the engine for an image's size: the given one, or one built at first use and stored.

An engine takes images up to the size that it was built for. So engines are built for a few sizes, and an image goes to
the smallest engine that takes it; where the GPU's memory is too short for that, to a smaller one, in tiles.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from overnet.errors import BackendError, InputError
from overnet.files.engine_sidecar import SMALLEST_TILE, Profile, RuntimeName, Sidecar, load_engine, remarks
from overnet.files.onnx_metadata import read_artifact
from overnet.imaging.metrics import psnr
from overnet.runtime.backends.base import BackendOptions, LoadBackend, memory_per_pixel
from overnet.runtime.backends.trt.cuda import Gpu
from overnet.runtime.backends.trt.engine_cache import cache_folder, cached_engine
from overnet.runtime.backends.trt.engine_child import EngineRequest
from overnet.runtime.backends.trt.loaded_engine import LoadedEngine, start_runtime
from overnet.runtime.backends.trt.slot_ring import SlotRing, SlotStream
from overnet.system.environment import current_environment

Size = tuple[int, int]

# The smallest image that the deployed graph is exact for.
_MINIMUM = (16, 16)
# Height and width that engines are built for, for landscape images; portrait images have them swapped.
_SIZES: tuple[Size, ...] = ((360, 640), (540, 960), (720, 1280), (1080, 1920), (2160, 4096))
# Where the memory is short, images are cut into tiles of at most this size.
_SMALLEST: Size = (192, 192)
# Activation memory for each input pixel: a quarter more than builds of TensorRT-RTX 1.7.1 stated for the bundled
# network; of plain networks, as a multiple of their tensors' memory. And the share of the free memory to plan with:
# building takes more than running.
_BYTES_PER_PIXEL = {"fp32": 6_000, "fp16": 3_000, "bf16": 3_000, "int8": 4_500}
_PLAIN_RATIO = 1.45
_MEMORY_SHARE = 0.5
# Number of engines kept loaded, such as one for landscape and one for portrait images.
_KEPT_ENGINES = 2
# Lowest PSNR of a newly built engine on a test image, against the same network on the CPU in FP32.
_LEAST_PSNR_DB = {"fp32": 50, "fp16": 40, "bf16": 35, "int8": 25}


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
            self._load(serialized, sidecar, sidecar.profile)
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
        landscape = (size[1], size[0]) if portrait else size
        holding = [known for known in _SIZES if known[0] >= landscape[0] and known[1] >= landscape[1]]
        wanted = holding[0] if holding else _SIZES[-1]
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
            for known in (_SMALLEST, *_SIZES[: _SIZES.index(wanted) + 1])
            if known[0] * known[1] * self._bytes_per_pixel <= usable_bytes
            or _profile(known, portrait=portrait) in self._ready
        ]
        return _profile(fitting[-1] if fitting else _SMALLEST, portrait=portrait)

    def _load_cached(self, profile: Profile) -> None:
        request = EngineRequest(self._model, self._runtime, self.precision, profile)
        path = cached_engine(
            request, device=self._gpu.ordinal, on_progress=self._options.on_progress, on_note=self._report_and_note
        )
        serialized, sidecar = load_engine(path, self._environment)
        ready = self._load(serialized, sidecar, profile)
        checked = path.with_name(f"{path.name}.checked")
        if not checked.exists():
            try:
                self._check(ready, path)
            except BaseException:
                self._ready.pop(profile).close()
                raise
            with suppress(OSError):  # where this cannot be stored, the next start checks again
                checked.touch()

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
        with self._gpu.current():
            engine = LoadedEngine(
                serialized, self._runtime, cuda_graphs=self._options.cuda_graphs, kernel_cache=kernel_cache
            )
        ring = SlotRing(self._gpu, engine, self._scale, self._options)
        # Where memory was short, the engine was built for smaller images than requested.
        self._ready[requested] = ReadyEngine(sidecar.profile, engine, ring)
        return self._ready[requested]

    def _check(self, ready: ReadyEngine, path: Path) -> None:
        """Compare a newly built engine with the same network on the CPU: FP16 can fail on one kind of GPU only."""
        image = _check_image()
        ready.ring.open(image.shape[:2], count=1)
        stream = SlotStream(ready.ring, image.shape[:2])
        with stream.submit(image) as frame:
            upscaled = frame.copy()
        expected = self._load_reference(self._model, self._scale, BackendOptions()).upscale(image[None])[0]
        found_db = psnr(expected, upscaled, border=0)
        if not found_db >= _LEAST_PSNR_DB[self.precision]:
            raise BackendError(
                f"{path}: on {self._gpu.name} the engine is {found_db:.1f} dB from the same network on the CPU, and "
                f"{_LEAST_PSNR_DB[self.precision]} are needed; try --precision fp32"
            )

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


def tile_side(profile: Profile, size: Size) -> int | None:
    """Return the side of the tiles to cut an image into for an engine; None where it takes the image whole.

    Raises:
        BackendError: the engine's largest image is smaller than the smallest tile.
    """
    if size[0] <= profile.maximum[0] and size[1] <= profile.maximum[1]:
        return None
    # Multiples of 16, as for other backends.
    side = min(profile.maximum) // 16 * 16
    if side < SMALLEST_TILE:
        raise BackendError(
            f"the engine takes images up to {profile.maximum[1]}x{profile.maximum[0]}: too small even for the tiles "
            f"of {size[1]}x{size[0]}; overnet-export --shape makes a larger one"
        )
    return side


def _profile(maximum: Size, *, portrait: bool) -> Profile:
    size = maximum[::-1] if portrait else maximum
    return Profile(_MINIMUM, size, size)


def _check_image() -> np.ndarray:
    """Return a 96 x 128 image with gradients, edges and noise, the same at every call."""
    rows, columns = np.mgrid[0:96, 0:128]
    smooth = np.stack([rows * 2, columns * 2, 255 - rows - columns], axis=-1).astype(np.float64)
    smooth[20:60, 30:70] = (250, 5, 128)
    smooth[:, 90:] += np.random.default_rng(1).normal(0, 40, (96, 38, 3))
    return np.clip(smooth, 0, 255).astype(np.uint8)
