"""An encoder of one segment: the same as for the whole file, without a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av

from overnet.runtime.video.encoder import EncodedPacket, OutputVideo, VideoTrack
from overnet.runtime.video.formats import OutputFormat, muxer_options
from overnet.runtime.video.frame import Frame


class SegmentEncoder:
    """An encoder whose packets are handed over, with closed groups of pictures: it knows no other segment.

    Args:
        container: the format of the result, which some settings of encoders depend on.
        video: see `OutputVideo`.
        shift_seconds: the time of the source that is the result's start; None takes that of the first frame.
        on_packet: called with each packet, whose times are in ticks of the track.

    Raises:
        OutputError: see `VideoTrack`.
    """

    def __init__(
        self,
        container: OutputFormat,
        video: OutputVideo,
        *,
        shift_seconds: Fraction | None,
        on_packet: Callable[[EncodedPacket], None],
    ) -> None:
        options = muxer_options(container, video.info.time_base)
        # No header is written, and so nothing at all.
        self._output = av.open(io.BytesIO(), "w", format=container.name, container_options=options)
        self.track = VideoTrack(self._output, container, video)
        self._shift_seconds, self._on_packet = shift_seconds, on_packet

    def write(self, frame: Frame) -> None:
        """Encode a frame."""
        if not self.track.written:
            self.track.begin(frame.pts * frame.time_base, shift_seconds=self._shift_seconds)
        self._hand_over(frame)

    def flush(self) -> None:
        """Hand over the last packets; no frame can be written any more."""
        self._hand_over(None)

    def _hand_over(self, frame: Frame | None) -> None:
        for packet, _ in self.track.encode(frame):
            self._on_packet(encoded(packet))

    def close(self) -> None:
        """Free the encoder."""
        with suppress(av.FFmpegError, OSError, ValueError):
            self._output.close()


def encoded(packet: av.Packet[Any]) -> EncodedPacket:
    """Return a packet as it comes from an encoder."""
    assert packet.pts is not None
    return EncodedPacket(bytes(packet), packet.pts, packet.dts, packet.duration or 1, packet.is_keyframe)
