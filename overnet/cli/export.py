"""``overnet export`` and ``overnet-export``: make verified ONNX files and engines of a checkpoint or an ONNX file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from overnet.cli.common import command, print_status
from overnet.cli.options import (
    OUTPUT,
    JsonOption,
    OverwriteOption,
    QuietOption,
    among,
    check_choice,
    check_range,
    plain_number,
    under,
)
from overnet.cli.progress import ProgressDisplay
from overnet.files.onnx_metadata import PRECISIONS
from overnet.weights import MODEL_NAMES

if TYPE_CHECKING:
    from overnet.export.exporter import ExportedFile
    from overnet.export.options import EngineOptions, ForeignOptions, TritonOptions

_NETWORK, _ENGINES = under("Network"), under("Engines")
_INT8, _FOREIGN = under("With --precision int8"), under("ONNX files of other programs")
_SCALES = among("2", "3", "4")
_LARGEST_MULTIPLE = 512


@command
def export_command(
    source: Annotated[
        Path | None,
        Argument(
            help="Checkpoint, ONNX file of this or another program, or a bundled model: realtime, fast or best. "
            "Default: best.",
            show_default=False,
            autocompletion=among(*MODEL_NAMES),
        ),
    ] = None,
    scale: Annotated[
        list[float] | None,
        _NETWORK(
            metavar="N",
            help="Scale, for best fractions too; repeat for several. Default: what the network has of 2, 3, 4.",
            autocompletion=_SCALES,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        _NETWORK(
            metavar="TYPE",
            help="Arithmetic in the graph: fp32, fp16, bf16 or int8. Default: fp16, or an ONNX file's own below fp32.",
            autocompletion=among(*PRECISIONS),
        ),
    ] = None,
    target: Annotated[
        str | None,
        OUTPUT(
            metavar="NAME",
            help="onnx, tensorrt, tensorrt-rtx, or triton: a model repository for Triton Inference Server. Default: "
            "tensorrt if it can be built, else onnx.",
            autocompletion=among("onnx", "tensorrt", "tensorrt-rtx", "triton"),
        ),
    ] = None,
    platform: Annotated[
        str | None,
        OUTPUT(
            metavar="NAME",
            help="--target triton: what runs the networks there: onnxruntime, openvino or tensorrt. "
            "Default: onnxruntime.",
        ),
    ] = None,
    shape: Annotated[
        str | None,
        _ENGINES(
            metavar="HxW | MIN:OPT:MAX",
            help="Size of the input images in pixels, or the smallest, the usual and the largest, each HxW. "
            "Default: 16x16:180x320:640x640; larger images are upscaled in tiles.",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        _ENGINES(metavar="N", help="Engines and --target triton: images in the largest batch. Default: 1, triton 4."),
    ] = None,
    output: Annotated[Path, OUTPUT("--output", "-o", metavar="DIR", help="Folder to write to.")] = Path(),
    calibration: Annotated[
        Path | None,
        _INT8(metavar="DIR", help="Images to calibrate with. Default: photographs in the package."),
    ] = None,
    max_loss_db: Annotated[
        float | None,
        _INT8(metavar="DB", help="Largest loss of PSNR, 0 to 100; layers stay in FP16 to keep it. Default: 0.1."),
    ] = None,
    input_range: Annotated[
        str | None,
        _FOREIGN(metavar="RANGE", help="0..1, 0..255 or -1..1. Default: found by running it."),
    ] = None,
    colour: Annotated[str | None, _FOREIGN(metavar="ORDER", help="rgb or bgr. Default: rgb.")] = None,
    pad_multiple: Annotated[
        int | None,
        _FOREIGN(
            metavar="N",
            help="Height and width are padded to multiples of this. Default: found by running it.",
        ),
    ] = None,
    lean_memory: Annotated[
        bool, _NETWORK("--lean-memory", help="Compute the same numbers in smaller steps, with less memory.")
    ] = False,
    workspace: Annotated[
        int | None,
        _ENGINES(
            metavar="MIB",
            help="Scratch memory, at least 1. Default: no limit; on a Jetson half of the free memory.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress_lines: Annotated[bool, Option("--progress-lines", hidden=True)] = False,
) -> None:
    """Turn a checkpoint into ONNX files and engines, one for each scale, each compared with the network.

    An engine is written beside the ONNX file it is built from, with a sidecar (.engine.json) that describes it. A file
    that differs too much from the network is not written. Engines of an ONNX file are built without PyTorch. With
    --target triton, DIR becomes a model repository, or the models are added to it.
    """
    from overnet.export.options import CalibrationOptions, ExportOptions, ForeignOptions
    from overnet.files.atomic import ensure_folder
    from overnet.weights import model_path

    if progress_lines:  # a run of another process, for its engine
        from overnet.system.child_process import end_with_parent

        end_with_parent()
    for each in scale or ():
        check_range("--scale", each, 1)
    scales = None if scale is None else tuple(dict.fromkeys(map(plain_number, scale)))
    check_choice("--precision", precision, PRECISIONS)
    if precision != "int8" and (calibration is not None or max_loss_db is not None):
        raise typer.BadParameter("--calibration and --max-loss-db need --precision int8")
    check_range("--max-loss-db", max_loss_db, 0, 100)
    source = model_path(source, checkpoint=True)
    foreign = ForeignOptions(None, input_range, colour, pad_multiple)
    _check_foreign(foreign, source)
    _check_libraries(source)
    from overnet.export.exporter import export
    from overnet.export.triton.repository import export_repository

    triton = _triton_options(target, platform, batch)
    options = ExportOptions(
        scales=scales,
        precision=precision,
        form="lean-memory" if lean_memory else "default",
        calibration=CalibrationOptions(calibration, 0.1 if max_loss_db is None else max_loss_db),
        engine=_engine_options(target, shape, batch, workspace, triton),
        is_copied=triton is not None,
        foreign=foreign,
    )
    if triton is None:
        ensure_folder(output)
    with ProgressDisplay(quiet=quiet) as display:

        def json_step(doing: str, done: int, total: int) -> None:
            typer.echo(json.dumps({"doing": doing, "done": done, "total": total}))

        step = json_step if progress_lines else display.step
        upscaler = None
        if triton is None:
            files = list(export(source, output, options, overwrite=overwrite, progress=step))
        else:
            files, upscaler = export_repository(source, output, options, triton, overwrite=overwrite, progress=step)
    if not quiet:
        _print_table(files, output)
        if upscaler is not None:
            print_status(f"{upscaler} is for whole images; serve all with tritonserver --model-repository={output}")
    if as_json or progress_lines:
        added = {} if upscaler is None else {"upscaler": upscaler}
        typer.echo(json.dumps({"files": [_as_json(file) for file in files], **added}))


def _check_libraries(source: Path) -> None:
    """Refuse to begin where a library is missing that the source needs."""
    from overnet.errors import require
    from overnet.export.options import is_onnx
    from overnet.files.onnx_metadata import is_foreign

    if is_onnx(source):
        if is_foreign(source):
            for module in ("onnx", "onnxruntime"):
                require(module, extra="ort", purpose="converting a model of another program")
        require("onnx", extra="", purpose="exporting from an ONNX file")
    else:
        for module in ("torch", "onnx", "safetensors"):
            require(module, extra="export", purpose="exporting")


def _check_foreign(options: ForeignOptions, source: Path) -> None:
    """Refuse options for ONNX files of other programs that are out of range, or given for another source."""
    from overnet.files.onnx_metadata import is_foreign

    check_choice("--input-range", options.input_range, ("0..1", "0..255", "-1..1"))
    check_choice("--colour", options.colour, ("rgb", "bgr"))
    check_range("--pad-multiple", options.multiple, 1, _LARGEST_MULTIPLE)
    if options != type(options)() and not is_foreign(source):
        raise typer.BadParameter("--input-range, --colour and --pad-multiple are for ONNX files of other programs")


def _triton_options(target: str | None, platform: str | None, batch: int | None) -> TritonOptions | None:
    """Return the models of a repository for Triton, or None for another target."""
    from overnet.export.options import TritonOptions
    from overnet.files.engine_sidecar import LARGEST_BATCH

    check_choice("--platform", platform, ("onnxruntime", "openvino", "tensorrt"))
    if target != "triton":
        if platform is not None:
            raise typer.BadParameter("--platform needs --target triton")
        return None
    check_range("--batch", batch, 1, LARGEST_BATCH)
    if platform == "openvino" and batch is not None:
        raise typer.BadParameter("--batch is for other platforms: Triton's OpenVINO takes batches as they come")
    usual = TritonOptions()
    return TritonOptions(platform or usual.platform, batch or usual.batch)


def _engine_options(
    target: str | None,
    shape: str | None,
    batch: int | None,
    workspace_mib: int | None,
    triton: TritonOptions | None,
) -> EngineOptions | None:
    """Return the engine to build, or None for ONNX files alone."""
    from overnet.export.engine.build import buildable_targets
    from overnet.export.engine.profile import make_profile
    from overnet.export.options import EngineOptions
    from overnet.files.engine_sidecar import TITLES

    check_choice("--target", target, ("onnx", "tensorrt", "tensorrt-rtx", "triton"))
    if triton is not None:
        target, batch = triton.platform, triton.batch if triton.platform == "tensorrt" else None
    elif target is None and "tensorrt" in buildable_targets():
        target = "tensorrt"
    if target in TITLES:
        check_range("--workspace (MiB)", workspace_mib, 1)
        workspace_bytes = None if workspace_mib is None else workspace_mib << 20
        profile = make_profile(shape, 1 if batch is None else batch)
        # Triton knows nothing of tiles.
        return EngineOptions(target, profile, workspace_bytes, is_tiled=triton is None)
    if not (shape is None and batch is None and workspace_mib is None):
        if triton is not None:
            raise typer.BadParameter("--shape and --workspace are for engines, which --platform tensorrt makes")
        why = "" if target else ", and TensorRT cannot build one here (--target tensorrt-rtx needs no GPU)"
        raise typer.BadParameter(
            f"--shape, --batch and --workspace are for engines{why}; an ONNX file takes images of any size"
        )
    return None


def _print_table(files: list[ExportedFile], folder: Path) -> None:
    """Print a row for each file, then their costs and notes."""
    rows = [
        ("file", "scale", "precision", "size", "activation memory", "PSNR to reference", "largest difference", "time"),
        ("", "", "", "MB", "MB", "dB", "grey levels", "s"),
    ]
    for file, figures in ((file, _as_json(file)) for file in files):
        memory_bytes, psnr_db = figures["activation_memory_bytes"], figures["psnr_db"]
        megabytes = figures["size_bytes"] / 1e6
        rows.append(
            (
                str(Path(figures["path"]).relative_to(folder)),
                f"x{file.artifact.scale:g}",
                file.artifact.precision,
                f"{megabytes:.1f}" if megabytes >= 1 else f"{megabytes:.2g}",  # realtime's are of 40 kB
                "-" if memory_bytes is None else f"{memory_bytes / 1e6:.1f}",
                "equal" if psnr_db is None else f"{psnr_db:.1f}",
                str(figures["largest_difference"]),
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
            f"{file.costs.activation_bytes_per_pixel:,.0f} bytes of activations for each input pixel"
        )
        for note in (*file.notes, *([file.engine.not_run] if file.engine and file.engine.not_run else [])):
            print_status(f"x{file.artifact.scale:g}: note: {note}")
    for statement in dict.fromkeys(_as_json(file)["measured_by"] for file in files):
        print_status(f"measured by {statement}")


def _as_json(file: ExportedFile) -> dict[str, Any]:
    """Return the figures of the engine, or of the ONNX file where there is no engine."""
    engine = file.engine.sidecar if file.engine else None
    parity = file.engine.parity if file.engine else file.parity
    return {
        "path": str(file.engine.path if file.engine else file.path),
        "onnx": str(file.path),
        "scale": file.artifact.scale,
        "precision": file.artifact.precision,
        "size_bytes": engine.engine_size_bytes if engine else file.size_bytes,
        "activation_memory_bytes": engine.activation_memory_bytes if engine else None,
        "profile": str(engine.profile) if engine else None,
        # The PSNR of equal images is infinite, which JSON cannot hold.
        "psnr_db": parity.psnr_db if math.isfinite(parity.psnr_db) else None,
        "largest_difference": parity.largest_difference,
        "measured_by": parity.statement,
        "multiply_accumulates_per_pixel": file.costs.multiply_accumulates_per_pixel,
        "activation_bytes_per_pixel": file.costs.activation_bytes_per_pixel,
        "seconds": file.seconds,
        "notes": list(file.notes),
        "not_run": file.engine.not_run if file.engine else "",
    }
