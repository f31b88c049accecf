"""A ring of slots for one engine: each is lent for a frame and returned when the frame is fetched."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Any

from overnet.errors import BackendError
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.trt.cuda import Gpu, reporting_cuda
from overnet.runtime.backends.trt.loaded_engine import LoadedEngine
from overnet.runtime.backends.trt.slot import Slot, StageTimes
from overnet.runtime.backends.trt.slot_shared import SlotShared


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

    def open(self, size: tuple[int, int], *, count: int | None = None) -> None:
        """Prepare free slots for frames of a height and width; fewer than requested where memory is short.

        Args:
            count: the number of slots; None for as many as the ring may have.

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
                        return  # the others are in use
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
                    return

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
