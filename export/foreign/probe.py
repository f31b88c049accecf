"""What a network takes and makes, found by running it on test images: scale, ranges, multiples, the smallest size."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import helper

from overnet.errors import ArtifactError, InputError, printable
from overnet.export.foreign.convention import RANGES, Convention, Runner, from_network, to_network
from overnet.export.foreign.read import CHECKED_SIDE, ForeignFile
from overnet.export.options import ForeignOptions
from overnet.export.precision.calibration import pairs_of
from overnet.export.verify.comparison import in_openvino
from overnet.imaging.metrics import psnr
from overnet.imaging.sample_images import centre_crop, sample_photographs

# Windows, strides and pixel-unshuffles have these; each is tried where smaller ones fail.
MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64)
# Height and width, in multiples: no other number divides both, and both are larger than a reflected border. The second
# is for networks that cut off a wide border.
_SIDES = ((37, 41), (149, 157))
# Heights and widths of images that networks are exported with, for files that work only for the one of theirs.
_TRACED_SIDES = (64, 128, 256, 48, 32, 96, 192, 224, 320, 512)
_SMALLEST_SIDES = (8, 12, 16, 24, 32, 48, 64, 96)
_TINY = (4, 6)
_LARGEST_SCALE = 64
# A network is tried on images larger than it declares only where that is no more: larger ones take long.
_LARGE_SIDE = 512
# A result counts as an enlarged image from this PSNR to the original on; bicubic enlargement has 24 to 33 dB. The usual
# range is only given up for one that is better by a margin, as networks without biases work in every range.
_LEAST_PSNR_DB = 14.0
_MARGIN_DB = 2.0
# A network that keeps the size may pass an image on unchanged in a range that is not its own: from this PSNR on, the
# usual range is right.
_KEPT_PSNR_DB = 20.0
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
        # Not optimised: for images that are too small, combined nodes of ONNX Runtime may end the process.
        runner = Runner(file.content, exactly=True)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error
    channels = file.shape[1] or 3
    found = Convention(1, channels, options.colour or "rgb", options.input_range or "0..1")
    if options.colour is not None and channels == 1:
        raise InputError(f"{name}: --colour is for networks of three channels, and this one takes luma")
    declared = ""
    if file.shape[2] is not None or file.shape[3] is not None:
        freed = _freed(file, found, options)
        if freed is None:
            found = _fixed(file, runner, found, options)
        else:
            declared = f"any size, though {file.shape[3] or '?'}x{file.shape[2] or '?'} is declared"
            file, found = freed
    else:
        found = _free(file, runner, found, options, traced_sides=_TRACED_SIDES)
        declared = "" if found.fixed is None else "any size is declared, but it works for one only"
    if options.scale not in (None, found.scale):
        raise InputError(f"{name} is for scale {found.scale}, not {options.scale:g}: omit --scale")
    found, how = _with_ranges(file, found, options)
    parts = [
        f"x{found.scale}",
        "luma in, the colours enlarged bicubically" if channels == 1 else f"{found.colour.upper()}",
        f"{found.input_range} in" + ("" if found.input_range == found.output_range else f", {found.output_range} out"),
        how,
        declared,
    ]
    if found.border:
        parts.append(f"images get {found.border} pixels on each side, which it cuts off")
    if found.largest is not None:
        parts.append(f"{found.largest[1]}x{found.largest[0]} pixels only: smaller images are padded")
    elif found.multiple > 1 or found.smallest > 1:
        multiples = f"multiples of {found.multiple}" if found.multiple > 1 else ""
        smallest = -(-found.smallest // found.multiple) * found.multiple
        at_least = f"at least {smallest}" if smallest > found.multiple else ""
        parts.append(f"sides padded to {' of '.join(each for each in (multiples, at_least) if each)}")
    return file, found, f"{printable(file.path.name)}: {', '.join(part for part in parts if part)}"


def _scale_and_border(
    output: NDArray[np.float32], height: int, width: int, channels: int, given: float | None
) -> tuple[int, int] | None:
    """Return the whole scale of a result, and how many pixels of the input are cut off each side; None without one.

    A square image does not tell one from the other: there the scale is what is given, or the border is none.
    """
    if output.ndim != 4 or output.shape[:2] != (1, channels):
        return None
    rows, columns = output.shape[2:]
    if height != width:
        scale, rest = divmod(rows - columns, height - width)
    else:
        scale, rest = int(given or rows // height), rows - columns
    cut = scale * height - rows
    if rest or not 1 <= scale <= _LARGEST_SCALE or cut < 0 or cut % (2 * scale):
        return None
    if cut and height == width and given is None:
        return None
    return scale, cut // (2 * scale)


def _free(
    file: ForeignFile, runner: Runner, found: Convention, options: ForeignOptions, traced_sides: tuple[int, ...] = ()
) -> Convention:
    """Find the scale, the multiple and the smallest size of a network that declares no size.

    A network that upscales no images of other sizes than one square of `traced_sides` takes that one.
    """
    reasons: list[str] = []
    for multiple, sides in product((options.multiple,) if options.multiple else MULTIPLES, _SIDES):
        # The sides stay near 40 pixels, so that a large multiple costs no more time.
        rows, columns = (max(2, side // multiple) * multiple for side in sides)
        columns += multiple if math.gcd(rows // multiple, columns // multiple) > 1 else 0
        first = _try(runner, found, rows, columns, reasons)
        # A multiple of 8 also works for some networks that need 16: a second size without a common factor decides.
        if first and _try(runner, found, rows + multiple, columns + 2 * multiple, reasons) == first:
            found = replace(found, scale=first[0], border=first[1], multiple=multiple)
            break
    else:
        for side in () if options.multiple else traced_sides:
            only = _try(runner, found, side, side, [], options.scale)
            if only and side - 2 * only[1] >= _SMALLEST_SIDES[0]:
                return replace(found, scale=only[0], border=only[1], fixed=(side, side))
        tried = f"multiples of {options.multiple}" if options.multiple else f"multiples up to {MULTIPLES[-1]}"
        raise ArtifactError(
            # The reason at the largest multiple: at smaller ones it may be the size alone.
            f"{printable(file.path)}: it upscales no image with sides in {tried}: {reasons[-1] if reasons else ''}"
            + ("" if options.multiple else "; where it needs another multiple, --pad-multiple gives it")
        )
    runs_in_openvino = _in_openvino(file, np.float16 if runner.is_half else np.float32)
    for smallest in (1, *_SMALLEST_SIDES):
        candidate = replace(found, smallest=smallest)
        height, width = candidate.padded(*_TINY)
        width += found.multiple if width == height else 0
        if _try(runner, candidate, height, width, reasons) != (found.scale, found.border):
            continue
        if runs_in_openvino((found.channels, height, width)):
            return candidate
    return replace(found, smallest=-(-columns // found.multiple) * found.multiple)


def _in_openvino(file: ForeignFile, kind: DTypeLike) -> Callable[[tuple[int, int, int]], bool]:
    """Return a function that says whether OpenVINO runs a network on an image of this shape.

    Kernels that are larger than an image are refused there, and run in ONNX Runtime by its way of rounding.
    """
    try:
        upscale, _ = in_openvino(onnx.ModelProto.FromString(file.content))
    except RuntimeError:
        return lambda shape: True  # the comparison of the converted file says what is wrong

    def runs(shape: tuple[int, int, int]) -> bool:
        try:
            upscale(np.zeros(shape, kind))
        except RuntimeError:
            return False
        return True

    return runs


def _try(
    runner: Runner, found: Convention, rows: int, columns: int, reasons: list[str], scale: float | None = None
) -> tuple[int, int] | None:
    """Return scale and border of the result for an image of this size; None, and a reason, where there is none."""
    random = np.random.default_rng(7)
    try:
        (output, *_) = runner.run(random.random((1, found.channels, rows, columns), np.float32))
    except ArtifactError as error:
        reasons.append(str(error))
        return None
    if output.dtype.kind == "f" and not np.isfinite(output).all():
        reasons.append("its results are infinite or undefined")
        return None
    scale_and_border = _scale_and_border(output, rows, columns, found.channels, scale)
    if scale_and_border is None:
        shape = " x ".join(map(str, output.shape))
        reasons.append(f"it makes {shape} of 1 x {found.channels} x {rows} x {columns}")
    return scale_and_border


def _fixed(file: ForeignFile, runner: Runner, found: Convention, options: ForeignOptions) -> Convention:
    """Find the scale of a network that declares its size."""
    height, width = file.shape[2], file.shape[3]
    if height is None or width is None:
        raise ArtifactError(f"{printable(file.path)}: it needs one side of the size that it declares, and any other")
    reasons: list[str] = []
    scale_and_border = _try(runner, found, height, width, reasons, options.scale)
    if scale_and_border is None:
        raise ArtifactError(f"{printable(file.path)}: it does not upscale: {reasons[0]}")
    scale, border = scale_and_border
    if min(height, width) - 2 * border < _SMALLEST_SIDES[0]:
        raise ArtifactError(f"{printable(file.path)}: it cuts off nearly all of an image of {width}x{height}")
    return replace(found, scale=scale, border=border, fixed=(height, width))


def _freed(file: ForeignFile, found: Convention, options: ForeignOptions) -> tuple[ForeignFile, Convention] | None:
    """Return a network without the size that it declares; None where it depends on that size.

    Many files declare a size only because they were exported with an image of it.
    """
    model = onnx.ModelProto.FromString(file.content)
    constants = {constant.name for constant in model.graph.initializer}
    (image,) = [value for value in model.graph.input if value.name not in constants]
    del model.graph.value_info[:]
    for value, names in ((image, ("n", "h", "w")), (model.graph.output[0], ("n", "H", "W"))):
        kind = value.type.tensor_type.elem_type
        axes: list[int | str] = [names[0], found.channels, *names[1:]]
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, axes))
    content = model.SerializeToString()
    height, width = file.shape[2] or CHECKED_SIDE, file.shape[3] or CHECKED_SIDE
    try:
        free_runner = Runner(content, exactly=True)
        free = replace(file, content=content, shape=(None, file.shape[1], None, None))
        found = _free(free, free_runner, found, options)
        if max(height, width) <= _LARGE_SIDE:
            step = found.multiple
            rows, columns = (height // step + 3) * step, (width // step + 5) * step
            columns += step if rows == columns else 0
            if _try(free_runner, found, rows, columns, []) != (found.scale, found.border):
                return None
        x = np.random.default_rng(3).random((1, found.channels, height, width), np.float32)
        theirs, ours = Runner(file.content).run(x)[0], Runner(content).run(x)[0]
        if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=1e-3, atol=1e-4):
            return None
    except ArtifactError:
        return None
    return free, found


def _with_ranges(file: ForeignFile, found: Convention, options: ForeignOptions) -> tuple[Convention, str]:
    """Find the ranges in which photographs that were reduced come back best."""
    side = (48 if found.largest is None else min(48, *found.largest)) * found.scale
    pairs = pairs_of([centre_crop(image, side) for image in sample_photographs()[::2]], found.scale)
    likeness: dict[tuple[str, str], float] = {}
    runner = Runner(file.content)
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
    enough = _KEPT_PSNR_DB if found.scale == 1 else math.inf
    chosen = next((pair for pair in usual if likeness[pair] > min(likeness[best] - _MARGIN_DB, enough)), best)
    if not likeness[chosen] >= _LEAST_PSNR_DB and options.input_range is None:
        raise ArtifactError(
            f"{printable(file.path)}: its results look like no enlarged image in any range ({likeness[chosen]:.0f} dB "
            "at best): --input-range says which it takes, if it is for upscaling at all"
        )
    how = f"{likeness[chosen]:.1f} dB on photographs"
    return replace(found, input_range=chosen[0], output_range=chosen[1]), how
