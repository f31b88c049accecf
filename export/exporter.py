"""A checkpoint, or an ONNX file, to files for the runtime, one a scale, each checked before it gets its name."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from overnet.export.engine.build import BuiltEngine, build_engine
from overnet.export.engine.profile import available_device_memory, fit_profile
from overnet.export.graph.costs import Costs, count_costs
from overnet.export.options import CalibrationOptions, EngineOptions, Options, is_onnx
from overnet.export.precision.convert import LoweredGraph
from overnet.export.verify.comparison import Parity, comparison_images
from overnet.files.atomic import atomic_write
from overnet.files.engine_sidecar import RuntimeName, Sidecar, sidecar_path, sidecar_text
from overnet.files.onnx_metadata import Artifact
from overnet.system.cuda_device import cuda_device
from overnet.types import Image, Progress

__all__ = [
    "CalibrationOptions",
    "EngineOptions",
    "ExportedEngine",
    "ExportedFile",
    "Options",
    "Source",
    "export",
]

TIMING_CACHE = "timing.cache"
# TensorRT-RTX builds for Ampere and later unless Turing is named.
_TURING = "7.5"


@dataclass(frozen=True)
class ExportedEngine:
    """An engine that lies beside the ONNX file it was built from.

    Attributes:
        sidecar: what is in its sidecar.
        parity: how far it, or its graph, was found to be from what it was made from.
    """

    path: Path
    sidecar: Sidecar
    parity: Parity


@dataclass(frozen=True)
class ExportedFile:
    """What an export made for one scale: where it is, what it is, and how far it was found to be from its source.

    Attributes:
        path: of the ONNX file.
        costs: counted in the graph (see `overnet.export.graph.costs`).
        seconds: that it took to make and check.
        notes: what the user should know, one line each.
    """

    path: Path
    artifact: Artifact
    size_bytes: int
    parity: Parity
    costs: Costs
    seconds: float
    notes: tuple[str, ...] = ()
    engine: ExportedEngine | None = None


class Source(Protocol):
    """What files of one scale are made from."""

    @property
    def path(self) -> Path:
        """Of the checkpoint or ONNX file."""
        ...

    @property
    def stem(self) -> str:
        """What the files are called, without the suffix: ``name_x2``, ``name_x2_fp16``."""
        ...

    def lowered(self, images: list[Image], progress: Progress) -> LoweredGraph:
        """The graph in the precision asked for; `images` are what its numbers are looked at on."""
        ...

    def check(self, file: Path, graph: LoweredGraph, images: list[Image], *, name: str) -> Parity:
        """Compare a file with the source. Raises an ArtifactError, which calls it `name`, where it is too far."""
        ...

    def check_engine(
        self, built: BuiltEngine, engine: EngineOptions, artifact: Artifact, images: list[Image], *, name: str
    ) -> Parity | None:
        """The same for an engine, on the GPU; None where it cannot be run here."""
        ...


def export(
    source: Path,
    folder: Path,
    options: Options,
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Iterator[ExportedFile]:
    """Make the files of all scales, one after the other.

    Args:
        source: a checkpoint in any form that `overnet.network.checkpoint.load_checkpoint` reads; or an ONNX file of
            ours, which needs no torch.
        folder: where the files go; it exists.
        name: what the files' names begin with; the source's name when left out.
        overwrite: whether existing files may be replaced.
        progress: is told what is being done; may be called from another thread.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        InputError: a scale is out of the network's range, the ONNX file is none of ours or cannot be brought to what is
            asked for, and nothing is made then; or no engine fits the device.
        ArtifactError: a file is too far from its source; what was made before it stays.
        BuildError: an engine cannot be built.
        OutputError: a file cannot be written.
    """
    for one in _sources(source, options, name):
        yield _Export(one, folder / one.stem, options, progress or _silent).run(overwrite=overwrite)


def _sources(source: Path, options: Options, name: str | None) -> list[Source]:
    # Only what a source needs is imported: a checkpoint needs torch.
    if is_onnx(source):
        from overnet.export.from_onnx import OnnxSource

        return [OnnxSource(source, options, name)]
    from overnet.export.from_checkpoint import checkpoint_sources

    return [*checkpoint_sources(source, options, name)]


def _capability_to_name(target: RuntimeName) -> str | None:
    device = cuda_device() if target == "tensorrt-rtx" else None
    return _TURING if device is not None and device.compute_capability == _TURING else None


def _silent(doing: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class _Export:
    """The export of one scale."""

    source: Source
    stem: Path
    options: Options
    progress: Progress

    def run(self, *, overwrite: bool) -> ExportedFile:
        """Make the files: all of them get their names, or none does."""
        start = time.perf_counter()
        path = self._path(".onnx")
        with ExitStack() as files:
            # Of these the last to be opened is the first to get its name: an engine never lies there alone.
            temporary_engine = temporary_sidecar = None
            if self.options.engine is not None:
                temporary_engine = files.enter_context(atomic_write(self._path(".engine"), overwrite=overwrite))
                sidecar_file = sidecar_path(self._path(".engine"))
                temporary_sidecar = files.enter_context(atomic_write(sidecar_file, overwrite=overwrite))
            # The engine of an ONNX file that stays as it is may come to lie beside it.
            is_there = path.exists() and path.samefile(self.source.path)
            temporary = path if is_there else files.enter_context(atomic_write(path, overwrite=overwrite))

            graph, exported = self._graph(temporary, path)
            if self.options.engine is not None and temporary_engine and temporary_sidecar:
                built, engine, notes = self._engine(self.options.engine, graph, exported.costs)
                temporary_engine.write_bytes(built.serialized)
                sidecar, parity = self._sidecar(engine, built, exported, graph)
                temporary_sidecar.write_text(sidecar_text(sidecar), encoding="ascii")
                exported_engine = ExportedEngine(self._path(".engine"), sidecar, parity)
                exported = replace(exported, engine=exported_engine, notes=(*exported.notes, *notes))
        return replace(exported, seconds=time.perf_counter() - start)

    def _path(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)

    def _graph(self, temporary: Path, path: Path) -> tuple[LoweredGraph, ExportedFile]:
        """Write the ONNX file, and check it."""
        images = comparison_images()
        self.progress("making the graph", 0, 0)
        graph = self.source.lowered(images, self.progress)
        if temporary != path:
            temporary.write_bytes(graph.content)
        self.progress("comparing it with what it was made from", 0, 0)
        parity = self.source.check(temporary, graph, images, name=path.name)
        costs = count_costs(graph.model)
        return graph, ExportedFile(path, graph.artifact, len(graph.content), parity, costs, 0.0, graph.notes)

    def _engine(
        self, engine: EngineOptions, graph: LoweredGraph, costs: Costs
    ) -> tuple[BuiltEngine, EngineOptions, tuple[str, ...]]:
        """Build the engine, for smaller images where the device's memory is short."""
        fitted = fit_profile(
            engine.profile,
            costs.activation_bytes_per_pixel,
            available_device_memory(),
            weights_bytes=len(graph.content),
            precision=graph.artifact.precision,
        )
        built = build_engine(
            graph.content,
            fitted.profile,
            target=engine.target,
            workspace_bytes=engine.workspace_bytes,
            compute_capability=_capability_to_name(engine.target),
            timing_cache=self.stem.with_name(TIMING_CACHE),
            log=self._path(".engine.log"),
            progress=lambda phase, done, total: self.progress(f"building the engine: {phase}", done, total),
        )
        return built, replace(engine, profile=fitted.profile), (*fitted.notes, *built.notes)

    def _sidecar(
        self, engine: EngineOptions, built: BuiltEngine, exported: ExportedFile, graph: LoweredGraph
    ) -> tuple[Sidecar, Parity]:
        """Check the engine itself, where a GPU is, and write down what is known of it."""
        name = self._path(".engine").name
        parity = self.source.check_engine(built, engine, exported.artifact, comparison_images(), name=name)
        parity = parity or exported.parity
        sidecar = Sidecar(
            artifact=exported.artifact,
            onnx_sha256=hashlib.sha256(graph.content).hexdigest(),
            engine_sha256=hashlib.sha256(built.serialized).hexdigest(),
            engine_size_bytes=len(built.serialized),
            environment=built.environment,
            profile=engine.profile,
            activation_memory_bytes=built.activation_memory_bytes,
            multiply_accumulates_per_pixel=exported.costs.multiply_accumulates_per_pixel,
            activation_bytes_per_pixel=exported.costs.activation_bytes_per_pixel,
            psnr_db=parity.psnr_db if math.isfinite(parity.psnr_db) else None,
            largest_difference=parity.largest_difference,
            measured_by=parity.statement,
        )
        return sidecar, parity
