"""The base of all backends, the options they are made from, and how they report errors."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from overnet.errors import ArtifactError, BackendError, InputError, OverNetError, one_line
from overnet.files.onnx_metadata import Artifact, Foreign, scaled_size
from overnet.runtime.backends.stream import DirectTiles, TileRuns, UpscaleStream
from overnet.runtime.tiling import tile_for_memory
from overnet.system.memory import usable_cores
from overnet.types import ChannelMeans, ImageBatch, Progress

ModelKind = Literal["onnx", "checkpoint", "engine"]

CHECKPOINT_SUFFIXES = (".safetensors", ".tar", ".pth", ".pt", ".ckpt")
_MOST_SLOTS = 16
# Of the tensors of the bundled OverNet's graph, for each input pixel.
_OVERNET_ACTIVATION_BYTES = 4876

# Height and width that engines are built for, for landscape images; portrait images have them swapped.
ENGINE_SIZES = ((360, 640), (540, 960), (720, 1280), (1080, 1920), (2160, 4096))

# Height and width of the image by which a loaded model is checked: any network takes it, and it costs about 20 ms.
_CHECKED_SIZE = (4, 6)


@dataclass(frozen=True)
class BackendOptions:
    """Options of a backend; each backend uses those that apply to it.

    Attributes:
        precision: of the arithmetic; None for the backend's default. On a CPU that is ``"fp32"``, and ``"bf16"`` can be
            chosen where the backend and the CPU support it; engines are built in ``"fp16"`` by default.
        threads: CPU threads to compute with, lowered to the cores that this process may use; None for the
            library's default, about one for each core.
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

    def __post_init__(self) -> None:
        if self.threads is not None:  # libraries fail, or are slow, with more threads than there are processors
            object.__setattr__(self, "threads", min(self.threads, usable_cores()))

    def check(self) -> None:
        """Raise InputError for a number out of range."""
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads is {self.threads}; it must be at least 1")
        if self.device < 0:
            raise InputError(f"device is {self.device}; devices are counted from 0")
        if not 1 <= self.slots <= _MOST_SLOTS:
            raise InputError(f"slots is {self.slots}; it must be from 1 to {_MOST_SLOTS}")


class Backend(ABC):
    """One model at one scale, loaded on one device: uint8 images in, uint8 images out.

    What this class itself does is for backends that take one image of any size at a time.

    Attributes:
        name: one of `overnet.runtime.backends.registry.BACKENDS`.
        device: the name of the device it runs on.
        scale: the factor from input to output height and width.
        precision: of the arithmetic, one of `overnet.files.onnx_metadata.PRECISIONS`.
        bytes_per_pixel: a cautious estimate of the memory that a run takes for each input pixel; the size of tiles
            follows from it.
        reach: the number of input pixels to each side that an output pixel depends on; None where it depends on the
            whole image, through `channel_means`.
        foreign: what the file of another program's network states besides; None for this program's networks.
    """

    name: str
    device: str
    scale: float
    precision: str
    bytes_per_pixel: int
    reach: int | None = None
    foreign: Foreign | None = None

    @abstractmethod
    def upscale(self, images: ImageBatch, channel_means: ChannelMeans | None = None) -> ImageBatch:
        """Upscale a batch.

        Args:
            images: N x H x W x 3 uint8, RGB, C-contiguous.
            channel_means: means to use in place of the images' own, as `channel_means` returns them.

        Returns:
            N x round(H * scale) x round(W * scale) x 3 uint8, RGB: a new array, not overwritten by the next call.

        Raises:
            MemoryError: the image is too large for the available memory; a smaller one may work.
            BackendError: the library failed in another way.
        """

    def prepare(self, height: int, width: int) -> None:  # noqa: B027
        """Do the long work that images of this size need once, such as building an engine.

        Raises:
            OverNetError: it cannot be done.
            MemoryError: there is too little memory.
        """

    def tile_for(self, height: int, width: int) -> tuple[int, int] | None:
        """Return height and width in input pixels of the largest tiles for an image of this size.

        Returns:
            None where it fits whole.
        """
        return tile_for_memory(height, width, self.bytes_per_pixel)

    def open_tiles(self, size: tuple[int, int]) -> TileRuns:
        """Open runs for tiles of a height and width, and for parts of images that are no larger.

        Raises:
            MemoryError: there is too little memory for even one run.
        """
        return DirectTiles(self.upscale, self.channel_means)

    def open_stream(self, height: int, width: int) -> UpscaleStream | None:
        """Open a stream for many frames of one size, each of which is upscaled whole.

        Returns:
            None where `upscale` for each frame is as fast.

        Raises:
            MemoryError: there is too little memory for even one frame at a time.
        """
        return None

    def pop_notes(self) -> list[str]:
        """Return and clear the remarks for the user since the last call."""
        return []

    def close(self) -> None:  # noqa: B027
        """Free everything; the backend cannot be used afterwards. Closing it again does nothing."""

    @abstractmethod
    def channel_means(self, images: ImageBatch, given: ChannelMeans | None = None) -> ChannelMeans:
        """Return the means over the whole image by which the network weighs its channels.

        A tile has to be upscaled with the means of the image it was cut from; with its own, its shade would differ.

        Args:
            images: see `upscale`.
            given: means to weigh channels by in place of the images' own: later means depend on earlier ones.

        Returns:
            One array N x C x 1 x 1 float32 for each mean in the network, in the network's order.

        Raises:
            MemoryError, BackendError: see `upscale`.
            MissingDependency: a library that only this needs is not installed.
        """

    def check_results(self, model: Path, run: Callable[[list[ImageBatch]], Sequence[NDArray[Any]]]) -> None:
        """Run a small image through a loaded model, whose file may be damaged or hostile.

        Raises:
            ArtifactError: it fails, or its result is not one batch of images enlarged by the file's scale.
        """
        height, width = _CHECKED_SIZE
        expected = (1, *scaled_size(height, width, self.scale), 3)
        try:
            results = run([np.zeros((1, height, width, 3), np.uint8)])
        except Exception as error:  # libraries raise types of their own
            raise ArtifactError(f"{model}: it cannot upscale an image ({one_line(error)})") from error
        found = [f"{result.dtype} {' x '.join(map(str, result.shape))}" for result in results]
        if found != [f"uint8 {' x '.join(map(str, expected))}"]:
            raise ArtifactError(
                f"{model}: it makes {' and '.join(found) or 'nothing'} of an image of {width}x{height}, not "
                f"uint8 {' x '.join(map(str, expected))}, as its scale {self.scale:g} asks for"
            )


# Loads a backend from a model file, a scale and options.
LoadBackend = Callable[[Path, float, BackendOptions], Backend]


def memory_per_pixel(artifact: Artifact, of_overnet: int, of_plain: float = 2.0) -> int:
    """Return the memory that a run of an ONNX file takes for each input pixel, in bytes.

    Args:
        artifact: the file's metadata. Where they do not state the memory of the graph's tensors, as in files of earlier
            versions, the bundled OverNet's is taken.
        of_overnet: what the backend takes with the bundled OverNet.
        of_plain: what it takes with plain networks, as a multiple of the memory of the graph's tensors.
    """
    if artifact.activation_bytes is None:
        return of_overnet
    # A backend holds more copies of OverNet's tensors than of a chain of convolutions'.
    ratio = of_overnet / _OVERNET_ACTIVATION_BYTES if artifact.reach is None else of_plain
    return math.ceil(ratio * artifact.activation_bytes)


def engine_size(size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the smallest of `ENGINE_SIZES`, in an image's orientation, that holds the image; None where none does."""
    low, high = sorted(size)
    found = next((known for known in ENGINE_SIZES if known[0] >= low and known[1] >= high), None)
    return found[::-1] if found and size[0] > size[1] else found


def model_kind(model: Path) -> ModelKind:
    """Return the kind of model that a file's suffix stands for; an unknown suffix counts as an ONNX file."""
    suffix = model.suffix.lower()
    if suffix == ".engine":
        return "engine"
    return "checkpoint" if suffix in CHECKPOINT_SUFFIXES else "onnx"


def check_precision(precision: str, supported: tuple[str, ...], *, backend: str) -> None:
    """Check that a backend supports a precision.

    Raises:
        BackendError: it does not.
    """
    if precision not in supported:
        is_exported = precision in ("fp16", "int8")
        hint = f": overnet-export --precision {precision} makes a file that does" if is_exported else ""
        raise BackendError(f"{backend} computes here in {' or '.join(supported)}, not in {precision!r}{hint}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a library's error means that memory ran out; C++ libraries say so only in the message."""
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
    # "Can't allocate memory on the device using this package": that kind of memory is not supported at all.
    is_known = any(sign in message for sign in signs) and "using this package" not in message
    return isinstance(error, MemoryError) or is_known


@contextmanager
def reporting(what: str, *, errors: type[Exception] = RuntimeError, line: int | None = None) -> Iterator[None]:
    """Raise a library's errors as MemoryError where memory ran out, and else as BackendError.

    Args:
        what: what failed, as the beginning of the message.
        errors: the class of the library's errors.
        line: the number of the only line of the library's message to keep; see `overnet.errors.one_line`.
    """
    try:
        yield
    except OverNetError:
        raise
    except errors as error:
        reason = one_line(error, line=line)
        if is_out_of_memory(error):
            raise MemoryError(reason) from error
        raise BackendError(f"{what} ({reason})") from error
