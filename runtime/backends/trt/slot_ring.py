"""A ring of slots for one engine: each is lent for a frame and returned when the frame is fetched; and its streams."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from overnet.errors import BackendError
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.stream import Ticket
from overnet.runtime.backends.trt.cuda import Gpu, reporting_cuda
from overnet.runtime.backends.trt.loaded_engine import LoadedEngine
from overnet.runtime.backends.trt.slot import MeanVector, Slot, StageTimes
from overnet.runtime.backends.trt.slot_shared import SlotShared
from overnet.types import Image

# Seconds that an image waits for those in flight: more than the largest image takes.
_SLOT_SECONDS = 60.0
ALL_IN_USE = "a stream of this upscaler holds all of them"


class SlotRing:
    """The slots of one engine, lent in turn.

    Args:
        gpu: the GPU; the methods make it current.
        engine: loaded on that GPU.
        scale: of the engine, a whole number.
        options: of the backend. There are `slots` slots at most; fewer where the memory is short.
    """

    def __init__(self, gpu: Gpu, engine: LoadedEngine, scale: float, options: BackendOptions) -> None:
        self.gpu = gpu
        self._shared = SlotShared(gpu, engine, scale, options)
        self._count = options.slots
        self._slots: list[Slot] = []
        self._free: deque[Slot] = deque()
        self._changed = threading.Condition()
        self._enqueueing = threading.Lock()
        self._closed = False

    @property
    def notes(self) -> list[str]:
        """Return the list of one-line remarks for the user; the caller clears it."""
        return self._shared.notes

    @property
    def count(self) -> int:
        """Return the number of slots."""
        return len(self._slots)

    def open(self, size: tuple[int, int], *, count: int | None = None) -> int:
        """Prepare free slots for frames of a height and width; fewer than requested where memory is short.

        Args:
            count: the number of slots; None for as many as the ring may have.

        Returns:
            The number of slots that are ready; 0 where all are in use.

        Raises:
            MemoryError: not even one slot fits; the message says how much memory is needed.
            BackendError: the engine does not take this size.
        """
        requested = self._count if count is None else count
        with self._enqueueing, reporting_cuda("the GPU's memory cannot be set up"), self.gpu.current():
            self._shared.begin(self._count)
            ready: list[Slot] = []
            while len(ready) < requested:
                with self._changed:
                    waiting = [slot for slot in self._free if slot not in ready]
                try:
                    if waiting:
                        waiting[0].fit(size)
                        ready.append(waiting[0])
                    elif len(self._slots) < self._count:
                        ready.append(self._add(size))
                    else:
                        break  # the others are in use
                except MemoryError:
                    # Freeing slots for another size may make room for this one.
                    if len(waiting) > 1:
                        self._drop(waiting[1:])
                        continue
                    self._drop(waiting)
                    if not ready:
                        raise
                    self._count = len(self._slots)
                    self.notes.append(f"{self._count} of {requested} frames at once on the GPU: its memory is short")
                    break
            return len(ready)

    def _drop(self, slots: list[Slot]) -> None:
        for slot in slots:
            with self._changed:
                self._free.remove(slot)
            self._slots.remove(slot)
            slot.close()

    def _add(self, size: tuple[int, int]) -> Slot:
        slot = Slot(self._shared)
        try:
            slot.fit(size)
        except BaseException:
            slot.close()
            raise
        self._slots.append(slot)
        self._free.append(slot)
        return slot

    def take(self, *, stopped: threading.Event | None = None, most_seconds: float | None = None) -> Slot | None:
        """Wait for a free slot and take it; `give_back` returns it.

        Args:
            stopped: ends the waiting when it is set.
            most_seconds: how long to wait at most; None waits without limit.

        Returns:
            The slot; None once `stopped` is set, after `close`, and where none became free in time.
        """

        def is_over() -> bool:
            return self._closed or (stopped is not None and stopped.is_set())

        with self._changed:
            self._changed.wait_for(lambda: self._free or is_over(), most_seconds)
            return None if is_over() or not self._free else self._free.popleft()

    def give_back(self, slot: Slot) -> None:
        """Return a slot whose work has ended."""
        with self._changed:
            self._free.append(slot)
            self._changed.notify_all()

    def wake(self) -> None:
        """Wake the threads that wait for a slot, so that they check whether they are stopped."""
        with self._changed:
            self._changed.notify_all()

    def run(self, slot: Slot, **arguments: Any) -> None:
        """Begin to run a prepared and filled slot; the arguments are those of `Slot.run`.

        Raises:
            BackendError, MemoryError: it cannot be run; the slot still has to be given back.
        """
        with self._enqueueing, reporting_cuda("the GPU cannot run the engine"), self.gpu.current():
            try:
                slot.run(**arguments)
            except BaseException:
                # Work that was begun must not use the buffers after the slot is given back.
                with suppress(Exception):
                    slot.stream.synchronize()
                raise

    def fit(self, slot: Slot, size: tuple[int, int]) -> None:
        """Prepare a taken slot for a size; see `Slot.fit`."""
        with self._enqueueing, reporting_cuda("the GPU's memory cannot be set up"), self.gpu.current():
            slot.fit(size)

    def wait(self, slot: Slot) -> None:
        """Wait for the end of a slot's run.

        Raises:
            BackendError: the run failed, or the ring is closed.
        """
        if self._closed:
            raise BackendError("the upscaler was closed before the frame was fetched")
        with reporting_cuda("the GPU failed on a frame"), self.gpu.current():
            slot.wait()

    @contextmanager
    def filled(self, image: Image) -> Iterator[Slot]:
        """Lend a slot that is prepared for one image and filled with it.

        Args:
            image: H x W x 3 uint8, of a size that the engine takes.

        Raises:
            MemoryError: there is too little memory.
            BackendError: the engine does not take this size, or all slots are in use.
        """
        size = (image.shape[0], image.shape[1])
        self.open(size, count=1)
        slot = self.take(most_seconds=_SLOT_SECONDS)
        if slot is None:
            raise BackendError(f"no slot became free in {_SLOT_SECONDS:g} s: {ALL_IN_USE}")
        try:
            self.fit(slot, size)
            np.copyto(slot.input, image)
            yield slot
        finally:
            self.give_back(slot)

    def run_image(
        self,
        image: Image,
        *,
        given_means: MeanVector | None = None,
        wanted_means: bool = False,
        upscaled: Image | None = None,
    ) -> MeanVector | None:
        """Run one image, and wait for its result.

        Args:
            image: see `filled`.
            given_means, wanted_means: see `Slot.run`.
            upscaled: receives the result, or its upper left part.

        Returns:
            The image's means where they are wanted.
        """
        with self.filled(image) as slot:
            self.run(slot, given_means=given_means, wanted_means=wanted_means)
            self.wait(slot)
            if upscaled is not None:
                np.copyto(upscaled, slot.output[: upscaled.shape[0], : upscaled.shape[1]])
            return slot.means() if wanted_means else None

    def stage_times(self, slot: Slot) -> StageTimes:
        """Return how long the stages of a slot's last run took, which was timed and has ended.

        Raises:
            BackendError: the times cannot be read.
        """
        with reporting_cuda("the times of a frame cannot be read from the GPU"), self.gpu.current():
            return slot.stage_times()

    def drain(self, slot: Slot) -> None:
        """Wait for all work in a slot's stream, whether or not a frame was submitted.

        Raises:
            BackendError: the work failed.
        """
        if not self._closed:  # `close` has waited already
            with reporting_cuda("the GPU failed on a frame"), self.gpu.current():
                slot.stream.synchronize()

    def close(self) -> None:
        """Wait for running work and free everything. No slot may be used afterwards."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        with suppress(BackendError, MemoryError), reporting_cuda("the GPU cannot be used"), self.gpu.current():
            parts: list[Slot | SlotShared] = [*self._slots, self._shared]
            for part in parts:
                # After an error of the GPU every call in its context fails; the first error is the one to report.
                with suppress(BackendError, MemoryError), reporting_cuda("the GPU's memory cannot be freed"):
                    part.close()
            self._slots.clear()
            self._free.clear()


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
        slot = self._take(self._size)
        if slot is None:
            return None
        with self._lock:
            self._filling[slot.input.ctypes.data] = slot
        return slot.input

    def _take(self, size: tuple[int, int]) -> Slot | None:
        slot = self._ring.take(stopped=self._stopped)
        if slot is not None:
            with self._lock:
                self._taken.add(slot)
            try:
                self._ring.fit(slot, size)
            except BaseException:
                self.give_back(slot)
                raise
        return slot

    def submit(self, frame: Image) -> Ticket:
        """Begin to upscale a frame; see `UpscaleStream.submit`."""
        return self._fetched(self._begun(frame, self._size))

    def _begun(self, frame: Image, size: tuple[int, int], **arguments: Any) -> Slot:
        """Begin to run a frame of a height and width; the arguments are those of `Slot.run`."""
        with self._lock:
            slot = self._filling.pop(frame.ctypes.data, None)
        if slot is None:
            slot = self._take(size)
            if slot is None:
                raise BackendError("the stream is stopped")
        try:
            if frame.shape != slot.input.shape or frame.dtype != np.uint8:
                raise ValueError(f"expected uint8 {slot.input.shape}, got {frame.dtype} {frame.shape}")
            if frame.ctypes.data != slot.input.ctypes.data:
                np.copyto(slot.input, frame)
            self._ring.run(slot, **arguments)
        except BaseException:
            self.give_back(slot)
            raise
        return slot

    @contextmanager
    def _fetched(self, slot: Slot) -> Iterator[Image]:
        """Wait until a submitted frame is upscaled, and give its slot back after its use."""
        try:
            self._ring.wait(slot)
            yield slot.output
        finally:
            self.give_back(slot)

    def give_back(self, slot: Slot) -> None:
        """Return a slot to the ring, unless `close` has done so."""
        with self._lock:
            if slot not in self._taken:
                return
            self._taken.remove(slot)
        self._ring.give_back(slot)

    def restart(self) -> None:
        """Do nothing: no frame depends on others; see `UpscaleStream.restart`."""

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
