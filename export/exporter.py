"""The export of a checkpoint or an ONNX file to files for the runtime, each compared with its source."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from overnet.export.engine.build import BuiltEngine, TooLargeError, build_engine, check_builder
from overnet.export.engine.profile import MEMORY_SHARE, available_device_memory, fit_profile, stepped_down
from overnet.export.graph.costs import Costs, count_costs
from overnet.export.options import EngineOptions, ExportOptions, is_onnx
from overnet.export.precision.convert import LoweredGraph
from overnet.export.verify.comparison import Parity, comparison_images
from overnet.export.verify.engine import check_engine
from overnet.files.atomic import atomic_write
from overnet.files.engine_sidecar import Profile, Sidecar, sidecar_path, sidecar_text
from overnet.files.onnx_metadata import Artifact, Foreign, is_foreign
from overnet.system.cuda_device import cuda_device
from overnet.types import Progress

if TYPE_CHECKING:
    from overnet.export.foreign.source import ForeignSource
    from overnet.export.from_checkpoint import CheckpointSource
    from overnet.export.from_onnx import OnnxSource

# What the files of one scale are made from.
Source: TypeAlias = "CheckpointSource | OnnxSource | ForeignSource"

TIMING_CACHE = "timing.cache"
# TensorRT-RTX builds for Ampere and later unless this compute capability is named.
_TURING = "7.5"


@dataclass(frozen=True)
class ExportedEngine:
    """An engine, beside the ONNX file it was built from.

    Attributes:
        path: of the engine.
        sidecar: the content of its sidecar.
        parity: the difference between the engine and its network; or, where the engine was not run, between the ONNX
            file and its source.
        not_run: why the engine was not run here, in one line; empty where it was.
    """

    path: Path
    sidecar: Sidecar
    parity: Parity
    not_run: str = ""


@dataclass(frozen=True)
class ExportedFile:
    """The result of an export for one scale.

    Attributes:
        path: of the ONNX file.
        artifact: its scale, precision and weights.
        size_bytes: its size.
        parity: its difference from the source.
        costs: counted in its graph.
        seconds: duration of the export.
        notes: for the user, one line each.
        engine: the engine, where one was built.
    """

    path: Path
    artifact: Artifact
    size_bytes: int
    parity: Parity
    costs: Costs
    seconds: float
    notes: tuple[str, ...] = ()
    engine: ExportedEngine | None = None


def export(
    source: Path,
    folder: Path,
    options: ExportOptions,
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Iterator[ExportedFile]:
    """Export the files of each scale in turn.

    Args:
        source: a checkpoint in any form that `overnet.network.checkpoint.load_checkpoint` reads; or an ONNX file, from
            an earlier export or of another program, which needs no torch.
        folder: an existing folder for the files.
        name: the beginning of the files' names, by default the source's name.
        overwrite: whether existing files may be replaced.
        progress: called with each step, also from other threads.

    Yields:
        The result for each scale.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        InputError: a scale is out of the network's range, or the ONNX file cannot be converted as the options say; no
            file is written then. Or no engine fits the device.
        ArtifactError: the ONNX file is not from an export, or a file differs too much from its source. Files of earlier
            scales are kept.
        BuildError: an engine cannot be built; no file is written where there is no GPU that it needs.
        OutputError: a file cannot be written.
    """
    for source_of_scale in open_sources(source, options, name):
        yield export_source(source_of_scale, folder, options, overwrite=overwrite, progress=progress)


def open_sources(source: Path, options: ExportOptions, name: str | None = None) -> list[Source]:
    """Return the source of each scale; see `export`, also for what is raised."""
    if options.engine is not None:
        check_builder(options.engine.target)
    # A checkpoint needs torch, and an ONNX file does not.
    if is_onnx(source) and is_foreign(source):
        from overnet.export.foreign.source import ForeignSource

        return [ForeignSource(source, options, name)]
    if is_onnx(source):
        from overnet.export.from_onnx import OnnxSource

        return [OnnxSource(source, options, name)]
    from overnet.export.from_checkpoint import checkpoint_sources

    return [*checkpoint_sources(source, options, name)]


def export_source(
    source: Source,
    folder: Path,
    options: ExportOptions,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportedFile:
    """Export the files of one scale; see `export`."""
    one_export = _Export(source, folder / source.stem, options, progress or (lambda doing, done, total: None))
    return one_export.run(overwrite=overwrite)


@dataclass(frozen=True)
class _Export:
    """The export of one scale."""

    source: Source
    stem: Path
    options: ExportOptions
    progress: Progress

    def run(self, *, overwrite: bool) -> ExportedFile:
        """Write the files. Either all of them get their names, or none."""
        start = time.perf_counter()
        path = self._path(".onnx")
        with ExitStack() as files:
            # The file opened last is named first, so that an engine is never there without its ONNX file.
            temporary_engine = temporary_sidecar = None
            if self.options.engine is not None:
                temporary_engine = files.enter_context(atomic_write(self._path(".engine"), overwrite=overwrite))
                sidecar_file = sidecar_path(self._path(".engine"))
                temporary_sidecar = files.enter_context(atomic_write(sidecar_file, overwrite=overwrite))
            # An ONNX file that is its own source is not written again.
            is_there = path.exists() and path.samefile(self.source.path)
            temporary = path if is_there else files.enter_context(atomic_write(path, overwrite=overwrite))

            graph, exported = self._graph(temporary, path)
            if self.options.engine is not None and temporary_engine and temporary_sidecar:
                built, engine, notes = self._engine(self.options.engine, graph, exported.costs)
                temporary_engine.write_bytes(built.serialized)
                exported_engine = self._checked(engine, built, exported, graph)
                temporary_sidecar.write_text(sidecar_text(exported_engine.sidecar), encoding="ascii")
                exported = replace(exported, engine=exported_engine, notes=(*exported.notes, *notes))
        return replace(exported, seconds=time.perf_counter() - start)

    def _path(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)

    def _graph(self, temporary: Path, path: Path) -> tuple[LoweredGraph, ExportedFile]:
        """Write the ONNX file, and compare it with the source."""
        images = comparison_images()
        self.progress("making the graph", 0, 0)
        graph = self.source.lowered(images, self.progress)
        if temporary != path:
            temporary.write_bytes(graph.content)
        self.progress("comparing it with its source", 0, 0)
        parity = self.source.check(temporary, graph, images, name=path.name)
        if graph.costs is None and graph.artifact.foreign is not None:
            from overnet.export.foreign.lower import costs_of_foreign

            graph = replace(graph, costs=costs_of_foreign(graph.model, graph.artifact))
        costs = graph.costs or count_costs(graph.model)
        return graph, ExportedFile(path, graph.artifact, len(graph.content), parity, costs, 0.0, graph.notes)

    def _engine(
        self, engine: EngineOptions, graph: LoweredGraph, costs: Costs
    ) -> tuple[BuiltEngine, EngineOptions, tuple[str, ...]]:
        """Build the engine, for smaller images where the device or the library takes none of the wanted size."""
        device, available_bytes = cuda_device(), available_device_memory()
        profile, fitted_notes = fit_profile(
            _within(engine.profile, graph.artifact.foreign),
            costs.activation_bytes_per_pixel,
            available_bytes,
            weights_bytes=len(graph.content),
            precision=graph.artifact.precision,
            widest_per_pixel=costs.widest_per_pixel,
        )
        notes, workspace_bytes = list(fitted_notes), engine.workspace_bytes
        if workspace_bytes is None and device is not None and device.shares_memory and available_bytes is not None:
            # While it tries kernels, TensorRT would otherwise take all of the memory, which the system needs too.
            workspace_bytes = int(available_bytes * MEMORY_SHARE)
        is_turing = device is not None and device.compute_capability == _TURING and engine.target == "tensorrt-rtx"
        while True:
            try:
                built = build_engine(
                    graph.content,
                    profile,
                    target=engine.target,
                    workspace_bytes=workspace_bytes,
                    compute_capability=_TURING if is_turing else None,
                    timing_cache=self.stem.with_name(TIMING_CACHE),
                    log=self._path(".engine.log"),
                    progress=lambda phase, done, total: self.progress(f"building the engine: {phase}", done, total),
                    precision=graph.artifact.precision,
                    is_tiled=engine.is_tiled,
                )
                return built, replace(engine, profile=profile), (*notes, *built.notes)
            except TooLargeError as error:
                smaller = stepped_down(profile)
                if smaller is None or engine.workspace_bytes is not None:
                    raise
                notes.append(f"{error}: {smaller} instead")
                profile = smaller

    def _checked(
        self, engine: EngineOptions, built: BuiltEngine, exported: ExportedFile, graph: LoweredGraph
    ) -> ExportedEngine:
        """Compare the engine with its network, where there is a GPU, and describe it."""
        path, parity, not_run = self._path(".engine"), exported.parity, ""
        self.progress("comparing the engine with its network", 0, 0)
        found = check_engine(
            built.serialized, engine.target, engine.profile, exported.artifact, graph.exact, name=path.name
        )
        if isinstance(found, Parity):
            parity = found
        else:
            not_run = f"{path.name} was not run: {found}"
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
        return ExportedEngine(path, sidecar, parity, not_run)


def _within(profile: Profile, foreign: Foreign | None) -> Profile:
    """Return a profile with no larger images than another program's network takes."""
    if foreign is None or foreign.largest is None:
        return profile
    height, width = foreign.largest
    sizes = (profile.minimum, profile.optimum, profile.maximum)
    minimum, optimum, maximum = ((min(rows, height), min(columns, width)) for rows, columns in sizes)
    return replace(profile, minimum=minimum, optimum=optimum, maximum=maximum)
