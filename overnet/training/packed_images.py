"""Training images in one file, decoded once: many workers then read patches out of it at no cost but the copy.

The file is a line that says what it is, the images' pixels one after the other (H x W x 3 uint8 RGB), a JSON index
with each image's name, size and place, and 8 bytes with the index's length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from overnet.errors import InputError, printable
from overnet.files.atomic import atomic_write, ensure_folder
from overnet.files.checked_json import from_json, parse_object
from overnet.imaging.image_io import READABLE_SUFFIXES, read_rgb
from overnet.types import Image

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


class PackedImages:
    """A packed file, opened for reading: images are views of the file, and nothing is read but what is looked at.

    Raises:
        InputError: it cannot be read, is not one of ours, or is not whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images, self.sources = _read_index(path)
        self._bytes: NDArray[np.uint8] | None = None
        self._sha256: str | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image:
        """H x W x 3 uint8 RGB, not to be written to."""
        if self._bytes is None:
            # Only now: a worker process opens its own.
            self._bytes = np.memmap(self.path, np.uint8, mode="r")
        image = self.images[index]
        end = image.offset + image.height * image.width * 3
        return self._bytes[image.offset : end].reshape(image.height, image.width, 3)

    @property
    def sha256(self) -> str:
        """Hash of all sizes and pixels in their order, hexadecimal; computed once, from the whole file."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            for index, image in enumerate(self.images):
                digest.update(f"{image.height} x {image.width};".encode())
                digest.update(self[index].data)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bytes": None}


def pack(folders: list[Path], path: Path, *, say: Callable[[str], None]) -> PackedImages:
    """Pack all images of some folders into one file, unless `path` holds them already.

    The file appears when it is whole; packing that was interrupted starts anew.

    Args:
        folders: looked through with the folders in them; or one packed file, which is taken as it is.
        path: the file to make. One of other images, or of these in an earlier state, is replaced.
        say: told what happens, and which images are left out because they are damaged.

    Raises:
        InputError: a folder is missing, or there is no image in them.
        OutputError: the file cannot be written.
    """
    if len(folders) == 1 and folders[0].is_file():
        return PackedImages(folders[0])
    sources = list(_find_sources(folders))
    stamps = {str(source): [source.stat().st_size, source.stat().st_mtime_ns] for source in sources}
    if path.is_file():
        try:
            present = PackedImages(path)
        except InputError:
            say(f"{printable(path)}: damaged, and packed anew")
        else:
            if present.sources == stamps:
                return present
    say(f"packing {len(sources)} images into {printable(path)}")
    ensure_folder(path.parent)
    with atomic_write(path, overwrite=True) as temporary, temporary.open("wb") as file:
        _write(file, sources, stamps, say)
    return PackedImages(path)


def _find_sources(folders: list[Path]) -> Iterator[Path]:
    found = False
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{printable(folder)}: no such folder")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in READABLE_SUFFIXES and not path.name.startswith(".") and path.is_file():
                found = True
                yield path.absolute()
    if not found:
        raise InputError(f"{', '.join(map(printable, folders))}: there is no image in it")


def _write(file: BinaryIO, sources: list[Path], stamps: dict[str, list[int]], say: Callable[[str], None]) -> None:
    file.write(_MAGIC)
    images: list[dict[str, Any]] = []
    for source in sources:
        try:
            image = read_rgb(source)
        except InputError as error:
            say(f"{error}, and left out")
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
