"""Baselines that run the user's model files: OpenCV's dnn_superres, and ncnn."""

import platform
import re
from pathlib import Path

import cv2
import numpy as np

from overnet.benchmarks.baselines.baseline import Baseline, limit_opencv, one_by_one
from overnet.errors import InputError, MissingDependency, printable, require
from overnet.types import ImageBatch, Upscale

# The prefix of the names of ncnn's baselines.
NCNN = "ncnn "
# EDSR_x2.pb, FSRCNN-small_x3.pb: the file names of the models in OpenCV's documentation.
SUPERRES_NAME = re.compile(r"(edsr|espcn|fsrcnn|lapsrn)[-_].*?x(\d+)", re.IGNORECASE)
# OpenCV 5 reads no TensorFlow files; its dnn_superres reads the same models as ONNX files.
SUPERRES_SUFFIX = ".pb" if int(cv2.__version__.partition(".")[0]) < 5 else ".onnx"
# The side of the image on which a user's model is tested when it is loaded; larger than any kernel.
_PROBED_SIDE = 32


def load_superres(path: Path, scale: int, threads: int | None = None) -> Baseline:
    """Load a model in OpenCV's dnn_superres; the file's name begins with the name of one of its four networks.

    Args:
        path: such as ``ESPCN_x2.pb``; from OpenCV 5 on an ONNX file of the same model.

    Raises:
        MissingDependency: this OpenCV is built without dnn_superres.
        InputError: OpenCV cannot read the file, or it upscales by another factor.
    """
    if not hasattr(cv2, "dnn_superres"):
        raise MissingDependency(
            f"{printable(path.name)} needs OpenCV's dnn_superres: pip install opencv-contrib-python"
        )
    limit_opencv(threads)
    named = SUPERRES_NAME.match(path.stem)
    if named is None:
        raise InputError(f"{printable(path.name)}: the name does not begin with edsr_, espcn_, fsrcnn_ or lapsrn_")
    network = cv2.dnn_superres.DnnSuperResImpl_create()

    def upscale(image: ImageBatch) -> ImageBatch:
        upscaled = network.upsample(np.ascontiguousarray(image[..., ::-1]))
        return np.ascontiguousarray(upscaled[..., ::-1], np.uint8)

    try:
        network.readModel(str(path))
        network.setModel(named[1].lower(), scale)
        _check_scale(upscale, scale, path)
    except cv2.error as error:
        reason = " ".join(str(error).split())[-200:]
        raise InputError(f"{printable(path.name)}: OpenCV cannot run it ({reason})") from error
    return Baseline(f"OpenCV {printable(path.stem)}", "CPU", "fp32", printable(path.name), one_by_one(upscale))


def load_ncnn(path: Path, scale: int, threads: int | None = None) -> Baseline:
    """Load a model in ncnn on the CPU, with RGB from 0 to 1 as input and output, like Real-ESRGAN's.

    Args:
        path: the ``.param`` file; the ``.bin`` file of the same name is beside it.

    Raises:
        MissingDependency: ncnn is not installed.
        InputError: ncnn cannot read the files, or the model has not one input and one output, or has another scale.
    """
    ncnn = require("ncnn", extra="", purpose=f"running {printable(path.name)}")
    network = ncnn.Net()
    if threads is not None:
        network.opt.num_threads = threads
    name = printable(path.name)
    if network.load_param(str(path)) or network.load_model(str(path.with_suffix(".bin"))):
        raise InputError(f"{name}: ncnn cannot read it")
    if len(network.input_names()) != 1 or len(network.output_names()) != 1:
        raise InputError(f"{name}: the model needs exactly one input and one output")
    (given,), (wanted,) = network.input_names(), network.output_names()

    def upscale(image: ImageBatch) -> ImageBatch:
        planar = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / 255
        extractor = network.create_extractor()
        extractor.input(given, ncnn.Mat(planar))
        failed, upscaled = extractor.extract(wanted)
        if failed:
            raise InputError(f"{name}: ncnn cannot run it")
        levels = np.rint(np.clip(np.array(upscaled), 0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(1, 2, 0))

    _check_scale(upscale, scale, path)
    # ncnn's default: half precision on Arm processors, single precision on x86.
    in_half = network.opt.use_fp16_arithmetic and platform.machine().lower() in ("aarch64", "arm64")
    title = f"{NCNN}{printable(path.stem)}"
    return Baseline(title, "CPU", "fp16" if in_half else "fp32", name, one_by_one(upscale))


def _check_scale(upscale: Upscale, scale: int, path: Path) -> None:
    upscaled = upscale(np.zeros((_PROBED_SIDE, _PROBED_SIDE, 3), np.uint8))
    expected = _PROBED_SIDE * scale, _PROBED_SIDE * scale, 3
    if upscaled.shape != expected:
        raise InputError(f"{printable(path.name)} upscales by {upscaled.shape[1] / _PROBED_SIDE:g}, not by {scale}")
