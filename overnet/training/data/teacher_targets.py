"""A teacher's outputs on whole training images, computed once and kept in one memory-mapped file for each scale.

The file lies beside the packed images. It is a line of JSON that says what it is, and then for each packed image the
low-resolution image (H x W x 3 uint8 RGB), the teacher's output (sH x sW x 3 uint8), and the CRC-32 of both. It grows
under another name, so that filling that was interrupted goes on, and gets its own name when it is whole.
"""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from overnet.errors import InputError, OutputError, file_errors, printable
from overnet.imaging.resample import imresize
from overnet.training.data.packed_images import MappedFile, PackedImages
from overnet.types import Image
from overnet.words import counted

_CHECKSUM_BYTES = 4
_FLUSH_EVERY = 16


class TeacherTargets(MappedFile):
    """A whole file of one teacher's outputs at one scale, opened for reading.

    Args:
        images: the packed images that the outputs belong to.
        scale: the teacher's.
        teacher_sha256: of the teacher's file, hexadecimal.

    Raises:
        InputError: there is no such file, it is not whole, or it is of other images or another teacher.
    """

    def __init__(self, images: PackedImages, scale: int, teacher_sha256: str) -> None:
        self.scale, self.teacher_sha256 = scale, teacher_sha256
        self.path = targets_path(images, scale, teacher_sha256)
        header = _header(images, scale, teacher_sha256)
        self._sizes, self._offsets = _layout(images, scale, len(header))
        with file_errors(InputError, self.path), self.path.open("rb") as file:
            same = file.read(len(header)) == header
            size = self.path.stat().st_size
        if not same:
            raise InputError(f"{printable(self.path)}: not this teacher's outputs on these images")
        if size != self._offsets[-1]:
            raise InputError(f"{printable(self.path)}: truncated or damaged, {size} bytes of {self._offsets[-1]}")

    def __getitem__(self, index: int) -> tuple[Image, Image]:
        """Return an image reduced by the scale and the teacher's output, H x W x 3 and sH x sW x 3, read-only."""
        height, width = self._sizes[index]
        start = self._offsets[index]
        middle = start + height * width * 3
        end = self._offsets[index + 1] - _CHECKSUM_BYTES
        low = self._bytes[start:middle].reshape(height, width, 3)
        return low, self._bytes[middle:end].reshape(height * self.scale, width * self.scale, 3)


def targets_path(images: PackedImages, scale: int, teacher_sha256: str) -> Path:
    """Return the file's name: beside the packed images, with the scale and the beginnings of both hashes."""
    key = f"{teacher_sha256[:12]}-{images.sha256[:12]}"
    return images.path.with_name(f"{images.path.stem}.x{scale}.{key}.targets")


def fill_targets(
    images: PackedImages,
    scale: int,
    teacher_sha256: str,
    upscale: Callable[[Image], Image],
    *,
    report: Callable[[str], None],
) -> TeacherTargets:
    """Compute a teacher's outputs on all packed images, or open those that are there.

    Any program can call this with a teacher that `overnet train --teacher` cannot run itself. Afterwards ``--teacher``
    with the file whose SHA-256 was given takes the outputs without running it.

    Args:
        images: the packed images.
        scale: the teacher's, a whole number.
        teacher_sha256: of the teacher's file, hexadecimal.
        upscale: the teacher: H x W x 3 uint8 in, (H * scale) x (W * scale) x 3 uint8 out.
        report: called with a line of text when filling begins, and about once a minute of images.

    Returns:
        The whole file, opened.

    Raises:
        InputError: the teacher's output has another size.
        OutputError: the file cannot be written.
    """
    path = targets_path(images, scale, teacher_sha256)
    if path.exists():
        try:
            return TeacherTargets(images, scale, teacher_sha256)
        except InputError as error:
            report(f"{error}; computed again")
    partial = path.with_name(f".{path.name}.partial")
    header = _header(images, scale, teacher_sha256)
    sizes, offsets = _layout(images, scale, len(header))
    try:
        partial.open("ab").close()
        with partial.open("rb+") as file:
            done = _whole_records(file, header, offsets)
            if done < len(images):
                report(f"teacher x{scale}: outputs on {len(images) - done} of {counted(len(images), 'image')}")
            file.seek(offsets[done])
            for index in range(done, len(images)):
                height, width = sizes[index]
                image = images[index][: height * scale, : width * scale]
                low = imresize(image, size=(height, width), edge="replicate") if min(height, width) else image[:0, :0]
                output = upscale(low) if low.size else low
                if output.shape != (height * scale, width * scale, 3) or output.dtype != np.uint8:
                    raise InputError(
                        f"the teacher makes {output.shape} {output.dtype} of an image of {height} x {width}; "
                        f"expected {(height * scale, width * scale, 3)} uint8"
                    )
                content = low.tobytes() + output.tobytes()
                file.write(content + zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little"))
                if index % _FLUSH_EVERY == 0:
                    file.flush()
                    os.fsync(file.fileno())
                    report(f"teacher x{scale}: {index + 1} of {counted(len(images), 'image')}")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{printable(path)} cannot be written: {error.strerror or error}") from error
    return TeacherTargets(images, scale, teacher_sha256)


def _header(images: PackedImages, scale: int, teacher_sha256: str) -> bytes:
    content = {"format": "overnet teacher targets 1", "scale": scale, "teacher_sha256": teacher_sha256}
    return json.dumps({**content, "images_sha256": images.sha256}).encode() + b"\n"


def _layout(images: PackedImages, scale: int, start: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Return each low-resolution image's height and width, and where its record begins; last, where the file ends."""
    sizes = [(image.height // scale, image.width // scale) for image in images.images]
    offsets = [start]
    for height, width in sizes:
        offsets.append(offsets[-1] + height * width * 3 * (1 + scale**2) + _CHECKSUM_BYTES)
    return sizes, offsets


def _whole_records(file: BinaryIO, header: bytes, offsets: list[int]) -> int:
    """Count the records at a file's beginning that are whole; cut the file after them, and begin it where it is new."""
    if file.read(len(header)) != header:
        file.seek(0)
        file.truncate()
        file.write(header)
        return 0
    done = 0
    while done + 1 < len(offsets):
        record = file.read(offsets[done + 1] - offsets[done])
        content, checksum = record[:-_CHECKSUM_BYTES], record[-_CHECKSUM_BYTES:]
        # A machine that lost its power may leave zeros in place of what was written last.
        if len(record) < offsets[done + 1] - offsets[done]:
            break
        if zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
            break
        done += 1
    file.seek(offsets[done])
    file.truncate()
    return done
