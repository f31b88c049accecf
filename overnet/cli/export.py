"""``overnet export``, which is ``overnet-export``: turns a checkpoint or an ONNX file into checked files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overnet.cli.common import interruptible, print_status
from overnet.cli.progress import ProgressDisplay
from overnet.files.onnx_metadata import PRECISIONS

if TYPE_CHECKING:
    from overnet.export.exporter import ExportedFile
    from overnet.export.options import EngineOptions
    from overnet.export.verify.comparison import Parity

TARGETS = ("onnx", "tensorrt", "tensorrt-rtx")


@interruptible
def export_command(
    source: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint, or an ONNX file of ours. Default: the bundled weights.", show_default=False),
    ] = None,
    scale: Annotated[
        list[int] | None, typer.Option(help="A scale; repeat for more. Default: 2, 3 and 4, or the ONNX file's.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of the arithmetic inside: fp32, fp16, bf16 or int8. Default: fp16, or an ONNX file's own below fp32."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="onnx, tensorrt or tensorrt-rtx. Default: tensorrt where it can be built, else onnx."),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="HxW | MIN:OPT:MAX",
            help="Engines: the input images' size, or the smallest, the usual and the largest, each HxW. "
            "Default: 16x16:180x320:360x640; larger images go in tiles.",
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Engines: the most images at once. Default: 1.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path(),
    calibration: Annotated[
        Path | None, typer.Option(help="int8: a folder of images to calibrate on. Default: a small set of its own.")
    ] = None,
    max_loss_db: Annotated[
        float | None,
        typer.Option(help="int8: the most PSNR that it may cost; layers stay in FP16 until it fits. Default: 0.1."),
    ] = None,
    lean_memory: Annotated[
        bool, typer.Option("--lean-memory", help="The same numbers in smaller steps, with less memory.")
    ] = False,
    workspace: Annotated[
        int | None, typer.Option(metavar="MIB", help="Engines: the most scratch memory. Default: no limit.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    progress_lines: Annotated[bool, typer.Option("--progress-lines", hidden=True)] = False,
) -> None:
    """Turn a checkpoint into ONNX files and engines, one a scale, each compared with the network.

    An engine lies beside the ONNX file it was built from, and a sidecar (.engine.json) says what it is. A file that is
    too far from the network is not made. From an ONNX file of ours, engines are made without PyTorch.
    """
    from overnet.errors import InputError, require
    from overnet.export.options import CalibrationOptions, ExportOptions, is_onnx
    from overnet.files.atomic import ensure_folder
    from overnet.weights import bundled_checkpoint

    scales = None if scale is None else tuple(dict.fromkeys(scale))
    if scales is not None and min(scales) < 1:
        raise InputError(f"scale is {min(scales)}; it must be at least 1")
    if precision is not None:
        _check_choice("precision", precision, PRECISIONS)
    if precision != "int8" and (calibration is not None or max_loss_db is not None):
        raise typer.BadParameter("--calibration and --max-loss-db are for --precision int8")
    if max_loss_db is not None and not 0 <= max_loss_db <= 100:
        raise typer.BadParameter(f"--max-loss-db is {max_loss_db:g}; it must be from 0 to 100")
    source = source or bundled_checkpoint()
    if is_onnx(source):
        require("onnx", extra="", purpose="exporting from an ONNX file")
    else:
        for module in ("torch", "onnx", "safetensors"):
            require(module, extra="export", purpose="exporting")
    from overnet.export.exporter import export

    options = ExportOptions(
        scales=scales,
        precision=precision,
        form="lean-memory" if lean_memory else "default",
        calibration=CalibrationOptions(calibration, 0.1 if max_loss_db is None else max_loss_db),
        engine=_engine_options(target, shape, batch, workspace),
    )
    ensure_folder(output)
    with ProgressDisplay(quiet=quiet) as display:
        step = _print_json_step if progress_lines else display.step
        files = list(export(source, output, options, overwrite=overwrite, progress=step))
    if not quiet:
        _print_table(files)
    if as_json or progress_lines:
        typer.echo(json.dumps({"files": [_as_json(file) for file in files]}))


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise typer.BadParameter(f"--{option} is {value[:40]!r}; it can be {', '.join(choices[:-1])} or {choices[-1]}")


def _engine_options(
    target: str | None, shape: str | None, batch: int | None, workspace_mib: int | None
) -> EngineOptions | None:
    """Which engine to build; None for ONNX files alone."""
    from overnet.export.engine.build import buildable_targets
    from overnet.export.engine.profile import make_profile
    from overnet.export.options import EngineOptions
    from overnet.files.engine_sidecar import TITLES

    if target is not None:
        _check_choice("target", target, TARGETS)
    elif "tensorrt" in buildable_targets():
        target = "tensorrt"
    if target in TITLES:
        if workspace_mib is not None and workspace_mib < 1:
            raise typer.BadParameter(f"--workspace is {workspace_mib}; it must be at least 1 MiB")
        workspace_bytes = None if workspace_mib is None else workspace_mib << 20
        profile = make_profile(shape, 1 if batch is None else batch)
        return EngineOptions(target, profile, workspace_bytes)
    if not (shape is None and batch is None and workspace_mib is None):
        why = "" if target else ", and TensorRT cannot build one here (--target tensorrt-rtx needs no GPU)"
        raise typer.BadParameter(
            f"--shape, --batch and --workspace are for engines{why}; an ONNX file takes images of any size"
        )
    return None


def _print_json_step(doing: str, done: int, total: int) -> None:
    """Print a step for the program that started this one."""
    typer.echo(json.dumps({"doing": doing, "done": done, "total": total}))


def _print_table(files: list[ExportedFile]) -> None:
    """A row a file; then what there is to say about them."""
    rows = [
        ("file", "scale", "precision", "size", "activation memory", "PSNR to reference", "largest difference", "time"),
        ("", "", "", "MB", "MB", "dB", "grey levels", "s"),
    ]
    for file in files:
        engine = file.engine.sidecar if file.engine else None
        memory_bytes = engine.activation_memory_bytes if engine else None
        decibels = _psnr_db(file)
        rows.append(
            (
                (file.engine.path if file.engine else file.path).name,
                f"x{file.artifact.scale:g}",
                file.artifact.precision,
                f"{(engine.engine_size_bytes if engine else file.size_bytes) / 1e6:.1f}",
                "-" if memory_bytes is None else f"{memory_bytes / 1e6:.1f}",
                "equal" if decibels is None else f"{decibels:.1f}",
                str(_parity(file).largest_difference),
                f"{file.seconds:.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print_status("  ".join(cells).rstrip())
    for file in files:
        print_status(
            f"x{file.artifact.scale:g}: {file.costs.multiply_accumulates_per_pixel:,.0f} multiply-accumulates and "
            f"{file.costs.activation_bytes_per_pixel:,.0f} bytes of activations an input pixel"
        )
        for note in file.notes:
            print_status(f"x{file.artifact.scale:g}: note: {note}")
    for statement in dict.fromkeys(_parity(file).statement for file in files):
        print_status(f"measured by {statement}")


def _parity(file: ExportedFile) -> Parity:
    """The engine's own, where there is one."""
    return file.engine.parity if file.engine else file.parity


def _psnr_db(file: ExportedFile) -> float | None:
    """PSNR to the reference; None where both are equal, which has no finite one."""
    decibels = _parity(file).psnr_db
    return decibels if math.isfinite(decibels) else None


def _as_json(file: ExportedFile) -> dict[str, Any]:
    engine = file.engine.sidecar if file.engine else None
    return {
        "path": str(file.engine.path if file.engine else file.path),
        "onnx": str(file.path),
        "scale": file.artifact.scale,
        "precision": file.artifact.precision,
        "size_bytes": engine.engine_size_bytes if engine else file.size_bytes,
        "activation_memory_bytes": engine.activation_memory_bytes if engine else None,
        "profile": str(engine.profile) if engine else None,
        "psnr_db": _psnr_db(file),
        "largest_difference": _parity(file).largest_difference,
        "measured_by": _parity(file).statement,
        "multiply_accumulates_per_pixel": file.costs.multiply_accumulates_per_pixel,
        "activation_bytes_per_pixel": file.costs.activation_bytes_per_pixel,
        "seconds": file.seconds,
        "notes": list(file.notes),
    }
