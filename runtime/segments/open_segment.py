"""A segment that is being encoded: by the same encoder as the whole file, and into a file of packets."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from overnet.runtime.segments.folder import SegmentFiles
from overnet.runtime.segments.manifest import Segment
from overnet.runtime.video.encoder import EncodedPacket, OutputVideo, VideoTrack
from overnet.runtime.video.formats import OutputFormat, muxer_options
from overnet.runtime.video.frame import Frame, Position


class OpenSegment:
    """A segment that is being encoded. Its groups of pictures are closed: the encoder knows no segment before it.

    Args:
        number: of the segment.
        folder: where it is written.
        track: the encoder; no header of its output needs to be written.
        close_track: frees the encoder.
        on_bytes: called with the size of each packet.
        began: the value of `time.monotonic` when the work on it began; None for now.
        begin_pts: see `FrameTimes.next_pts`.

    Attributes:
        written: number of frames so far.
        moved: number of frames so far whose times were moved to keep them apart.
        next_pts: see `Segment`.

    Raises:
        OutputError: see `VideoTrack` and `SegmentFiles.reporting`; also raised by the methods.
    """

    def __init__(
        self,
        number: int,
        folder: SegmentFiles,
        track: VideoTrack,
        close_track: Callable[[], None],
        *,
        on_bytes: Callable[[int], None],
        began: float | None = None,
        begin_pts: int | None = None,
    ) -> None:
        self.number, self.track = number, track
        self._folder, self._close_track, self._on_bytes = folder, close_track, on_bytes
        self._began = time.monotonic() if began is None else began
        self._begin_pts = begin_pts
        self.written = self.moved = 0
        self.next_pts: int | None = None
        self._last: Position | None = None
        try:
            self._file = folder.open_segment(number)
        except BaseException:
            close_track()
            raise

    @classmethod
    def begin(
        cls,
        number: int,
        folder: SegmentFiles,
        container: OutputFormat,
        video: OutputVideo,
        *,
        on_bytes: Callable[[int], None],
        begin_pts: int | None = None,
    ) -> OpenSegment:
        """Begin a segment with an encoder of its own, whose settings are those for the whole file in `container`."""
        # No header is written into this output, and so nothing at all.
        options = muxer_options(container, video.info.time_base)
        output = av.open(io.BytesIO(), "w", format=container.name, container_options=options)

        def close() -> None:
            with suppress(av.FFmpegError, OSError, ValueError):
                output.close()

        track = VideoTrack(output, container, video, continues=number > 0)
        return cls(number, folder, track, close, on_bytes=on_bytes, begin_pts=begin_pts)

    def note(self, frame: Frame) -> None:
        """Note a frame of the segment that its encoder has got, which `write` does."""
        self._last = Position(frame.index, frame.pts, frame.duration) if frame.is_as_stated else None
        self.written += 1
        self.moved = self.track.moved

    def append(self, packet: EncodedPacket) -> None:
        """Write a packet."""
        self._file.append(packet)

    def write(self, frame: Frame) -> None:
        """Encode a frame."""
        with self._folder.reporting():
            if not self.track.written:
                zero_seconds = Fraction(self._folder.manifest.zero_seconds)
                self.track.begin(frame.pts * frame.time_base, shift_seconds=zero_seconds, next_pts=self._begin_pts)
            self._take(self.track.encode(frame))
            self.note(frame)

    def look_ahead(self, frame: Frame) -> None:
        """Show the encoder a frame of the next segment: by what comes it divides bits among the last frames.

        The first of these is made a keyframe, so that nothing refers to it, and all are left out of the file.
        """
        with self._folder.reporting():
            packets = list(self.track.encode(frame, is_key=self.next_pts is None))
            if self.next_pts is None:
                self.next_pts = self.track.last_pts
            self._take(packets)

    def _take(self, packets: Iterable[tuple[av.Packet[Any], Fraction | None]]) -> None:
        for packet, _ in packets:
            if self.next_pts is None or packet.pts is None or packet.pts < self.next_pts:
                self._file.append(encoded(packet))
                self._on_bytes(packet.size)

    def flush(self) -> Path:
        """Write the last packets, and return where all can be read until `complete` or `discard`."""
        with self._folder.reporting():
            notes = self._folder.manifest.notes
            notes.extend(note for note in self.track.notes if note not in notes)
            self._take(self.track.encode(None) if self.next_pts is None else self.track.flush(before=self.next_pts))
            return self._file.readable()

    def complete(self) -> None:
        """Make the segment whole, or discard it if that fails."""
        try:
            self.flush()
            with self._folder.reporting():
                contents = self._file.complete()
            seconds = round(time.monotonic() - self._began, 3)
            self._folder.add(
                self.number, Segment(self.written, self.next_pts, self.moved, self._last, seconds, contents)
            )
        finally:
            self.discard()

    def discard(self) -> None:
        """Free the encoder, and remove the file unless it is complete."""
        with suppress(OSError):
            self._file.close()
        self._close_track()


def encoded(packet: av.Packet[Any]) -> EncodedPacket:
    """Return a packet as it comes from an encoder."""
    assert packet.pts is not None
    return EncodedPacket(bytes(packet), packet.pts, packet.dts, packet.duration or 1, packet.is_keyframe)
