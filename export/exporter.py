"""A checkpoint to files for the runtime, one a scale, each compared with the network before it gets its name."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from overnet.artifact import Artifact
from overnet.checkpoint import load_checkpoint
from overnet.cuda_device import cuda_device
from overnet.deploy import DeployedNetwork, deploy
from overnet.errors import InputError
from overnet.export.calibration import calibration_pictures
from overnet.export.costs import Costs, count_costs
from overnet.export.engine_gate import pass_engine_gate
from overnet.export.gate import gate_pictures, pass_gate
from overnet.export.layer_choice import Progress
from overnet.export.lowering import Calibration, LoweredGraph, lower
from overnet.export.onnx_export import Form
from overnet.export.parity import Parity, Picture
from overnet.export.profile import available_device_memory, fit_profile
from overnet.export.trt_build import BuiltEngine, build_engine
from overnet.model import OverNet
from overnet.sidecar import Profile, RuntimeName, Sidecar, sidecar_path, sidecar_text
from overnet.writing import whole_file

TIMING_CACHE = "timing.cache"
# TensorRT-RTX builds for Ampere and later unless Turing is named.
_TURING = "7.5"


@dataclass(frozen=True)
class EngineOptions:
    """Which engine to build from each ONNX file.

    Attributes
    ----------
    target : the library that is to run it.
    profile : which pictures it is to take; smaller where the device's memory is short.
    workspace_bytes : the most scratch memory that it may need; None sets no limit.
    """

    target: RuntimeName
    profile: Profile
    workspace_bytes: int | None = None


@dataclass(frozen=True)
class CalibrationOptions:
    """How to come to INT8.

    Attributes
    ----------
    folder : pictures to calibrate on; None for the set that comes with the package.
    max_loss_db : the most PSNR against the truth that it may cost on them.
    """

    folder: Path | None = None
    max_loss_db: float = 0.1


@dataclass(frozen=True)
class Options:
    """What to make.

    Attributes
    ----------
    scales : whole numbers, each from 1 to the network's overscale factor.
    precision : of the arithmetic inside, one of `overnet.artifact.PRECISIONS`.
    form : which of the forms of the graph.
    significant_bits : bits kept of each weight in an FP32 file, 24 being all (see `overnet.export.graph`).
    calibration : for INT8.
    engine : None for ONNX files alone.
    """

    scales: tuple[int, ...] = (2, 3, 4)
    precision: str = "fp16"
    form: Form = "default"
    significant_bits: int = 24
    calibration: CalibrationOptions = CalibrationOptions()
    engine: EngineOptions | None = None


@dataclass(frozen=True)
class ExportedEngine:
    """An engine that lies beside the ONNX file it was built from.

    Attributes
    ----------
    sidecar : what is in its sidecar.
    """

    path: Path
    sidecar: Sidecar


@dataclass(frozen=True)
class ExportedFile:
    """What an export made for one scale: where it is, what it is, and how far from the network it was found to be.

    Attributes
    ----------
    path : of the ONNX file.
    costs : counted in the graph (see `overnet.export.costs`).
    seconds : that it took to make and check.
    notes : what the user should know, one line each.
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
    checkpoint: Path,
    folder: Path,
    options: Options,
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Iterator[ExportedFile]:
    """Make the files of all scales, one after the other.

    Parameters
    ----------
    checkpoint : in any form that `overnet.checkpoint.load_checkpoint` reads.
    folder : where the files go; it exists.
    name : what the files' names begin with; the checkpoint's name when left out.
    overwrite : whether existing files may be replaced.
    progress : is told what is being done; may be called from another thread.

    Raises
    ------
    CheckpointError : the checkpoint cannot be loaded.
    InputError : a scale is out of the network's range, and nothing is made then; or no engine fits the device.
    ArtifactError : a file is too far from the network; what was made before it stays.
    BuildError : an engine cannot be built.
    OutputError : a file cannot be written.
    """
    model = load_checkpoint(checkpoint)
    for scale in options.scales:
        if not 1 <= scale <= model.config.overscale:
            raise InputError(f"{checkpoint}: scale is {scale}; this network goes from 1 to {model.config.overscale}")
    network = deploy(model)
    calibration = None
    if options.precision == "int8":
        pictures, remarks = calibration_pictures(options.calibration.folder)
        calibration = Calibration(pictures, remarks, options.calibration.max_loss_db)
    for scale in options.scales:
        stem = file_stem(name or checkpoint.name.partition(".")[0], scale, options.precision)
        scaled = _Scale(model, network, scale, folder / stem, options, calibration, progress or _silent)
        yield scaled.export(overwrite=overwrite)


def file_stem(name: str, scale: int, precision: str) -> str:
    """What the files of a scale and precision are called, without the suffix: ``name_x2``, ``name_x2_fp16``."""
    return f"{name}_x{scale}" if precision == "fp32" else f"{name}_x{scale}_{precision}"


def _capability_to_name(target: RuntimeName) -> str | None:
    device = cuda_device() if target == "tensorrt-rtx" else None
    return _TURING if device is not None and device.compute_capability == _TURING else None


def _silent(doing: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class _Scale:
    """The export of one scale."""

    model: OverNet
    network: DeployedNetwork
    scale: int
    stem: Path
    options: Options
    calibration: Calibration | None
    progress: Progress

    def export(self, *, overwrite: bool) -> ExportedFile:
        """Make the files: all of them get their names, or none does."""
        start = time.perf_counter()
        path = self._path(".onnx")
        with ExitStack() as files:
            # Of these the last to be opened is the first to get its name: an engine never lies there alone.
            temporary_engine = temporary_sidecar = None
            if self.options.engine is not None:
                temporary_engine = files.enter_context(whole_file(self._path(".engine"), overwrite=overwrite))
                sidecar_file = sidecar_path(self._path(".engine"))
                temporary_sidecar = files.enter_context(whole_file(sidecar_file, overwrite=overwrite))
            temporary = files.enter_context(whole_file(path, overwrite=overwrite))

            exported, content = self._graph(temporary, path)
            if self.options.engine is not None and temporary_engine and temporary_sidecar:
                built, profile, notes = self._engine(self.options.engine, content, exported.costs)
                sidecar = self._sidecar(self.options.engine, built, profile, exported, content)
                temporary_engine.write_bytes(built.serialized)
                temporary_sidecar.write_text(sidecar_text(sidecar), encoding="ascii")
                engine = ExportedEngine(self._path(".engine"), sidecar)
                exported = replace(exported, engine=engine, notes=(*exported.notes, *notes))
        return replace(exported, seconds=time.perf_counter() - start)

    def _path(self, suffix: str) -> Path:
        return self.stem.with_name(self.stem.name + suffix)

    def _graph(self, temporary: Path, path: Path) -> tuple[ExportedFile, bytes]:
        """Write the ONNX file, and check it."""
        pictures = gate_pictures()
        self.progress("making the graph", 0, 0)
        graph = self._lowered(pictures)
        content = graph.model.SerializeToString()
        temporary.write_bytes(content)
        self.progress("comparing it with the network", 0, 0)
        parity = pass_gate(temporary, graph.model, graph.exact, self.model, pictures, name=path.name)
        costs = count_costs(graph.model)
        return ExportedFile(path, graph.artifact, len(content), parity, costs, 0.0, graph.notes), content

    def _lowered(self, pictures: list[Picture]) -> LoweredGraph:
        options = self.options
        return lower(
            self.network,
            self.scale,
            options.precision,
            pictures,
            form=options.form,
            significant_bits=options.significant_bits,
            calibration=self.calibration,
            progress=self.progress,
        )

    def _engine(
        self, options: EngineOptions, content: bytes, costs: Costs
    ) -> tuple[BuiltEngine, Profile, tuple[str, ...]]:
        """Build the engine, for smaller pictures where the device's memory is short."""
        fitted = fit_profile(
            options.profile,
            costs.activation_bytes_per_pixel,
            available_device_memory(),
            weights_bytes=len(content),
            precision=self.options.precision,
        )
        built = build_engine(
            content,
            fitted.profile,
            target=options.target,
            workspace_bytes=options.workspace_bytes,
            compute_capability=_capability_to_name(options.target),
            timing_cache=self.stem.with_name(TIMING_CACHE),
            log=self._path(".engine.log"),
            progress=lambda phase, done, total: self.progress(f"building the engine: {phase}", done, total),
        )
        return built, fitted.profile, (*fitted.notes, *built.notes)

    def _sidecar(
        self, options: EngineOptions, built: BuiltEngine, profile: Profile, exported: ExportedFile, content: bytes
    ) -> Sidecar:
        """Check the engine itself, where a GPU is, and write down what is known of it."""
        parity = pass_engine_gate(
            built.serialized,
            options.target,
            profile,
            exported.artifact,
            self.model,
            gate_pictures(),
            name=self._path(".engine").name,
        )
        parity = parity or exported.parity
        return Sidecar(
            artifact=exported.artifact,
            onnx_sha256=hashlib.sha256(content).hexdigest(),
            engine_sha256=hashlib.sha256(built.serialized).hexdigest(),
            engine_size_bytes=len(built.serialized),
            environment=built.environment,
            profile=profile,
            activation_memory_bytes=built.activation_memory_bytes,
            multiply_accumulates_per_pixel=exported.costs.multiply_accumulates_per_pixel,
            activation_bytes_per_pixel=exported.costs.activation_bytes_per_pixel,
            psnr_db=parity.psnr_db if math.isfinite(parity.psnr_db) else None,
            largest_difference=parity.largest_difference,
            measured_by=parity.measured_by,
        )
