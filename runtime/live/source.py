"""Live sources: frames from a camera or the network, with reconnection after a loss."""

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from overnet.errors import InputError
from overnet.runtime.video.frame import VideoInfo

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 10.0
# Cameras behind one switch return at the same time; the jitter keeps their clients from connecting all at once.
_JITTER = 0.25


@dataclass(frozen=True)
class CapturedFrame:
    """A frame of a live source.

    Args:
        at: time of its capture by `time.monotonic`, in seconds.
        info: information on the video; `info.width` and `info.height` are this frame's.
        pixels: converts the frame to H x W x 3 uint8 RGB, into the given array, or a new one for None. Dropped frames
            are never converted.
    """

    at: float
    info: VideoInfo
    pixels: Callable[[np.ndarray | None], np.ndarray]


class ConnectionLost(Exception):
    """A connection could not be made, or was lost.

    Args:
        reason: the reason in a few words.
        is_final: whether another attempt is pointless, unless the connection has worked before.
    """

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


Connection = AbstractContextManager[Iterator[CapturedFrame]]


class LiveSource:
    """A source of frames that reconnects after a loss.

    Args:
        name: its name in messages.
        connect: opens a connection; it and its iterator of frames raise `ConnectionLost`.
        attempts: how often in a row to try again before giving up; None for no limit, 0 for never.
        may_end: whether a connection that ends without an error is the end of the video; otherwise it counts as lost.
        on_trouble: called with one line that says what was lost, and when the next attempt is.

    Attributes:
        reconnections: how often frames came again after a loss.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Connection],
        *,
        attempts: int | None = None,
        may_end: bool = False,
        on_trouble: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = name
        self.reconnections = 0
        self._connect = connect
        self._attempts = attempts
        self._may_end = may_end
        self._on_trouble = on_trouble
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End the waiting for a connection; one that is open is left when the reader of `frames` closes them."""
        self._stopped.set()

    def frames(self) -> Generator[CapturedFrame, None, None]:
        """Yield the frames.

        Raises:
            InputError: the source cannot be opened, or is lost for good.
        """
        failures, has_worked, was_lost = 0, False, False
        while not self._stopped.is_set():
            try:
                with self._connect() as frames:
                    for frame in frames:
                        if was_lost:
                            self.reconnections += 1
                        failures, has_worked, was_lost = 0, True, False
                        yield frame
                if self._may_end:
                    return
                reason = "the stream ended"
            except ConnectionLost as error:
                if error.is_final and not has_worked:
                    raise InputError(f"{self.name}: {error}") from error
                reason = str(error)
            if self._stopped.is_set():
                return
            was_lost = has_worked
            failures += 1
            self._wait(failures, reason)

    def _wait(self, failures: int, reason: str) -> None:
        if self._attempts is not None and failures > self._attempts:
            tried = f" (tried again {self._attempts} times)" if self._attempts else ""
            raise InputError(f"{self.name}: {reason}{tried}")
        seconds = backoff_seconds(failures)
        self._on_trouble(f"{self.name}: {reason}; trying again in {seconds:.1f} s")
        self._stopped.wait(seconds)


def backoff_seconds(failures: int) -> float:
    """Return the wait after a number of failures in a row: it doubles each time, up to 10 s, with a jitter of 25 %."""
    wait: float = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** min(failures - 1, 10))
    return wait * random.uniform(1 - _JITTER, 1 + _JITTER)


class Pacer:
    """A delay that releases frames at the times they are to be shown, for sources that deliver them faster.

    Args:
        longest_seconds: a frame that is due later than this restarts the clock.
    """

    def __init__(self, longest_seconds: float = 15.0) -> None:
        self._longest = longest_seconds
        self._offset: float | None = None

    def wait(self, shown_seconds: float | None) -> None:
        """Wait until a frame is due.

        Args:
            shown_seconds: when it is to be shown, by the source's clock; None if unknown, which means no wait.
        """
        if shown_seconds is None:
            return
        now = time.monotonic()
        if self._offset is None or not 0 <= shown_seconds + self._offset - now <= self._longest:
            # The source is late by its own clock, as after a loss: catching up would only drop frames.
            self._offset = now - shown_seconds
        else:
            time.sleep(shown_seconds + self._offset - now)
