"""Files of encoded packets with their exact times, and how those of successive segments are joined.

No container is used: most round times, change the packets, or cannot hold every codec. So what is joined is, byte for
byte, what the encoder gave.
"""

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import BinaryIO

from overnet.files.atomic import TemporaryFile, sync_folder
from overnet.runtime.video.encoder import EncodedPacket

_MAGIC = b"OverNet packets 1\n"
# Presentation time, decoding time, duration, number of bytes, whether it is a keyframe and has a decoding time.
_HEAD = struct.Struct("<qqqI??")
# More packets than any encoder reorders.
_MOST_REORDERED = 64
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Contents:
    """What identifies the contents of a file: its size and the CRC-32 of its bytes."""

    bytes: int
    crc32: int


class PacketFile:
    """A writer of packets; the file has its name only when it is complete and on the disk.

    Args:
        path: the file; an existing one is replaced.
        content: what it begins with: of a file that another machine has made, all of it.

    Raises:
        OSError: the operating system refuses; also raised by the methods.
    """

    def __init__(self, path: Path, content: bytes = _MAGIC) -> None:
        self._path = path
        self._temporary = TemporaryFile(path)
        try:
            self._file: BinaryIO = self._temporary.path.open("wb")
            self._contents = Contents(0, 0)
            self._write(content)
        except BaseException:
            self._temporary.close()
            raise

    def append(self, packet: EncodedPacket) -> None:
        """Write a packet."""
        dts = 0 if packet.dts is None else packet.dts
        size, has_dts = len(packet.data), packet.dts is not None
        self._write(_HEAD.pack(packet.pts, dts, packet.duration, size, packet.is_keyframe, has_dts))
        self._write(packet.data)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._contents = Contents(self._contents.bytes + len(data), zlib.crc32(data, self._contents.crc32))

    def readable(self) -> Path:
        """Return where the packets so far can be read, until `close`."""
        self._file.flush()
        return self._temporary.path

    def complete(self) -> Contents:
        """Write everything to the disk and give the file its name, in this order."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.path.replace(self._path)
        self._temporary.close()
        sync_folder(self._path.parent)
        return self._contents

    def close(self) -> None:
        """Remove the file; do nothing after `complete`."""
        self._temporary.close()
        self._file.close()


def is_whole(path: Path, contents: Contents) -> bool:
    """Return whether a file has these contents."""
    crc = 0
    try:
        if path.stat().st_size != contents.bytes:
            return False
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                crc = zlib.crc32(block, crc)
    except OSError:
        return False
    return crc == contents.crc32


def read_packets(path: Path) -> Iterator[EncodedPacket]:
    """Yield the packets of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is cut off, or not such a file.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{path} holds no packets")
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size:
                raise ValueError(f"{path} is cut off")
            pts, dts, duration, size, is_keyframe, has_dts = _HEAD.unpack(head)
            data = file.read(size)
            if len(data) < size:
                raise ValueError(f"{path} is cut off")
            yield EncodedPacket(data, pts, dts if has_dts else None, duration, is_keyframe)


def joined(segments: Iterable[Iterable[EncodedPacket]]) -> Iterator[EncodedPacket]:
    """Yield the packets of successive segments with increasing decoding times.

    An encoder that reorders frames sets its first decoding times before the first frame, where they may overlap those
    of the segment before. One encoder for all would have decoded its last frames then: these times are taken.
    """
    times_before: deque[int] = deque(maxlen=_MOST_REORDERED)
    last: int | None = None
    for segment in segments:
        packets = iter(segment)
        head = list(islice(packets, _MOST_REORDERED))
        begin = min((packet.pts for packet in head), default=0)
        early = sum(packet.dts is not None and packet.dts < begin for packet in head)
        taken = list(times_before)[-early:] if early and len(times_before) >= early else []
        times: list[int] = []
        for packet, dts in zip(chain(head, packets), chain(taken, repeat(None)), strict=False):
            times.append(packet.pts)
            placed = packet.dts if dts is None or packet.dts is None else dts
            if placed is not None:
                if last is not None and placed <= last:
                    placed = last + 1
                last = placed
            yield replace(packet, dts=placed)
        times_before.extend(sorted(times)[-_MOST_REORDERED:])
