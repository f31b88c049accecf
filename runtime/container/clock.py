"""Clocks of media files: one that restarts or jumps, and times of a stream that do not increase."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer

from overnet.runtime.container.demux import has_transport_clock, is_cover, read_packets

# How far times have to run backwards, or forwards past all streams, for the clock to count as another one. Formats of
# broadcasting are joined and cut anywhere, so that FFmpeg's own limits apply; in others, long pauses are legitimate.
_TRANSPORT_LIMITS = (Fraction(1, 10), Fraction(10))
_USUAL_LIMITS = (Fraction(1), Fraction(3600))
# A sample of the slowest sound that short frames are used for, in seconds, rounded up.
_SOUND_STEP = Fraction(25, 1_000_000)


class TimestampRepair:
    """A filter that makes the timestamps of one stream increase where a broken file's do not.

    Args:
        time_base: seconds per tick.
        strictly: whether equal timestamps are moved apart as well.
        is_sound: whether equal timestamps are no fault: short frames of sound share a coarse tick.

    Attributes:
        repaired: number of timestamps that were changed and were at fault.
        time_base: seconds per tick of the results, which is finer than the given one for sound with a coarse tick.
    """

    def __init__(self, time_base: Fraction, *, strictly: bool = True, is_sound: bool = False) -> None:
        self.repaired = 0
        self._finer = 1000 if is_sound and time_base > _SOUND_STEP else 1
        self.time_base = time_base / self._finer
        self._one_second = int(1 / self.time_base)
        # Sound that is moved by less than a tick of the source is back in step at the next tick.
        self._step = (-(-_SOUND_STEP // self.time_base) if is_sound else 1) if strictly else 0
        self._tolerance = self._finer if is_sound else 0
        self._offset = 0
        self._last: int | None = None

    def __call__(self, ticks: int, duration: int) -> int:
        """Return the time for a frame or packet that is stamped ``ticks`` and lasts ``duration`` ticks.

        The result is in ticks of `time_base`.
        """
        ticks, duration = ticks * self._finer, duration * self._finer
        placed = ticks + self._offset
        if self._last is not None and placed < self._last + self._step:
            self.repaired += placed <= self._last - self._tolerance if self._tolerance else 1
            if self._last - placed > self._one_second:
                # The clock restarted, as in joined files: continue from here by the new clock.
                self._offset += self._last + max(1, duration) - placed
                placed = ticks + self._offset
            else:
                placed = self._last + self._step
        self._last = placed
        return placed


@dataclass
class _Reached:
    """State of one stream: the number of the clock that it follows, its last time and its end, in seconds."""

    clock: int
    last: Fraction
    end: Fraction


class SourceClock:
    """The clock of a source, made continuous where it restarts or jumps, as in joined or cut recordings.

    Picture and sound are corrected by one offset. All readers of a file find the same offsets: those follow from the
    decoding times of all its video and sound, in the order of the file. A stream that is stored late keeps the clock
    from before the restart until its own times restart.

    Args:
        container: the open file; its packets are read with `packets`.

    Attributes:
        changes: how often the clock restarted or jumped.
    """

    def __init__(self, container: InputContainer) -> None:
        self._container = container
        self._back, self._ahead = _TRANSPORT_LIMITS if has_transport_clock(container) else _USUAL_LIMITS
        self._offsets = [Fraction(0)]
        self._streams: dict[int, _Reached] = {}
        self._newest: Fraction | None = None
        # The times of MP4 and MOV are sums of durations: they cannot restart.
        is_summed = "mp4" in container.format.name
        self._guides = {
            stream.index: stream
            for stream in (() if is_summed else (*container.streams.video, *container.streams.audio))
            if not is_cover(stream)
        }

    @property
    def changes(self) -> int:
        """Return how often the clock restarted or jumped so far."""
        return len(self._offsets) - 1

    def needs(self, stream: Any) -> bool:
        """Tell whether a stream's packets are read to follow the clock, also if they are not wanted."""
        return stream.index in self._guides

    def packets(self, streams: list[Any]) -> Iterator[av.Packet[Any]]:
        """Yield the packets of some streams in the order of the file, with times by the continuous clock."""
        wanted = {stream.index for stream in streams}
        others = [stream for index, stream in self._guides.items() if index not in wanted]
        for packet in read_packets(self._container, [*streams, *others]):
            offset = self._offset(packet)
            if packet.stream.index not in wanted:
                continue
            if offset:
                ticks = round(offset / packet.time_base)
                if packet.pts is not None:
                    packet.pts += ticks
                if packet.dts is not None:
                    packet.dts += ticks
            yield packet

    def _offset(self, packet: av.Packet[Any]) -> Fraction:
        """Return the seconds to be added to a packet's times."""
        index, ticks = packet.stream.index, packet.dts
        is_guide = index in self._guides
        reached = self._streams.get(index)
        if ticks is None and is_guide:
            return self._offsets[-1 if reached is None else reached.clock]
        at = Fraction(ticks if ticks is not None else packet.pts or 0) * packet.time_base
        if not is_guide:
            # Subtitles and data follow the clock by which they are nearest to picture and sound.
            newest = self._newest or Fraction(0)
            return min(self._offsets, key=lambda offset: abs(at + offset - newest))
        clock = len(self._offsets) - 1 if reached is None else reached.clock
        if not self._continues(at + self._offsets[clock], reached):
            clock = self._other_clock(at, clock, reached)
        placed = at + self._offsets[clock]
        end = placed + (packet.duration or 0) * packet.time_base
        self._streams[index] = _Reached(clock, placed, end)
        self._newest = end if self._newest is None else max(self._newest, end)
        return self._offsets[clock]

    def _continues(self, placed: Fraction, reached: _Reached | None) -> bool:
        """Tell whether a time can follow those before it."""
        if self._newest is None:
            return True
        if reached is not None and placed < reached.last - self._back:
            return False
        return placed <= self._newest + self._ahead

    def _other_clock(self, at: Fraction, clock: int, reached: _Reached | None) -> int:
        """Return the clock that a time belongs to which does not continue its stream's own: a later or a new one."""
        assert self._newest is not None
        for later in range(len(self._offsets) - 1, clock, -1):
            if self._continues(at + self._offsets[later], reached):
                return later
        # The new clock begins where all streams have ended, so that nothing overlaps.
        ends = [self._newest if reached is None else reached.end, *(each.end for each in self._streams.values())]
        self._offsets.append(max(ends) - at)
        return self.changes
