"""Write and read the metadata of exported ONNX files, such as scale, precision and hash of the weights.

Only this module knows their names. Reading needs neither onnx nor torch, because the metadata are at the top level of
the file's protobuf message.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from overnet.errors import ArtifactError, InputError, printable
from overnet.files.atomic import open_regular

# The prefix keeps these keys apart from those of other tools.
_PREFIX = "overnet."
FORMAT_VERSION = 1

# The precisions of the arithmetic, the most exact first.
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

# The input and output of every exported file: uint8, N x H x W x 3, RGB.
INPUT_NAME = "image"
OUTPUT_NAME = "upscaled"
# Engines have these too, for tiles (`overnet.export.engine.engine_graph`). FP32, N x channels of all means x 1 x 1:
# the means over the image, those to use in their place, and whether to use these, one number, 0 or 1.
MEANS_NAME = "means"
GIVEN_MEANS_NAME = "given_means"
USE_GIVEN_MEANS_NAME = "use_given_means"

# Numbers of protobuf fields in onnx.proto: ModelProto.metadata_props; StringStringEntryProto.key and .value.
_METADATA_FIELD, _KEY_FIELD, _VALUE_FIELD = 14, 1, 2
_GRAPH_FIELD = 7
_MAX_METADATA_BYTES = 1 << 20
_LARGEST_REACH = 1024
_LARGEST_ACTIVATION_BYTES = 10_000_000


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return height and width after upscaling: each times the scale, rounded to the nearest integer (halves up)."""
    # Rounded first: as numbers, 100 x 1.005 is a little less than 100.5.
    height, width = (max(1, math.floor(round(side * scale, 9) + 0.5)) for side in (height, width))
    return height, width


def exact_scale(scale: float) -> Fraction:
    """Return a scale as a fraction of small numbers: 2.3 is 23/10, although it has no exact binary form."""
    return Fraction(scale).limit_denominator(1000)


@dataclass(frozen=True)
class Foreign:
    """What the metadata of a file state besides, where it was made from another program's ONNX file.

    Attributes:
        source: the name of that file; its hash is the artifact's `weights_sha256`.
        margin: how many pixels of the input to each side a pixel of the result depends on, besides its means over the
            image; None where the image cannot be cut into tiles.
        align: tiles begin at multiples of this many pixels.
        largest: the largest height and width of an image; None where there is no limit.
        multiply_accumulates: for each input pixel; None where they are not stated.
    """

    source: str
    margin: int | None = None
    align: int = 1
    largest: tuple[int, int] | None = None
    multiply_accumulates: float | None = None

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata entries to store in the file, without the prefix."""
        stated = {
            "source": self.source,
            "margin": self.margin,
            "align": self.align,
            "largest": self.largest and "x".join(map(str, self.largest)),
            "multiply_accumulates": self.multiply_accumulates,
        }
        return {name: str(value) for name, value in stated.items() if value is not None}

    @classmethod
    def from_entries(cls, entries: dict[str, str]) -> Foreign | None:
        """Read the metadata entries, without the prefix; None where the file is of this program alone.

        Raises:
            ValueError: an entry is out of range.
        """
        if "source" not in entries:
            return None
        largest = None
        if "largest" in entries:
            sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", entries["largest"])
            if sides is None or "0" in sides.groups():
                raise ValueError(f"largest {entries['largest'][:40]!r} is no size")
            largest = int(sides[1]), int(sides[2])
        found = cls(
            entries["source"],
            int(entries["margin"]) if "margin" in entries else None,
            int(entries.get("align", "1")),
            largest,
            float(entries["multiply_accumulates"]) if "multiply_accumulates" in entries else None,
        )
        if not (0 <= (found.margin or 0) <= _LARGEST_REACH and 1 <= found.align <= _LARGEST_REACH):
            raise ValueError(f"margin {found.margin} or align {found.align} out of range")
        return found


@dataclass(frozen=True)
class Artifact:
    """The metadata of an exported file.

    Attributes:
        scale: the factor from the input's to the output's height and width.
        overscale: the network's overscale factor; of a plain network, which has none, its scale.
        precision: precision of the arithmetic, one of `PRECISIONS`.
        weights_sha256: hash of the weights it was made from, as `overnet.network.checkpoint.weights_sha256` gives it.
        producer: name and version of the program that wrote it.
        reach: how many pixels of the input to each side a pixel of the result depends on; None where it depends on
            the whole image, by means over it.
        activation_bytes: memory of the graph's tensors in FP32 at its peak, for each input pixel
            (`overnet.export.graph.costs`); None where it is not stated.
        foreign: of a file that was made from another program's ONNX file; None for this program's networks.
    """

    scale: float
    overscale: int
    precision: str
    weights_sha256: str
    producer: str = ""
    reach: int | None = None
    activation_bytes: int | None = None
    foreign: Foreign | None = None

    @property
    def has_means(self) -> bool:
        """Whether tiles are upscaled with the means of the whole image."""
        return self.reach is None and (self.foreign is None or self.foreign.margin is not None)

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata entries to store in the file."""
        entries = {"format": FORMAT_VERSION, **vars(self), "scale": f"{self.scale:g}"}
        del entries["foreign"]
        if self.foreign is not None:
            entries |= self.foreign.to_metadata()
        return {f"{_PREFIX}{name}": str(value) for name, value in entries.items() if value is not None}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], *, name: str) -> Artifact:
        """Read the metadata entries of a file.

        Args:
            metadata: all of a file's metadata entries.
            name: the file's name, for messages.

        Raises:
            ArtifactError: an entry is missing or invalid.
        """
        entries = {key[len(_PREFIX) :]: value for key, value in metadata.items() if key.startswith(_PREFIX)}
        if "scale" not in entries:
            raise ArtifactError(
                f"{name}: an ONNX file of another program (it states no scale): give the file itself, with a name that "
                "ends in .onnx, or a folder that overnet-export converted it into"
            )
        try:
            version = int(entries["format"])
            artifact = cls(
                scale=float(entries["scale"]),
                overscale=int(entries["overscale"]),
                precision=entries["precision"],
                weights_sha256=entries["weights_sha256"],
                producer=entries.get("producer", ""),
                reach=int(entries["reach"]) if "reach" in entries else None,
                activation_bytes=int(entries["activation_bytes"]) if "activation_bytes" in entries else None,
                foreign=Foreign.from_entries(entries),
            )
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{name}: its metadata is damaged ({error})") from error
        if version > FORMAT_VERSION:
            raise ArtifactError(f"{name}: written by a newer overnet (format {version}); upgrade this one")
        if artifact.precision not in PRECISIONS:
            raise ArtifactError(f"{name}: its metadata states a precision that is not known, {artifact.precision!r}")
        if artifact.reach is not None and not 0 <= artifact.reach <= _LARGEST_REACH:
            raise ArtifactError(f"{name}: its metadata is damaged (reach {artifact.reach} out of range)")
        memory = artifact.activation_bytes
        if memory is not None and not 1 <= memory <= _LARGEST_ACTIVATION_BYTES:
            raise ArtifactError(f"{name}: its metadata is damaged (activation_bytes {memory} out of range)")
        if not (1 <= artifact.scale <= 64 and re.fullmatch(r"[0-9a-f]{64}", artifact.weights_sha256)):
            raise ArtifactError(f"{name}: its metadata is damaged (scale {artifact.scale:g} or hash out of range)")
        return artifact


def read_artifact(path: Path) -> Artifact:
    """Read the metadata of an exported ONNX file, without loading its graph.

    Raises:
        ArtifactError: the file is missing, empty, truncated, not ONNX, or was not made by overnet export.
    """
    return Artifact.from_metadata(read_onnx_metadata(path), name=str(path))


def is_foreign(path: Path) -> bool:
    """Return whether a file is an ONNX file of another program: a whole one that states no scale of ours.

    A file that cannot be read as ONNX is not one.
    """
    try:
        return f"{_PREFIX}scale" not in read_onnx_metadata(path)
    except ArtifactError:
        return False


def most_exact(folder: Path, files: Iterable[tuple[Path, Artifact]]) -> dict[float, tuple[Path, Artifact]]:
    """Return the file for each scale; of several, the one in the most exact precision.

    Args:
        folder: the folder of the files, for messages.

    Raises:
        InputError: two files are for one scale in the same precision.
    """
    found: dict[float, tuple[Path, Artifact]] = {}
    for path, artifact in sorted(files, key=lambda file: PRECISIONS.index(file[1].precision)):
        other, chosen = found.setdefault(artifact.scale, (path, artifact))
        if other != path and chosen.precision == artifact.precision:
            raise InputError(
                f"{printable(folder)}: {printable(other.name)} and {printable(path.name)} are both for "
                f"x{artifact.scale:g} in {artifact.precision}; name the one that is meant"
            )
    return found


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """Read the metadata entries of any ONNX file.

    Raises:
        ArtifactError: the file cannot be read, or is not a complete ONNX file.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise ArtifactError(f"{path}: the file is empty")
            return _metadata(file, size)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}") from error
    except (EOFError, ValueError) as error:
        raise ArtifactError(f"{path}: not an ONNX file, or a truncated one ({error})") from error


def _metadata(file: BinaryIO, size: int) -> dict[str, str]:
    metadata: dict[str, str] = {}
    has_graph = False
    for field, length in _length_delimited_fields(file, size):
        if field == _METADATA_FIELD:
            if length > _MAX_METADATA_BYTES:
                raise ValueError(f"a metadata entry of {length} bytes")
            strings = {_KEY_FIELD: "", _VALUE_FIELD: ""}
            entry = io.BytesIO(file.read(length))
            for number, size_bytes in _length_delimited_fields(entry, length):
                strings[number] = entry.read(size_bytes).decode("utf-8")
            metadata[strings[_KEY_FIELD]] = strings[_VALUE_FIELD]
        has_graph |= field == _GRAPH_FIELD
    if not has_graph:
        raise ValueError("it holds no graph")
    return metadata


def _length_delimited_fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Yield the number and length of a protobuf message's fields, with the file positioned at their content."""
    position = file.tell()
    while position < end:
        file.seek(position)
        tag = _varint(file)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            _varint(file)
            length = 0
        elif wire_type == 1:
            length = 8
        elif wire_type == 2:
            length = _varint(file)
        elif wire_type == 5:
            length = 4
        else:
            raise ValueError(f"unknown wire type {wire_type}")
        start = file.tell()
        position = start + length
        if field == 0:
            raise ValueError("a field without a number")
        if position > end:
            raise EOFError(f"a field ends {position - end} bytes after the file")
        if wire_type == 2:
            yield field, length


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends inside a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 10 bytes")
