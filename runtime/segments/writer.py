"""A writer of long videos in segments, which short ones, written in one pass, cost nothing."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from overnet.errors import OutputError, file_errors, printable
from overnet.files.atomic import link_target, sync_folder
from overnet.runtime.segments.encoder import SegmentEncoder, encoded
from overnet.runtime.segments.estimate import Estimate, estimate
from overnet.runtime.segments.folder import SegmentFolder, folder_of
from overnet.runtime.segments.manifest import Manifest, Segment
from overnet.runtime.segments.packet_file import PacketFile, joined, read_packets
from overnet.runtime.video.encoder import EncodedPacket, OutputVideo
from overnet.runtime.video.frame import Frame, FrameWriter, Position
from overnet.runtime.video.writer import VideoWriter, check_target

# Until it is known whether a video is long, its packets are kept in memory besides: for this long, and this much of it.
_DECIDED_AFTER_SECONDS = 5.0
_MOST_KEPT_BYTES = 1 << 28


@dataclass(frozen=True)
class Cutting:
    """How a video is cut into segments.

    Args:
        is_wanted: whether long videos are cut at all.
        seconds: of work in a segment.
        keyframe_interval: the frames of a segment are a multiple of this, so that the keyframes at their beginnings
            take the place of others.
        frames: the length of all segments, in place of the others; also videos that are short are cut.
    """

    is_wanted: bool = True
    seconds: float = 30.0
    keyframe_interval: int = 250
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
        earlier_frames: number of frames that an earlier run has done.

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
        self._expected_frames, self._on_estimate = expected_frames, on_estimate
        self._format = check_target(destination.target, overwrite=destination.overwrite)
        self._target = link_target(destination.target, overwrite=destination.overwrite)
        self._folder: SegmentFolder | None = None
        self._single: VideoWriter | None = None
        self._encoder: SegmentEncoder | None = None
        self._file: PacketFile | None = None
        self._kept: list[EncodedPacket] = []
        self._packets, self._packet_bytes = 0, 0
        self._written, self._number, self._frames_of_run = 0, 0, 0
        self._first_pts, self._end_pts = 0, 0
        self._last: Position | None = None
        self._began = self._segment_began = time.monotonic()
        self._is_decided = self._is_estimated = False
        if self._may_be_cut():
            self._folder = SegmentFolder.reopen(self._target, shaped_by, overwrite=destination.overwrite)
        elif folder_of(self._target).is_dir():
            self.notes.append(f"{printable(folder_of(self._target))}, of an unfinished run, is not used: remove it")
        if self._folder is None:
            self._single = self._open_whole()
            self.size = self._single.size
            if self._may_be_cut():
                self._single.on_packet = self._keep
            return
        self._is_decided = True
        manifest = self._folder.manifest
        self.earlier_frames, self.is_complete = manifest.done_frames, manifest.is_complete
        missing = next(number for number in range(len(manifest.segments) + 1) if number not in manifest.segments)
        if missing:
            self.resumes_after = manifest.segments[missing - 1].last
        if self._folder.damaged:
            numbers = ", ".join(map(str, self._folder.damaged))
            self.notes.append(f"damaged segments are made again: {numbers}")
        of = f" of {manifest.expected_frames}" if manifest.expected_frames else ""
        self.notes.append(f"an earlier run has done {self.earlier_frames}{of} frames: they are kept")

    def _may_be_cut(self) -> bool:
        # A constant rate is filled with frames that depend on those before.
        return self._cutting.is_wanted and not self._format.has_constant_rate

    def _open_whole(self) -> VideoWriter:
        to = self._to
        return VideoWriter(
            self._target, to.video, source=to.source, overwrite=to.overwrite, start_seconds=to.start_seconds
        )

    def has(self, index: int) -> bool:
        """See `FrameWriter.has`."""
        folder = self._folder
        return folder is not None and index // folder.manifest.frames_per_segment in folder.manifest.segments

    def begins_segment(self, index: int) -> bool:
        """See `FrameWriter.begins_segment`."""
        length = self._cutting.frames if self._folder is None else self._folder.manifest.frames_per_segment
        return self._may_be_cut() and length is not None and index % length == 0

    def write(self, frame: Frame) -> None:
        """Encode a frame, height x width x 3 uint8 RGB, into its segment."""
        if self._folder is None:
            assert self._single is not None
            self._single.write(frame)
            self._note_times(frame, self._single.track.time_base, self._single.zero_seconds)
            self._decide()
        else:
            number = frame.index // self._folder.manifest.frames_per_segment
            if self._file is not None and number != self._number:
                self._close_segment()
            with self._folder.reporting():
                self._encode(frame, number)
        if not self._is_estimated:
            self._estimate()

    def _encode(self, frame: Frame, number: int) -> None:
        assert self._folder is not None
        manifest = self._folder.manifest
        if self._file is None:
            self._number, self._written, self._segment_began = number, 0, time.monotonic()
            self._file = self._folder.open_segment(number)
            self._encoder = SegmentEncoder(
                self._format,
                self._to.video,
                shift_seconds=Fraction(manifest.zero_seconds),
                on_packet=self._append,
            )
            self.size = self._encoder.track.size
        encoder: SegmentEncoder | VideoWriter | None = self._encoder or self._single
        assert encoder is not None
        encoder.write(frame)
        self._note_times(frame, Fraction(manifest.time_base), Fraction(manifest.zero_seconds))

    def _note_times(self, frame: Frame, time_base: Fraction, zero_seconds: Fraction) -> None:
        begin = frame.pts * frame.time_base - zero_seconds
        if not self._written:
            self._first_pts = round(begin / time_base)
        self._last = Position(frame.index, frame.pts, frame.duration) if frame.is_as_stated else None
        self._end_pts = round((begin + frame.duration * frame.time_base) / time_base)
        self._written += 1
        self._frames_of_run += 1

    def _keep(self, packet: av.Packet[Any]) -> None:
        self._packets, self._packet_bytes = self._packets + 1, self._packet_bytes + packet.size
        if not self._is_decided:
            self._kept.append(encoded(packet))
        elif self._file is not None:
            self._file.append(encoded(packet))

    def _append(self, packet: EncodedPacket) -> None:
        assert self._file is not None
        self._packets, self._packet_bytes = self._packets + 1, self._packet_bytes + len(packet.data)
        self._file.append(packet)

    def _rate(self) -> float:
        """Return the frames per second so far."""
        return self._frames_of_run / max(time.monotonic() - self._began, 1e-9)

    def _decide(self) -> None:
        """Decide, once it can be known, whether the video is cut, and make the folder then."""
        if self._is_decided or not self._may_be_cut():
            return
        if self._written == 1:
            self._began = time.monotonic()  # what the first frame waits for is no measure
        length = self._cutting.frames
        if length is None:
            is_early = time.monotonic() - self._began < _DECIDED_AFTER_SECONDS
            if is_early and self._packet_bytes < _MOST_KEPT_BYTES:
                return
            interval = self._cutting.keyframe_interval
            length = max(1, math.ceil(self._rate() * self._cutting.seconds / interval)) * interval
        self._is_decided = True
        kept, self._kept = self._kept, []
        assert self._single is not None
        if self._expected_frames is not None and self._expected_frames <= length:
            self._single.on_packet = None
            return
        manifest = Manifest(
            self._shaped_by,
            frames_per_segment=length,
            expected_frames=self._expected_frames,
            time_base=str(self._single.track.time_base),
            zero_seconds=str(self._single.zero_seconds),
        )
        self._single.is_muted = True
        self._segment_began = self._began
        self._folder = SegmentFolder.create(self._target, manifest)
        self._file = self._folder.open_segment(0)
        with self._folder.reporting():
            for packet in kept:
                self._file.append(packet)

    def _estimate(self) -> None:
        """Give the estimate, once it can be made."""
        if time.monotonic() - self._began < _DECIDED_AFTER_SECONDS:
            return
        self._is_estimated = True
        if self._expected_frames is None:
            return
        assert self.size is not None
        self._on_estimate(
            estimate(
                self._target.absolute().parent,
                size=self.size,
                frames=self._expected_frames,
                done_frames=self.earlier_frames + self._frames_of_run,
                frames_per_second=self._rate(),
                encoded=(self._packets, self._packet_bytes),
                in_segments=self._folder is not None,
            )
        )

    def _flush(self) -> None:
        """Write the last packets of the open segment."""
        assert self._folder is not None
        encoder: SegmentEncoder | VideoWriter | None = self._encoder or self._single
        assert encoder is not None
        with self._folder.reporting():
            encoder.flush()
        for note in encoder.track.notes:
            if note not in self._folder.manifest.notes:
                self._folder.manifest.notes.append(note)

    def _close_segment(self) -> None:
        """Make the open segment whole."""
        assert self._folder is not None and self._file is not None
        self._flush()
        with self._folder.reporting():
            contents = self._file.complete()
        self._file = None
        seconds = time.monotonic() - self._segment_began
        times = self._first_pts, self._end_pts, self._last, round(seconds, 3)
        self._folder.add(self._number, Segment(self._written, *times, contents))
        self._close_encoder()

    def _close_encoder(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
        if self._single is not None:
            self._single.abort()
            self._single = None

    def finish(self) -> Path:
        """Join the segments, give the file its name, and remove the folder; see `VideoWriter.finish`."""
        if self._folder is None:
            return self._finish_single(VideoWriter.finish)
        if self._file is not None:
            self._close_segment()
        manifest = self._folder.manifest
        numbers = sorted(manifest.segments)
        short = [number for number in numbers[:-1] if manifest.segments[number].frames != manifest.frames_per_segment]
        if numbers != list(range(len(numbers))) or short:
            raise OutputError(f"{printable(self._folder.path)}: the source gave other frames than before")
        if manifest.total_frames is None:
            manifest.total_frames = manifest.done_frames
            self._folder.save()
        path: Path = self._join([self._folder.file(number) for number in numbers], VideoWriter.finish)
        # The segments may go once the result is on the disk.
        with file_errors(OutputError, path, " cannot be written"), path.open("rb+") as file:
            os.fsync(file.fileno())
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
        manifest = self._folder.manifest
        files: list[Path] = []
        while len(files) in manifest.segments:
            files.append(self._folder.file(len(files)))
        if self._file is not None and self._number == len(files) and self._written:
            if self._written == manifest.frames_per_segment:
                self._close_segment()
                files.append(self._folder.file(len(files)))
            else:
                self._flush()
                with self._folder.reporting():
                    files.append(self._file.readable())
        path = self._join(files, VideoWriter.finish_partial) if files else None
        if manifest.segments:
            self.notes.append(f"the same command goes on after {manifest.done_frames} frames")
        self.abort()
        return path

    def _finish_single(self, finish: Callable[[VideoWriter], Path]) -> Path:
        assert self._single is not None
        path = finish(self._single)
        self._take_notes(self._single)
        self._single = None
        return path

    def _join(self, files: list[Path], finish: Callable[[VideoWriter], Any]) -> Any:
        """Write the packets of segments into a file, and finish that."""
        assert self._folder is not None
        manifest = self._folder.manifest
        kept = f"the segments are kept in {printable(self._folder.path)}"
        with self._open_whole() as whole:
            if str(whole.track.time_base) != manifest.time_base:
                raise OutputError(f"{printable(self._target)}: the segments have another clock; {kept}")
            try:
                whole.write_encoded(
                    joined(read_packets(file) for file in files), zero_seconds=Fraction(manifest.zero_seconds)
                )
                path = finish(whole)
            except OutputError as error:
                raise OutputError(f"{error}; {kept}, and the same command joins them") from error
            except ValueError as error:
                raise OutputError(f"{printable(error)}; the same command makes it again") from error
            self.size = whole.size
            self._take_notes(whole)
        self.notes.extend(note for note in manifest.notes if note not in self.notes)
        return path

    def _take_notes(self, whole: VideoWriter) -> None:
        self.notes.extend(note for note in whole.notes if note not in self.notes)

    def abort(self) -> None:
        """Remove what is not whole; do nothing after `finish`."""
        if self._file is not None:
            with suppress(OSError):
                self._file.discard()
            self._file = None
        self._close_encoder()
        if self._folder is not None:
            if self._folder.manifest.segments:
                self._folder.close()
            else:
                self._folder.remove()
            self._folder = None
