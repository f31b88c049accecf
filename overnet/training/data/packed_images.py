"""Training images in one file, decoded once, from which many workers then read patches without decoding again.

The file is a line that names its format, the images' pixels one after the other (H x W x 3 uint8 RGB), a JSON index
with each image's name, size and place, and 8 bytes with the index's length.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from overnet.errors import InputError, printable
from overnet.files.atomic import atomic_write, ensure_folder
from overnet.files.checked_json import from_json, parse_object
from overnet.imaging.image_io import is_image_file, read_rgb
from overnet.types import Image
from overnet.words import counted

_MAGIC = b"overnet images 1\n"
_LENGTH_BYTES = 8
_LARGEST_INDEX_BYTES = 1 << 30


@dataclass(frozen=True)
class PackedImage:
    """An image's name, its size in pixels, and where in the file it begins in bytes."""

    name: str
    height: int
    width: int
    offset: int


@dataclass(frozen=True)
class _Index:
    """The index of a packed file: its images, and the size and time of change of each file they were read from."""

    images: list[PackedImage]
    sources: dict[str, list[int]]


class MappedFile:
    """A file as bytes in memory, mapped at the first use, since each worker process maps it itself."""

    path: Path

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, np.uint8, mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_bytes"}


class PackedImages(MappedFile):
    """A packed file, opened for reading. Images are views of the memory-mapped file, so only used parts are read.

    Raises:
        InputError: the file cannot be read, has another format, or is truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images, self.sources = _read_index(path)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image:
        """Return an image, H x W x 3 uint8 RGB, read-only."""
        image = self.images[index]
        end = image.offset + image.height * image.width * 3
        return self._bytes[image.offset : end].reshape(image.height, image.width, 3)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of all sizes and pixels in their order, hexadecimal; the first use reads the whole file."""
        digest = hashlib.sha256()
        for index, image in enumerate(self.images):
            digest.update(f"{image.height} x {image.width};".encode())
            digest.update(self[index].data)
        return digest.hexdigest()


def pack(
    folders: list[Path],
    path: Path,
    *,
    report: Callable[[str], None],
    check: Callable[[PackedImages], None] = lambda images: None,
) -> PackedImages:
    """Pack all images of some folders into one file, unless `path` holds them already.

    The file appears when it is complete; packing that was interrupted begins again.

    Args:
        folders: searched with their subfolders; or one packed file, which is opened as it is.
        path: the file to make. A file of other images, or of these in an earlier state, is replaced.
        report: called with a line of text when packing begins, and for each damaged image that is left out.
        check: called with the images before they replace an earlier file; what it raises keeps that file.

    Raises:
        InputError: a folder is missing, or the folders hold no image that can be read.
        OutputError: the file cannot be written.
    """
    if len(folders) == 1 and folders[0].is_file():
        images = PackedImages(folders[0])
        check(images)
        return images
    sources = list(_find_sources(folders))
    stamps = {str(source): [source.stat().st_size, source.stat().st_mtime_ns] for source in sources}
    if path.is_file():
        try:
            present = PackedImages(path)
        except InputError:
            report(f"{printable(path)}: damaged, and packed again")
        else:
            if present.sources == stamps:
                check(present)
                return present
    report(f"packing {counted(len(sources), 'image')} into {printable(path)}")
    ensure_folder(path.parent)
    with atomic_write(path, overwrite=True) as temporary, temporary.open("wb") as file:
        _write(file, sources, stamps, report)
        file.flush()
        check(PackedImages(temporary))
    return PackedImages(path)


def _find_sources(folders: list[Path]) -> Iterator[Path]:
    found = False
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{printable(folder)}: no such folder")
        for path in sorted(folder.rglob("*")):
            if not path.name.startswith(".") and is_image_file(path):
                found = True
                yield path.absolute()
    if not found:
        raise InputError(f"{', '.join(map(printable, folders))}: there is no image in it")


def _write(file: BinaryIO, sources: list[Path], stamps: dict[str, list[int]], report: Callable[[str], None]) -> None:
    file.write(_MAGIC)
    images: list[dict[str, Any]] = []
    for source in sources:
        try:
            image = read_rgb(source)
        except InputError as error:
            report(f"{error}, and left out")
            continue
        height, width = image.shape[:2]
        images.append({"name": str(source), "height": height, "width": width, "offset": file.tell()})
        file.write(image.tobytes())
    if not images:
        folders = sorted({printable(source.parent) for source in sources})
        raise InputError(f"{', '.join(folders[:3])}: no image in it can be read, of {len(sources)}")
    index = json.dumps({"images": images, "sources": stamps}).encode()
    file.write(index + len(index).to_bytes(_LENGTH_BYTES, "little"))


def _read_index(path: Path) -> tuple[list[PackedImage], dict[str, list[int]]]:
    name = printable(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise InputError(f"{name}: not a file of packed images")
            file.seek(max(0, size - _LENGTH_BYTES))
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > min(_LARGEST_INDEX_BYTES, size - _LENGTH_BYTES - len(_MAGIC)):
                raise InputError(f"{name}: truncated")
            file.seek(size - _LENGTH_BYTES - length)
            content = file.read(length)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read as packed images ({error})") from error
    index = from_json(_Index, parse_object(content, name=name), name=name)
    end = size - _LENGTH_BYTES - length
    for each in index.images:
        if min(each.height, each.width) < 1 or not len(_MAGIC) <= each.offset <= end - each.height * each.width * 3:
            raise InputError(f"{name}: its index is damaged")
    return index.images, index.sources
