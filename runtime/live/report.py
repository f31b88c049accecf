"""Figures of a live run: frames, rate and latency, in memory that does not grow with the duration."""

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

# Latencies are counted in a histogram whose classes are 2 % wide and begin at a tenth of a millisecond.
_CLASS_RATIO = math.log(1.02)
_SMALLEST_SECONDS = 1e-4
# The current rate is an average over this time.
_RECENT_SECONDS = 2.0


class Latencies:
    """A histogram of latencies, from the capture of a frame until it was written or shown."""

    def __init__(self) -> None:
        self._classes: dict[int, int] = {}
        self._count = 0
        self.max_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Add the latency of one frame."""
        index = max(0, math.floor(math.log(max(seconds, _SMALLEST_SECONDS) / _SMALLEST_SECONDS) / _CLASS_RATIO))
        self._classes[index] = self._classes.get(index, 0) + 1
        self._count += 1
        self.max_seconds = max(self.max_seconds, seconds)

    def quantile(self, share: float) -> float:
        """Return the latency in seconds, to 2 %, that a share (0 to 1) of the frames did not exceed; 0 without any."""
        wanted, seen = math.ceil(share * self._count), 0
        for index in sorted(self._classes):
            seen += self._classes[index]
            if seen >= wanted:
                return min(self.max_seconds, _SMALLEST_SECONDS * math.exp((index + 1) * _CLASS_RATIO))
        return 0.0

    def to_json(self) -> dict[str, float]:
        """Return median, 95th percentile and maximum in milliseconds."""
        return {
            "p50": round(self.quantile(0.5) * 1000, 1),
            "p95": round(self.quantile(0.95) * 1000, 1),
            "max": round(self.max_seconds * 1000, 1),
        }


@dataclass
class LiveReport:
    """The figures of a live run, updated while it runs.

    Attributes:
        captured: number of frames that the source gave.
        frames: number of those that were written, or shown where nothing is written.
        shown: number of those that the window showed.
        reconnections: how often frames came again after a lost connection.
        input_size, output_size: width and height of the last frame in pixels; None before the first.
        seconds: time since the first frame was captured.
        latency: from the capture of a frame until it was written, or shown where nothing is written.
        notes: one-line remarks for the user.
    """

    captured: int = 0
    frames: int = 0
    shown: int = 0
    reconnections: int = 0
    input_size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    seconds: float = 0.0
    latency: Latencies = field(default_factory=Latencies)
    notes: list[str] = field(default_factory=list)
    _recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=1000))

    @property
    def dropped(self) -> int:
        """Return the number of frames that newer ones replaced while earlier ones were upscaled."""
        return self.captured - self.frames

    @property
    def frames_per_second(self) -> float:
        """Return the average rate; 0 before the first frame."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def count(self, latency_seconds: float) -> None:
        """Count a frame that was written or shown."""
        self.frames += 1
        self.latency.add(latency_seconds)
        self._recent.append((time.monotonic(), latency_seconds))

    def recent(self) -> tuple[float, float]:
        """Return frames per second and mean latency in seconds over the last two seconds; zeros without frames."""
        now = time.monotonic()
        done = [entry for entry in list(self._recent) if now - entry[0] <= _RECENT_SECONDS]
        if not done:
            return 0.0, 0.0
        span = max(min(self.seconds, _RECENT_SECONDS), 1e-3)
        return len(done) / span, sum(latency for _, latency in done) / len(done)

    def line(self) -> str:
        """Return a line with the current rate, latency and counts."""
        rate, latency = self.recent()
        text = f"{rate:.1f} fps, latency {latency * 1000:.0f} ms, {self.dropped} dropped"
        return f"{text}, {self.reconnections} reconnections" if self.reconnections else text

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a dictionary for JSON."""
        scale = self.output_size[1] / self.input_size[1] if self.input_size and self.output_size else None
        return {
            "kind": "live",
            "frames": self.frames,
            "captured": self.captured,
            "dropped": self.dropped,
            "shown": self.shown,
            "reconnections": self.reconnections,
            "seconds": round(self.seconds, 3),
            "fps": round(self.frames_per_second, 4),
            "latency_ms": self.latency.to_json(),
            "input_size": self.input_size,
            "output_size": self.output_size,
            "scale": None if scale is None else round(scale, 6),
            "notes": self.notes,
        }
