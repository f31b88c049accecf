"""Segments of a video joined into its file, without encoding."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from overnet.errors import OutputError, file_errors, printable
from overnet.runtime.segments.folder import SegmentFolder
from overnet.runtime.segments.manifest import FileState
from overnet.runtime.segments.packet_file import joined, read_packets
from overnet.runtime.video.writer import VideoWriter


def files_of_all(folder: SegmentFolder) -> list[Path]:
    """Return the files of all segments of a video whose source was read to its end.

    Raises:
        OutputError: one is missing or has too few frames; the manifest cannot be written.
    """
    manifest = folder.manifest
    numbers = sorted(manifest.segments)
    short = [number for number in numbers[:-1] if manifest.segments[number].frames != manifest.frames_per_segment]
    if numbers != list(range(len(numbers))) or short:
        raise OutputError(f"{printable(folder.path)}: the source gave other frames than before")
    if manifest.total_frames is None:
        manifest.total_frames = manifest.done_frames
        folder.save()
    return [folder.file(number) for number in numbers]


def join(
    folder: SegmentFolder, files: list[Path], whole: VideoWriter, finish: Callable[[VideoWriter], Any], *, moved: int
) -> Any:
    """Write the packets of the first segments into a file, and finish that.

    Args:
        folder: of the segments.
        files: of the segments; those behind the ones that are whole may still be encoded.
        whole: the writer of the file.
        finish: a method of it, whose result is returned.
        moved: number of frames whose times were moved, in segments that are not whole.

    Raises:
        OutputError: the file cannot be written; the segments are kept.
    """
    manifest = folder.manifest
    kept = f"the segments are kept in {printable(folder.path)}"
    if str(whole.track.time_base) != manifest.time_base:
        raise OutputError(f"the result now has another clock than the segments; {kept}")
    moved += sum(segment.moved for number, segment in manifest.segments.items() if number < len(files))
    try:
        whole.write_encoded(
            joined(read_packets(file) for file in files), zero_seconds=Fraction(manifest.zero_seconds), moved=moved
        )
        return finish(whole)
    except OutputError as error:
        raise OutputError(f"{error}; {kept}, and the same command joins them") from error
    except ValueError as error:
        raise OutputError(f"{printable(error)}; the same command makes it again") from error


def note_result(folder: SegmentFolder, path: Path) -> None:
    """Write a complete file to the disk, and note that the segments may go once it has its name.

    If the run is killed before they have gone, they are known to be no longer needed.
    """
    with file_errors(OutputError, path, " cannot be written"), path.open("rb+") as file:
        os.fsync(file.fileno())
        folder.manifest.result = FileState.of(path)
    folder.save()
