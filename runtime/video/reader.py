"""Reading of video files: RGB frames with their timestamps, and the information that the writer keeps."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from overnet.errors import InputError
from overnet.runtime.container.clock import SourceClock, TimestampRepair
from overnet.runtime.container.demux import main_stream, open_source, origin_seconds
from overnet.runtime.video.frame import Frame, Position, VideoInfo, describe_video, duration_seconds

# A seek lands at or before the wanted time only if the file's index is right: if not, seek further back.
_SEEK_BACK_SECONDS = (0, 2, 20)
# Before the frame behind which reading goes on: it has to be decoded, and a keyframe before it.
_RESUME_BACK_SECONDS = (1, 10, 60)
# Times on a command line are rounded: a frame that begins this much before the start still counts.
_START_TOLERANCE = Fraction(1, 2000)

# Side data of frames that describe the whole video and that PyAV cannot write.
_LOST_SIDE_DATA = {
    "MASTERING_DISPLAY_METADATA": "mastering display data",
    "CONTENT_LIGHT_LEVEL": "content light levels",
    "DYNAMIC_HDR_PLUS": "HDR10+ data",
    "DOVI_METADATA": "Dolby Vision data",
    "DOVI_RPU_BUFFER": "Dolby Vision data",
    "DYNAMIC_HDR_VIVID": "HDR Vivid data",
    "AMBIENT_VIEWING_ENVIRONMENT": "ambient viewing data",
    "STEREO3D": "the stereo layout",
    "SPHERICAL": "the spherical projection",
    "ICC_PROFILE": "the ICC profile",
    "FILM_GRAIN_PARAMS": "film grain parameters",
    "PANSCAN": "the pan and scan window",
    "AFD": "the active format description",
    "GOP_TIMECODE": "time codes of frames",
    "S12M_TIMECODE": "time codes of frames",
    "DETECTION_BBOXES": "detected objects",
    "REGIONS_OF_INTEREST": "regions of interest",
}
# Encoders write their name and settings into the first frame, which are not those of the new file.
_ENCODER_NAME = re.compile(rb"x26[45]|Lavc|NVENC|SVT|AMF|VideoToolbox", re.IGNORECASE)


class VideoReader:
    """A decoder of the main video stream of a file, in presentation order; a context manager.

    Damaged packets are skipped and counted in ``notes``, which are complete once all frames are read.

    Args:
        path: a local file in any format FFmpeg reads.
        start_seconds: time of the first frame; the first one at or after it is read first.
        max_frames: number of frames to read; None for all.
        opened: the open container of an input that cannot be reopened or rewound, such as a pipe; `path` is then its
            name in messages. The reader closes it.
        content: opens what the file contains, where `path` is only its name; called again to read from the beginning.

    Attributes:
        info: information on the video.
        notes: one-line remarks for the user.
        first_pts: presentation time of the first frame, see `Frame`.
        expected_frames: estimate of the number of frames to come, for a progress bar; None if unknown.

    Raises:
        InputError: the file is missing, empty, not a video, has no frame that can be decoded, or ends before
            ``start_seconds``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        start_seconds: float = 0.0,
        max_frames: int | None = None,
        opened: InputContainer | None = None,
        content: Callable[[], BinaryIO] | None = None,
    ) -> None:
        if not start_seconds >= 0 or math.isinf(start_seconds):
            raise InputError(f"the start must be 0 seconds or later, not {start_seconds:g}")
        if max_frames is not None and max_frames < 1:
            raise InputError(f"the number of frames must be 1 or more, not {max_frames}")
        self.notes: list[str] = []
        self._path = Path(path)
        self._lock = threading.Lock()
        self._max_frames = max_frames
        self._damaged_packets = 0
        self._has_captions = False
        self._closed = False
        self._can_seek = opened is None
        self._content = content
        self._container: InputContainer = opened or self._open()
        try:
            self._stream = main_stream(self._container, self._path)
            self._stream.thread_type = "AUTO"
            if self._stream.time_base is None:
                raise InputError(f"{self._path}: the video stream has no clock")
            # PyAV 19 has a fraction type of its own.
            self._time_base = Fraction(self._stream.time_base)
            self._origin = origin_seconds(self._container)
            self._start = self._origin + Fraction(str(start_seconds)) - _START_TOLERANCE if start_seconds else None
            first, self._frames = self._first_frame(start_seconds)
            self.first_pts: int = _stated_pts(first) or 0
            self.info: VideoInfo = describe_video(
                self._container, self._stream, first, str(self._path), max_frames=self._max_frames
            )
            self._to_rgb = self.info.rgb_decoder()
            remaining = self.info.frame_count
            if remaining is not None and start_seconds:
                remaining = max(1, remaining - round(start_seconds * (self.info.frame_rate or 0)))
            known = [count for count in (remaining, max_frames) if count is not None]
            self.expected_frames: int | None = min(known, default=None)
            self._remark(first)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; an iteration in progress ends after its current frame."""
        with self._lock:
            self._closed = True
            self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, once."""
        return self.frames()

    def frames(
        self,
        buffer: Callable[[], np.ndarray | None] = lambda: None,
        skips: Callable[[int], bool] = lambda index: False,
        after: Position | None = None,
    ) -> Iterator[Frame]:
        """Yield the frames, once.

        Args:
            buffer: returns for each frame the H x W x 3 uint8 array to decode it to, or None for a new one. It may
                block: the file is not locked meanwhile, so that `close` works.
            skips: tells by the number of a frame whether it is left out; it is decoded, but not converted.
            after: a frame right before the first wanted one: what comes before is not decoded, if the file allows that.
        """
        one_frame = max(1, round(1 / self.info.rate / self._time_base))
        repair = TimestampRepair(self._time_base)
        count = next_pts = 0
        if after is not None and self._seek_behind(after):
            count, next_pts = after.index + 1, repair(after.pts, after.duration) + after.duration
        while self._max_frames is None or count < self._max_frames:
            with self._lock:
                decoded = None if self._closed else next(self._frames, None)
            if decoded is None:
                break
            if not self._has_captions and decoded.side_data.get("A53_CC") is not None:
                self._has_captions = True
                self.notes.append("closed captions inside the video are left out")
            is_wanted = not skips(count)
            out = buffer() if is_wanted else None
            with self._lock:
                stated = _stated_pts(decoded)
                duration = int(getattr(decoded, "duration", 0) or 0) or one_frame
                pts = repair(next_pts if stated is None else stated, duration)
                rgb = self._to_rgb(decoded, out) if is_wanted else None
            next_pts = pts + duration
            if rgb is not None:
                is_as_stated = pts == decoded.pts and not self._clock.changes
                yield Frame(rgb, pts, self._time_base, duration, count, is_as_stated)
            count += 1
        if repair.repaired:
            self.notes.append(f"{repair.repaired} frame times ran backwards or stood still and were moved forward")
        if self._clock.changes:
            times = "once" if self._clock.changes == 1 else f"{self._clock.changes} times"
            self.notes.append(f"the source's clock restarts or jumps {times}: what follows is joined on without a gap")
        self._note_damage()
        if not self._closed and not self._clock.changes and count != self._max_frames:
            self._note_early_end(next_pts * self._time_base)

    def _first_frame(self, start_seconds: float) -> tuple[VideoFrame, Iterator[VideoFrame]]:
        """Return the first wanted frame, and an iterator over it and those after it."""
        seeks = self._start is not None and self._can_seek
        for back in _SEEK_BACK_SECONDS if seeks else ():
            if back >= start_seconds or not self._seek(back):
                break
            earlier, frame, frames = self._skip_to_start()
            # Only a frame before the start proves that the seek did not land after the wanted frame.
            if earlier and frame is not None:
                self._damaged_packets = 0
                return frame, chain([frame], frames)
        if seeks:
            self._reopen()
        earlier, frame, frames = self._skip_to_start()
        if frame is not None:
            return frame, chain([frame], frames)
        if earlier:
            raise InputError(f"{self._path} ends before the start, {start_seconds:g} s")
        raise InputError(f"{self._path}: no image in it can be decoded: it is damaged or cut off")

    def _open(self) -> InputContainer:
        return open_source(self._path, None if self._content is None else self._content())

    def _reopen(self) -> None:
        """Open the file anew: formats without an index cannot reliably seek to the beginning."""
        self._container.close()
        self._container = self._open()
        self._stream = main_stream(self._container, self._path)
        self._stream.thread_type = "AUTO"

    def _seek_behind(self, after: Position) -> bool:
        """Seek to the frame behind another, and tell whether that is certain; otherwise begin from the start."""
        with self._lock:
            if self._closed or not self._can_seek:
                return False
            sought = False
            for back in _RESUME_BACK_SECONDS:
                target = after.pts * self._time_base - back
                if target <= max(self._origin, self._start or 0):
                    break
                sought = True
                self._container.seek(int(target / self._time_base), stream=self._stream)
                has_keyframe = False
                frames = self._decode()
                for frame in frames:
                    if frame.pts is None or frame.pts > after.pts:
                        break
                    # What follows a keyframe in the order of presentation needs nothing from before it.
                    has_keyframe |= frame.key_frame
                    if frame.pts == after.pts and has_keyframe:
                        self._frames, self._damaged_packets = frames, 0
                        return True
            if sought:
                self._reopen()
                self._frames = self._first_frame(0)[1]
            return False

    def _skip_to_start(self) -> tuple[bool, VideoFrame | None, Iterator[VideoFrame]]:
        """Return whether there were frames before the start, the first frame from the start on, and those after it."""
        earlier = False
        frames = self._decode()
        for frame in frames:
            at = _stated_pts(frame)
            if self._start is None or at is None or at * self._time_base >= self._start:
                return earlier, frame, frames
            earlier = True
        return earlier, None, frames

    def _seek(self, back_seconds: int) -> bool:
        """Seek to the keyframe at or before a time before the start; tell whether the format supports it."""
        target = max(self._origin, (self._start or 0) - back_seconds)
        try:
            self._container.seek(int(target / self._time_base), stream=self._stream)
        except (av.FFmpegError, OverflowError):  # a time beyond 64 bits
            return False
        return True

    def _decode(self) -> Iterator[VideoFrame]:
        # After a seek, the clock is taken as it is there.
        self._clock = SourceClock(self._container)
        for packet in self._clock.packets([self._stream]):
            yield from self._decode_packet(packet)
        yield from self._decode_packet(None)

    def _decode_packet(self, packet: av.Packet[VideoStream] | None) -> list[VideoFrame]:
        try:
            return self._stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            if isinstance(error, av.error.BlockingIOError):
                # Frames of an earlier, failed call are left in the decoder, which accepts no packet until flushed.
                self._stream.codec_context.flush_buffers()
            if packet is not None:
                self._damaged_packets += 1
            return []

    def _remark(self, frame: VideoFrame) -> None:
        """Add notes on properties of the input that are not kept."""
        info = self.info
        if info.color.is_hdr:
            self.notes.append("HDR video is upscaled and encoded as 8 bit; its colour tags are kept")
        elif info.bit_depth > 8:
            self.notes.append(f"{info.bit_depth}-bit input is read and encoded as 8 bit")
        lost = [name for kind, name in _LOST_SIDE_DATA.items() if frame.side_data.get(kind) is not None]
        unregistered: Any = frame.side_data.get("SEI_UNREGISTERED")
        if unregistered is not None and not _ENCODER_NAME.search(bytes(unregistered)):
            lost.append("user data (SEI)")
        if lost:
            self.notes.append(f"{', '.join(dict.fromkeys(lost))} cannot be kept: left out")
        if not info.color.matrix_is_known:
            self.notes.append(f"colour matrix {info.color.matrix} is converted as if it were BT.709")
        if frame.interlaced_frame:
            self.notes.append("interlaced video is upscaled as if it were progressive: deinterlace it first")
        # FFmpeg's decoder of VP8 and VP9 leaves out the transparency that Matroska stores beside the image.
        has_alpha_beside = self._stream.metadata.get("alpha_mode", self._stream.metadata.get("ALPHA_MODE")) == "1"
        if len(frame.format.components) in (2, 4) or has_alpha_beside:
            self.notes.append("transparency is dropped")

    def _note_damage(self) -> None:
        if self._damaged_packets:
            self.notes.append(f"{self._damaged_packets} damaged packets of the video could not be decoded")

    def _note_early_end(self, end: Fraction) -> None:
        duration = duration_seconds(self._container, self._stream)
        if duration is None:
            return
        # A stream's own duration is exact and counts from its start. A container's covers the longest stream, and in
        # many formats is the time of its end.
        begin = (self._stream.start_time or 0) * self._time_base if self._stream.duration else self._origin
        slack = 3 / self.info.rate if self._stream.duration else Fraction(1)
        if begin + duration - end > slack:
            stated = float(begin + duration)
            self.notes.append(f"the video ends at {float(end):.2f} s, although the file states {stated:.2f} s")


def _stated_pts(frame: VideoFrame) -> int | None:
    """Return the time of a frame as the file states it, in the stream's ticks; None where it states none."""
    return frame.pts if frame.pts is not None else frame.dts
