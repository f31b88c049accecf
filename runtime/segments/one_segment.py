"""A writer of a single segment, for a process that upscales no more of the video."""

from dataclasses import dataclass
from pathlib import Path

from overnet.runtime.segments.cuts import Cut
from overnet.runtime.segments.folder import SegmentFiles
from overnet.runtime.segments.open_segment import OpenSegment
from overnet.runtime.video.encoder import OutputVideo
from overnet.runtime.video.formats import OutputFormat
from overnet.runtime.video.frame import Frame, FrameWriter


@dataclass(frozen=True)
class SegmentFrames:
    """The frames of a segment.

    Args:
        cut: where it is.
        length: frames of each segment but the last one.
        look_ahead: frames of the next segment that the encoder is shown.
        most: number of frames of the whole video; None for all.
    """

    cut: Cut
    length: int
    look_ahead: int
    most: int | None

    @property
    def first(self) -> int:
        """Return the number of its first frame."""
        return self.cut.number * self.length

    @property
    def read_end(self) -> int:
        """Return the number of the first frame that need not be read."""
        end = self.first + self.length + max(1, self.look_ahead)  # one, to see whether there is a next segment
        return end if self.most is None else min(end, self.most)

    def __str__(self) -> str:
        end = self.first + self.length if self.cut.last is None else self.cut.last.index + 1
        return f"frames {self.first} to {end - 1}"


class OneSegmentWriter(FrameWriter):
    """A writer of a single segment; its encoder gets what it would get if all were encoded by one process.

    Args:
        frames: those of the segment.
        files: where it is written and noted.
        container: the format of the video.
        video: what is to be encoded.

    Attributes:
        frames_ahead: number of frames after the segment.

    Raises:
        OutputError: see `OpenSegment`; also raised by the methods.
    """

    def __init__(self, frames: SegmentFrames, files: SegmentFiles, container: OutputFormat, video: OutputVideo) -> None:
        self.notes: list[str] = []
        self.frames_ahead = 0
        self.resumes_after = frames.cut.after
        self._frames, self._files, self._container, self._video = frames, files, container, video
        self._open: OpenSegment | None = None

    def has(self, index: int) -> bool:
        """See `FrameWriter.has`."""
        return index < self._frames.first

    def begins_segment(self, index: int) -> bool:
        """See `FrameWriter.begins_segment`."""
        return index % self._frames.length == 0

    def write(self, frame: Frame) -> None:
        """Encode a frame, height x width x 3 uint8 RGB."""
        number = self._frames.cut.number
        if self._open is None:
            self._open = OpenSegment.begin(
                number,
                self._files,
                self._container,
                self._video,
                on_bytes=lambda size: None,
                begin_pts=self._frames.cut.begin_pts,
            )
        if frame.index < self._frames.first + self._frames.length:
            self._open.write(frame)
            return
        self.frames_ahead += 1
        if self.frames_ahead <= self._frames.look_ahead:
            self._open.look_ahead(frame)

    def finish(self) -> Path:
        """Complete the segment, unless no frame was written."""
        segment, self._open = self._open, None
        if segment is not None:
            segment.complete()
        return self._files.file(self._frames.cut.number)

    def finish_partial(self) -> None:
        """Discard the segment: its encoder would have seen more."""
        self.abort()

    def abort(self) -> None:
        """Discard a segment that is not complete."""
        if self._open is not None:
            self._open.discard()
            self._open = None
