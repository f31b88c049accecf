"""Conversion of a variable frame rate to a constant one, for sinks that derive times by counting frames."""

from fractions import Fraction
from pathlib import Path

from overnet.runtime.video.frame import Frame, FrameWriter

# A longer gap, as after a lost connection, is not filled: writing that many frames would delay the current ones.
_LONGEST_GAP_SECONDS = 1


class ConstantRate(FrameWriter):
    """A writer that passes frames to another at a constant rate, repeating and omitting some.

    A gap is filled with the frame that ends it: the one before is no longer available by then.

    Args:
        writer: the other writer.
        rate: frames per second.

    Attributes:
        notes: the other writer's remarks.
    """

    def __init__(self, writer: FrameWriter, rate: Fraction) -> None:
        self.notes = writer.notes
        self.can_stall = writer.can_stall
        self._writer = writer
        self._rate = rate
        self._written = 0
        self._skipped = 0

    def write(self, frame: Frame) -> None:
        """Write a frame as often as needed to reach its time; not at all if that has passed."""
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
        """Stop the other writer's waiting for its reader."""
        self._writer.stop()
