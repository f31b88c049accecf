"""What a network takes and makes, found by running it on test images: scale, ranges, multiples, the smallest size."""

import math
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from overnet.errors import ArtifactError, InputError, printable
from overnet.export.foreign.convention import RANGES, Convention, Runner, from_network, to_network
from overnet.export.foreign.read import ForeignFile
from overnet.export.options import ForeignOptions
from overnet.export.precision.calibration import pairs_of
from overnet.imaging.metrics import psnr
from overnet.imaging.sample_images import centre_crop, sample_photographs

# Windows, strides and pixel-unshuffles have these; each is tried where smaller ones fail.
MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64)
# Height and width, in multiples: no other number divides both, and both are larger than a reflected border.
_ROWS, _COLUMNS = 37, 41
_SMALLEST_SIDES = (8, 12, 16, 24, 32, 48, 64, 96)
_TINY = (4, 6)
_LARGEST_SCALE = 64
# A result counts as an enlarged image from this PSNR to the original on; bicubic enlargement has 24 to 33 dB. The usual
# range is only given up for one that is better by a margin, as networks without biases work in every range.
_LEAST_PSNR_DB = 14.0
_MARGIN_DB = 2.0
_MOST_PSNR_DB = 60.0


def find_convention(file: ForeignFile, options: ForeignOptions) -> tuple[ForeignFile, Convention, str]:
    """Run a network on test images.

    Returns:
        The file, without the size that it declares where it takes others too; how images go in and come out; and one
        line that says what was found.

    Raises:
        ArtifactError: the network does not run, or its results are no enlarged images; the message names the node.
        InputError: an option contradicts what was found.
    """
    name = printable(file.path)
    try:
        runner = Runner(file.content)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    channels = file.shape[1] or 3
    found = Convention(1, channels, options.colour or "rgb", options.input_range or "0..1")
    if options.colour is not None and channels == 1:
        raise InputError(f"{name}: --colour is for networks of three channels, and this one takes luma")
    declared = ""
    if file.shape[2] is not None or file.shape[3] is not None:
        fixed = _fixed(file, runner, found, options)
        freed = _freed(file, runner, fixed, options)
        if freed is None:
            found = fixed
        else:
            declared = f"any size, though {file.shape[3]}x{file.shape[2]} is declared"
            file, runner, found = freed
    else:
        found = _free(file, runner, found, options)
    if options.scale not in (None, found.scale):
        raise InputError(f"{name} is for scale {found.scale}, not {options.scale:g}: omit --scale")
    found, how = _with_ranges(file, runner, found, options)
    parts = [
        f"x{found.scale}",
        "luma in, the colours enlarged bicubically" if channels == 1 else f"{found.colour.upper()}",
        f"{found.input_range} in" + ("" if found.input_range == found.output_range else f", {found.output_range} out"),
        how,
        declared,
    ]
    if found.fixed is not None:
        parts.append(f"{found.fixed[1]}x{found.fixed[0]} pixels only: smaller images are padded")
    elif found.multiple > 1 or found.smallest > 1:
        at_least = f" of at least {found.smallest}" if found.smallest > 1 else ""
        parts.append(f"sides padded to multiples of {found.multiple}{at_least}")
    return file, found, f"{printable(file.path.name)}: {', '.join(part for part in parts if part)}"


def _scale_of(output: NDArray[np.float32], height: int, width: int, channels: int) -> int | None:
    """Return the whole scale of a result; None where it is no result of one."""
    if output.ndim != 4 or output.shape[:2] != (1, channels):
        return None
    scale = output.shape[2] // height
    return scale if scale and output.shape[2:] == (scale * height, scale * width) else None


def _free(file: ForeignFile, runner: Runner, found: Convention, options: ForeignOptions) -> Convention:
    """Find the scale, the multiple and the smallest size of a network that declares no size."""
    reasons: list[str] = []
    for multiple in (options.multiple,) if options.multiple else MULTIPLES:
        # The sides stay near 40 pixels, so that a large multiple costs no more time.
        rows, columns = (max(2, side // multiple) * multiple for side in (_ROWS, _COLUMNS))
        columns += multiple if math.gcd(rows // multiple, columns // multiple) > 1 else 0
        scale = _try(runner, replace(found, multiple=multiple), rows, columns, reasons)
        # A multiple of 8 also works for some networks that need 16: a second size without a common factor decides.
        if scale and _try(runner, found, rows + multiple, columns + 2 * multiple, reasons) == scale:
            found = replace(found, scale=scale, multiple=multiple)
            break
    else:
        tried = f"multiples of {options.multiple}" if options.multiple else f"multiples up to {MULTIPLES[-1]}"
        raise ArtifactError(
            f"{printable(file.path)}: it upscales no image with sides in {tried}: {reasons[0] if reasons else ''}"
            + ("" if options.multiple else "; where it needs another multiple, --pad-multiple gives it")
        )
    for smallest in (1, *_SMALLEST_SIDES):
        candidate = replace(found, smallest=smallest)
        if _try(runner, candidate, *candidate.padded(*_TINY), reasons) == found.scale:
            return candidate
    return replace(found, smallest=-(-_COLUMNS // found.multiple) * found.multiple)


def _try(runner: Runner, found: Convention, rows: int, columns: int, reasons: list[str]) -> int | None:
    """Return the scale of the result for an image of this size; None, and a reason, where there is none."""
    random = np.random.default_rng(7)
    try:
        (output, *_) = runner.run(random.random((1, found.channels, rows, columns), np.float32))
    except ArtifactError as error:
        reasons.append(str(error))
        return None
    if output.dtype.kind == "f" and not np.isfinite(output).all():
        reasons.append("its results are infinite or undefined")
        return None
    scale = _scale_of(output, rows, columns, found.channels)
    if scale is None or scale > _LARGEST_SCALE:
        shape = " x ".join(map(str, output.shape))
        reasons.append(f"it makes {shape} of 1 x {found.channels} x {rows} x {columns}")
        return None
    return scale


def _fixed(file: ForeignFile, runner: Runner, found: Convention, options: ForeignOptions) -> Convention:
    """Find the scale of a network that declares its size."""
    height, width = file.shape[2], file.shape[3]
    if height is None or width is None:
        raise ArtifactError(f"{printable(file.path)}: one side of its input is fixed and the other is not")
    reasons: list[str] = []
    scale = _try(runner, found, height, width, reasons)
    if scale is None:
        raise ArtifactError(f"{printable(file.path)}: it does not upscale: {reasons[0]}")
    return replace(found, scale=scale, fixed=(height, width))


def _freed(
    file: ForeignFile, runner: Runner, fixed: Convention, options: ForeignOptions
) -> tuple[ForeignFile, Runner, Convention] | None:
    """Return a network without the size that it declares; None where it depends on that size.

    Many files declare a size only because they were exported with an image of it.
    """
    model = onnx.ModelProto.FromString(file.content)
    constants = {constant.name for constant in model.graph.initializer}
    (image,) = [value for value in model.graph.input if value.name not in constants]
    del model.graph.value_info[:]
    for value, names in ((image, ("n", "h", "w")), (model.graph.output[0], ("n", "H", "W"))):
        kind = value.type.tensor_type.elem_type
        axes: list[int | str] = [names[0], fixed.channels, *names[1:]]
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, axes))
    content = model.SerializeToString()
    assert fixed.fixed is not None
    height, width = fixed.fixed
    try:
        free_runner = Runner(content)
        free = replace(file, content=content, shape=(None, file.shape[1], None, None))
        found = _free(free, free_runner, replace(fixed, fixed=None), options)
        step = found.multiple
        rows, columns = (height // step + 3) * step, (width // step + 5) * step
        if found.scale != fixed.scale or _try(free_runner, found, rows, columns, []) != fixed.scale:
            return None
        x = np.random.default_rng(3).random((1, fixed.channels, height, width), np.float32)
        if not np.allclose(runner.run(x)[0], free_runner.run(x)[0], rtol=1e-3, atol=1e-4):
            return None
    except ArtifactError:
        return None
    return free, free_runner, found


def _with_ranges(
    file: ForeignFile, runner: Runner, found: Convention, options: ForeignOptions
) -> tuple[Convention, str]:
    """Find the ranges in which photographs that were reduced come back best."""
    side = (48 if found.fixed is None else min(48, *found.fixed)) * found.scale
    pairs = pairs_of([centre_crop(image, side) for image in sample_photographs()[::2]], found.scale)
    likeness: dict[tuple[str, str], float] = {}
    for given in (options.input_range,) if options.input_range else RANGES:
        trial = replace(found, input_range=given)
        outputs = [runner.run(to_network(pair.low, trial))[0] for pair in pairs]
        for made in RANGES:
            both = replace(trial, output_range=made)
            results = [from_network(output, pair.low, both) for output, pair in zip(outputs, pairs, strict=True)]
            every_db = [psnr(pair.high, result, border=0) for pair, result in zip(pairs, results, strict=True)]
            likeness[given, made] = float(np.mean(np.minimum(every_db, _MOST_PSNR_DB)))
    best = max(likeness, key=lambda pair: likeness[pair])
    # The usual ones first: the same range in and out.
    usual = [(given, given) for given in RANGES if (given, given) in likeness]
    chosen = next((pair for pair in usual if likeness[pair] > likeness[best] - _MARGIN_DB), best)
    if not likeness[chosen] >= _LEAST_PSNR_DB and options.input_range is None:
        raise ArtifactError(
            f"{printable(file.path)}: its results look like no enlarged image in any range ({likeness[chosen]:.0f} dB "
            "at best): --input-range says which it takes, if it is for upscaling at all"
        )
    how = f"{likeness[chosen]:.1f} dB on photographs"
    return replace(found, input_range=chosen[0], output_range=chosen[1]), how
