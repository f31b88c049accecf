"""``overnet eval``: PSNR and SSIM of a model over sets of test images, beside bicubic enlargement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from overnet.cli.common import interruptible, print_status
from overnet.cli.progress import ProgressDisplay
from overnet.files.onnx_metadata import PRECISIONS

if TYPE_CHECKING:
    from overnet.cli.eval_methods import EvalOptions, Method
    from overnet.cli.eval_output import Targets
    from overnet.evaluation.datasets import Pair
    from overnet.evaluation.report import SetResult
    from overnet.types import Image, Progress

# How the methods are called inside, and on the side-by-side images.
_BICUBIC, _MODEL, _REFERENCE = "bicubic", "model", "reference"

# By folder and scale.
Sets: TypeAlias = "dict[tuple[Path, int], list[Pair]]"
# What is run at each scale, and what it is compared with.
Methods: TypeAlias = "dict[int, tuple[Method, Method | None]]"


@interruptible
def evaluate_command(
    data: Annotated[
        list[Path],
        typer.Option(
            metavar="DIR", help="A set: HR images alone, HR and LR_bicubic/X2, *_HR and *_LR, DIV2K; repeat for more."
        ),
    ],
    scale: Annotated[
        list[int] | None, typer.Option(help="A scale; repeat for more. Default: the model's own, or 2, 3 and 4.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="ONNX file, folder of them, or checkpoint. Default: the bundled one.")
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help="auto, openvino, onnxruntime or torch; declared: each tensor rounded to the type that the ONNX file "
            "states, as on a GPU (slow; needs torch and onnx)."
        ),
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16, bf16 or int8: of a folder, the files in it. Default: the most exact."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="What a loss is measured against. Default: the same weights in FP32, where there are any."),
    ] = None,
    tile: Annotated[int | None, typer.Option(help="Cut into tiles of this size in input pixels.")] = None,
    quarters: Annotated[bool, typer.Option("--quarters", help="In four quarters, as the original's tester.")] = False,
    self_ensemble: Annotated[
        bool, typer.Option("--self-ensemble", help="The mean of eight orientations; eight times the time.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads to compute with. Default: one a core.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the results, and where most was gained side by side.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout instead of tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")] = False,
) -> None:
    """Measure a model on test images: PSNR and SSIM on luma, a border of as many pixels as the scale left out.

    Low-resolution images that a set lacks are made as MATLAB's imresize makes them.
    """
    from overnet.cli.eval_methods import DECLARED, EvalOptions
    from overnet.cli.eval_output import Targets
    from overnet.evaluation.report import as_json as result_as_json
    from overnet.evaluation.report import as_table

    if precision is not None and precision not in PRECISIONS:
        raise typer.BadParameter(f"--precision is {precision[:40]!r}; it can be {', '.join(PRECISIONS)}")
    if quarters and tile:
        raise typer.BadParameter("--quarters and --tile exclude each other")
    if backend == DECLARED and (tile is not None or threads is not None):
        raise typer.BadParameter(f"--tile and --threads are for backends of the runtime, not for {DECLARED}")
    if overwrite and save is None:
        raise typer.BadParameter("--overwrite is for --save")
    sets = _find_sets(data, _scales(scale, model))
    way = EvalOptions(backend, tile, threads, quarters, self_ensemble)
    display = ProgressDisplay(quiet=quiet)
    methods = _load_methods(sets, model, precision, reference, way, display.announce)
    with display:
        _check_images(sets, display.step)
    targets = None if save is None else Targets(save, sets, overwrite=overwrite)
    results = []
    for (folder, at_scale), pairs in sets.items():
        with display:
            results.append(_evaluate_set(folder, at_scale, pairs, methods[at_scale], targets, display.step))
        # After the row of progress is gone: on a terminal the two would be written into each other.
        if not as_json:
            typer.echo("\n".join([*([""] if len(results) > 1 else []), *as_table(results[-1])]))
    notes = _notes(methods)
    for note in notes:
        print_status(f"note: {note}", quiet=quiet)
    if as_json:
        sets_as_json = [result_as_json(result) for result in results]
        typer.echo(json.dumps({"images": str(way), "sets": sets_as_json, "notes": notes}))


def _scales(scales: list[int] | None, model: Path | None) -> list[int]:
    """The scales asked for; else the model file's own, or all three of the papers'."""
    from overnet.errors import InputError, printable
    from overnet.evaluation.model_choice import describe, is_folder

    if scales is None:
        if model is None or is_folder(model):
            return [2, 3, 4]
        artifact = describe(model)
        if artifact is not None and artifact.scale != int(artifact.scale):
            raise InputError(f"{printable(model)} is for scale {artifact.scale:g}; only whole scales are evaluated")
        return [2, 3, 4] if artifact is None else [int(artifact.scale)]
    if min(scales) < 2:
        raise InputError(f"scale is {min(scales)}; it must be at least 2")
    return list(dict.fromkeys(scales))


def _find_sets(folders: list[Path], scales: list[int]) -> Sets:
    """The pairs of each set at each scale."""
    from overnet.evaluation.datasets import find_pairs

    return {(folder, scale): find_pairs(folder, scale) for folder in dict.fromkeys(folders) for scale in scales}


def _load_methods(
    sets: Sets,
    model: Path | None,
    precision: str | None,
    reference: Path | None,
    way: EvalOptions,
    on_progress: Progress,
) -> Methods:
    """What is run at each scale, and what it is compared with; all loaded before any image is touched."""
    from overnet.cli.eval_methods import DECLARED, load_method
    from overnet.evaluation.model_choice import choose_model, same_weights_in_fp32
    from overnet.weights import bundled_checkpoint, bundled_folder

    bundled = bundled_checkpoint() if way.backend == "torch" else bundled_folder()
    methods: Methods = {}
    for scale in dict.fromkeys(scale for _, scale in sets):
        chosen = choose_model(model or bundled, scale, precision)
        method = load_method(chosen, scale, way, on_progress)
        other = same_weights_in_fp32(chosen) if reference is None else choose_model(reference, scale, None)
        if other is None:
            methods[scale] = method, None
            continue
        # The same backend where it takes such a file, so that the files alone differ.
        alike = other.path.suffix.lower() == method.model.path.suffix.lower() and way.backend != DECLARED
        methods[scale] = method, load_method(other, scale, way if alike else replace(way, backend="auto"), on_progress)
    return methods


def _read(path: Path) -> Image:
    """An image as the protocol takes it."""
    import numpy as np

    from overnet.errors import InputError, printable
    from overnet.imaging.image_io import read_image

    image = read_image(path)
    if image.rgb.dtype != np.uint8:
        raise InputError(f"{printable(path)} has 16 bits a channel; PSNR and SSIM are defined here for 8")
    if image.alpha is not None and image.alpha.min() < np.iinfo(np.uint8).max:
        raise InputError(f"{printable(path)} has transparent parts, for which PSNR and SSIM are not defined")
    return np.ascontiguousarray(image.rgb)


def _check_images(sets: Sets, progress: Progress) -> None:
    """Read every image once, so that a broken last one is not found after an hour."""
    from overnet.evaluation.datasets import check_pair

    every = [(pair, scale) for (_, scale), pairs in sets.items() for pair in pairs]
    for done, (pair, scale) in enumerate(every):
        progress("reading the images", done, len(every))
        check_pair(pair, scale, _read)


def _evaluate_set(
    folder: Path,
    scale: int,
    pairs: list[Pair],
    methods: tuple[Method, Method | None],
    targets: Targets | None,
    progress: Progress,
) -> SetResult:
    from overnet.cli.eval_output import set_name
    from overnet.evaluation.measure import bicubic, compare
    from overnet.evaluation.report import ImageResult, SetResult

    method, reference = methods
    upscalers = {_BICUBIC: bicubic(scale), _MODEL: method.upscale}
    if reference is not None:
        upscalers[_REFERENCE] = reference.upscale
    images = []
    for done, pair in enumerate(pairs):
        progress(f"{set_name(folder)} x{scale}", done, len(pairs))
        comparison = compare(upscalers, pair, scale, _read)
        if targets is not None:
            targets.write(folder, scale, comparison, before=_BICUBIC, after=_MODEL)
        found = comparison.qualities
        height, width = comparison.high.shape[:2]
        images.append(ImageResult(found[_BICUBIC], found[_MODEL], found.get(_REFERENCE), pair.name, width, height))
    return SetResult(
        folder=folder,
        name=set_name(folder),
        scale=scale,
        low_made=sum(pair.low is None for pair in pairs),
        model=str(method),
        reference=None if reference is None else str(reference),
        images=images,
    )


def _notes(methods: Methods) -> list[str]:
    """What the figures alone do not print_status, each thing once."""
    notes = []
    for scale, (method, reference) in methods.items():
        notes += [f"x{scale}: {note}" for note in method.pop_notes()]
        notes += [f"x{scale}, reference: {note}" for note in (reference.pop_notes() if reference else [])]
        model = method.model
        if model.artifact and method.computes_in == "fp32" and model.precision in ("fp16", "bf16"):
            notes.append(
                f"x{scale}: {method.computed_by.partition(' ')[0]} computed this {model.precision} file in FP32: what "
                "is shown is what its weights cost; --backend declared computes as a GPU does"
            )
        if model.precision != "fp32" and reference is None:
            notes.append(f"x{scale}: no FP32 file of the same weights was found: --reference names one")
    return list(dict.fromkeys(notes))
