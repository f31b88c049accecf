"""Write and read the sidecar of a TensorRT engine: ``x.engine.json`` describes ``x.engine``, which holds no metadata.

A sidecar states what the engine was made from, for which machine and image sizes, its measured difference from the
network, and the engine's hash. Deserialising an engine runs its code, so an engine with another hash is refused before
TensorRT reads it.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from overnet.errors import ArtifactError, file_errors, printable
from overnet.files.atomic import open_regular
from overnet.files.checked_json import Pattern, Range, from_json, parse_object
from overnet.files.onnx_metadata import Artifact

FORMAT_VERSION = 1
RuntimeName = Literal["tensorrt", "tensorrt-rtx"]
# The names of the libraries in messages.
TITLES: dict[RuntimeName, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}

# A profile's limits. Where a tensor has more than 2^32 elements, TensorRT-RTX 1.7.1 builds without an error and states
# too little memory: from 3072x4096 pixels on for the bundled network, whose widest tensor has 384 channels. So
# the limit is a 4K image. The widest tensor of a network lowers it (`overnet.export.engine.profile.fit_profile`).
LARGEST_SIDE = 16384
LARGEST_PIXELS = 4096 * 2160
LARGEST_BATCH = 64
# Side in pixels of the smallest tile that larger images are upscaled in.
SMALLEST_TILE = 96

_LARGEST_SIDECAR_BYTES = 1 << 16
# The types of fields, with the values that are allowed in the file.
_Hash = Annotated[str, Pattern(r"[0-9a-f]{64}")]
_Words = Annotated[str, Pattern(r"[ -~]{1,200}")]
_Version = Annotated[str, Pattern(r"\d+(\.\d+){1,3}[0-9A-Za-z.+-]{0,20}")]
_Capability = Annotated[str, Pattern(r"\d{1,2}\.\d")]
_Side = Annotated[int, Range(1, LARGEST_SIDE)]
_PerPixel = Annotated[float, Range(0, 1e12)]

# An engine of TensorRT-RTX without a compute capability is for Ampere and later.
_AMPERE = (8, 0)
# Largest ratio of the memories of two boards of one model: a new JetPack reserves a little more or less of it.
_SAME_MEMORY = 1.25


class StaleEngineError(ArtifactError):
    """An undamaged engine that was made for another machine or TensorRT; building it here would help.

    Attributes:
        mismatches: each field that differs, with both values; see `mismatches`.
    """

    def __init__(self, path: Path, mismatches: list[str]) -> None:
        super().__init__(f"{printable(path)}: made for another machine ({'; '.join(mismatches)}); export it again")
        self.mismatches = tuple(mismatches)


@dataclass(frozen=True)
class Environment:
    """The machine and software that an engine is tied to.

    Attributes:
        runtime: the library.
        runtime_version: version that its Python bindings state.
        device_name, compute_capability: those of the GPU, such as ``"Orin"`` and ``"8.7"``; None without a GPU, or
            for an engine that is not tied to one.
        driver: version of the NVIDIA driver. None where it is unknown.
        jetpack: versions of JetPack and L4T. None on other machines than Jetsons.
        operating_system, architecture: the results of `platform.system` and `platform.machine`.
        multiprocessors, memory_bytes: those of the GPU: all models of Jetson Orin have the same name and capability.
            None like `device_name`, and in sidecars of earlier versions.
    """

    runtime: RuntimeName
    runtime_version: _Version
    device_name: _Words | None
    compute_capability: _Capability | None
    driver: _Words | None
    jetpack: _Words | None
    operating_system: _Words
    architecture: _Words
    multiprocessors: Annotated[int, Range(1, 100_000)] | None = None
    memory_bytes: Annotated[int, Range(1, 1 << 50)] | None = None


@dataclass(frozen=True)
class Profile:
    """The image sizes that an engine accepts.

    Attributes:
        minimum, optimum, maximum: height and width in pixels of the smallest images, of those that the engine is
            optimised for, and of the largest.
        batch: the largest number of images at once, which the engine is optimised for; the smallest is one.
    """

    minimum: tuple[_Side, _Side]
    optimum: tuple[_Side, _Side]
    maximum: tuple[_Side, _Side]
    batch: Annotated[int, Range(1, LARGEST_BATCH)] = 1

    @property
    def pixels(self) -> int:
        """The largest number of input pixels at once."""
        return self.maximum[0] * self.maximum[1] * self.batch

    @property
    def is_static(self) -> bool:
        """Whether it accepts images of one size only."""
        return self.minimum == self.maximum

    def problem(self) -> str | None:
        """Return what makes the profile invalid, as the end of a sentence about it; None where it is valid."""
        sides = (*self.minimum, *self.optimum, *self.maximum)
        if not all(1 <= side <= LARGEST_SIDE for side in sides):
            return f"has a side outside 1 to {LARGEST_SIDE} pixels"
        for axis, title in enumerate(("height", "width")):
            low, middle, high = self.minimum[axis], self.optimum[axis], self.maximum[axis]
            if not low <= middle <= high:
                return f"has {title}s of {low}, {middle} and {high}, which do not grow from minimum to maximum"
        if not 1 <= self.batch <= LARGEST_BATCH:
            return f"has a batch of {self.batch}, outside 1 to {LARGEST_BATCH}"
        if self.pixels > LARGEST_PIXELS:
            return (
                f"takes {self.pixels} pixels at once; engines are made for {LARGEST_PIXELS} (4096x2160) at most, and "
                "larger images are upscaled in tiles"
            )
        return None

    def __str__(self) -> str:
        sizes = [f"{height}x{width}" for height, width in (self.minimum, self.optimum, self.maximum)]
        shape = sizes[0] if self.is_static else ":".join(sizes)
        return shape if self.batch == 1 else f"{shape}, batch {self.batch}"


@dataclass(frozen=True)
class Sidecar:
    """The description of an engine.

    Attributes:
        artifact: scale, precision and weights, from the metadata of the ONNX file.
        onnx_sha256: hash of the ONNX file that the engine was built from (`overnet.export.engine.engine_graph` adds
            inputs to its graph).
        engine_sha256, engine_size_bytes: hash and size of the engine file.
        environment: the machine and software that it is tied to.
        profile: the image sizes that it accepts.
        activation_memory_bytes: memory beside its weights for the largest images; None where the builder states none.
        multiply_accumulates_per_pixel, activation_bytes_per_pixel: costs of the graph (`overnet.export.graph.costs`).
        psnr_db: PSNR between the results of the engine, or of its graph, and of its source, which is the network in
            PyTorch or an ONNX file. None where both are equal.
        largest_difference: the largest difference between these results, in grey levels.
        measured_by: the two programs that were compared, as text.
    """

    artifact: Artifact
    onnx_sha256: _Hash
    engine_sha256: _Hash
    engine_size_bytes: Annotated[int, Range(1, 1 << 34)]
    environment: Environment
    profile: Profile
    activation_memory_bytes: Annotated[int, Range(0, 1 << 48)] | None
    multiply_accumulates_per_pixel: _PerPixel
    activation_bytes_per_pixel: _PerPixel
    psnr_db: Annotated[float, Range(0, 500)] | None
    largest_difference: Annotated[int, Range(0, 255)]
    measured_by: _Words


@dataclass(frozen=True)
class _Header:
    """The fields of the file that `Sidecar` does not have, or has in another form."""

    format: Annotated[int, Range(1, 1 << 30)]
    artifact: dict[str, Annotated[str, Pattern(r"[ -~]{0,200}")]]


def sidecar_path(engine_path: Path) -> Path:
    """Return the path of an engine's sidecar."""
    return engine_path.with_name(f"{engine_path.name}.json")


def sidecar_text(sidecar: Sidecar) -> str:
    """Return the content of the sidecar's file.

    Raises:
        ArtifactError: a value is out of range and could not be read again.
    """
    environment, profile = sidecar.environment, sidecar.profile
    content = {
        **vars(sidecar),
        "format": FORMAT_VERSION,
        "artifact": sidecar.artifact.to_metadata(),
        "environment": vars(environment),
        "profile": vars(profile),
    }
    text = json.dumps(content, sort_keys=True, indent=2) + "\n"
    _parsed(text.encode(), name="the engine's sidecar")
    return text


def read_sidecar(engine_path: Path) -> Sidecar:
    """Read the sidecar of an engine.

    Args:
        engine_path: the engine, with the sidecar beside it.

    Raises:
        ArtifactError: the sidecar is missing, too large, not JSON, or a field is missing, of another type or out of
            range.
    """
    path = sidecar_path(engine_path)
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST_SIDECAR_BYTES + 1)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{printable(engine_path)}: no {printable(path.name)} beside it, which says what the engine is"
        ) from error
    except OSError as error:
        raise ArtifactError(f"{printable(path)}: {error.strerror or error}") from error
    if len(content) > _LARGEST_SIDECAR_BYTES:
        raise ArtifactError(f"{printable(path)}: larger than {_LARGEST_SIDECAR_BYTES} bytes; not an engine's sidecar")
    return _parsed(content, name=printable(path))


def mismatches(sidecar: Sidecar, environment: Environment) -> list[str]:
    """Return what makes an engine unusable in an environment: each field that differs, with both values.

    An engine of TensorRT is tied to the version, the device and the platform it was built with; TensorRT itself finds
    out whether an engine runs with another driver. One of TensorRT-RTX is
    compiled again on each device, for any from Ampere on unless one was named, and on Linux and Windows alike; but it
    too is tied to the version.

    Args:
        sidecar: the engine's.
        environment: the machine it is to run on, from `overnet.system.environment.current_environment`.
    """
    engine = sidecar.environment
    if engine.runtime != environment.runtime:
        return [_difference("runtime", TITLES[engine.runtime], TITLES[environment.runtime])]
    compared = [
        (f"{TITLES[engine.runtime]} version", engine.runtime_version, environment.runtime_version),
        ("architecture", engine.architecture, environment.architecture),
    ]
    tied_to_capability = engine.runtime == "tensorrt" or engine.compute_capability is not None
    if tied_to_capability:
        compared.append(("compute capability", engine.compute_capability or "", environment.compute_capability or ""))
    if engine.runtime == "tensorrt":
        compared.append(("device", engine.device_name or "", environment.device_name or ""))
        compared.append(("operating system", engine.operating_system, environment.operating_system))
        if engine.multiprocessors is not None:
            compared.append(("multiprocessors", str(engine.multiprocessors), str(environment.multiprocessors or "")))
        if engine.memory_bytes is not None:
            there, here = engine.memory_bytes, environment.memory_bytes or 0
            if max(there, here) > _SAME_MEMORY * min(there, here):
                compared.append(("GPU memory", f"{there / 1e9:.1f} GB", f"{here / 1e9:.1f} GB" if here else ""))
    found = [_difference(title, *values) for title, *values in compared if values[0] != values[1]]
    capability = environment.compute_capability
    if not tied_to_capability and capability is not None and tuple(map(int, capability.split("."))) < _AMPERE:
        found.append(_difference("compute capability", "8.0 or later", capability))
    return found


def remarks(sidecar: Sidecar, environment: Environment, *, exactly: bool = False) -> list[str]:
    """Return the differences that may make a TensorRT engine slower but leave it usable: driver and JetPack.

    With `exactly`, drivers of one major version are different ones too.
    """
    engine = sidecar.environment
    if engine.runtime != "tensorrt" or environment.runtime != "tensorrt":
        return []
    compared = [
        ("driver", *((each.driver or "") if exactly else _major(each.driver) for each in (engine, environment))),
        ("JetPack", engine.jetpack or "", environment.jetpack or ""),
    ]
    return [_difference(title, there, here) for title, there, here in compared if there != here]


def load_engine(path: Path, environment: Environment) -> tuple[bytes, Sidecar]:
    """Read an engine that is safe to deserialise on this machine.

    Args:
        path: the engine.
        environment: the machine it is to run on, from `overnet.system.environment.current_environment`.

    Returns:
        The content of the engine file, and its sidecar.

    Raises:
        StaleEngineError: it is made for another environment; building it again helps.
        ArtifactError: the engine or its sidecar is missing or damaged, or the engine is not the one the sidecar is for.
    """
    sidecar = read_sidecar(path)
    with file_errors(ArtifactError, path), open_regular(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes != sidecar.engine_size_bytes:
            raise ArtifactError(
                f"{printable(path)}: {size_bytes} bytes; its sidecar is for {sidecar.engine_size_bytes}"
            )
        serialized = file.read(size_bytes)
    if hashlib.sha256(serialized).hexdigest() != sidecar.engine_sha256:
        raise ArtifactError(f"{printable(path)}: not the engine that its sidecar is for (its sha256 is another)")
    found = mismatches(sidecar, environment)
    if found:
        raise StaleEngineError(path, found)
    return serialized, sidecar


def _parsed(content: bytes, *, name: str) -> Sidecar:
    fields = parse_object(content, name=name, error=ArtifactError)
    own = {key: fields.pop(key) for key in ("format", "artifact") if key in fields}
    header = from_json(_Header, own, name=name, error=ArtifactError)
    if header.format > FORMAT_VERSION:
        raise ArtifactError(f"{name}: written by a newer overnet (format {header.format}); upgrade this one")
    if "overnet.scale" not in header.artifact:
        raise ArtifactError(f"{name}: artifact.overnet.scale is missing")
    fields["artifact"] = Artifact.from_metadata(header.artifact, name=name)
    sidecar = from_json(Sidecar, fields, name=name, error=ArtifactError)
    problem = sidecar.profile.problem()
    if problem:
        raise ArtifactError(f"{name}: profile {problem}")
    return sidecar


def _difference(title: str, there: str, here: str) -> str:
    return f"{title}: engine {there or 'unknown'}, here {here or 'unknown'}"


def _major(version: str | None) -> str:
    return version.partition(".")[0] if version else ""
