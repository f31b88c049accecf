"""``overnet eval``: measure PSNR and SSIM of a model on sets of test images, beside bicubic enlargement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from overnet.cli.common import command, converted_model, own_scale, print_status
from overnet.cli.options import (
    METHOD,
    MODEL,
    OUTPUT,
    EvalOptions,
    JsonOption,
    ModelOption,
    OverwriteOption,
    QuietOption,
    check_choice,
    check_range,
    plain_number,
)
from overnet.cli.progress import ProgressDisplay
from overnet.files.onnx_metadata import PRECISIONS

if TYPE_CHECKING:
    from overnet.cli.eval_methods import Method
    from overnet.cli.eval_output import Targets
    from overnet.evaluation.datasets import Pair
    from overnet.evaluation.report import SetResult
    from overnet.types import Image, Progress

# Names of the methods, also on the side-by-side images.
_BICUBIC, _MODEL, _REFERENCE = "bicubic", "model", "reference"

# By folder and scale.
Sets: TypeAlias = "dict[tuple[Path, float], list[Pair]]"
# By scale: the method that is measured, and the reference that it is compared with.
Methods: TypeAlias = "dict[float, tuple[Method, Method | None]]"


@command
def evaluate_command(
    data: Annotated[
        list[Path],
        METHOD(
            metavar="DIR",
            help="Test set: HR images alone, HR and LR_bicubic/X2, *_HR and *_LR, or DIV2K; repeat for several.",
        ),
    ],
    scale: Annotated[
        list[float] | None,
        METHOD(
            metavar="N",
            help="At least 1.1, fractions too; repeat for several. Default: the model's own, or 2, 3, 4.",
        ),
    ] = None,
    model: ModelOption = None,
    precision: Annotated[
        str | None,
        MODEL(metavar="TYPE", help="In a folder: measure files in fp32, fp16, bf16 or int8. Default: most exact."),
    ] = None,
    reference: Annotated[
        Path | None,
        MODEL(metavar="PATH", help="Model to measure the loss against. Default: the same weights in FP32, if found."),
    ] = None,
    *,
    options: EvalOptions,
    save: Annotated[
        Path | None, OUTPUT(metavar="DIR", help="Write the results, and the detail that gained most side by side.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure PSNR and SSIM of a model on the luma of test images, without a border as wide as the scale.

    Low-resolution images that a set lacks are made as MATLAB's imresize makes them.
    """
    from overnet.cli.eval_output import Targets
    from overnet.evaluation.datasets import find_pairs
    from overnet.evaluation.report import as_json as result_as_json
    from overnet.evaluation.report import as_table

    check_choice("--precision", precision, PRECISIONS)
    if options.quarters and options.tile:
        raise typer.BadParameter("--quarters and --tile exclude each other")
    if options.is_declared and (options.tile is not None or options.threads is not None):
        raise typer.BadParameter("--tile and --threads have no effect with --backend declared")
    if overwrite and save is None:
        raise typer.BadParameter("--overwrite needs --save")
    display = ProgressDisplay(quiet=quiet)
    model = converted_model(model, display.announce, quiet=quiet)
    reference = converted_model(reference, display.announce, quiet=quiet)
    scales = _scales(scale, model)
    sets = {(folder, scale): find_pairs(folder, scale) for folder in dict.fromkeys(data) for scale in scales}
    methods = _load_methods(scales, model, precision, reference, options, display.announce)
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
        typer.echo(json.dumps({"images": str(options), "sets": sets_as_json, "notes": notes}))


def _scales(scales: list[float] | None, model: Path | None) -> list[float]:
    """Return the given scales; without any the model file's own, or 2, 3 and 4 as in the papers."""
    from overnet.errors import InputError, printable

    if scales is None:
        own = own_scale(model)
        if own == 1:
            raise InputError(
                f"{printable(model.name if model else '')} keeps the size of an image, and PSNR is measured of "
                "enlarged ones: overnet-bench measures its speed"
            )
        return [2, 3, 4] if own is None else [plain_number(own)]
    for each in scales:
        check_range("--scale", each, 1.1)
    return list(dict.fromkeys(map(plain_number, scales)))


def _load_methods(
    scales: list[float],
    model: Path | None,
    precision: str | None,
    reference: Path | None,
    options: EvalOptions,
    on_progress: Progress,
) -> Methods:
    """Load the model and the reference for each scale, so that errors in them come before any image is read."""
    from overnet.cli.eval_methods import load_method
    from overnet.evaluation.model_choice import choose_model, same_weights_in_fp32
    from overnet.weights import model_path

    path = model_path(model, checkpoint=options.backend == "torch")
    methods: Methods = {}
    for scale in scales:
        chosen = choose_model(path, scale, precision)
        method = load_method(chosen, scale, options, on_progress)
        other = same_weights_in_fp32(chosen) if reference is None else choose_model(reference, scale, None)
        if other is None:
            methods[scale] = method, None
            continue
        # The same backend if it takes such a file, so that only the files differ.
        alike = other.path.suffix.lower() == method.model.path.suffix.lower() and not options.is_declared
        same = options if alike else replace(options, backend="auto")
        methods[scale] = method, load_method(other, scale, same, on_progress)
    return methods


def _read(path: Path) -> Image:
    """Read an image for PSNR and SSIM: 8 bits, opaque."""
    import numpy as np

    from overnet.errors import InputError, printable
    from overnet.imaging.image_io import read_image

    image = read_image(path)
    if image.rgb.dtype != np.uint8:
        raise InputError(f"{printable(path)} has 16 bits per channel; PSNR and SSIM are measured on 8")
    if image.alpha is not None and image.alpha.min() < np.iinfo(np.uint8).max:
        raise InputError(f"{printable(path)} has transparent parts, for which PSNR and SSIM are not defined")
    return np.ascontiguousarray(image.rgb)


def _check_images(sets: Sets, progress: Progress) -> None:
    """Read every image once, so that a broken one is not found after an hour."""
    from overnet.evaluation.datasets import check_pair

    every = [(pair, scale) for (_, scale), pairs in sets.items() for pair in pairs]
    for done, (pair, scale) in enumerate(every):
        progress("reading the images", done, len(every))
        check_pair(pair, scale, _read)


def _evaluate_set(
    folder: Path,
    scale: float,
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
        progress(f"{set_name(folder)} x{scale:g}", done, len(pairs))
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
    """Return remarks that the figures need, each once."""
    notes = []
    for scale, (method, reference) in methods.items():
        notes += [f"x{scale}: {note}" for note in method.pop_notes()]
        notes += [f"x{scale}, reference: {note}" for note in (reference.pop_notes() if reference else [])]
        model = method.model
        if model.artifact and method.computes_in == "fp32" and model.precision in ("fp16", "bf16"):
            notes.append(
                f"x{scale}: {method.computed_by.partition(' ')[0]} computed this {model.precision} file in FP32: the "
                "loss shown is that of its weights; --backend declared computes as a GPU does"
            )
        if model.precision != "fp32" and reference is None:
            notes.append(f"x{scale}: no FP32 file of the same weights was found: --reference names one")
    return list(dict.fromkeys(notes))
