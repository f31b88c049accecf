"""A stream of frames of one size, computed in the slots of a ring."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType

import numpy as np

from overnet.errors import BackendError
from overnet.runtime.backends.trt.slot import Slot
from overnet.runtime.backends.trt.slot_ring import SlotRing
from overnet.types import Image


class SlotTicket:
    """A frame submitted in a slot. See `overnet.runtime.backends.stream.Ticket`."""

    def __init__(self, stream: SlotStream, slot: Slot) -> None:
        self._stream, self._slot = stream, slot

    def __enter__(self) -> Image:
        try:
            self._stream.wait(self._slot)
        except BaseException:
            self._stream.give_back(self._slot)
            raise
        return self._slot.output

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.give_back(self._slot)


class SlotStream:
    """A stream of frames of one size through a ring. See `overnet.runtime.backends.stream.UpscaleStream`.

    Args:
        ring: opened for the size.
        size: height and width of the frames.
    """

    def __init__(self, ring: SlotRing, size: tuple[int, int]) -> None:
        self._ring, self._size = ring, size
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        # The slots whose buffer a caller is filling, by its address; and all slots that this stream has taken.
        self._filling: dict[int, Slot] = {}
        self._taken: set[Slot] = set()

    def buffer(self) -> Image | None:
        """Return a slot's page-locked input; see `UpscaleStream.buffer`."""
        slot = self._take()
        if slot is None:
            return None
        with self._lock:
            self._filling[slot.input.ctypes.data] = slot
        return slot.input

    def _take(self) -> Slot | None:
        slot = self._ring.take(stopped=self._stopped)
        if slot is not None:
            with self._lock:
                self._taken.add(slot)
            try:
                self._ring.fit(slot, self._size)
            except BaseException:
                self.give_back(slot)
                raise
        return slot

    def submit(self, frame: Image) -> SlotTicket:
        """Begin to upscale a frame; see `UpscaleStream.submit`."""
        with self._lock:
            slot = self._filling.pop(frame.ctypes.data, None)
        if slot is None:
            slot = self._take()
            if slot is None:
                raise BackendError("the stream is stopped")
        try:
            if frame is not slot.input:
                self._fill(slot, frame)
            self._ring.run(slot)
        except BaseException:
            self.give_back(slot)
            raise
        return SlotTicket(self, slot)

    def _fill(self, slot: Slot, frame: Image) -> None:
        if frame.shape != slot.input.shape or frame.dtype != np.uint8:
            raise ValueError(f"expected uint8 {slot.input.shape}, got {frame.dtype} {frame.shape}")
        if frame.ctypes.data != slot.input.ctypes.data:
            np.copyto(slot.input, frame)

    def wait(self, slot: Slot) -> None:
        """Wait until a submitted frame is upscaled; see `SlotRing.wait`."""
        self._ring.wait(slot)

    def give_back(self, slot: Slot) -> None:
        """Return a slot to the ring, unless `close` has done so."""
        with self._lock:
            if slot not in self._taken:
                return
            self._taken.remove(slot)
        self._ring.give_back(slot)

    def stop(self) -> None:
        """Wake the thread that waits for a buffer; see `UpscaleStream.stop`."""
        self._stopped.set()
        self._ring.wake()

    def close(self) -> None:
        """Wait for frames that were submitted but not fetched, as after an error; see `UpscaleStream.close`."""
        self.stop()
        with self._lock:
            left = list(self._taken)
            self._filling.clear()
        for slot in left:
            with suppress(BackendError, MemoryError):
                self._ring.drain(slot)
            self.give_back(slot)
