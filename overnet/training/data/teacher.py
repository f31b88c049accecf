"""Teachers, networks whose outputs another network is trained on: ONNX files of one scale, or checkpoints of ours."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from overnet.errors import CheckpointError, InputError, file_errors, one_line, printable, require
from overnet.files.atomic import open_regular
from overnet.network.checkpoint import load_checkpoint
from overnet.network.model import reference
from overnet.training.data.packed_images import PackedImages
from overnet.training.data.teacher_targets import TeacherTargets, fill_targets, targets_path
from overnet.types import Image

# An image to find a teacher's scale with; its sides differ, so that a network that swaps them is seen.
_PROBE_HEIGHT, _PROBE_WIDTH = 24, 32


def teacher_targets(
    files: list[Path], images: PackedImages, scales: list[int], *, fill: bool, report: Callable[[str], None]
) -> dict[int, TeacherTargets]:
    """Open the outputs of teachers on all packed images, and compute those that are missing.

    Args:
        files: the teachers: ONNX files, each for the scale that it is found to have, or checkpoints of ours, each for
            all of `scales` that it serves. Of another kind of file the outputs must be there already.
        images: the packed images.
        scales: that are trained for.
        fill: whether this process computes what is missing.
        report: called with lines of progress.

    Returns:
        By scale; scales that no teacher has are left out.

    Raises:
        InputError: a file is no teacher, has none of the scales, or two have the same.
        MissingDependency: ONNX Runtime is not installed.
        OutputError: the outputs cannot be written.
    """
    targets: dict[int, TeacherTargets] = {}
    for path in files:
        sha256 = file_sha256(path)
        present = [scale for scale in scales if targets_path(images, scale, sha256).exists()]
        try:
            teacher, found = _load(path, scales)
        except InputError:
            if not present:
                raise
            teacher, found = None, present
        for scale in found:
            if scale not in scales:
                raise InputError(f"{printable(path)}: a teacher for x{scale}; the run trains {_list(scales)}")
            if scale in targets:
                raise InputError(f"{printable(path)}: there is another teacher for x{scale} already")
            if teacher is None or not fill:
                targets[scale] = TeacherTargets(images, scale, sha256)
            else:
                targets[scale] = fill_targets(images, scale, sha256, teacher(scale), report=report)
    return targets


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256, hexadecimal.

    Raises:
        InputError: it cannot be read.
    """
    digest = hashlib.sha256()
    with file_errors(InputError, path), open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _list(scales: list[int]) -> str:
    return ", ".join(f"x{scale}" for scale in scales)


def _load(path: Path, scales: list[int]) -> tuple[Callable[[int], Callable[[Image], Image]], list[int]]:
    """Load a teacher; return what gives its function for a scale, and the scales it has."""
    if path.suffix == ".onnx":
        run, scale = load_onnx(path)
        return lambda _: run, [scale]
    model = load_checkpoint(path)
    served = [scale for scale in scales if model.config.serves(scale)]
    if not served:
        raise CheckpointError(f"{printable(path)}: has none of the scales that are trained for ({_list(scales)})")
    return lambda scale: lambda image: reference(model, image, scale), served


def load_onnx(path: Path) -> tuple[Callable[[Image], Image], int]:
    """Load a network in ONNX and find its scale by upscaling a small image.

    Args:
        path: one of ours (uint8, N x H x W x 3), or any with one floating-point input N x 3 x H x W, RGB in [0, 1], of
            free height and width, and such an output.

    Returns:
        The network, H x W x 3 uint8 in and sH x sW x 3 uint8 out, and s.

    Raises:
        InputError: it cannot be loaded, its input or output is of another kind, or its scale is no whole number.
        MissingDependency: ONNX Runtime is not installed.
    """
    ort = require("onnxruntime", extra="ort", purpose="running a teacher in ONNX")
    name = printable(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # An arena keeps the most that it ever needed, and images have all sizes.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs, outputs = session.get_inputs(), session.get_outputs()
    except Exception as error:
        raise InputError(f"{name}: ONNX Runtime cannot load it ({one_line(error)})") from error
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape or ()) != 4:
        raise InputError(f"{name}: a teacher has one input and one output of four dimensions")
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
    shape, kind = inputs[0].shape, kinds.get(inputs[0].type)
    # The only other layout there is here is that of our own files.
    last = kind is np.uint8
    colours, *sides = (shape[3], shape[1], shape[2]) if last else shape[1:]
    if kind is None or colours != 3:
        raise InputError(
            f"{name}: its input is {inputs[0].type} {shape}; a teacher takes floating-point N x 3 x H x W in [0, 1], "
            "or uint8 N x H x W x 3"
        )
    if any(isinstance(side, int) for side in sides):
        raise InputError(f"{name}: its input has a fixed size, {shape}; export it with free height and width")

    def run(image: Image) -> Image:
        try:
            if last:
                output = session.run(None, {inputs[0].name: np.ascontiguousarray(image[None])})[0]
                return np.asarray(output[0], np.uint8)
            batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None], kind) / kind(255)
            output = session.run(None, {inputs[0].name: batch})[0].astype(np.float32)
        except Exception as error:
            raise InputError(
                f"{name}: cannot upscale an image of {image.shape[0]} x {image.shape[1]} ({one_line(error)})"
            ) from error
        return np.ascontiguousarray((output[0].clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))

    probe = np.full((_PROBE_HEIGHT, _PROBE_WIDTH, 3), 128, np.uint8)
    size = run(probe).shape
    scale = size[0] // _PROBE_HEIGHT
    if scale < 2 or size != (_PROBE_HEIGHT * scale, _PROBE_WIDTH * scale, 3):
        raise InputError(
            f"{name}: makes {size[0]} x {size[1]} of {_PROBE_HEIGHT} x {_PROBE_WIDTH}; its scale must be whole"
        )
    return run, scale
