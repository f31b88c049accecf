"""Writing of video files: upscaled frames with the source's times, colour, orientation, sound and subtitles."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer

from overnet.errors import OutputError, printable
from overnet.files.atomic import TemporaryFile, link_target, move_into_place, with_added_stem
from overnet.runtime.container.demux import TAG_OPTIONS, disposition, error_reason, main_stream, open_source
from overnet.runtime.container.read_back import describe, lost_descriptions
from overnet.runtime.video.encoder import EncodedPacket, OutputVideo, VideoTrack
from overnet.runtime.video.formats import OutputFormat, muxer_options, output_format
from overnet.runtime.video.frame import Frame, FrameWriter
from overnet.runtime.video.stream_copy import StreamCopier, kept_tags

# Tags of an Apple device, which MP4 and MOV store under their own names only if asked to.
_APPLE_TAGS = "com.apple.quicktime."


def check_target(path: Path, *, overwrite: bool) -> OutputFormat:
    """Return the container of a video file that is to be written.

    Raises:
        OutputError: the path is a folder, its suffix names no container, or the file exists and may not be replaced.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file, such as {path / 'video.mkv'}")
    container = output_format(path)
    link_target(path, overwrite=overwrite)
    return container


class VideoWriter(FrameWriter):
    """An encoder of frames into a file, which appears under its name only when it is complete.

    Sound, subtitles, attachments, chapters and tags of the source are copied without re-encoding. A rotation is kept as
    a tag where the container and PyAV can store it; otherwise the pixels are rotated and the tag is dropped. Leaving
    the context without `finish` or `finish_partial` removes the file. A live recording has the name of a partial file
    until then, so that what a power cut leaves is found.

    Args:
        path: the file to write; its suffix determines the container.
        video: what is to be written.
        source: the file the frames come from, to copy its other streams; None for a camera or a pipe.
        overwrite: whether an existing file may be replaced.
        start_seconds: where the reader began; the output then starts at 0, and copied streams are cut to the frames.

    Attributes:
        notes: one-line remarks for the user.
        size: width and height of the images as written, in pixels.
        track: the video stream.
        zero_seconds: the time of the source that is the output's start, known with the first frame.
        on_packet: called with each encoded packet before it is written.

    Raises:
        OutputError: the file exists, cannot be written there, or cannot hold the codec or size; also raised by the
            methods when the disk is full. No file is left behind then.
    """

    def __init__(
        self,
        path: Path,
        video: OutputVideo,
        *,
        source: Path | None,
        overwrite: bool = False,
        start_seconds: float = 0.0,
    ) -> None:
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._path = Path(path)  # named in messages
        self._info = video.info
        self._overwrite = overwrite
        self._starts_late = start_seconds > 0
        self._is_part = self._starts_late or video.info.max_frames is not None
        self.zero_seconds = Fraction(0)
        self.on_packet: Callable[[av.Packet[Any]], None] | None = None
        self._done = False
        self._copier: StreamCopier | None = None
        if video.width < 1 or video.height < 1:
            raise OutputError(f"{self._path}: cannot write a video of {video.width}x{video.height} pixels")
        if source is not None and self._path.is_file() and source.exists() and self._path.samefile(source):
            raise OutputError(f"{self._path} is the source itself: choose another name")
        self._format = check_target(self._path, overwrite=overwrite)
        self._path = link_target(self._path, overwrite=overwrite)
        self._is_live = source is None
        self._has_apple_tags = False
        self._unnamed: TemporaryFile | None = None
        try:
            if self._is_live:
                self._temporary = self._free_partial()
                self._temporary.open("xb").close()
            else:
                self._unnamed = TemporaryFile(self._path)
                self._temporary = self._unnamed.path
            if source is not None:
                with open_source(source) as opened:
                    self._has_apple_tags = any(key.startswith(_APPLE_TAGS) for key in opened.metadata)
            self._output = self._open(self._temporary)
            self.track = VideoTrack(self._output, self._format, video)
            self.size = self.track.size
            self.track.notes[:0] = self.notes
            self.notes = self.track.notes  # the track adds remarks on later frames
            if source is not None:
                self._copier = self._copy_rest(source, start_seconds)
            self._output.start_encoding()
        except (av.FFmpegError, OSError, ValueError) as error:
            self._remove()
            raise self._failure(error) from error
        except BaseException:
            self._remove()
            raise

    def write(self, frame: Frame) -> None:
        """Encode an upscaled frame, height x width x 3 uint8 RGB, with the times of the source's frame.

        Raises:
            OutputError: the file cannot be written; it is removed.
            ValueError: the frame has another size, or the video is closed.
        """
        with self._lock, self._reporting():
            if self._done:
                raise ValueError("the video is closed")
            if not self.track.written:
                self.begin(frame.pts * frame.time_base)
            self._encode(frame)

    def write_encoded(self, packets: Iterable[EncodedPacket], *, zero_seconds: Fraction, moved: int) -> None:
        """Write a whole video that other tracks have encoded with the same settings, in place of frames.

        Args:
            packets: in the order of decoding, with increasing decoding times.
            zero_seconds: the time of the source that is the output's start; see the attribute of the same name.
            moved: the sum of the tracks' attribute of that name.

        Raises:
            OutputError: the file cannot be written; it is removed.
        """
        with self._lock, self._reporting():
            self.track.moved = moved
            for encoded in packets:
                if not self.track.written:
                    self._begin(encoded.pts * self.track.time_base + zero_seconds, zero_seconds)
                self._mux(*self.track.adopt(encoded))

    def finish(self, on_complete: Callable[[Path], None] = lambda path: None) -> Path:
        """Complete the file, give it its name, and return that.

        If another file has taken the name meanwhile, an unused name beside it is chosen and noted.

        Args:
            on_complete: called with the complete file before it gets its name.

        Raises:
            OutputError: no frame was written, or the file cannot be written; it is removed.
        """
        with self._lock, self._reporting():
            if self._done:
                raise ValueError("the video is closed")
            if not self.track.written:
                raise OutputError(f"{self._path}: no frame was written")
            self._complete(self.track.end_seconds if self._is_part else None)
            on_complete(self._temporary)
            target = self._take_name()
            self._release()
            return target

    def finish_partial(self) -> Path | None:
        """Complete a playable file of the frames so far, named and tagged as partial; return None if there are none.

        ``out.mp4`` becomes ``out.partial.mp4``, which replaces that of an earlier run.

        Raises:
            OutputError: the file cannot be written; it is removed.
        """
        if self._done or not self.track.written:
            self.abort()
            return None
        with self._lock, self._reporting():
            end = self.track.end_seconds
            self._complete(end)
            target = with_added_stem(self._path, ".partial")
            if not self._tag_partial(end, target):
                # Tagging needs space for a second copy: without it, only the name marks the file as partial.
                self.notes.append("the partial video could not be tagged as such")
                self._temporary.replace(target)
            self._release(keep=target)
            return target

    def abort(self) -> None:
        """Remove the file; do nothing after `finish` or `finish_partial`."""
        with self._lock:
            if not self._done:
                self._remove()

    def _free_partial(self) -> Path:
        """Return an unused visible name for a recording in progress, and note those that earlier ones have left."""
        target, number = with_added_stem(self._path, ".partial"), 1
        while os.path.lexists(target):
            self.notes.append(f"{target.name} is left of an earlier recording that was cut off: it is kept")
            number += 1
            target = with_added_stem(self._path, f".partial ({number})")
        return target

    def _take_name(self) -> Path:
        """Give the complete file its name, or an unused one beside it if another file has taken that."""
        target, number = self._path, 1
        while True:
            try:
                move_into_place(self._temporary, target, overwrite=self._overwrite)
                break
            except FileExistsError:
                number += 1
                target = with_added_stem(self._path, f" ({number})")
        if target != self._path:
            self.notes.append(f"{self._path.name} appeared meanwhile: written as {target.name}")
        return target

    def _open(self, path: Path) -> OutputContainer:
        options = muxer_options(
            self._format, self._info.time_base, is_live=self._is_live, has_apple_tags=self._has_apple_tags
        )
        name = str(path.absolute())
        output: OutputContainer = av.open(name, "w", format=self._format.name, container_options=options, **TAG_OPTIONS)
        return output

    def _copy_rest(self, source: Path, start_seconds: float) -> StreamCopier:
        """Copy the video stream's tags, and return a copier of the other streams."""
        info = self._info
        start = info.origin_seconds + Fraction(str(start_seconds)) if self._starts_late else None
        end = None
        if info.max_frames is not None and info.frame_rate:
            end = (info.origin_seconds if start is None else start) + info.max_frames / info.frame_rate
        with open_source(source) as opened:
            main = main_stream(opened, source)
            self.track.stream.metadata.update(kept_tags(main.metadata, reencoded=True))
            if hasattr(main, "disposition"):
                self.track.stream.disposition = disposition(main)  # type: ignore[assignment]
            index = main.index
        copier = StreamCopier(
            source,
            self._output,
            self._format,
            without=index,
            start_seconds=start,
            end_seconds=end,
            shift_seconds=info.origin_seconds if start is None else start,
        )
        self.notes.extend(copier.notes)
        copier.notes.clear()
        return copier

    def begin(self, first_seconds: Fraction) -> None:
        """Set `zero_seconds` by the time of the first frame in the source, as the first `write` does."""
        self._begin(first_seconds, None if self._starts_late else self._info.origin_seconds)

    def _begin(self, first_seconds: Fraction, shift_seconds: Fraction | None) -> None:
        zero = self.track.begin(first_seconds, shift_seconds=shift_seconds)
        if self._copier is not None:
            self._copier.begin(start_seconds=zero if self._starts_late else None, shift_seconds=zero)
        self.zero_seconds = zero

    def _encode(self, frame: Frame | None) -> None:
        for packet, reached in self.track.encode(frame):
            if self.on_packet is not None:
                self.on_packet(packet)
            self._mux(packet, reached)

    def _mux(self, packet: av.Packet[Any], reached: Fraction | None) -> None:
        # Copy up to the encoder's output, not its input: the muxer would queue the difference. And copy before the
        # video packet is written: with it, MP4 ends every subtitle that has no later packet yet.
        if reached is not None and self._copier is not None:
            self._copier.advance(reached)
        self._output.mux_one(packet)

    def _complete(self, end: Fraction | None) -> None:
        self._encode(None)
        if self._copier is not None:
            self._copier.finish(end)
            self.notes.extend(self._copier.notes)
            self._copier.close()
        intended = describe(self._output)
        self._output.close()
        if self._copier is not None:
            self.notes.extend(lost_descriptions(self._temporary, intended, self._format.name))

    def _tag_partial(self, end: Fraction, target: Path) -> bool:
        """Rewrite the closed file as `target` with a tag in its header; return whether that was done without loss."""
        seconds = float(end - self.zero_seconds)
        try:
            with contextlib.closing(TemporaryFile(self._temporary)) as tagged:
                with self._open(tagged.path) as output:
                    copier = StreamCopier(
                        self._temporary, output, self._format, without=None, end_seconds=Fraction(seconds)
                    )
                    with contextlib.closing(copier):
                        title = output.metadata.get("title", self._path.stem)
                        output.metadata["title"] = f"{title} (partial)"
                        output.metadata["comment"] = f"partial: upscaling was stopped after {seconds:.2f} seconds"
                        copier.finish(None)
                if copier.left_out:
                    return False
                tagged.path.replace(target)
                return True
        except (av.FFmpegError, OSError, ValueError):
            return False

    @contextlib.contextmanager
    def _reporting(self) -> Any:
        """Remove the file and raise an `OutputError` when writing fails."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._remove()
            raise self._failure(error) from error
        except OutputError:
            self._remove()
            raise

    def _failure(self, error: Exception) -> OutputError:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            return OutputError(f"{self._path}: no space is left in {self._path.absolute().parent}")
        return OutputError(f"{printable(self._path)} cannot be written: {error_reason(error)}")

    def _release(self, *, keep: Path | None = None) -> None:
        """Remove what has the temporary name, which may be the one to keep."""
        self._done = True
        if self._unnamed is not None:
            self._unnamed.close()
        elif hasattr(self, "_temporary") and self._temporary != keep:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def _remove(self) -> None:
        # Remove the name before closing the file: closing may take time to complete it.
        self._release()
        if self._copier is not None:
            self._copier.close()
        if hasattr(self, "_output"):
            with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                self._output.close()
        # On systems where an open file cannot be removed, remove it now.
        self._release()
