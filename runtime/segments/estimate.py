"""How long a video will take and how much disk it needs, from its first frames."""

import shutil
from dataclasses import dataclass
from pathlib import Path

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


def estimate(
    folder: Path,
    *,
    size: tuple[int, int],
    frames: int,
    done_frames: int,
    frames_per_second: float,
    encoded: tuple[int, int],
    in_segments: bool,
) -> Estimate:
    """Return the estimate for a video.

    Args:
        folder: of the result.
        size: width and height of the result in pixels.
        frames: of the whole video.
        done_frames: frames that are done.
        frames_per_second: measured.
        encoded: number of packets that the encoder has given so far, and of their bytes.
        in_segments: whether the result is joined from segments.
    """
    packets, packet_bytes = encoded
    bytes_per_frame = packet_bytes / packets if packets else size[0] * size[1] * _USUAL_BITS_PER_PIXEL / 8
    copies = frames + (frames - done_frames) if in_segments else frames
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError:
        free_bytes = 0
    return Estimate(
        seconds=max(0, frames - done_frames) / frames_per_second,
        frames_per_second=frames_per_second,
        needed_bytes=bytes_per_frame * copies,
        free_bytes=free_bytes,
    )
