"""Many frames of one size on their way through an upscaler: handed over, and fetched later, in the same order.

A GPU copies, computes and copies back while the host decodes the next frame and encodes the one before. So a frame is
decoded into a buffer of the stream's (`UpscaleStream.buffer`), submitted from one thread, and fetched and released in
another. Three threads at most: one for each of these.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from overnet.types import Image


class Ticket(Protocol):
    """One frame that was submitted; a context, within which its result may be used.

    Entering waits until the frame is upscaled and gives scale*H x scale*W x 3 uint8. The array belongs to the stream:
    on leaving it is used for another frame. A ticket is entered once, in the order of submission.
    """

    def __enter__(self) -> Image:
        """Wait for the frame.

        Raises:
            BackendError: it could not be computed.
        """
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class UpscaleStream(Protocol):
    """A way for frames of one size."""

    def buffer(self) -> Image | None:
        """Where to decode the next frame to: H x W x 3 uint8, or None where any array of the caller's own will do.

        Waits for a free one, so what it gives has to be submitted. After `stop` it is None at once.
        """
        ...

    def submit(self, frame: Image) -> Ticket:
        """Begin to upscale a frame, without waiting for it.

        Args:
            frame: H x W x 3 uint8 RGB: an array that `buffer` gave, filled; or any other of that size, which is copied
                then, or has been upscaled when this returns.

        Raises:
            BackendError, MemoryError: as for `overnet.runtime.backends.base.Backend.upscale`.
        """
        ...

    def stop(self) -> None:
        """Wake whoever waits for a buffer: no more frames come. What was submitted can still be fetched."""
        ...

    def close(self) -> None:
        """Wait for what is on its way, and let go of everything. No ticket may be used afterwards."""
        ...


class _Done:
    """A ticket for a frame that is upscaled already."""

    def __init__(self, upscaled: Image) -> None:
        self._upscaled = upscaled

    def __enter__(self) -> Image:
        return self._upscaled

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class DirectStream:
    """A stream whose frames are upscaled as they are submitted, by a function. See `UpscaleStream`.

    Args:
        upscale: H x W x 3 uint8 to the upscaled frame, an array of its own.
    """

    def __init__(self, upscale: Callable[[Image], Image]) -> None:
        self._upscale = upscale

    def buffer(self) -> Image | None:
        """None: any array will do; see `UpscaleStream.buffer`."""
        return None

    def submit(self, frame: Image) -> Ticket:
        """Upscale a frame; see `UpscaleStream.submit`."""
        return _Done(self._upscale(frame))

    def stop(self) -> None:
        """Nothing waits; see `UpscaleStream.stop`."""

    def close(self) -> None:
        """Nothing is held; see `UpscaleStream.close`."""


class _FinishedTicket:
    def __init__(self, ticket: Ticket, finish: Callable[[Image], Image]) -> None:
        self._ticket, self._finish = ticket, finish

    def __enter__(self) -> Image:
        upscaled = self._ticket.__enter__()
        try:
            return self._finish(upscaled)
        except BaseException:
            self._ticket.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ticket.__exit__(kind, error, traceback)


class FinishedStream:
    """Another stream, with a last step on the CPU in the thread that fetches. See `UpscaleStream`.

    Args:
        stream: the other.
        finish: what the other makes to what is wanted.
    """

    def __init__(self, stream: UpscaleStream, finish: Callable[[Image], Image]) -> None:
        self._stream, self._finish = stream, finish
        self.buffer = stream.buffer
        self.stop = stream.stop
        self.close = stream.close

    def submit(self, frame: Image) -> Ticket:
        """Begin to upscale a frame; see `UpscaleStream.submit`."""
        return _FinishedTicket(self._stream.submit(frame), self._finish)
