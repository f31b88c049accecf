"""Three stages at the same time (decode, upscale, encode), with bounded memory; the first error ends all of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from overnet.system.ending_signals import noted_signals

T = TypeVar("T")
U = TypeVar("U")


@dataclass
class PipelineReport:
    """The figures of one run.

    Attributes:
        frames: the number of frames encoded.
        decode_seconds, upscale_seconds, encode_seconds: time spent working in each stage; they overlap.
        wall_seconds: from beginning to end.
        interrupted: whether it was stopped by Ctrl-C; everything upscaled until then was encoded.
    """

    frames: int = 0
    decode_seconds: float = 0.0
    upscale_seconds: float = 0.0
    encode_seconds: float = 0.0
    wall_seconds: float = 0.0
    interrupted: bool = False


class _Channel(Generic[T]):
    """A bounded queue between two threads that either side can close.

    `abandon`, called by the reading side, wakes a writer that waits for room, which a plain queue cannot.
    """

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._ended = False
        self._abandoned = False
        self._changed = threading.Condition()

    def put(self, item: T) -> bool:
        """Add an item, waiting for room; return False once the channel was abandoned."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._depth or self._abandoned)
            if self._abandoned:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def items(self) -> Iterator[T]:
        """Yield the items, waiting for each, until the last one or until the channel is abandoned."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended or self._abandoned)
                if not self._items or self._abandoned:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def end(self) -> None:
        """Mark the end: no more items are put, and those in the queue are still read."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Drop the items in the queue, and read no more."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()


class _Pipeline(Generic[T, U]):
    """The three stages of one run and the state that they share."""

    def __init__(self, depth: int, on_stop: Callable[[], None], on_interrupt: Callable[[], None]) -> None:
        self.report = PipelineReport()
        self.on_stop = on_stop
        self.on_interrupt = on_interrupt
        self.decoded: _Channel[T] = _Channel(depth)
        self.upscaled: _Channel[U] = _Channel(depth)
        self.failures: list[BaseException] = []

    def fail(self, error: BaseException) -> None:
        """Store the error and wake every stage, so that all end at once."""
        self.failures.append(error)
        self.stop_decoding()
        self.upscaled.abandon()

    def interrupt(self) -> None:
        """End the run with the frames that are upscaled by now."""
        self.report.interrupted = True
        self.on_interrupt()
        self.stop_decoding()

    def stop_decoding(self) -> None:
        """Make the first stage end, also where it waits."""
        self.decoded.abandon()
        self.on_stop()

    def decode(self, frames: Iterable[T]) -> None:
        """Run the first stage, in a thread of its own."""
        try:
            iterator = iter(frames)
            while True:
                started = time.perf_counter()
                try:
                    frame = next(iterator)
                except StopIteration:
                    break
                self.report.decode_seconds += time.perf_counter() - started
                if not self.decoded.put(frame):
                    return
            self.decoded.end()
        except BaseException as error:
            self.fail(error)

    def upscale(self, upscale: Callable[[T], U], on_frame: Callable[[PipelineReport], None] | None) -> None:
        """Run the second stage, in the calling thread."""
        began = time.perf_counter()
        for frame in self.decoded.items():
            started = time.perf_counter()
            result = upscale(frame)
            self.report.upscale_seconds += time.perf_counter() - started
            if not self.upscaled.put(result):
                break
            self.report.wall_seconds = time.perf_counter() - began
            if on_frame is not None:
                on_frame(self.report)

    def encode(self, encode: Callable[[U], None]) -> None:
        """Run the third stage, in a thread of its own."""
        try:
            for frame in self.upscaled.items():
                started = time.perf_counter()
                encode(frame)
                self.report.encode_seconds += time.perf_counter() - started
                self.report.frames += 1
        except BaseException as error:
            self.fail(error)


def run_pipeline(
    frames: Iterable[T],
    upscale: Callable[[T], U],
    encode: Callable[[U], None],
    *,
    depth: int = 4,
    on_frame: Callable[[PipelineReport], None] | None = None,
    on_stop: Callable[[], None] = lambda: None,
    on_interrupt: Callable[[], None] = lambda: None,
) -> PipelineReport:
    """Run three stages at once: `frames` in one thread, `upscale` in the calling one, `encode` in a third.

    Frames keep their order. Between stages at most `depth` frames wait, so memory stays bounded whichever is slowest.

    Args:
        frames: read in a thread of its own.
        upscale: called in the calling thread. Ctrl-C ends the run after it, or where it calls
            `overnet.system.ending_signals.raise_if_ended`.
        encode: called in a thread of its own, in order.
        depth: frames that may wait between two stages, 1 or more.
        on_frame: called with the report so far after each upscaled frame, in the calling thread.
        on_stop: called when no more frames are needed, from any of the threads and perhaps more than once: it wakes
            `frames` where that waits for something that will not come.
        on_interrupt: called at Ctrl-C, perhaps more than once: it wakes `encode` where that waits for another process.

    Returns:
        The report. After Ctrl-C its `interrupted` is set, and all upscaled frames have been encoded.

    Raises:
        The first exception of any stage, after both other stages have stopped.
    """
    run: _Pipeline[T, U] = _Pipeline(depth, on_stop, on_interrupt)
    threads = [
        threading.Thread(target=run.decode, args=(frames,), name="overnet-decode"),
        threading.Thread(target=run.encode, args=(encode,), name="overnet-encode"),
    ]
    began = time.perf_counter()
    with noted_signals(run.interrupt) as ended:
        for thread in threads:
            thread.start()
        try:
            run.upscale(upscale, on_frame)
        except KeyboardInterrupt:
            run.interrupt()
        except BaseException as error:
            run.fail(error)
        # Whatever ended the second stage, the first must stop waiting for room, and the third encode the frames it has.
        run.stop_decoding()
        run.upscaled.end()
        for thread in threads:
            thread.join()
        run.report.interrupted |= ended()
    run.report.wall_seconds = time.perf_counter() - began
    if run.failures:
        raise run.failures[0]
    return run.report
