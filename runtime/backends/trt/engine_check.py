"""The check of an engine on the GPU that is here, through the runtime's own slots.

A network can fail in FP16 on one kind of GPU only, and an engine file given by a user may hold anything. So each engine
is compared with its network once on each kind of GPU, and the user's cache folder holds a file for each that passed.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from overnet.errors import BackendError, OverNetError
from overnet.files.atomic import ensure_folder
from overnet.files.engine_sidecar import TITLES, Environment, Profile, RuntimeName
from overnet.files.onnx_metadata import scaled_size
from overnet.imaging.metrics import psnr
from overnet.imaging.resample import network_bicubic
from overnet.imaging.sample_images import centre_crop, sample_photographs
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.trt.cuda import Gpu
from overnet.runtime.backends.trt.engine_cache import cache_folder
from overnet.runtime.backends.trt.loaded_engine import LoadedEngine
from overnet.runtime.backends.trt.slot_ring import SlotRing
from overnet.system.converted_model import refuse_if_others_write
from overnet.system.cuda_device import cuda_device
from overnet.types import Image, Upscale

# Lowest PSNR of an engine's result, against the same network on the CPU in FP32.
LEAST_PSNR_DB = {"fp32": 50, "fp16": 40, "bf16": 35, "int8": 25}
# Lowest PSNR against bicubic enlargement, where the network is not at hand. The bundled networks are at 26 to 37 dB on
# the images of `check_images`; a black result is at 5 to 7 dB.
LEAST_BICUBIC_DB = 14
_CROP_SIDE = 64
# Number of pixels after which no further image is compared.
_MOST_PIXELS = 200_000


def why_not_here(device: int = 0) -> str | None:
    """Return why no engine can be run on this machine; None where there are a GPU that works and PyCUDA."""
    if cuda_device(device) is None:
        return "there is no NVIDIA GPU here"
    holder = _Holder()
    try:
        Gpu.acquire(device, holder).release(holder)
    except OverNetError as error:
        return str(error)
    return None


def check_images(profile: Profile) -> list[Image]:
    """Return the images that engines are checked on, in sizes that the profile takes: at least one.

    The first, 96 x 128, has gradients, edges and noise; the others are crops of photographs, 64 x 64.
    """
    rows, columns = np.mgrid[0:96, 0:128]
    smooth = np.stack([rows * 2, columns * 2, 255 - rows - columns], axis=-1).astype(np.float64)
    smooth[20:60, 30:70] = (250, 5, 128)
    smooth[:, 90:] += np.random.default_rng(1).normal(0, 40, (96, 38, 3))
    drawn = np.clip(smooth, 0, 255).astype(np.uint8)
    crops = [centre_crop(image, _CROP_SIDE) for image in sample_photographs()[:3]]
    return fitted([drawn, *crops], profile)


def fitted(images: list[Image], profile: Profile, *, most_pixels: int = _MOST_PIXELS) -> list[Image]:
    """Return images in the nearest sizes that a profile takes: at least one, and no more after `most_pixels`."""
    found: list[Image] = []
    for image in images:
        if sum(other.shape[0] * other.shape[1] for other in found) < most_pixels:
            found.append(fitting(image, profile))
    return found


def fitting(image: Image, profile: Profile) -> Image:
    """Return an image in the nearest size that the profile takes, by repeating or cutting it."""
    sides = [
        min(max(side, low), high)
        for side, low, high in zip(image.shape, profile.minimum, profile.maximum, strict=False)
    ]
    repeats = [-(-wanted // side) for wanted, side in zip(sides, image.shape, strict=False)]
    repeated: Image = np.tile(image, (*repeats, 1))[: sides[0], : sides[1]]
    return repeated


def ways_to_run(ring: SlotRing, means: int, scale: float) -> list[Upscale]:
    """Return the functions by which an engine upscales one image: alone, and with the image's own means given.

    Both must give the same result.

    Args:
        ring: the engine's.
        means: the number of means that it takes and outputs; 0 if it does neither.
        scale: of the engine.
    """

    def run(image: Image, given: np.ndarray | None = None) -> Image:
        upscaled: Image = np.empty((*scaled_size(image.shape[0], image.shape[1], scale), 3), np.uint8)
        ring.run_image(image, given_means=given, upscaled=upscaled)
        return upscaled

    def alone(image: Image) -> Image:
        if means:
            # Left in the slot as given means, which the next run must not use.
            run(image, np.full((1, means, 1, 1), np.nan, np.float32))
        return run(image)

    def given(image: Image) -> Image:
        return run(image, ring.run_image(image, wanted_means=True))

    return [alone, given] if means else [alone]


@contextmanager
def engine_in_slots(
    serialized: bytes, runtime: RuntimeName, scale: float, *, device: int = 0
) -> Iterator[tuple[list[Upscale], str]]:
    """Load an engine that this process has built; the context gives its `ways_to_run`, and what runs it, as text.

    Raises:
        MissingDependency, BackendError: the engine cannot be loaded here.
        MemoryError: the GPU has too little memory for it.
    """
    holder = _Holder()
    gpu = Gpu.acquire(device, holder)
    try:
        with gpu.current():
            engine = LoadedEngine(serialized, runtime)
        ring = SlotRing(gpu, engine, scale, BackendOptions(slots=1))
        try:
            yield ways_to_run(ring, engine.means, scale), f"{TITLES[runtime]} {engine.version} on {gpu.name}"
        finally:
            ring.close()
            with gpu.current():
                engine.close()
    finally:
        gpu.release(holder)


class _Holder:
    """The user of a GPU that closes what it has there itself."""

    def close(self) -> None:
        pass


def check_ways(
    ways: list[Upscale], images: list[Image], expected: Upscale, least_psnr_db: float, *, name: str, reference: str
) -> None:
    """Compare an engine's results with others.

    Args:
        ways: from `ways_to_run`.
        images: of sizes that the engine takes.
        expected: what it is compared with.
        least_psnr_db: the lowest PSNR that is allowed, for each image.
        name: the engine and the GPU, in messages.
        reference: what `expected` is, in messages.

    Raises:
        BackendError: a result differs too much.
    """
    worst_db = math.inf
    for image in images:
        wanted = expected(image)
        worst_db = min([worst_db, *(psnr(wanted, way(image), border=0) for way in ways)])
    if not worst_db >= least_psnr_db:
        raise BackendError(f"{name} is {worst_db:.1f} dB from {reference}, and {least_psnr_db:g} are needed")


def enlarged(image: Image, scale: float) -> Image:
    """Return an image enlarged bicubically."""
    result: Image = network_bicubic(image, scaled_size(image.shape[0], image.shape[1], scale))
    return result


def passed_before(engine_sha256: str, environment: Environment) -> bool:
    """Return whether an engine with this hash has passed the check on this kind of GPU.

    Raises:
        OutputError: other users may write into the folder of these records.
    """
    record = _record(engine_sha256, environment)
    refuse_if_others_write(record.parent, "a record there lets an engine run unchecked")
    return record.exists()


def remember(engine_sha256: str, environment: Environment) -> None:
    """Store that an engine has passed; where that cannot be stored, it is checked again at the next start."""
    record = _record(engine_sha256, environment)
    with suppress(OSError, OverNetError):
        ensure_folder(record.parent)
        record.touch()


def _record(engine_sha256: str, environment: Environment) -> Path:
    kind = {
        "runtime": environment.runtime,
        "version": environment.runtime_version,
        "device": environment.device_name,
        "capability": environment.compute_capability,
        "multiprocessors": environment.multiprocessors,
    }
    gpu = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder().with_name("checked") / f"{engine_sha256}-{gpu}"
