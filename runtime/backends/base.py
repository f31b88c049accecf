"""What every backend is: its interface, the options it is made from, and what those on the host have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from overnet.errors import BackendError, InputError
from overnet.runtime.backends.stream import UpscaleStream
from overnet.runtime.tile_size import tile_for_memory
from overnet.types import ChannelMeans, ImageBatch, Progress

ModelKind = Literal["onnx", "checkpoint", "engine"]

CHECKPOINT_SUFFIXES = (".safetensors", ".tar", ".pth", ".pt", ".ckpt")
_MOST_SLOTS = 16


@dataclass(frozen=True)
class BackendOptions:
    """How a backend is to compute; each takes from it what it knows.

    Attributes:
        precision: of the arithmetic; None for the backend's default. On a CPU that is ``"fp32"``, and ``"bf16"`` can be
            chosen where the backend and the CPU support it; engines are built in ``"fp16"`` by default.
        threads: CPU threads to compute with; None for the library's default, about one for each core.
        device: the GPU, counted from 0 among those that ``CUDA_VISIBLE_DEVICES`` leaves.
        provider: ONNX Runtime's execution provider: ``"cpu"``, ``"cuda"``, ``"tensorrt"`` or ``"tensorrt-rtx"``.
        slots: frames in flight on a GPU at once, 1 to 16.
        zero_copy: whether the GPU works on the host's memory without copying frames; None does so where both share
            their memory, as on a Jetson.
        cuda_graphs: whether the GPU's work for a frame is recorded and replayed as one CUDA graph where possible.
        on_progress: called while something takes long, such as building an engine; perhaps from another thread.
    """

    precision: str | None = None
    threads: int | None = None
    device: int = 0
    provider: str = "cpu"
    slots: int = 3
    zero_copy: bool | None = None
    cuda_graphs: bool = True
    on_progress: Progress | None = None

    def check(self) -> None:
        """Raise InputError for a number out of range."""
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads is {self.threads}; it must be at least 1")
        if self.device < 0:
            raise InputError(f"device is {self.device}; devices are counted from 0")
        if not 1 <= self.slots <= _MOST_SLOTS:
            raise InputError(f"slots is {self.slots}; it must be from 1 to {_MOST_SLOTS}")


class Backend(Protocol):
    """One model at one scale, loaded on one device: uint8 images in, uint8 images out.

    Attributes:
        name: one of `overnet.runtime.backends.registry.BACKENDS`.
        device: the device it runs on, for people.
        scale: the factor from input to output height and width.
        precision: of the arithmetic, one of `overnet.files.onnx_metadata.PRECISIONS`.
        bytes_per_pixel: memory a run takes for each input pixel, as a cautious estimate; tiles are chosen by it.
    """

    name: str
    device: str
    scale: float
    precision: str
    bytes_per_pixel: int

    def upscale(self, images: ImageBatch, channel_means: ChannelMeans | None = None) -> ImageBatch:
        """Upscale a batch.

        Args:
            images: N x H x W x 3 uint8, RGB, C-contiguous.
            channel_means: means to use in place of the images' own, as `channel_means` gives them.

        Returns:
            N x round(H * scale) x round(W * scale) x 3 uint8, RGB: the caller's own, not overwritten by the next call.

        Raises:
            MemoryError: the image is too large for the memory there is; a smaller one may work.
            BackendError: anything else that fails in the library underneath.
        """
        ...

    def prepare(self, height: int, width: int) -> None:
        """Do what is to be done once for images of this size and takes long, such as building an engine.

        Raises:
            OverNetError: it cannot be done.
            MemoryError: there is too little memory.
        """
        ...

    def tile_for(self, height: int, width: int) -> int | None:
        """Side, in input pixels, of the tiles that an image of this size has to be cut into; None if it goes whole."""
        ...

    def open_stream(self, height: int, width: int) -> UpscaleStream | None:
        """Make ready for many frames of one size, each of which goes whole.

        Returns:
            None where frames one by one are as good.

        Raises:
            MemoryError: there is too little memory even for one frame at a time.
        """
        ...

    def pop_notes(self) -> list[str]:
        """The remarks for the user gathered since this was last asked."""
        ...

    def close(self) -> None:
        """Let go of everything; the backend is of no use afterwards. More than once does no harm."""
        ...

    def channel_means(self, images: ImageBatch, given: ChannelMeans | None = None) -> ChannelMeans:
        """The means over the whole image by which the network weighs its channels.

        A tile has to be upscaled with the means of the image it was cut from, or it comes out in other shades.

        Args:
            images: as for `upscale`.
            given: means to weigh channels by in place of the images' own: later means follow from earlier ones.

        Returns:
            One array N x C x 1 x 1 float32 for each mean in the network, in the network's order.

        Raises:
            MemoryError, BackendError: as for `upscale`.
            MissingDependency: a library that is needed for this alone is not installed.
        """
        ...


# Loads a backend from a model file, a scale and options.
LoadBackend = Callable[[Path, float, BackendOptions], Backend]


class HostBackend:
    """The part of `Backend` that is the same for all backends on the host."""

    bytes_per_pixel: int

    def prepare(self, height: int, width: int) -> None:
        """Nothing is to be done; see `Backend.prepare`."""

    def tile_for(self, height: int, width: int) -> int | None:
        """As large as the memory allows; see `Backend.tile_for`."""
        return tile_for_memory(height, width, self.bytes_per_pixel)

    def open_stream(self, height: int, width: int) -> UpscaleStream | None:
        """None: nothing is gained by it; see `Backend.open_stream`."""
        return None

    def pop_notes(self) -> list[str]:
        """None; see `Backend.pop_notes`."""
        return []

    def close(self) -> None:
        """Nothing outlives the object; see `Backend.close`."""


def model_kind(model: Path) -> ModelKind:
    """Which kind of model a file is, by its name: an ONNX file unless it is called otherwise."""
    suffix = model.suffix.lower()
    if suffix == ".engine":
        return "engine"
    return "checkpoint" if suffix in CHECKPOINT_SUFFIXES else "onnx"


def check_precision(precision: str, supported: tuple[str, ...], *, backend: str) -> None:
    """Refuse a precision that a backend does not compute in.

    Raises:
        BackendError: it is not among the supported ones.
    """
    if precision not in supported:
        raise BackendError(f"{backend} computes here in {' or '.join(supported)}, not in {precision!r}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library's error means that memory ran out; C++ libraries say so only in the message."""
    message = str(error).lower()
    signs = (
        "bad_alloc",
        "out of memory",
        "outofmemory",  # as TensorRT writes it
        "failed to allocate",
        "can't allocate memory",
        "not enough memory",
        "alloc_failed",
    )
    return isinstance(error, MemoryError) or any(sign in message for sign in signs)
