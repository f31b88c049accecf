"""The times of frames in the clock of an encoder."""

from fractions import Fraction

from overnet.runtime.container.clock import TimestampRepair


class FrameTimes:
    """Times of a source's frames in ticks of an encoder, each later than the one before.

    Args:
        time_base: seconds per tick.
        zero_seconds: the time of the source that becomes 0.
        next_pts: the earliest time that the first frame can have, in ticks: frames before it take what comes before.
            None for any time.
    """

    def __init__(self, time_base: Fraction, zero_seconds: Fraction, next_pts: int | None = None) -> None:
        self._repair = TimestampRepair(time_base)
        self._zero_ticks = round(zero_seconds / time_base)
        if next_pts is not None:
            self._repair(next_pts - 1, 1)

    def __call__(self, pts: int, duration: int, time_base: Fraction) -> tuple[int, int]:
        """Return time and duration, at least 1, of the next frame; those of the source are in ticks of `time_base`."""
        ticks = time_base / self._repair.time_base
        length = max(1, round(duration * ticks))
        return self._repair(round(pts * ticks) - self._zero_ticks, length), length

    @property
    def moved(self) -> int:
        """Return the number of frames so far that had to be moved to keep them apart."""
        return self._repair.repaired
