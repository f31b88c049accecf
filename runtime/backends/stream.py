"""Streams of frames of one size: several are in flight, submitted first and fetched later in the same order.

A GPU copies, computes and copies back while the host decodes the next frame and encodes the one before. So a frame is
decoded into a buffer of the stream (`UpscaleStream.buffer`) in one thread, submitted from another, and fetched and
released in a third.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeAlias

import numpy as np

from overnet.types import ChannelMeans, Image, ImageBatch

# One submitted frame: a context, within which its result may be used. Entering waits until the frame is upscaled and
# returns scale*H x scale*W x 3 uint8, or raises a BackendError. The array belongs to the stream, which reuses it for
# another frame on leaving. Tickets are entered once, in the order of submission.
Ticket: TypeAlias = AbstractContextManager[Image]


class UpscaleStream(Protocol):
    """An upscaler for frames of one size."""

    def buffer(self) -> Image | None:
        """Return the H x W x 3 uint8 array to decode the next frame into, or None where the caller is to allocate one.

        Waits until one is free, so each array has to be submitted. After `stop` the result is None at once.
        """

    def submit(self, frame: Image) -> Ticket:
        """Begin to upscale a frame, without waiting for it.

        Args:
            frame: H x W x 3 uint8 RGB: a filled array of `buffer`'s, or any other of that size, which may be changed as
                soon as this returns.

        Raises:
            BackendError, MemoryError: see `overnet.runtime.backends.base.Backend.upscale`.
        """

    def restart(self) -> None:
        """Forget the frames so far: those that follow give what they would give in a new stream.

        To be called between two calls of `submit`; frames in flight are not affected.
        """

    def stop(self) -> None:
        """Wake the thread that waits for a buffer: no more frames come. Submitted frames can still be fetched."""

    def close(self) -> None:
        """Wait for the frames in flight and free everything. No ticket may be used afterwards."""


# The channel means of one submitted part of a frame: a context like a `Ticket`.
MeansTicket: TypeAlias = AbstractContextManager[ChannelMeans]


class TileRuns(Protocol):
    """A backend's runs for the tiles of frames, of which several may be in flight.

    Attributes:
        most: runs that may be in flight at once: as many may be submitted before the first of them is fetched.
    """

    most: int

    def upscale(self, part: Image, means: ChannelMeans | None) -> Ticket:
        """Begin to upscale a tile.

        Args:
            part: h x w x 3 uint8, perhaps a view of a frame, which may be changed as soon as this returns.
            means: see `overnet.runtime.backends.base.Backend.upscale`.

        Raises:
            BackendError, MemoryError: see `overnet.runtime.backends.base.Backend.upscale`.
        """
        ...

    def means(self, part: Image, given: ChannelMeans | None) -> MeansTicket:
        """Begin to compute the means of a part; see `overnet.runtime.backends.base.Backend.channel_means`."""
        ...

    def stop(self) -> None:
        """Wake the thread that waits in `upscale` or `means`: no more tiles come."""
        ...

    def close(self) -> None:
        """Wait for the runs in flight and free what they hold."""
        ...


class DirectTiles:
    """Runs by functions that return when the result is there. See `TileRuns`.

    Args:
        upscale, means: see `overnet.runtime.backends.base.Backend.upscale` and `channel_means`.
    """

    most = 1

    def __init__(
        self,
        upscale: Callable[[ImageBatch, ChannelMeans | None], ImageBatch],
        means: Callable[[ImageBatch, ChannelMeans | None], ChannelMeans],
    ) -> None:
        self._upscale, self._means = upscale, means

    def upscale(self, part: Image, means: ChannelMeans | None) -> Ticket:
        """Upscale a tile; see `TileRuns.upscale`."""
        return nullcontext(self._upscale(np.ascontiguousarray(part[None]), means)[0])

    def means(self, part: Image, given: ChannelMeans | None) -> MeansTicket:
        """Compute the means of a part; see `TileRuns.means`."""
        return nullcontext(self._means(np.ascontiguousarray(part[None]), given))

    def stop(self) -> None:
        """Do nothing: no thread waits."""

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


class FinishedStream:
    """A stream with one more step on the CPU in the thread that fetches. See `UpscaleStream`.

    Args:
        stream: the other stream.
        finish: the last step, from an upscaled frame of that stream to a new array.
    """

    def __init__(self, stream: UpscaleStream, finish: Callable[[Image], Image]) -> None:
        self._stream, self._finish = stream, finish
        self.buffer = stream.buffer
        self.restart = stream.restart
        self.stop = stream.stop
        self.close = stream.close

    def submit(self, frame: Image) -> Ticket:
        """Begin to upscale a frame; see `UpscaleStream.submit`."""
        return self._finished(self._stream.submit(frame))

    @contextmanager
    def _finished(self, ticket: Ticket) -> Iterator[Image]:
        with ticket as upscaled:
            yield self._finish(upscaled)
