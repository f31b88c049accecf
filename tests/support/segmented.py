"""Runs of a video in segments, without a network and without a process of their own. No test itself."""

import time
from pathlib import Path

from overnet.runtime.segments.folder import folder_of
from overnet.runtime.segments.manifest import describe_source
from overnet.runtime.segments.writer import Cutting, Destination, SegmentedWriter
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import Encoding
from overnet.runtime.video.reader import VideoReader
from tests.support.clips import Result, enlarged

# With its default, this x264 gives other bytes each time for gradients without noise, also in one pass.
EXACT = {"mbtree": "0"}
CODE_IN_A_PROCESS = """
import sys
from pathlib import Path
from tests.support.segmented import run
source, target, frames, seconds = sys.argv[1:]
run(Path(source), Path(target), frames_per_segment=int(frames), seconds_per_frame=float(seconds))
"""


def run(
    source: Path,
    target: Path,
    *,
    frames_per_segment: int | None = 5,
    cutting: Cutting | None = None,
    crash_after: int | None = None,
    stop_after: int | None = None,
    start_seconds: float = 0.0,
    max_frames: int | None = None,
    overwrite: bool = False,
    seconds_per_frame: float = 0.0,
    on_estimate=lambda estimate: None,
    **encoding,
) -> Result:
    """Upscale with nearest neighbour; `frames` of the result are those of this run.

    Args:
        crash_after: leave everything as a killed process would after this many frames.
        stop_after: finish as partial after this many frames.
        seconds_per_frame: waited for each frame.
    """
    if encoding.get("codec") is None and target.suffix != ".webm":
        encoding.setdefault("options", EXACT)
    cutting = cutting or Cutting(frames=frames_per_segment)
    with VideoReader(source, start_seconds=start_seconds, max_frames=max_frames) as reader:
        info = reader.info
        video = OutputVideo(info, info.width * 2, info.height * 2, Encoding(**encoding))
        shaped_by = {**describe_source(source), "--crf": str(encoding.get("crf"))}
        writer = SegmentedWriter(
            Destination(target, video, source, overwrite, start_seconds),
            shaped_by,
            cutting,
            expected_frames=reader.expected_frames,
            on_estimate=on_estimate,
        )
        with writer:
            count = 0
            for frame in () if writer.is_complete else reader.frames(skips=writer.has, after=writer.resumes_after):
                frame.rgb = enlarged(frame.rgb, 2)
                writer.write(frame)
                time.sleep(seconds_per_frame)
                count += 1
                if count == crash_after:
                    crash(writer)
                    return Result(None, [], count)
                if count == stop_after:
                    return Result(writer.finish_partial(), writer.notes, count)
            path = writer.finish()
        return Result(path, reader.notes + writer.notes, count)


def crash(writer: SegmentedWriter) -> None:
    """Release what the operating system releases when a process is killed, and leave everything else."""
    writer._await_closed()
    if writer._folder is not None:
        writer._folder.close()
    for segment in filter(None, (writer._before, writer._open)):
        segment._file._file.flush()
        temporary = segment._file._temporary
        temporary._locked.close()
        temporary.open_paths.discard(temporary.path)
        segment._close_track()
    if writer._single is not None:
        writer._single.abort()
    writer._before = writer._open = writer._single = writer._folder = None


def segments_of(target: Path) -> set[str]:
    """Return the names of the files of whole segments; the empty set where there is no folder."""
    folder = folder_of(target)
    return {path.name for path in folder.glob("0*.packets")} if folder.is_dir() else set()
