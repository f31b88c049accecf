"""TensorRT and TensorRT-RTX: engines on an NVIDIA GPU, with several frames on their way at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from overnet.errors import ArtifactError, BackendError
from overnet.files.engine_sidecar import RuntimeName, read_sidecar
from overnet.files.onnx_metadata import read_artifact, scaled_size
from overnet.runtime.backends.base import BackendOptions, LoadBackend
from overnet.runtime.backends.stream import UpscaleStream
from overnet.runtime.backends.trt.cuda import Gpu
from overnet.runtime.backends.trt.engines import Engines, ReadyEngine, tile_side
from overnet.runtime.backends.trt.slot import Means, Slot, StageTimes
from overnet.runtime.backends.trt.slot_stream import SlotStream
from overnet.types import ChannelMeans, ImageBatch

# How long an image waits for those that are on their way: longer than the largest takes.
_SLOT_SECONDS = 60.0


class TensorRtBackend:
    """Engines of one model run on one GPU. See `overnet.runtime.backends.base.Backend`.

    One image or stream at a time; for several threads, one backend each.

    Args:
        model: an engine with its sidecar; or an ONNX file of ours, from which engines are built at first use and kept.
        scale: must be the model's own.
        options: the precision is an engine's own; when engines are built, FP16 is the usual one.
        runtime: the library.
        load_reference: loads the backend on the CPU that engines built here are compared with.

    Raises:
        ArtifactError: the model is broken, not ours, or an engine for another machine.
        MissingDependency: TensorRT or PyCUDA is not installed.
        InputError: there is no such device.
        BackendError: the engine cannot be loaded.
    """

    # Not asked for: which tiles are needed is known from the engine.
    bytes_per_pixel = 3_000

    def __init__(
        self, model: Path, scale: float, options: BackendOptions, runtime: RuntimeName, *, load_reference: LoadBackend
    ) -> None:
        self.name: str = runtime
        artifact = read_sidecar(model).artifact if model.suffix.lower() == ".engine" else read_artifact(model)
        self.scale = artifact.scale
        if scale != self.scale:
            raise ArtifactError(f"{model}: made for scale {self.scale:g}, not {scale:g}")
        self._notes: list[str] = []
        self._gpu = Gpu.acquire(options.device, self)
        self._closed = False
        try:
            self._engines = Engines(
                self._gpu, model, runtime, scale, options, self._notes.append, load_reference=load_reference
            )
        except BaseException:
            self._gpu.release(self)
            raise
        self.device, self.precision = self._gpu.name, self._engines.precision

    def prepare(self, height: int, width: int) -> None:
        """Build the engine for this size, if there is none yet; see
        `overnet.runtime.backends.base.Backend.prepare`."""
        self._ready((height, width))

    def tile_for(self, height: int, width: int) -> int | None:
        """As large as the engine takes; see `overnet.runtime.backends.base.Backend.tile_for`."""
        return tile_side(self._ready((height, width)).profile, (height, width))

    def open_stream(self, height: int, width: int) -> UpscaleStream | None:
        """Slots for frames of this size; see `overnet.runtime.backends.base.Backend.open_stream`.

        None where frames are smaller than the engine takes, and have to be padded.
        """
        ready = self._ready((height, width))
        if not _takes(ready, (height, width)):
            return None
        ready.ring.open((height, width))
        return SlotStream(ready.ring, (height, width))

    def upscale(self, images: ImageBatch, channel_means: ChannelMeans | None = None) -> ImageBatch:
        """Upscale a batch, one image after the other; see `overnet.runtime.backends.base.Backend.upscale`."""
        ready = self._ready(images.shape[1:3])
        if channel_means is not None and not ready.engine.means:
            raise BackendError(
                f"this engine takes images up to {ready.profile.maximum[1]}x{ready.profile.maximum[0]}, and no "
                "tiles of larger ones: it is of an older overnet; export it again"
            )
        height, width = scaled_size(images.shape[1], images.shape[2], self.scale)
        upscaled = np.empty((len(images), height, width, 3), np.uint8)
        for index, image in enumerate(images):
            self._run(ready, image, given_means=_of_image(channel_means, index), upscaled=upscaled[index])
        return upscaled

    def upscale_timed(self, images: ImageBatch) -> StageTimes:
        """Upscale a batch for its times alone: how long the GPU copies in, computes and copies out.

        The work is that of `upscale`, with the recorded graph where there is one, and by the GPU's own clock: what the
        host does is in none of the times, and neither is what is done once for a size. The call itself takes longer
        than `upscale`, since every image is computed twice, so that the GPU does not wait for the host.

        Args:
            images: N x H x W x 3 uint8, RGB, C-contiguous, of a size for which `tile_for` gives None. Smaller ones than
                the engine takes are padded, as for `upscale`, and the times are those of the padded ones.

        Returns:
            Sums over the batch, whose images go one after the other.

        Raises:
            MemoryError: there is too little memory.
            BackendError: the engine takes no images of this size, or the GPU fails.
        """
        ready = self._ready(images.shape[1:3])
        times = StageTimes()
        for image in images:
            with self._slot_with(ready, image) as slot:
                ready.ring.run(slot, timed=True)
                ready.ring.wait(slot)
                times += ready.ring.stage_times(slot)
        return times

    @property
    def activation_memory_bytes(self) -> int | None:
        """GPU memory for intermediate results, as the engine states it for the largest image that it takes.

        It is the engine that the last image went to, or the one that was given; None before the first is built. Each
        frame on its way has so much, except where `overnet.runtime.backends.trt.slot_shared.SlotShared` has them
        share it.
        """
        latest = self._engines.latest
        if latest is None:
            return None
        with self._gpu.current():
            return latest.engine.device_memory_bytes

    def channel_means(self, images: ImageBatch, given: ChannelMeans | None = None) -> ChannelMeans:
        """The network's means, over all channels in one array; see
        `overnet.runtime.backends.base.Backend.channel_means`."""
        ready = self._ready(images.shape[1:3])
        if not ready.engine.means:
            raise BackendError("this engine does not tell its means: it is of an older overnet; export it again")
        means = [
            self._run(ready, image, given_means=_of_image(given, index), wanted_means=True)
            for index, image in enumerate(images)
        ]
        return [np.concatenate([mean for mean in means if mean is not None])]

    def _ready(self, size: tuple[int, ...]) -> ReadyEngine:
        if self._closed:
            raise BackendError("the backend is closed")
        return self._engines.for_size((size[0], size[1]))

    def _run(
        self,
        ready: ReadyEngine,
        image: ImageBatch,
        *,
        given_means: Means | None = None,
        wanted_means: bool = False,
        upscaled: ImageBatch | None = None,
    ) -> Means | None:
        """Run one image and wait for it."""
        with self._slot_with(ready, image) as slot:
            ready.ring.run(slot, given_means=given_means, wanted_means=wanted_means)
            ready.ring.wait(slot)
            if upscaled is not None:
                np.copyto(upscaled, slot.output[: upscaled.shape[0], : upscaled.shape[1]])
            return slot.means() if wanted_means else None

    @contextmanager
    def _slot_with(self, ready: ReadyEngine, image: ImageBatch) -> Iterator[Slot]:
        """A slot with one image to run, padded where it is smaller than the engine takes; given back at the end."""
        size = (image.shape[0], image.shape[1])
        padded = image
        if not _takes(ready, size):
            padded = _padded(image, ready.profile.minimum)
            self._notes.append(f"padded to {padded.shape[1]}x{padded.shape[0]}, the smallest that the engine takes")
        ring = ready.ring
        ring.open((padded.shape[0], padded.shape[1]), count=1)
        slot = ring.take(most_seconds=_SLOT_SECONDS)
        if slot is None:
            raise BackendError(
                f"no slot became free in {_SLOT_SECONDS:g} s: a stream of this upscaler holds all of them"
            )
        try:
            ring.fit(slot, (padded.shape[0], padded.shape[1]))
            np.copyto(slot.input, padded)
            yield slot
        finally:
            ring.give_back(slot)

    def pop_notes(self) -> list[str]:
        """See `overnet.runtime.backends.base.Backend.pop_notes`."""
        notes = [*self._notes, *self._engines.pop_notes()]
        self._notes.clear()
        return list(dict.fromkeys(notes))

    def close(self) -> None:
        """Wait for what runs, and give the GPU's memory back; see `overnet.runtime.backends.base.Backend.close`."""
        if not self._closed:
            self._closed = True
            try:
                self._engines.close()
            finally:
                self._gpu.release(self)

    def __del__(self) -> None:
        # A backend that was forgotten; at the end of Python, `Gpu.close_all` came first.
        if hasattr(self, "_engines") and not self._closed:
            self.close()


def _of_image(channel_means: ChannelMeans | None, index: int) -> Means | None:
    """One image's means, over all channels."""
    return None if channel_means is None else np.concatenate([mean[index].ravel() for mean in channel_means])


def _takes(ready: ReadyEngine, size: tuple[int, int]) -> bool:
    return size[0] >= ready.profile.minimum[0] and size[1] >= ready.profile.minimum[1]


def _padded(image: ImageBatch, minimum: tuple[int, int]) -> ImageBatch:
    """An image made at least as large, by mirroring it: so it keeps about the means that it has."""
    missing = [max(0, low - side) for side, low in zip(image.shape[:2], minimum, strict=True)]
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
