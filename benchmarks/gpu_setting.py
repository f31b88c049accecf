"""The setting of the GPU checks: the model and its reference, frames, and a stream for them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from overnet.errors import ArtifactError
from overnet.files.engine_sidecar import RuntimeName, read_sidecar
from overnet.files.onnx_metadata import read_artifact
from overnet.imaging.metrics import psnr
from overnet.runtime.pipeline import run_pipeline
from overnet.runtime.upscaler import Upscaler
from overnet.types import Image
from overnet.weights import bundled_folder

Size = tuple[int, int]


@dataclass(frozen=True)
class Setting:
    """The model under test, and its reference.

    Attributes:
        model: an engine, or an ONNX file to build engines from.
        reference: an ONNX file of the same weights and scale in FP32.
        backend: what runs the model: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        reference_backend: what runs the reference.
        scale: of both.
        size, other_size: heights and widths of frames that the engine takes.
        too_large: height and width of an image that it does not take.
        frames: the number of frames in the longest checks.
        least_psnr_db: the minimum PSNR to the reference; None requires equality.
        tile_levels: the largest difference in levels between a tiled and an untiled result.
        device: the GPU.
    """

    model: str
    reference: str
    backend: RuntimeName
    reference_backend: str = "openvino"
    scale: float = 2
    size: Size = (180, 320)
    other_size: Size = (144, 176)
    too_large: Size = (400, 700)
    frames: int = 500
    least_psnr_db: float | None = 40.0
    tile_levels: int = 8
    device: int = 0

    def upscaler(self, **options: Any) -> Upscaler:
        """Return an upscaler on the GPU."""
        return Upscaler(self.scale, model=self.model, backend=self.backend, device=self.device, **options)

    def expected(self) -> Upscaler:
        """Return an upscaler on the CPU, in FP32."""
        return Upscaler(self.scale, model=self.reference, backend=self.reference_backend, tile=0)


def setting_for(
    model: Path | None, reference: Path | None, runtime: RuntimeName, *, device: int, count: int
) -> Setting:
    """Return the setting for a model, with frames of sizes that it supports.

    Args:
        model: an engine or an ONNX file; None for the bundled ONNX file.
        reference: an ONNX file in FP32 of the same weights and scale; None for the bundled one.
        count: the number of frames in the longest checks.

    Raises:
        ArtifactError: a file is missing, broken or not made by OverNet, or the scales differ.
    """
    reference = reference or bundled_folder() / "overnet_x2.onnx"
    scale = read_artifact(reference).scale
    setting = Setting(str(model or reference), str(reference), runtime, scale=scale, device=device, frames=count)
    if model is None or model.suffix.lower() != ".engine":
        return setting
    sidecar = read_sidecar(model)
    if sidecar.artifact.scale != scale:
        raise ArtifactError(f"{model} is for x{sidecar.artifact.scale:g}, {reference} for x{scale:g}")
    profile = sidecar.profile
    sides = zip(setting.size, profile.minimum, profile.maximum, strict=True)
    smaller = [min(max(wanted // 2 * 2, low), high) for wanted, low, high in sides]
    other = [max(low, side * 3 // 4) for side, low in zip(smaller, profile.minimum, strict=True)]
    return replace(
        setting,
        size=(smaller[0], smaller[1]),
        other_size=(other[0], other[1]),
        too_large=(profile.maximum[0] + 40, profile.maximum[1] + 60),
    )


class CheckFailed(Exception):
    """A check failed; the message says why."""


def frames(size: Size, count: int, *, seed: int = 0) -> Iterator[Image]:
    """Yield distinguishable frames: a moving synthetic scene with different noise in each."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    for index in range(count):
        scene = np.stack([rows * 2 + index * 7, columns * 3 - index * 5, rows + columns + index * 11], axis=-1)
        noise = random.integers(0, 24, (*size, 3))
        yield ((scene + noise) % 256).astype(np.uint8)


def stream_all(upscaler: Upscaler, size: Size, source: Iterator[Image], receive: Callable[[int, Image], None]) -> None:
    """Send frames through a stream as for a video: filled, submitted and fetched in three threads.

    Args:
        receive: is called with each frame's number and its result, whose buffer is reused afterwards.
    """
    received = 0
    with closing(upscaler.stream(*size)) as stream:

        def filled() -> Iterator[Image]:
            for frame in source:
                buffer = stream.buffer()
                if buffer is None:
                    yield frame
                else:
                    np.copyto(buffer, frame)
                    yield buffer

        def fetch(ticket: Any) -> None:
            nonlocal received
            with ticket as upscaled:
                receive(received, upscaled)
            received += 1

        report = run_pipeline(filled(), stream.submit, fetch, on_stop=stream.stop)
        if report.interrupted:
            raise KeyboardInterrupt


def compare(setting: Setting, found: Image, expected: Image, what: str) -> None:
    """Raise `CheckFailed` if a result differs too much from the expected one."""
    if setting.least_psnr_db is None:
        if not np.array_equal(found, expected):
            raise CheckFailed(f"{what}: {np.count_nonzero(found != expected)} values differ")
    else:
        found_db = psnr(expected, found, border=0)
        if not found_db >= setting.least_psnr_db:
            raise CheckFailed(f"{what}: {found_db:.1f} dB from the CPU's result, {setting.least_psnr_db:g} are needed")


def photograph_like(size: Size) -> Image:
    """Return gradients and edges without noise, with varying content like a photograph."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]] / max(size)
    waves = [np.sin(6 * rows + phase) * np.cos(5 * columns - phase) for phase in (0.0, 1.3, 2.1)]
    image = 128 + 90 * np.stack(waves, axis=-1)
    image[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 3] = (240, 40, 60)
    levels: Image = np.clip(image, 0, 255).astype(np.uint8)
    return levels
