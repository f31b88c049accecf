"""A writer of long videos in segments, which short ones, written in one pass, cost nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from overnet.errors import OutputError, printable
from overnet.files.atomic import link_target, sync_folder
from overnet.runtime.segments.estimate import Estimate, Pace
from overnet.runtime.segments.folder import SegmentFolder, folder_of, remove_useless
from overnet.runtime.segments.join import files_of_all, join, note_result
from overnet.runtime.segments.manifest import Manifest, Segment
from overnet.runtime.segments.open_segment import OpenSegment, encoded
from overnet.runtime.video.encoder import EncodedPacket, OutputVideo
from overnet.runtime.video.formats import find_encoder, moves_frames
from overnet.runtime.video.frame import Frame, FrameWriter
from overnet.runtime.video.frame_times import FrameTimes
from overnet.runtime.video.writer import VideoWriter, check_target
from overnet.words import counted

# Frames that an encoder is shown beyond the end of a segment, where it divides bits by what comes. Without them x264's
# last frames lose up to 5 dB, with them 1 dB. It looks at 40, and other encoders need none; see docs/long_videos.md.
_LOOK_AHEAD_FRAMES = {"libx264": 20, "libx264rgb": 20}
# Until it is known whether a video is long, its packets are kept in memory besides, up to this.
_MOST_KEPT_BYTES = 1 << 28


@dataclass(frozen=True)
class Cutting:
    """How a video is cut into segments.

    Args:
        is_wanted: whether long videos are cut at all.
        seconds: of work in a segment.
        least_frames: in a segment, rounded up to whole intervals of the encoder's keyframes. Longer segments have
            multiples of that, so that the keyframes at their beginnings take the place of others.
        frames: the length of all segments, in place of the others; also videos that are short are cut.
    """

    is_wanted: bool = True
    seconds: float = 30.0
    least_frames: int = 240
    frames: int | None = None


@dataclass(frozen=True)
class Destination:
    """What is written, and where; the arguments of `VideoWriter`."""

    target: Path
    video: OutputVideo
    source: Path
    overwrite: bool
    start_seconds: float


class SegmentedWriter(FrameWriter):
    """A writer of a file that goes on where an earlier run was cut off.

    It begins as a `VideoWriter`. After the first seconds it is known whether the video is longer than a segment: if so,
    what was encoded becomes the beginning of the first segment. Segments are encoded apart, by the same settings, and
    joined without encoding at the end. See `FrameWriter` for which frames are wanted.

    Args:
        destination: what is written, and where.
        shaped_by: what determines the result, see `Manifest`.
        cutting: how it is cut.
        expected_frames: estimate of the number of frames; None if unknown.
        on_estimate: called once with the estimate for a video that is not short.

    Attributes:
        earlier_frames: number of frames that an earlier run has done, and that are not wanted again.

    Raises:
        OutputError: see `VideoWriter` and `SegmentFolder.reopen`; also raised by the methods.
    """

    def __init__(
        self,
        destination: Destination,
        shaped_by: dict[str, str],
        cutting: Cutting,
        *,
        expected_frames: int | None,
        on_estimate: Callable[[Estimate], None] = lambda estimate: None,
    ) -> None:
        self.notes: list[str] = []
        self._to, self._shaped_by, self._cutting = destination, shaped_by, cutting
        self._expected_frames = expected_frames
        if not destination.overwrite:
            remove_useless(destination.target)
        self._format = check_target(destination.target, overwrite=destination.overwrite)
        self._target = link_target(destination.target, overwrite=destination.overwrite)
        self._folder: SegmentFolder | None = None
        self._single: VideoWriter | None = None
        self._open: OpenSegment | None = None
        self._before: OpenSegment | None = None  # all its frames are encoded, and it looks ahead
        self._closer: ThreadPoolExecutor | None = None
        self._closing: Future[None] | None = None
        self._whole: frozenset[int] = frozenset()
        self._kept: list[EncodedPacket] = []
        self._pace = Pace(self._target.absolute().parent, expected_frames, on_estimate)
        encoder = find_encoder(destination.video.encoding, self._format).name
        self._most_ahead = _LOOK_AHEAD_FRAMES.get(encoder, 0)
        # A segment ends, in a clock of its own, where the next one begins.
        self._least_ahead = int(moves_frames(encoder, self._format))
        self._is_decided = False
        if cutting.is_wanted:
            self._folder = SegmentFolder.reopen(self._target, shaped_by, overwrite=destination.overwrite)
        elif folder_of(self._target).is_dir():
            self.notes.append(f"{printable(folder_of(self._target))}, of an unfinished run, is not used: remove it")
        if self._folder is None:
            self._single = self._open_whole()
            self.size = self._single.size
            if cutting.is_wanted:
                self._single.on_packet = self._keep
            return
        self._is_decided = True
        manifest = self._folder.manifest
        self._whole = frozenset(manifest.segments)
        shown_again = (self._whole - {0}) - {number + 1 for number in self._whole}
        self.earlier_frames = manifest.done_frames - sum(
            min(self.look_ahead, manifest.segments[number].frames) for number in shown_again
        )
        self.is_complete = manifest.is_complete
        missing = next(number for number in range(len(self._whole) + 1) if number not in self._whole)
        if missing:
            self.resumes_after = manifest.segments[missing - 1].last
        if self._folder.damaged:
            numbers = ", ".join(map(str, self._folder.damaged))
            self.notes.append(f"damaged segments are made again: {numbers}")
        of = f"{manifest.done_frames} of " if manifest.expected_frames else ""
        done = f"{of}{counted(manifest.expected_frames or manifest.done_frames, 'frame')}"
        self.notes.append(f"an earlier run has done {done}, which are kept")

    def _open_whole(self) -> VideoWriter:
        to = self._to
        return VideoWriter(
            self._target, to.video, source=to.source, overwrite=to.overwrite, start_seconds=to.start_seconds
        )

    def has(self, index: int) -> bool:
        """See `FrameWriter.has`."""
        if not self._whole:
            return False
        number, offset = self._place(index)
        # A segment that is made again looks ahead into the next one.
        return number in self._whole and not (number and number - 1 not in self._whole and offset < self.look_ahead)

    @property
    def look_ahead(self) -> int:
        """Return how many frames of the next segment an encoder is shown."""
        assert self._folder is not None
        return max(self._least_ahead, min(self._most_ahead, self._folder.manifest.frames_per_segment // 2))

    def _place(self, index: int) -> tuple[int, int]:
        """Return the segment of a frame, and the number of the frame in it."""
        assert self._folder is not None
        return divmod(index, self._folder.manifest.frames_per_segment)

    def begins_segment(self, index: int) -> bool:
        """See `FrameWriter.begins_segment`."""
        length = self._cutting.frames if self._folder is None else self._folder.manifest.frames_per_segment
        return self._cutting.is_wanted and length is not None and index % length == 0

    def write(self, frame: Frame) -> None:
        """Encode a frame, height x width x 3 uint8 RGB, into its segment."""
        self._pace.frames += 1
        if self._folder is None:
            assert self._single is not None
            self._single.write(frame)
            self._decide(frame)
        else:
            self._write_segment(frame)
        self._estimate()

    def _await_closed(self) -> None:
        """Wait for the segment that is being closed, and raise what went wrong with it."""
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.result()

    def _write_segment(self, frame: Frame) -> None:
        assert self._folder is not None
        if self._closing is not None and self._closing.done():
            self._await_closed()
        number, offset = self._place(frame.index)
        begin_pts: int | None = None
        if self._open is not None and self._open.number != number:
            self._before, self._open = self._open, None
        if self._before is not None:
            is_next = number == self._before.number + 1
            if is_next and offset < self.look_ahead:
                self._before.look_ahead(frame)
                begin_pts = self._before.next_pts
            if not is_next or offset + 1 >= self.look_ahead:
                self._await_closed()
                if self._closer is None:
                    self._closer = ThreadPoolExecutor(1, thread_name_prefix="overnet-segment")
                # Its last packets, and a slow disk, take their time while the next segment is encoded.
                self._closing, self._before = self._closer.submit(self._before.complete), None
        if number in self._whole:
            return
        if self._open is None:
            segments = self._folder.manifest.segments
            if begin_pts is None and number - 1 in segments:
                begin_pts = segments[number - 1].next_pts
            self._open = OpenSegment.begin(
                number, self._folder, self._format, self._to.video, on_bytes=self._pace.count, begin_pts=begin_pts
            )
            self.size = self._open.track.size
        self._open.write(frame)

    def _keep(self, packet: av.Packet[Any]) -> None:
        self._pace.count(packet.size)
        if not self._is_decided:
            self._kept.append(encoded(packet))

    def _decide(self, frame: Frame) -> None:
        """Decide, once it can be known, whether the video is cut, and make the folder then."""
        if self._is_decided or not self._cutting.is_wanted:
            return
        if self._pace.frames == 1:
            self._pace.begin()  # what the first frame waits for is no measure
        length = self._cutting.frames
        if length is None:
            if not self._pace.is_measured and self._pace.packet_bytes < _MOST_KEPT_BYTES:
                return
            assert self._single is not None
            shortest = self._single.track.whole_intervals(self._cutting.least_frames)
            wanted = max(self._pace.frames_per_second * self._cutting.seconds, self._pace.frames)
            length = math.ceil(wanted / shortest) * shortest
        self._is_decided = True
        kept, self._kept = self._kept, []
        assert self._single is not None
        if self._expected_frames is not None and self._expected_frames <= length:
            self._single.on_packet = None
            return
        # The encoder goes on; the file and what was copied into it are not needed.
        single = self._begin_folder(length)
        single.on_packet = None
        assert self._folder is not None
        pace = self._pace
        self._open = OpenSegment(0, self._folder, single.track, single.abort, on_bytes=pace.count, began=pace.began)
        self._open.note(frame)
        self._open.written = pace.frames
        with self._folder.reporting():
            for packet in kept:
                self._open.append(packet)

    def _begin_folder(self, length: int) -> VideoWriter:
        """Make the folder, and return the writer that wrote in one pass until now, which is to be aborted."""
        single = self._single
        assert single is not None
        manifest = Manifest(
            self._shaped_by,
            frames_per_segment=length,
            expected_frames=self._expected_frames,
            time_base=str(single.track.time_base),
            zero_seconds=str(single.zero_seconds),
        )
        self._folder = SegmentFolder.create(self._target, manifest)
        self._single = None
        return single

    def begin_elsewhere(self, first_seconds: Fraction) -> SegmentFolder:
        """Prepare for segments that other processes encode, instead of `write`, and return the folder for them.

        Args:
            first_seconds: the time of the first frame by the source's clock.

        Raises:
            OutputError: no segments are wanted.
        """
        if not self._cutting.is_wanted:
            raise OutputError(f"{printable(self._target)} is to be made in one pass, but a cluster makes segments")
        if self._folder is None:
            assert self._single is not None
            self._single.begin(first_seconds)
            # Segments are short, so that all machines have work to the end.
            least = self._single.track.whole_intervals(self._cutting.least_frames)
            single = self._begin_folder(self._cutting.frames or least)
            single.abort()
            self._take_notes(single)
        self._is_decided = True
        self._pace.begin()
        self.size = self.size or (self._to.video.width, self._to.video.height)
        assert self._folder is not None
        return self._folder

    def placing(self) -> Callable[[int, int], int] | None:
        """Return a function that gives for pts and duration of each frame, from the first one on, its time in ticks.

        None where the source's times are kept.
        """
        assert self._folder is not None
        if not self._least_ahead:
            return None
        manifest, time_base = self._folder.manifest, self._to.video.info.time_base
        times = FrameTimes(Fraction(manifest.time_base), Fraction(manifest.zero_seconds))
        return lambda pts, duration: times(pts, duration, time_base)[0]

    def add(self, number: int, segment: Segment, *, is_estimable: bool) -> None:
        """Note a segment that another process has encoded as whole.

        Args:
            number: of the segment.
            segment: what is known of it; of segments that are encoded at the same time, the sum of `seconds` is to be
                what all take together.
            is_estimable: whether so many segments are whole that the estimate for the rest can be made.

        Raises:
            OutputError: the manifest cannot be written.
        """
        assert self._folder is not None
        self._folder.add(number, segment)
        self._pace.frames += segment.frames
        self._pace.count(segment.contents.bytes, segment.frames)
        if is_estimable:
            self._estimate()

    def _estimate(self) -> None:
        if self.size is not None:
            self._pace.estimate(self.size, earlier_frames=self.earlier_frames, in_segments=self._folder is not None)

    def finish(self) -> Path:
        """Join the segments, give the file its name, and remove the folder; see `VideoWriter.finish`."""
        if self._folder is None:
            return self._finish_single(VideoWriter.finish)
        self._await_closed()
        for segment in filter(None, (self._before, self._open)):
            segment.complete()
        self._before = self._open = None
        folder = self._folder
        path: Path = self._join(
            files_of_all(folder), 0, lambda whole: whole.finish(lambda complete: note_result(folder, complete))
        )
        sync_folder(path.absolute().parent)
        self._folder.remove()
        self._folder = None
        return path

    def finish_partial(self) -> Path | None:
        """Write a playable file of the frames so far, and keep the segments; see `VideoWriter.finish_partial`."""
        if self._folder is None:
            assert self._single is not None
            path = self._single.finish_partial()
            self._take_notes(self._single)
            self._single = None
            return path
        self._await_closed()
        manifest = self._folder.manifest
        files: list[Path] = []
        moved = 0
        while len(files) in manifest.segments:
            files.append(self._folder.file(len(files)))
        # What is open is not whole: its encoder would have seen more.
        for segment in filter(None, (self._before, self._open)):
            if segment.number == len(files):
                files.append(segment.flush())
                moved += segment.moved
        path = self._join(files, moved, VideoWriter.finish_partial) if files else None
        if manifest.segments:
            self.notes.append(f"the same command goes on after {counted(manifest.done_frames, 'frame')}")
        self.abort()
        return path

    def _finish_single(self, finish: Callable[[VideoWriter], Path]) -> Path:
        assert self._single is not None
        path = finish(self._single)
        self._take_notes(self._single)
        self._single = None
        return path

    def _join(self, files: list[Path], moved: int, finish: Callable[[VideoWriter], Any]) -> Any:
        """Join segments; see `join`."""
        assert self._folder is not None
        with self._open_whole() as whole:
            path = join(self._folder, files, whole, finish, moved=moved)
            self.size = whole.size
            self._take_notes(whole)
        self.notes.extend(note for note in self._folder.manifest.notes if note not in self.notes)
        return path

    def _take_notes(self, whole: VideoWriter) -> None:
        self.notes.extend(note for note in whole.notes if note not in self.notes)

    def abort(self) -> None:
        """Remove what is not whole; do nothing after `finish`."""
        if self._closer is not None:
            self._closer.shutdown()
            self._closer = self._closing = None
        for segment in filter(None, (self._before, self._open)):
            segment.discard()
        self._before = self._open = None
        if self._single is not None:
            self._single.abort()
            self._single = None
        if self._folder is not None:
            if self._folder.manifest.segments:
                self._folder.close()
            else:
                self._folder.remove()
            self._folder = None
