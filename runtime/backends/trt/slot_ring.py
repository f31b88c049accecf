"""A ring of slots for one engine: handed out in turn, and taken back when their frame is fetched."""

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
    """Slots for one engine, handed out in turn.

    Args:
        gpu: the GPU, which is current while the ring is made, opened, run and closed (its methods see to that).
        engine: loaded there.
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
        """One-line remarks for the user, which whoever takes them clears."""
        return self._shared.notes

    @property
    def count(self) -> int:
        """How many slots there are."""
        return len(self._slots)

    def open(self, size: tuple[int, int], *, count: int | None = None) -> None:
        """Have free slots ready for frames of a height and width; fewer than wished where memory is short.

        Args:
            count: how many are wished; None for as many as the ring may have.

        Raises:
            MemoryError: not even one fits; with the numbers.
            BackendError: the engine does not take this size.
        """
        wished = self._count if count is None else count
        with self._enqueueing, reporting_cuda("the GPU's memory cannot be set up"), self.gpu.current():
            self._shared.begin(self._count)
            ready: list[Slot] = []
            while len(ready) < wished:
                with self._changed:
                    waiting = [slot for slot in self._free if slot not in ready]
                try:
                    if waiting:
                        waiting[0].fit(size)
                        ready.append(waiting[0])
                    elif len(self._slots) < self._count:
                        ready.append(self._add(size))
                    else:
                        return  # the others are on their way
                except MemoryError:
                    # What others hold for another size may make room for this one.
                    if len(waiting) > 1:
                        self._drop(waiting[1:])
                        continue
                    self._drop(waiting)
                    if not ready:
                        raise
                    self._count = len(self._slots)
                    self.notes.append(f"{self._count} of {wished} frames at once on the GPU: its memory is short")
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
        """Wait for a free slot, which `give_back` returns.

        Args:
            stopped: where this is set, there is none.
            most_seconds: how long to wait; None without end.

        Returns:
            None once `stopped` is set, after `close`, and where none became free in time.
        """

        def is_over() -> bool:
            return self._closed or (stopped is not None and stopped.is_set())

        with self._changed:
            self._changed.wait_for(lambda: self._free or is_over(), most_seconds)
            return None if is_over() or not self._free else self._free.popleft()

    def give_back(self, slot: Slot) -> None:
        """Return a slot, of which nothing runs any more."""
        with self._changed:
            self._free.append(slot)
            self._changed.notify_all()

    def wake(self) -> None:
        """Make those that wait for a slot look again whether they are stopped."""
        with self._changed:
            self._changed.notify_all()

    def run(self, slot: Slot, **what: Any) -> None:
        """Begin to run a slot that is fitted and filled.

        Raises:
            BackendError, MemoryError: it cannot be run; the slot has to be given back all the same.
        """
        with self._enqueueing, reporting_cuda("the GPU cannot run the engine"), self.gpu.current():
            try:
                slot.run(**what)
            except BaseException:
                # What was begun must not touch buffers that are given back.
                with suppress(Exception):
                    slot.stream.synchronize()
                raise

    def fit(self, slot: Slot, size: tuple[int, int]) -> None:
        """Make a slot that was taken ready for a size; as `Slot.fit`."""
        with self._enqueueing, reporting_cuda("the GPU's memory cannot be set up"), self.gpu.current():
            slot.fit(size)

    def wait(self, slot: Slot) -> None:
        """Wait until what runs in a slot is done.

        Raises:
            BackendError: it failed, or the ring is closed.
        """
        if self._closed:
            raise BackendError("the upscaler was closed before the frame was fetched")
        with reporting_cuda("the GPU failed on a frame"), self.gpu.current():
            slot.wait()

    def stage_times(self, slot: Slot) -> StageTimes:
        """How long the stages of a slot's last run took, which was timed and was waited for.

        Raises:
            BackendError: the GPU cannot tell.
        """
        with reporting_cuda("the GPU cannot tell the times of a frame"), self.gpu.current():
            return slot.stage_times()

    def drain(self, slot: Slot) -> None:
        """Wait until nothing of a slot runs any more, whether or not anything was submitted.

        Raises:
            BackendError: it failed.
        """
        if not self._closed:  # which waits itself
            with reporting_cuda("the GPU failed on a frame"), self.gpu.current():
                slot.stream.synchronize()

    def close(self) -> None:
        """Wait for what runs, and free everything. No slot may be used afterwards."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        with suppress(BackendError, MemoryError), reporting_cuda("the GPU cannot be used"), self.gpu.current():
            parts: list[Slot | SlotShared] = [*self._slots, self._shared]
            for part in parts:
                # After an error of the GPU nothing in its context works any more, and that error is what counts.
                with suppress(BackendError, MemoryError), reporting_cuda("the GPU's memory cannot be given back"):
                    part.close()
            self._slots.clear()
            self._free.clear()
