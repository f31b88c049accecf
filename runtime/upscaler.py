"""Upscaling of one image: any size, any scale, whole or in tiles."""

from __future__ import annotations

import copy
import hashlib
from contextlib import closing, suppress
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from overnet.errors import BackendError, InputError, OverNetError, printable
from overnet.files.engine_sidecar import SMALLEST_TILE
from overnet.files.onnx_metadata import Foreign, scaled_size
from overnet.imaging.image_io import read_rgb
from overnet.imaging.resample import imresize, network_bicubic
from overnet.runtime.backends.base import Backend, BackendOptions
from overnet.runtime.backends.ort.providers import check_provider
from overnet.runtime.backends.stream import FinishedStream, UpscaleStream
from overnet.runtime.models import find_models
from overnet.runtime.tiled_stream import TiledStream
from overnet.runtime.tiling import why_not_cut

# No image file or video frame is as large as this; a larger size is a mistake or an attack.
_LARGEST_SIDE = 1 << 20
_LARGEST_SCALE = 64
# How often the means of an image's parts are computed before its tiles are upscaled with them.
_PASSES = 2


class Upscaler:
    """An image upscaler; it takes one image or stream at a time, so several threads need one each.

    Args:
        scale: factor from input to output height and width, from 1 to 64, fractions allowed. Where there is no model
            for exactly this scale, the next larger one is used and its result reduced with antialiasing; `pop_notes`
            says so.
        height, width: the height or the width of the result in pixels, instead of a scale; the other follows.
        model: an ONNX file, an engine, a folder of these (the one for the scale is chosen), a checkpoint
            (``.safetensors`` or ``.pth.tar``, which need torch), or the name of a bundled model: ``"realtime"``,
            ``"fast"`` or ``"best"``, which None means too.
        backend: ``"tensorrt"``, ``"tensorrt-rtx"``, ``"openvino"``, ``"onnxruntime"``, ``"torch"``, or ``"auto"`` for
            the fastest that works here; `pop_notes` says why an installed one does not work.
        tile: height and width, in input pixels, of the tiles to cut images into; 0 never cuts; None cuts only images
            that do not fit the available memory.
        options: the fields of `overnet.runtime.backends.base.BackendOptions` as keywords: the arithmetic's precision,
            CPU threads, the GPU, ONNX Runtime's provider, and more.

    Raises:
        InputError: a parameter is out of range, or the model is missing, broken or not made by OverNet.
        MissingDependency: a library that the backend needs is not installed.
        BackendError: the backend cannot load the model.

    Examples:
        >>> upscaler = Upscaler(scale=2)
        >>> upscaler(image).shape  # H x W x 3 uint8 in, 2H x 2W x 3 uint8 out
        >>> upscaler("photo.jpg").shape  # the pixels of an image file
    """

    def __init__(
        self,
        scale: float = 2,
        *,
        height: int | None = None,
        width: int | None = None,
        model: str | Path | None = None,
        backend: str = "auto",
        tile: int | None = None,
        **options: Any,
    ) -> None:
        self._options = BackendOptions(**options)
        _check_scale(scale)
        for name, side in (("height", height), ("width", width)):
            if side is not None and not 1 <= side <= _LARGEST_SIDE:
                raise InputError(f"{name} is {side}; it must be from 1 to {_LARGEST_SIDE}")
        if height is not None and width is not None:
            raise InputError("height and width are both given: the other follows from one")
        if tile is not None and tile != 0 and tile < SMALLEST_TILE:
            raise InputError(f"tile is {tile}; the smallest is {SMALLEST_TILE}, and 0 never cuts")
        self._options.check()
        check_provider(self._options.provider, backend=backend)
        self._scale, self._height, self._width, self._tile = scale, height, width, tile
        # The first backend that works is kept.
        self._choices = find_models(model, backend, self._options.precision)
        self._backends: dict[float, Backend] = {}
        self._largest_tile: int | None = None
        self._notes: list[str] = []
        if height is None and width is None:
            # Loaded now, so that a broken model is reported before any image is read.
            self.backend_for(scale)

    def at_scale(self, scale: float) -> Upscaler:
        """Return an upscaler for another scale that shares the loaded models with this one; close only one of them.

        Args:
            scale: see `Upscaler`.

        Raises:
            InputError, BackendError: see `Upscaler`.
        """
        _check_scale(scale)
        other = copy.copy(self)
        other._scale, other._height, other._width, other._notes = scale, None, None, []
        other.backend_for(scale)
        return other

    @property
    def backend_name(self) -> str:
        """Return the name of the backend in use."""
        return self._choices[0][0].name

    def shaping(self, height: int, width: int) -> dict[str, str]:
        """Return what determines the results for images of this size besides theirs, by its name in messages."""
        scale = self._scale
        if self._height is not None or self._width is not None:
            size = self.output_size(height, width, even_width=True)
            scale = max(size[0] / height, size[1] / width, 1.0)
        backend = self.backend_for(scale)
        models = self._choices[0][1]
        model = models.path(models.nearest(scale))
        return {
            "the model": f"{model.name} ({hashlib.sha256(model.read_bytes()).hexdigest()[:16]})",
            "--backend": f"{backend.name} on {backend.device}",
            "--precision": backend.precision,
            "--tile": "as fits memory" if self._tile is None else str(self._tile),
        }

    def output_size(self, height: int, width: int, *, even_width: bool = False) -> tuple[int, int]:
        """Return height and width of the result for an image of this height and width.

        With `even_width`, where a height or width was given instead of a scale, the other is rounded to a multiple of
        two, as video encoders need it.
        """
        step = 2 if even_width else 1
        if self._height is not None:
            return self._height, max(step, int(width * self._height / height / step + 0.5) * step)
        if self._width is not None:
            return max(step, int(height * self._width / width / step + 0.5) * step), self._width
        return scaled_size(height, width, self._scale)

    def backend_for(self, scale: float) -> Backend:
        """Return the backend that upscales by at least `scale`, or by as much as a model does, loaded at first use."""
        while True:
            kind, models = self._choices[0]
            try:
                graph_scale = models.nearest(scale)
                if graph_scale not in self._backends:
                    if models.checkpoint is not None:
                        # Images of many sizes brought to one height need one scale each; only the last is kept.
                        self.close()
                    self._backends[graph_scale] = kind.load(models.path(graph_scale), graph_scale, self._options)
                return self._backends[graph_scale]
            except (OverNetError, MemoryError) as error:
                self._next_choice(error)

    def _next_choice(self, error: OverNetError | MemoryError) -> None:
        """Choose the next backend where the first does not work; raise the error where there is no other."""
        if len(self._choices) == 1 or isinstance(error, InputError):
            if isinstance(error, MemoryError):
                raise BackendError(f"out of memory with the backend {self.backend_name} ({error})") from error
            raise error
        self._note(f"the backend {self.backend_name} is not used: {error}")
        self.close()
        del self._choices[0]

    @overload
    def __call__(self, image: NDArray[np.uint8], *, even_width: bool = False) -> NDArray[np.uint8]: ...
    @overload
    def __call__(self, image: NDArray[np.uint16], *, even_width: bool = False) -> NDArray[np.uint16]: ...
    @overload
    def __call__(self, image: str | Path, *, even_width: bool = False) -> NDArray[np.uint8]: ...
    def __call__(self, image: NDArray[Any] | str | Path, *, even_width: bool = False) -> NDArray[Any]:
        """Upscale one image.

        Args:
            image: H x W x 3, RGB; uint8, or uint16 (levels 0 to 65535). The network sees 8 bits; the lower bits of a
                16-bit image are interpolated bicubically, so that smooth gradients stay smooth. Or the path of an image
                file, which is read in 8 bits, upright and without transparency.
            even_width: see `output_size`.

        Returns:
            The upscaled image, of the same dtype and of the size that `output_size` gives.

        Raises:
            InputError: the array is not such an image, or the file cannot be read.
            BackendError: the image does not fit into memory even in the smallest tiles, or the backend failed.
        """
        if isinstance(image, str | Path):
            image = read_rgb(Path(image))
        if not isinstance(image, np.ndarray):
            raise InputError(f"an image must be an array or the path of a file; this is {type(image).__name__}")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in (np.uint8, np.uint16):
            raise InputError(f"an image must be H x W x 3 uint8 or uint16; this is {image.shape} {image.dtype}")
        if not 1 <= min(image.shape[:2]) <= max(image.shape[:2]) <= _LARGEST_SIDE:
            raise InputError(f"an image of {image.shape[1]}x{image.shape[0]} pixels cannot be upscaled")
        size = self.output_size(*image.shape[:2], even_width=even_width)
        if image.dtype == np.uint16:
            return self._upscale_16_bit(image, size)
        return self._upscale_8_bit(np.ascontiguousarray(image), size)

    def stream(
        self, height: int, width: int, *, even_width: bool = False, rate: Fraction | None = None
    ) -> UpscaleStream:
        """Open a stream for many uint8 frames of one size, such as those of a video; a GPU works on several at once.

        Close it before anything else is upscaled, and before the upscaler is closed.

        Args:
            height, width: of the frames, in pixels.
            even_width: see `output_size`, which is the size of the results.
            rate: frames a second that are to come, where known: `overnet.runtime.paced_upscaler.PacedUpscaler` chooses
                its model by it.

        Raises:
            BackendError: the backend failed.
        """
        size = self.output_size(height, width, even_width=even_width)
        backend = self._prepared(height, width, size)
        opened: UpscaleStream | None = None
        tile = self._largest_tile_of(backend, height, width)
        if tile is None:
            with suppress(MemoryError):  # tiles may do
                opened = backend.open_stream(height, width)
        if opened is None:
            opened = self._tiled_stream(backend, (height, width), tile)
        if scaled_size(height, width, backend.scale) == size:
            return opened
        return FinishedStream(opened, lambda upscaled: self._resized(upscaled, size, backend.scale))

    def close(self) -> None:
        """Free what the backends hold, such as a GPU's memory; they are loaded again when needed."""
        for backend in self._backends.values():
            backend.close()
        self._backends.clear()

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _prepared(self, height: int, width: int, size: tuple[int, int]) -> Backend:
        """Return the backend for images of this size, prepared for them."""
        while True:
            is_size = self._height is not None or self._width is not None
            backend = self.backend_for(max(size[0] / height, size[1] / width, 1.0) if is_size else self._scale)
            # The backend sees no more than a tile of an image that is cut.
            most = self._tile or max(height, width)
            try:
                backend.prepare(min(height, most), min(width, most))
            except (OverNetError, MemoryError) as error:
                self._next_choice(error)
                continue
            return backend

    def _upscale_8_bit(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        backend = self._prepared(image.shape[0], image.shape[1], size)
        return self._resized(self._in_tiles(backend, image), size, backend.scale)

    def _resized(self, upscaled: NDArray[np.uint8], size: tuple[int, int], scale: float) -> NDArray[np.uint8]:
        """Return the result resized to the requested size, where there is no model for exactly that scale."""
        if upscaled.shape[:2] == size:
            return upscaled
        how = "reduced" if size[0] <= upscaled.shape[0] else "enlarged bicubically"
        self._note(f"upscaled by {scale:g}, then {how} to {size[1]}x{size[0]}: there is no model for that scale")
        return np.asarray(imresize(upscaled, size=size), dtype=np.uint8)

    def _largest_tile_of(self, backend: Backend, height: int, width: int) -> tuple[int, int] | None:
        """Return height and width of the largest tiles to cut an image into; None where it is upscaled whole."""
        tile: tuple[int, int] | None = None
        if self._tile is None:
            tile = backend.tile_for(height, width)
        elif self._tile:
            tile = self._tile, self._tile
            if self._choices[0][0].on_gpu:
                # An engine accepts no image larger than it was built for.
                tile = _smaller(tile, backend.tile_for(min(height, self._tile), min(width, self._tile)))
        if self._largest_tile is not None:
            tile = _smaller((self._largest_tile, self._largest_tile), tile)
        if backend.foreign is not None:
            tile = self._foreign_tile(backend, backend.foreign, tile, height, width)
        if tile is None or (height <= tile[0] and width <= tile[1]):
            return None
        reason = why_not_cut((height, width), backend.scale)
        if reason is None:
            return tile
        if self._choices[0][0].on_gpu and backend.tile_for(height, width) is not None:
            raise BackendError(
                f"the engine is for smaller images than {width}x{height}, and {reason}: export it with a larger "
                "--shape, or for a whole scale"
            )
        self._note(f"upscaled whole: {reason}")
        return None

    def _foreign_tile(
        self, backend: Backend, foreign: Foreign, tile: tuple[int, int] | None, height: int, width: int
    ) -> tuple[int, int] | None:
        """Return the largest tiles for another program's network, which may see more than ours, or take less."""
        if foreign.largest is not None and (height > foreign.largest[0] or width > foreign.largest[1]):
            tile = _smaller(foreign.largest, tile)
        if tile is None or (height <= tile[0] and width <= tile[1]):
            return tile
        if foreign.margin is None:
            if self._choices[0][0].on_gpu and backend.tile_for(height, width) is not None:
                raise BackendError(f"{foreign.source} sees the whole image, and the engine is for smaller ones")
            self._note("upscaled whole, not in tiles: this network sees the whole image")
            return None
        # Tiles that the memory asks for would be all margin.
        if self._tile or foreign.largest:
            return tile
        return max(tile[0], 4 * foreign.margin), max(tile[1], 4 * foreign.margin)

    def _in_tiles(self, backend: Backend, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        tile = self._largest_tile_of(backend, height, width)
        if tile is None:
            try:
                upscaled: NDArray[np.uint8] = backend.upscale(image[None])[0]
                return upscaled
            except MemoryError as error:
                tile = self._next_tile(backend, (height, width), (height, width), error)
        stream = self._tiled_stream(backend, (height, width), tile, passes=_PASSES)
        with closing(stream), stream.submit(image) as upscaled:
            return upscaled

    def _tiled_stream(
        self, backend: Backend, size: tuple[int, int], tile: tuple[int, int] | None, *, passes: int | None = None
    ) -> TiledStream:
        return TiledStream(
            backend,
            size,
            tile,
            smaller=lambda tile, error: self._next_tile(backend, size, tile, error),
            note=self._note,
            passes=passes,
        )

    def _next_tile(
        self, backend: Backend, size: tuple[int, int], tile: tuple[int, int], error: MemoryError
    ) -> tuple[int, int] | None:
        """Return the largest tiles to try after some that were too large, and remember them."""
        height, width = size
        smaller = min(max(tile), max(size)) // 2
        is_whole = backend.foreign is not None and backend.foreign.margin is None
        uncut = why_not_cut(size, backend.scale)
        if smaller < SMALLEST_TILE or self._tile == 0 or is_whole or uncut:
            reason = f" ({error})" if str(error) else ""
            reason += f"; {uncut}: take a model for a whole scale" if uncut else ""
            raise BackendError(
                f"out of memory on an image of {width}x{height} pixels with the backend {backend.name}{reason}"
            ) from error
        self._largest_tile = smaller
        return self._largest_tile_of(backend, height, width)

    def _upscale_16_bit(self, image: NDArray[np.uint16], size: tuple[int, int]) -> NDArray[np.uint16]:
        """Add the network's detail of the 8-bit image to a bicubic enlargement of all 16 bits.

        The network's result is exact to half an 8-bit level only, so smaller detail is set to 0: in smooth gradients
        the bicubic enlargement alone remains, without steps.
        """
        levels = image.astype(np.float32) / 257
        coarse = np.rint(levels).astype(np.uint8)
        upscaled = self._upscale_8_bit(coarse, size).astype(np.float32)
        detail = upscaled - network_bicubic(coarse.astype(np.float32), size)
        detail = np.sign(detail) * np.maximum(np.abs(detail) - 0.5, 0)
        fine = network_bicubic(levels, size) + detail
        levels_16_bit: NDArray[np.uint16] = np.rint(np.clip(fine * 257, 0, 65535)).astype(np.uint16)
        return levels_16_bit

    def pop_notes(self) -> list[str]:
        """Return and clear the remarks since the last call, one line each: what was done to fit the scale or memory."""
        for backend in self._backends.values():
            for note in backend.pop_notes():
                self._note(note)
        notes, self._notes = self._notes, []
        return notes

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)


def _check_scale(scale: Any) -> None:
    is_number = isinstance(scale, Real)
    if not is_number:
        hint = f": Upscaler(2)({str(scale)!r}) upscales a file" if isinstance(scale, str | Path) else ""
        raise InputError(f"scale must be a number, not {printable(repr(scale))[:100]}{printable(hint)}")
    if not 1 <= scale <= _LARGEST_SCALE:  # also false for NaN
        raise InputError(f"scale is {scale:g}; it must be from 1 to {_LARGEST_SCALE}")


def _smaller(tile: tuple[int, int], other: tuple[int, int] | None) -> tuple[int, int]:
    """Return the part that two largest tiles have in common; None sets no limit."""
    return tile if other is None else (min(tile[0], other[0]), min(tile[1], other[1]))
