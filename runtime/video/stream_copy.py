"""Copying of a source's other streams without re-encoding: sound, subtitles, attachments, chapters and tags."""

from __future__ import annotations

import contextlib
import errno
import heapq
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer

from overnet.runtime.container.clock import SourceClock, TimestampRepair
from overnet.runtime.container.demux import codec_name, disposition, is_cover, open_source
from overnet.runtime.container.sound import SoundEncoder, silence
from overnet.runtime.video.formats import OutputFormat

# Tags of the source's container or encoding, which are wrong in the new file.
_STALE_TAGS = {
    "alpha_mode",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "encoder",
    "vendor_id",
    "duration",
    "rotate",
}
_STALE_STATISTICS = ("BPS", "NUMBER_OF_", "_STATISTICS_")
# Packets this long after the end of a part are taken as proof that all streams have passed it.
_INTERLEAVE_SLACK_SECONDS = 5
# Streams are stored in chunks, so a subtitle may be stored after sound that is heard later.
_READ_AHEAD_SECONDS = 1
# Subtitles that are shown at the start of a part began earlier: read from this long before it.
_SUBTITLE_LOOKBACK_SECONDS = 10
# Video that PyAV copies before version 15 cannot be decoded.
_COPIES_VIDEO = int(av.__version__.partition(".")[0]) >= 15
# Silence before sound that begins later than this is written where there are no timestamps.
_SHORTEST_LEAD_SECONDS = Fraction(1, 50)
# The empty text that MP4 stores between subtitles; its muxer adds them by itself.
_NO_TEXT = b"\0\0"
# The largest number of frames that a codec reorders.
_MAX_REORDERED = 16
# Errors that concern one packet and not the output.
_PACKET_ERRORS = {errno.EINVAL}


def kept_tags(tags: dict[str, str], *, reencoded: bool = False) -> dict[str, str]:
    """Return the tags that remain true for a stream that is copied, or ``reencoded``."""
    return {
        key: value
        for key, value in tags.items()
        if key.lower() not in _STALE_TAGS and not (reencoded and key.upper().startswith(_STALE_STATISTICS))
    }


class StreamCopier:
    """A copier of streams from a source into an output, interleaved with the video that is written there.

    All times are in seconds by the source's clock.

    Args:
        source: the file to copy from; it is opened once more, so that packets are read only when they are needed.
        output: the output; its header must not be written yet.
        container: format of the output.
        without: index of the stream that is upscaled, and so not copied; None to copy all.
        start_seconds, end_seconds: the part to keep, as far as it is known yet; None for the start and end of the file.
        shift_seconds: subtracted from all times.

    Attributes:
        notes: one line for each thing that the output cannot hold.
        left_out: number of streams that are left out.
    """

    def __init__(
        self,
        source: Path,
        output: OutputContainer,
        container: OutputFormat,
        *,
        without: int | None,
        start_seconds: Fraction | None = None,
        end_seconds: Fraction | None = None,
        shift_seconds: Fraction = Fraction(0),
    ) -> None:
        self.notes: list[str] = []
        self.left_out = 0
        self._output = output
        self._container = container
        self._start = start_seconds
        self._shift = shift_seconds
        self._source: InputContainer = open_source(source)
        self._clock = SourceClock(self._source)
        self._copies: dict[int, Any] = {}
        self._sounds: dict[int, SoundEncoder] = {}
        self._repairs: dict[int, TimestampRepair] = {}
        self._next_dts: dict[int, int] = {}
        self._undated: dict[int, tuple[int, int]] = {}
        self._begun: set[int] = set()
        self._refused = 0
        try:
            for stream in self._source.streams:
                if stream.index != without:
                    self._add(stream, source)
                elif hasattr(stream, "discard") and not self._clock.needs(stream):
                    # Formats with an index can then skip its packets without reading them.
                    stream.discard = av.stream.Discard.all
            output.metadata.update(kept_tags(self._source.metadata))
            self._copy_chapters(end_seconds)
        except BaseException:
            self._source.close()
            raise
        self._packets = self._in_order()
        self._waiting: av.Packet[Any] | None = None

    def begin(self, *, start_seconds: Fraction | None, shift_seconds: Fraction) -> None:
        """Set the exact times once the first frame is known; call it before the first packet is copied."""
        self._start = start_seconds
        self._shift = shift_seconds

    def advance(self, until_seconds: Fraction) -> None:
        """Copy the packets up to a time, so that the output is interleaved."""
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = None
            if _seconds(packet) > until_seconds:
                self._waiting = packet
                return
            self._copy(packet, None)

    def finish(self, end_seconds: Fraction | None) -> None:
        """Copy the remaining packets, or those that begin before ``end_seconds``."""
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = None
            if end_seconds is not None and _seconds(packet) > end_seconds + _INTERLEAVE_SLACK_SECONDS:
                break
            self._copy(packet, end_seconds)
        for sound in self._sounds.values():
            self._output.mux(list(sound.flush(shift=self._shift, start=self._start, end=end_seconds)))
        repaired = sum(repair.repaired for repair in self._repairs.values())
        if repaired:
            self.notes.append(f"{repaired} times of copied streams ran backwards and were moved forward")
        if self._refused:
            self.notes.append(f"{self._refused} damaged packets of copied streams were left out")

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _in_order(self) -> Iterator[av.Packet[Any]]:
        """Yield the packets ordered by time, if none is stored more than a second after a later one."""
        ahead: list[tuple[Fraction, int, av.Packet[Any]]] = []
        newest = Fraction(0)
        reached: dict[int, Fraction] = {}
        for number, packet in enumerate(self._read()):
            index, at = packet.stream.index, _seconds(packet)
            if index in reached:
                # The order within a stream is kept: frames are stored in decoding order.
                at = reached[index] if packet.dts is None else max(reached[index], at)
            reached[index] = at
            newest = max(newest, at)
            heapq.heappush(ahead, (at, number, packet))
            while ahead[0][0] < newest - _READ_AHEAD_SECONDS:
                yield heapq.heappop(ahead)[2]
        while ahead:
            yield heapq.heappop(ahead)[2]

    def _read(self) -> Iterator[av.Packet[Any]]:
        if not self._repairs:
            return
        if self._start is not None:
            back = max(Fraction(0), self._start - _SUBTITLE_LOOKBACK_SECONDS)
            # A format that cannot seek is read from its beginning, and earlier packets are dropped.
            with contextlib.suppress(av.FFmpegError):
                self._source.seek(int(back * av.time_base))
        yield from self._clock.packets([s for s in self._source.streams if s.index in self._repairs])

    def _add(self, stream: Any, source: Path) -> None:
        is_matroska = self._container.name == "matroska"
        kind = "cover image" if is_cover(stream) else stream.type
        if kind == "data" and getattr(stream, "name", None) in (None, "bin_data"):
            # QuickTime's time code and chapter tracks are written by the muxer, from tags and chapters.
            chapters = self._source.chapters() if hasattr(self._source, "chapters") else []
            if "timecode" not in stream.metadata and not (chapters and stream.frames == len(chapters)):
                self.left_out += 1
                name = stream.metadata.get("handler_name") or "unknown kind"
                self.notes.append(f"data stream {stream.index} ({name}) cannot be copied: left out")
            return
        if kind in ("cover image", "attachment") and is_matroska:
            if hasattr(self._output, "add_attachment"):
                tags = stream.metadata
                data = _first_packet(source, stream.index) if kind == "cover image" else stream.data
                mime = tags.get("mimetype") or ("image/png" if stream.name == "png" else "image/jpeg")
                name = tags.get("filename") or ("cover.png" if mime == "image/png" else "cover.jpg")
                self._output.add_attachment(name, mime, data)
                return
        elif not self._is_refused(kind) and self._can_hold(stream):
            if kind == "video":
                self.notes.append(f"video stream {stream.index} is copied as it is: only the first is upscaled")
            self._copies[stream.index] = copy = _add_from_template(self._output, stream)
            copy.metadata.update(kept_tags(stream.metadata, reencoded=self._start is not None))
            if hasattr(stream, "disposition"):
                copy.disposition = disposition(stream)
            is_sound = kind == "audio"
            self._repairs[stream.index] = TimestampRepair(
                Fraction(stream.time_base), strictly=is_sound, is_sound=is_sound
            )
            return
        what = f"{kind} stream {stream.index} ({codec_name(stream)})"
        if kind == "audio" and self._add_encoded(stream):
            codec = self._sounds[stream.index].codec
            self.notes.append(f"{what} cannot be copied into {self._container.name}: encoded as {codec}")
            return
        self.left_out += 1
        self.notes.append(f"{what} cannot be stored in {self._container.name}: left out")

    def _add_encoded(self, stream: Any) -> bool:
        """Add a stream of sound that is encoded again, and tell whether that is possible."""
        try:
            sound = SoundEncoder(self._output, self._container.name, stream)
        except (av.FFmpegError, av.codec.codec.UnknownCodecError, ValueError, TypeError, IndexError):
            return False
        self._sounds[stream.index] = sound
        sound.stream.metadata.update(kept_tags(stream.metadata, reencoded=True))
        if hasattr(stream, "disposition"):
            sound.stream.disposition = disposition(stream)
        self._repairs[stream.index] = TimestampRepair(Fraction(stream.time_base), is_sound=True)
        return True

    def _is_refused(self, kind: str) -> bool:
        """Tell whether the output's muxer takes streams of a kind, and drops them silently."""
        return kind == "attachment" or (kind == "cover image" and self._container.name in ("avi", "webm", "mov"))

    def _can_hold(self, stream: Any) -> bool:
        """Tell whether the output can hold a stream, by a trial in memory: some muxers refuse it late."""
        if stream.type == "video" and not _COPIES_VIDEO:
            return False
        try:
            with av.open(io.BytesIO(), "w", format=self._container.name) as scratch:
                _add_from_template(scratch, stream)
                scratch.start_encoding()
        except (av.FFmpegError, ValueError, AttributeError, TypeError):
            return False
        return True

    def _copy_chapters(self, end: Fraction | None) -> None:
        if not hasattr(self._source, "chapters"):
            return
        kept = []
        for chapter in self._source.chapters():
            tick = chapter["time_base"]
            if not tick:
                continue
            shift = round(self._shift / tick)
            chapter["start"] = max(0, chapter["start"] - shift)
            chapter["end"] -= shift
            if end is not None:
                chapter["end"] = min(chapter["end"], round((end - self._shift) / tick))
            if chapter["end"] > chapter["start"]:
                kept.append(chapter)
        if kept and self._container.name == "avi":
            self.notes.append("chapters cannot be stored in avi: left out")
        elif kept:
            self._output.set_chapters(kept)

    def _decoding_time(self, packet: av.Packet[Any]) -> int:
        """Return a packet's decoding time in its ticks, estimated where the file has none."""
        index = packet.stream.index
        if packet.dts is not None:
            return int(packet.dts)
        if packet.pts is None:
            return self._next_dts.get(index, 0)
        if packet.stream.type != "video":
            return int(packet.pts)
        # Matroska stores none, and FFmpeg derives them only after as many frames as are reordered.
        first, seen = self._undated.get(index, (int(packet.pts), 0))
        self._undated[index] = (first, seen + 1)
        return min(first, int(packet.pts)) - _MAX_REORDERED + min(seen, _MAX_REORDERED - 1)

    def _copy(self, packet: av.Packet[Any], end: Fraction | None) -> None:
        index = packet.stream.index
        if index in self._sounds:
            self._encode_sound(packet, end)
            return
        tick = Fraction(packet.time_base)
        if packet.size == 2 and bytes(packet) == _NO_TEXT and packet.stream.type == "subtitle":
            return
        duration = packet.duration or 0
        dts = self._decoding_time(packet)
        pts = packet.pts if packet.pts is not None else dts
        self._next_dts[index] = dts + max(1, duration)
        if not is_cover(packet.stream):
            if end is not None and pts * tick >= end:
                return
            if self._start is not None and pts * tick < self._start:
                late = pts + duration - self._start / tick
                if packet.stream.type != "subtitle" or late <= 0:
                    return
                # A subtitle that began earlier is shown from the start on.
                packet.duration = duration = int(late)
                pts = dts = round(self._start / tick)
            if end is not None and packet.stream.type == "subtitle":
                packet.duration = min(duration, int(end / tick) - pts)
        shift = round(self._shift / tick)
        repair = self._repairs[index]
        placed = repair(dts - shift, duration)
        finer = int(tick / repair.time_base)
        packet.time_base, packet.duration = repair.time_base, (packet.duration or 0) * finer
        packet.dts = placed
        packet.pts = max(placed, placed + (pts - dts) * finer)
        if self._container.has_constant_rate and packet.stream.type == "audio" and index not in self._begun:
            self._fill_lead(packet.stream, packet.pts * repair.time_base)
        packet.stream = self._copies[index]
        try:
            self._output.mux_one(packet)
        except av.FFmpegError as error:
            if error.errno not in _PACKET_ERRORS and not isinstance(error, av.error.InvalidDataError):
                raise
            self._refused += 1

    def _encode_sound(self, packet: av.Packet[Any], end: Fraction | None) -> None:
        sound = self._sounds[packet.stream.index]
        try:
            made = list(sound.encode(packet, shift=self._shift, start=self._start, end=end))
        except av.FFmpegError:
            self._refused += 1
            return
        self._output.mux(made)

    def _fill_lead(self, stream: Any, lead_seconds: Fraction) -> None:
        """Write silence before the first packet of sound: a format without timestamps begins all streams at once."""
        self._begun.add(stream.index)
        if lead_seconds < _SHORTEST_LEAD_SECONDS:
            return
        packets = silence(stream, lead_seconds)
        if not packets:
            self.notes.append(
                f"audio stream {stream.index} begins {float(lead_seconds):.2f} s after the start, which "
                f"{self._container.name} cannot store: it is heard that much too early"
            )
        for packet in packets:
            packet.stream = self._copies[stream.index]
            self._output.mux_one(packet)


def _seconds(packet: av.Packet[Any]) -> Fraction:
    ticks = packet.dts if packet.dts is not None else packet.pts
    return (ticks or 0) * packet.time_base


def _add_from_template(output: OutputContainer, stream: Any) -> Any:
    # Without "opaque", a video template requires an encoder of its codec.
    return output.add_stream_from_template(stream, **({"opaque": True} if stream.type == "video" else {}))


def _first_packet(source: Path, index: int) -> bytes:
    with open_source(source) as container:
        for packet in container.demux(container.streams[index]):
            return bytes(packet)
    return b""
