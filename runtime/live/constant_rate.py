"""Frames that came at any time, for sinks that count frames to know the time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from overnet.runtime.video.frame import Frame, FrameWriter

# A gap longer than this, as after a lost connection, is left out: filling it would hold up what comes now.
_LONGEST_GAP_SECONDS = 1


class ConstantRate(FrameWriter):
    """Another writer, whose frames come at a constant rate: repeated where some are missing; a context manager.

    A repeated frame is the one that came late: the one before is gone by then.

    Args:
        writer: the other.
        rate: frames a second.

    Attributes:
        notes: the other's.
    """

    def __init__(self, writer: FrameWriter, rate: Fraction) -> None:
        self.notes = writer.notes
        self._writer = writer
        self._rate = rate
        self._written = 0
        self._skipped = 0

    def write(self, frame: Frame) -> None:
        """Write a frame as often as it takes to reach its time; not at all if that is past."""
        due = round(frame.pts * frame.time_base * self._rate) - self._skipped
        missing = due - self._written
        most = int(self._rate * _LONGEST_GAP_SECONDS)
        if missing > most:
            self._skipped += missing
            missing = 0
        for _ in range(missing):
            self._writer.write(frame)
        if missing >= 0:
            self._writer.write(frame)
        self._written += max(0, missing + 1)

    def finish(self) -> Path:
        """Finish the other writer."""
        return self._writer.finish()

    def finish_partial(self) -> Path | None:
        """Finish the other writer with what it has."""
        return self._writer.finish_partial()

    def abort(self) -> None:
        """Abort the other writer."""
        self._writer.abort()

    def stop(self) -> None:
        """Stop the other writer's waiting."""
        self._writer.stop()
