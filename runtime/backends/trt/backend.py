"""TensorRT and TensorRT-RTX: engines on an NVIDIA GPU, with several frames in flight."""

from pathlib import Path

import numpy as np

from overnet.errors import ArtifactError, BackendError
from overnet.files.engine_sidecar import RuntimeName, read_sidecar
from overnet.files.onnx_metadata import read_artifact, scaled_size
from overnet.runtime.backends.base import Backend, BackendOptions, LoadBackend
from overnet.runtime.backends.stream import TileRuns, UpscaleStream
from overnet.runtime.backends.trt.cuda import Gpu
from overnet.runtime.backends.trt.engines import Engines, ReadyEngine, largest_tile
from overnet.runtime.backends.trt.slot import MeanVector, StageTimes
from overnet.runtime.backends.trt.slot_ring import SlotStream
from overnet.runtime.backends.trt.slot_tiles import SlotTiles
from overnet.types import ChannelMeans, Image, ImageBatch


class TensorRtBackend(Backend):
    """The engines of one model on one GPU. See `overnet.runtime.backends.base.Backend`.

    One image or stream at a time; for several threads, one backend each.

    Args:
        model: an engine with its sidecar; or an exported ONNX file, from which engines are built at first use and
            stored.
        scale: must be the model's own.
        options: the precision of a given engine is fixed; engines built here are in FP16 by default.
        runtime: the library.
        load_reference: loads the backend on the CPU that engines built here are compared with.

    Raises:
        ArtifactError: the model is broken, not made by OverNet, or an engine for another machine.
        MissingDependency: TensorRT or PyCUDA is not installed.
        InputError: there is no such device.
        BackendError: the engine cannot be loaded.
    """

    # Not used here: `tile_for` follows from the engine.
    bytes_per_pixel = 3_000

    def __init__(
        self, model: Path, scale: float, options: BackendOptions, runtime: RuntimeName, *, load_reference: LoadBackend
    ) -> None:
        self.name: str = runtime
        artifact = read_sidecar(model).artifact if model.suffix.lower() == ".engine" else read_artifact(model)
        self.scale, self.reach, self.foreign = artifact.scale, artifact.reach, artifact.foreign
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

    def tile_for(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the largest tile of the engine; see `overnet.runtime.backends.base.Backend.tile_for`."""
        return largest_tile(self._ready((height, width)).profile, (height, width))

    def open_tiles(self, size: tuple[int, int]) -> TileRuns:
        """Open runs through the engine's slots; see `overnet.runtime.backends.base.Backend.open_tiles`."""
        ready = self._ready(size)
        taken = (max(size[0], ready.profile.minimum[0]), max(size[1], ready.profile.minimum[1]))
        return SlotTiles(ready.ring, taken, self.scale, lambda part: self._padded(ready, part), ready.engine.means)

    def open_stream(self, height: int, width: int) -> UpscaleStream | None:
        """Return a stream of slots for this size; see `overnet.runtime.backends.base.Backend.open_stream`.

        The result is None where frames are smaller than the engine's smallest size and have to be padded.
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
                "tiles of larger ones: an older version of overnet made it; export it again"
            )
        height, width = scaled_size(images.shape[1], images.shape[2], self.scale)
        upscaled = np.empty((len(images), height, width, 3), np.uint8)
        for index, image in enumerate(images):
            ready.ring.run_image(
                self._padded(ready, image), given_means=_of_image(channel_means, index), upscaled=upscaled[index]
            )
        return upscaled

    def upscale_timed(self, images: ImageBatch) -> StageTimes:
        """Measure how long the GPU copies in, computes and copies out when it upscales a batch.

        The work is that of `upscale`, with the recorded graph where there is one, timed by the GPU's own clock: the
        times include neither the host's work nor what is done once for a size. The call takes longer than `upscale`,
        since every image is computed twice, so that the GPU does not wait for the host.

        Args:
            images: N x H x W x 3 uint8, RGB, C-contiguous, of a size for which `tile_for` returns None. Images smaller
                than the engine's smallest size are padded, as in `upscale`, and timed with the padding.

        Returns:
            Sums over the batch, whose images are computed one after the other.

        Raises:
            MemoryError: there is too little memory.
            BackendError: the engine does not take images of this size, or the GPU fails.
        """
        ready = self._ready(images.shape[1:3])
        times = StageTimes()
        for image in images:
            with ready.ring.filled(self._padded(ready, image)) as slot:
                ready.ring.run(slot, timed=True)
                ready.ring.wait(slot)
                times += ready.ring.stage_times(slot)
        return times

    @property
    def activation_memory_bytes(self) -> int | None:
        """Return the GPU memory for intermediate results that the engine states for its largest image.

        The engine is the one that ran last, or the given one; the result is None before the first is built. Each frame
        in flight has this much memory, except where `overnet.runtime.backends.trt.slot_shared.SlotShared` shares it.
        """
        latest = self._engines.latest
        if latest is None:
            return None
        with self._gpu.current():
            return latest.engine.device_memory_bytes

    def channel_means(self, images: ImageBatch, given: ChannelMeans | None = None) -> ChannelMeans:
        """Return the network's means, over all channels in one array; see
        `overnet.runtime.backends.base.Backend.channel_means`."""
        ready = self._ready(images.shape[1:3])
        if not ready.engine.means:
            raise BackendError(
                "this engine does not output its means: an older version of overnet made it; export it again"
            )
        means = [
            ready.ring.run_image(self._padded(ready, image), given_means=_of_image(given, index), wanted_means=True)
            for index, image in enumerate(images)
        ]
        return [np.concatenate([mean for mean in means if mean is not None])]

    def _ready(self, size: tuple[int, ...]) -> ReadyEngine:
        if self._closed:
            raise BackendError("the backend is closed")
        return self._engines.for_size((size[0], size[1]))

    def _padded(self, ready: ReadyEngine, image: Image) -> Image:
        """Return an image, padded to the engine's smallest size where it is smaller."""
        size = (image.shape[0], image.shape[1])
        if _takes(ready, size):
            return image
        missing = [max(0, low - side) for side, low in zip(size, ready.profile.minimum, strict=True)]
        # Mirrored at its edges, which nearly preserves its means.
        padded = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
        self._notes.append(f"padded to {padded.shape[1]}x{padded.shape[0]}, the smallest size that the engine takes")
        return padded

    def pop_notes(self) -> list[str]:
        """See `overnet.runtime.backends.base.Backend.pop_notes`."""
        notes = [*self._notes, *self._engines.pop_notes()]
        self._notes.clear()
        return list(dict.fromkeys(notes))

    def close(self) -> None:
        """Wait for running work and free the GPU's memory; see `overnet.runtime.backends.base.Backend.close`."""
        if not self._closed:
            self._closed = True
            try:
                self._engines.close()
            finally:
                self._gpu.release(self)

    def __del__(self) -> None:
        # A backend that was never closed. At the end of Python, `Gpu.close_all` has closed it already.
        if hasattr(self, "_engines") and not self._closed:
            self.close()


def _of_image(channel_means: ChannelMeans | None, index: int) -> MeanVector | None:
    """Return one image's means, over all channels."""
    return None if channel_means is None else np.concatenate([mean[index].ravel() for mean in channel_means])


def _takes(ready: ReadyEngine, size: tuple[int, int]) -> bool:
    return size[0] >= ready.profile.minimum[0] and size[1] >= ready.profile.minimum[1]
