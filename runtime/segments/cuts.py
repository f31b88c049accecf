"""Where a video is cut into segments, found before its frames are upscaled."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

from overnet.runtime.container.clock import SourceClock
from overnet.runtime.container.demux import main_stream, open_source
from overnet.runtime.video.frame import Position
from overnet.runtime.video.reader import VideoReader

# More packets than any encoder reorders.
_MOST_REORDERED = 64


@dataclass(frozen=True)
class Cut:
    """A segment of a source.

    Args:
        number: of the segment, counted from 0.
        begin_pts: time of its first frame in the result, in ticks; None where the source's times are kept.
        after: the last frame before it; None for the first segment, and where the times are not as they should be.
        last: its own last frame; None where that is not known.
        is_last: whether no frame follows.
    """

    number: int
    begin_pts: int | None
    after: Position | None
    last: Position | None
    is_last: bool


class UnclearTimesError(Exception):
    """The times of the packets do not tell which frames there are."""


def stated_cuts(
    path: Path,
    length: int,
    *,
    first_pts: int,
    most: int | None,
    rate: Fraction,
    place: Callable[[int, int], int] | None = None,
) -> Iterator[Cut]:
    """Yield the segments by the times of the packets, without decoding, as soon as they are read.

    Damage, and codecs whose packets are no frames, make the frames others than these: compare them with what a
    segment was found to hold.

    Args:
        path: the source.
        length: frames of each segment but the last one.
        first_pts: time of the first frame, in ticks of the stream; what comes before is left out.
        most: number of frames; None for all.
        rate: frames per second, which give the length of frames whose packets state none.
        place: returns for pts and duration of each frame its time in the result; None where that is the source's.

    Raises:
        UnclearTimesError: a time is missing or repeated, or the clock restarts.
    """
    before: Position | None = None
    last: Position | None = None
    begin_pts: int | None = None
    for index, (pts, duration) in enumerate(islice(_stated_times(path, first_pts, rate), most)):
        number, offset = divmod(index, length)
        placed = None if place is None else place(pts, duration)
        if not offset and number:
            yield Cut(number - 1, begin_pts, before, last, is_last=False)
            before, begin_pts = last, placed
        last = Position(index, pts, duration)
    if last is not None:
        yield Cut(last.index // length, begin_pts, before, last, is_last=True)


def _stated_times(path: Path, first_pts: int, rate: Fraction) -> Iterator[tuple[int, int]]:
    """Yield time and duration of each packet, in the order of presentation."""
    newest: int | None = None
    waiting: list[tuple[int, int]] = []
    with open_source(path) as container:
        stream = main_stream(container, path)
        clock = SourceClock(container)
        one_frame = max(1, round(1 / rate / Fraction(stream.time_base or 1)))
        for packet in clock.packets([stream]):
            if clock.changes or packet.pts is None:
                raise UnclearTimesError
            if packet.pts < first_pts or packet.is_discard:
                continue
            heapq.heappush(waiting, (packet.pts, packet.duration or one_frame))
            if len(waiting) > _MOST_REORDERED:
                newest = _later(waiting[0][0], newest)
                yield heapq.heappop(waiting)
    while waiting:
        newest = _later(waiting[0][0], newest)
        yield heapq.heappop(waiting)


def _later(pts: int, newest: int | None) -> int:
    if newest is not None and pts <= newest:
        raise UnclearTimesError
    return pts


def decoded_cuts(
    reader: VideoReader,
    length: int,
    after: Position | None,
    place: Callable[[int, int], int] | None = None,
) -> Iterator[Cut]:
    """Yield the segments behind a frame by decoding all frames, which is slower than `stated_cuts`, and exact.

    With `place`, see `stated_cuts`, frames are decoded from the first one on.
    """
    before, last, number, begin_pts = after, after, None, None

    def skips(index: int) -> bool:
        return place is None and index % length not in (0, length - 1)

    for frame in reader.frames(skips=skips, after=after if place is None else None):
        placed = None if place is None else place(frame.pts, frame.duration)
        if after is not None and frame.index <= after.index:
            continue
        if not frame.index % length:
            if number is not None:
                yield Cut(number, begin_pts, before, last, is_last=False)
                before = last
            number, last, begin_pts = frame.index // length, None, placed if frame.index else None
        if frame.index % length == length - 1:
            last = Position(frame.index, frame.pts, frame.duration) if frame.is_as_stated else None
    if number is not None:
        yield Cut(number, begin_pts, before, None, is_last=True)
