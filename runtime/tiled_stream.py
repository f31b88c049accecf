"""A stream of frames that are cut into tiles, several of which are in flight, and whose channel means are carried over.

Gathering the means of a frame takes as many runs of the network as there are tiles. So in a stream it is done once a
frame at most: for the first frame of a scene, again for the second, given the first's (see `overnet.runtime.tiling`),
and then only where the frame has changed so much that the means have (`overnet.runtime.scene`). What is gathered for a
frame depends on the frames alone and not on time, so a file always gives the same result.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from overnet.errors import BackendError
from overnet.files.onnx_metadata import exact_scale, scaled_size
from overnet.runtime.backends.base import Backend
from overnet.runtime.backends.stream import MeansTicket, Ticket, TileRuns
from overnet.runtime.scene import FrameFigures, measure_frame
from overnet.runtime.tiling import Cut, Span, cut_into_tiles, join, why_not_cut
from overnet.system.ending_signals import raise_if_ended
from overnet.types import ChannelMeans, Image

Size = tuple[int, int]


@dataclass(eq=False)
class _Result:
    """An upscaled frame that is being joined.

    Attributes:
        image: what is written so far.
        left: the number of tiles that are not in it yet.
        failure: why it will not be complete.
    """

    image: Image
    left: int
    failure: BaseException | None = None


class TiledStream:
    """A stream of frames that are cut into tiles where they are too large. See `UpscaleStream`.

    Args:
        backend: upscales the tiles.
        size: height and width of the frames, in pixels.
        most: height and width of the largest tile; None where frames are upscaled whole.
        smaller: returns a smaller `most` after a MemoryError, or raises a BackendError.
        note: called with remarks for the user.
        passes: of a single image, how often the means of all its parts are computed; None carries means over between
            frames.

    Raises:
        InputError, BackendError: the frames cannot be cut so.
    """

    def __init__(
        self,
        backend: Backend,
        size: Size,
        most: Size | None,
        *,
        smaller: Callable[[Size, MemoryError], Size | None],
        note: Callable[[str], None],
        passes: int | None = None,
    ) -> None:
        self._backend, self._size, self._smaller, self._note, self._passes = backend, size, smaller, note, passes
        self._collecting = threading.Lock()
        self._in_flight: deque[tuple[_Result, Span, Span, Ticket]] = deque()
        self._unused: list[Image] = []
        # The figures of the frame before, and of the frame that the means are of.
        self._before: FrameFigures | None = None
        self._gathered: FrameFigures | None = None
        self._means: ChannelMeans | None = None
        self._is_settled = False
        self._most = most or size
        self._cut, self._runs = self._opened()

    def _opened(self) -> tuple[Cut, TileRuns]:
        backend = self._backend
        while True:
            reason = why_not_cut(self._size, backend.scale)
            if reason and (self._size[0] > self._most[0] or self._size[1] > self._most[1]):
                raise ValueError(reason)
            cut = cut_into_tiles(
                self._size, self._most, scale=backend.scale, reach=backend.reach, foreign=backend.foreign
            )
            try:
                runs = backend.open_tiles(cut.tile)
            except MemoryError as error:
                self._most = self._smaller(self._most, error) or self._size
                continue
            if len(cut.tiles) > 1:
                self._note(f"cut into {len(cut.tiles)} tiles of {cut.tile[1]}x{cut.tile[0]} pixels")
            return cut, runs

    def buffer(self) -> Image | None:
        """Return None: the caller allocates the arrays; see `UpscaleStream.buffer`."""
        return None

    def submit(self, frame: Image) -> Ticket:
        """Begin to upscale a frame, and wait for tiles of earlier frames where too many are in flight."""
        if frame.shape != (*self._size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"expected uint8 {(*self._size, 3)}, got {frame.dtype} {frame.shape}")
        while True:
            result = None
            try:
                if len(self._cut.tiles) == 1:
                    return self._runs.upscale(frame, None)
                means = self._means_for(frame)
                height, width = scaled_size(*self._size, self._backend.scale)
                image = self._unused.pop() if self._unused else np.empty((height, width, 3), np.uint8)
                result = _Result(image, len(self._cut.tiles))
                for rows, columns in self._cut.tiles:
                    raise_if_ended()
                    self._make_room(0)
                    part = frame[rows.start : rows.stop, columns.start : columns.stop]
                    self._in_flight.append((result, rows, columns, self._runs.upscale(part, means)))
                return self._finished(result)
            except MemoryError as error:
                # Earlier frames are completed; this one begins anew.
                while self._in_flight:
                    self._collect()
                if result is not None:
                    self._unused.append(result.image)
                self._runs.close()
                self._most = self._smaller(self._most, error) or self._size
                self._cut, self._runs = self._opened()

    def _means_for(self, frame: Image) -> ChannelMeans | None:
        """Return the means to upscale the tiles of a frame with; None where the network has none."""
        if self._backend.reach is not None:
            return None
        if self._passes is not None:
            means = None
            for _ in range(self._passes):
                means = self._gather(frame, means)
            return means
        figures = measure_frame(frame)
        is_cut = self._before is None or self._gathered is None or figures.is_cut_after(self._before)
        self._before = figures
        if is_cut or not self._is_settled or (self._gathered and not figures.resembles(self._gathered)):
            self._means = self._gather(frame, None if is_cut else self._means)
            self._gathered, self._is_settled = figures, not is_cut
        return self._means

    def _gather(self, frame: Image, given: ChannelMeans | None) -> ChannelMeans | None:
        """Return the means over the whole frame: averages, weighted by area, over parts that do not overlap.

        Each pass makes one more of the network's successive means exact, except for the parts' borders, and reduces
        the error of all later ones.

        Args:
            frame: see `submit`.
            given: means to use in place of each part's own; later means depend on earlier ones.
        """
        total: ChannelMeans = []
        pending: deque[tuple[np.float32, MeansTicket]] = deque()

        def add_oldest() -> None:
            nonlocal total
            share, ticket = pending.popleft()
            with ticket as part:
                weighted = [share * mean for mean in part]
            total = [a + b for a, b in zip(total, weighted, strict=True)] if total else weighted

        try:
            for rows, columns in self._cut.parts:
                raise_if_ended()
                self._make_room(len(pending))
                while len(pending) >= self._runs.most:
                    add_oldest()
                part = frame[rows, columns]
                share = np.float32(part.shape[0] * part.shape[1] / (frame.shape[0] * frame.shape[1]))
                pending.append((share, self._runs.means(part, given)))
            while pending:
                add_oldest()
        except BaseException:
            for _, ticket in pending:
                with suppress(BackendError, MemoryError), ticket:
                    pass
            raise
        return total or None

    def _make_room(self, others: int) -> None:
        """Wait for tiles until one more can be submitted besides those in flight and so many other runs."""
        while self._in_flight and len(self._in_flight) + others >= self._runs.most:
            self._collect()

    def _collect(self) -> None:
        """Wait for the oldest tile in flight, and write it to its frame."""
        with self._collecting:
            if not self._in_flight:
                return
            result, rows, columns, ticket = self._in_flight[0]
            try:
                with ticket as upscaled:
                    scale = exact_scale(self._backend.scale)
                    join(result.image, upscaled, rows, columns, scale, fades=self._cut.fades)
            except BaseException as error:
                result.failure = result.failure or error
                raise
            finally:
                self._in_flight.popleft()
                result.left -= 1

    @contextmanager
    def _finished(self, result: _Result) -> Iterator[Image]:
        while result.left:
            self._collect()
        if result.failure is not None:
            raise result.failure
        try:
            yield result.image
        finally:
            self._unused.append(result.image)

    def restart(self) -> None:
        """Gather the means of the next frame anew; see `UpscaleStream.restart`."""
        self._before = self._gathered = None

    def stop(self) -> None:
        """Wake a thread that waits for a run to end that nobody fetches; see `UpscaleStream.stop`."""
        self._runs.stop()

    def close(self) -> None:
        """Wait for the tiles in flight and free everything; see `UpscaleStream.close`."""
        self._runs.stop()
        while self._in_flight:
            with suppress(BackendError, MemoryError):
                self._collect()
        self._runs.close()
