"""How long a video will take and how much disk it needs, from its first frames."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A run is measured for this long before anything follows from its pace.
MEASURED_SECONDS = 5.0
# Bits for each pixel of typical video in the default quality, where nothing is encoded yet.
_USUAL_BITS_PER_PIXEL = 0.12


@dataclass(frozen=True)
class Estimate:
    """An estimate for the rest of a video.

    Args:
        seconds: until the result is complete.
        frames_per_second: of the first frames.
        needed_bytes, free_bytes: of the disk of the result; segments and their joined copy are there at once.
    """

    seconds: float
    frames_per_second: float
    needed_bytes: float
    free_bytes: int


class Pace:
    """The pace of a run, from which the rest of the video is estimated once.

    Args:
        folder: of the result.
        expected_frames: of the whole video; None if unknown.
        on_estimate: called with the estimate, once it can be made.

    Attributes:
        frames: number of frames of this run.
        packet_bytes: of the packets that were counted.
    """

    def __init__(self, folder: Path, expected_frames: int | None, on_estimate: Callable[[Estimate], None]) -> None:
        self._folder, self._expected_frames, self._on_estimate = folder, expected_frames, on_estimate
        self._packets = self.packet_bytes = 0
        self._is_estimated = False
        self.frames = 0
        self.begin()

    def begin(self) -> None:
        """Measure from now on."""
        self.began = time.monotonic()

    def count(self, packet_bytes: int, packets: int = 1) -> None:
        """Count packets that the encoder has given."""
        self._packets, self.packet_bytes = self._packets + packets, self.packet_bytes + packet_bytes

    @property
    def is_measured(self) -> bool:
        """Return whether the run has been measured for long enough."""
        return time.monotonic() - self.began >= MEASURED_SECONDS

    @property
    def frames_per_second(self) -> float:
        """Return the frames per second so far."""
        return self.frames / max(time.monotonic() - self.began, 1e-9)

    def estimate(self, size: tuple[int, int], *, earlier_frames: int, in_segments: bool) -> None:
        """Give the estimate, if it can be made and was not given yet.

        Args:
            size: width and height of the result in pixels.
            earlier_frames: number of frames that an earlier run has done.
            in_segments: whether the result is joined from segments.
        """
        if self._is_estimated or not self.is_measured:
            return
        self._is_estimated = True
        if self._expected_frames is None:
            return
        usual_bytes = size[0] * size[1] * _USUAL_BITS_PER_PIXEL / 8
        left = self._expected_frames - earlier_frames - self.frames
        copies = self._expected_frames + (left if in_segments else 0)
        try:
            free_bytes = shutil.disk_usage(self._folder).free
        except OSError:
            free_bytes = 0
        self._on_estimate(
            Estimate(
                seconds=max(0, left) / self.frames_per_second,
                frames_per_second=self.frames_per_second,
                needed_bytes=copies * (self.packet_bytes / self._packets if self._packets else usual_bytes),
                free_bytes=free_bytes,
            )
        )
