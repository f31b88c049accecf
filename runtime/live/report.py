"""What a live run did: frames, rate and latency, in memory that does not grow with the hours."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

# Latencies are counted in classes that are 2 % wide, from a tenth of a millisecond on.
_CLASS_RATIO = math.log(1.02)
_SMALLEST_SECONDS = 1e-4
# Over how long the momentary rate is taken.
_RECENT_SECONDS = 2.0


class Latencies:
    """How long frames took, from their capture until they were written or shown."""

    def __init__(self) -> None:
        self._classes: dict[int, int] = {}
        self._count = 0
        self.max_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one frame's."""
        index = max(0, math.floor(math.log(max(seconds, _SMALLEST_SECONDS) / _SMALLEST_SECONDS) / _CLASS_RATIO))
        self._classes[index] = self._classes.get(index, 0) + 1
        self._count += 1
        self.max_seconds = max(self.max_seconds, seconds)

    def quantile(self, share: float) -> float:
        """The seconds within which this share of the frames was done, to 2 %; 0 without frames."""
        wanted, seen = math.ceil(share * self._count), 0
        for index in sorted(self._classes):
            seen += self._classes[index]
            if seen >= wanted:
                return min(self.max_seconds, _SMALLEST_SECONDS * math.exp((index + 1) * _CLASS_RATIO))
        return 0.0

    def to_json(self) -> dict[str, float]:
        """In milliseconds."""
        return {
            "p50": round(self.quantile(0.5) * 1000, 1),
            "p95": round(self.quantile(0.95) * 1000, 1),
            "max": round(self.max_seconds * 1000, 1),
        }


@dataclass
class LiveReport:
    """The figures of a live run; they grow while it runs.

    Attributes:
        captured: frames that came.
        frames: those that were upscaled and written, or shown where nothing is written.
        shown: those that the window showed.
        reconnections: how often the source was lost and came again.
        input_size, output_size: width and height of the last frame; None before the first.
        seconds: since the first frame came.
        latency: from a frame's capture until it was written, or shown where nothing is written.
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
        """Frames that came while earlier ones were being upscaled, and gave way to newer ones."""
        return self.captured - self.frames

    @property
    def frames_per_second(self) -> float:
        """On average; 0 before the first frame."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def count(self, latency_seconds: float) -> None:
        """Count a frame that is done."""
        self.frames += 1
        self.latency.add(latency_seconds)
        self._recent.append((time.monotonic(), latency_seconds))

    def recent(self) -> tuple[float, float]:
        """Frames per second and latency in seconds of about the last two seconds; zeros where nothing came."""
        now = time.monotonic()
        done = [entry for entry in list(self._recent) if now - entry[0] <= _RECENT_SECONDS]
        if not done:
            return 0.0, 0.0
        span = max(min(self.seconds, _RECENT_SECONDS), 1e-3)
        return len(done) / span, sum(latency for _, latency in done) / len(done)

    def line(self) -> str:
        """How it goes just now."""
        rate, latency = self.recent()
        text = f"{rate:.1f} fps, latency {latency * 1000:.0f} ms, {self.dropped} dropped"
        return f"{text}, {self.reconnections} reconnections" if self.reconnections else text

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that JSON can hold."""
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
