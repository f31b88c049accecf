"""How far an unfinished video is."""

from dataclasses import dataclass
from pathlib import Path

from overnet.runtime.segments.folder import folder_of, is_in_use, is_joined, manifest_of
from overnet.runtime.segments.manifest import Manifest


@dataclass(frozen=True)
class Status:
    """The state of an unfinished video.

    Args:
        done_frames, segments: in segments that are whole.
        frames: of the whole video; None if unknown.
        is_exact: whether `frames` was counted and not estimated.
        frames_per_second: on average; 0 before the first segment is whole.
        left_seconds: until the result is complete, by this rate; None if unknown.
        is_running: whether a run is at work on it; None if unknown.
    """

    done_frames: int
    segments: int
    frames: int | None
    is_exact: bool
    frames_per_second: float
    left_seconds: float | None
    is_running: bool | None


def read_status(target: Path) -> Status | None:
    """Return the status of a result; None where no unfinished run of it is stored.

    Raises:
        OutputError: the manifest is damaged.
    """
    folder = folder_of(target)
    if not manifest_of(folder).exists() or is_joined(folder, target):
        return None
    manifest = Manifest.load(manifest_of(folder))
    seconds = sum(segment.seconds for segment in manifest.segments.values())
    rate = manifest.done_frames / seconds if seconds else 0.0
    frames = manifest.total_frames or manifest.expected_frames
    return Status(
        done_frames=manifest.done_frames,
        segments=len(manifest.segments),
        frames=frames,
        is_exact=manifest.total_frames is not None,
        frames_per_second=rate,
        left_seconds=max(0, frames - manifest.done_frames) / rate if frames and rate else None,
        is_running=is_in_use(folder),
    )
