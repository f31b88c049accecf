"""The baselines that are installed on this machine: alternatives to OverNet's backends.

=============================  =========================================================================================
bicubic                        OpenCV's ``INTER_CUBIC``: no network; the speed of one line of code
eager PyTorch                  the same network as the original runs it: uint8 to float, the network, rounded to uint8
plain ONNX graph               the same network, exported without any rewriting and run by ONNX Runtime
OpenCV ESPCN, FSRCNN, ...      OpenCV's ``dnn_superres`` (in opencv-contrib-python) with the user's model files
ncnn ...                       ncnn with the user's ``.param`` and ``.bin``, such as those of Real-ESRGAN
=============================  =========================================================================================
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from overnet.benchmarks.baselines.baseline import Baseline, limit_opencv, one_by_one
from overnet.benchmarks.baselines.model_files import NCNN, SUPERRES_NAME, SUPERRES_SUFFIX, load_ncnn, load_superres
from overnet.benchmarks.cases.network import checkpoint_of, load_network, multiply_accumulates_per_pixel
from overnet.benchmarks.options import MeasuringOptions
from overnet.errors import InputError, file_errors, import_library, printable, require
from overnet.files.onnx_metadata import INPUT_NAME
from overnet.runtime.backends.torch_backend import TorchBackend
from overnet.types import ImageBatch

BICUBIC, EAGER, PLAIN = "bicubic", "eager PyTorch", "plain ONNX graph"
_MODULES = {
    EAGER: ("torch", "overnet.network.checkpoint", "overnet.network.model"),
    PLAIN: ("onnxruntime", "torch", "overnet.network.checkpoint", "overnet.export.graph.network_graph"),
}

# Measured 21,800 with overscale 5 and x4; the plain graph holds several copies of the overscaled features.
_PLAIN_BYTES_PER_PIXEL = 26_000


def find_baselines(scale: int, options: MeasuringOptions) -> dict[str, Callable[[], Baseline]]:
    """Return functions that load the possible baselines at a scale, by name.

    They raise an `OverNetError` if a baseline is not installed or its model is unsuitable.

    Raises:
        InputError: the folder of models is missing or cannot be read.
    """
    loaders: dict[str, Callable[[], Baseline]] = {
        BICUBIC: lambda: load_bicubic(scale, options.threads),
        EAGER: lambda: load_eager(scale, checkpoint_of(options.model, scale), options.threads),
        PLAIN: lambda: load_plain(scale, checkpoint_of(options.model, scale), options.threads),
    }
    for path in _files(options.baseline_models):
        title = printable(path.stem)
        named = SUPERRES_NAME.match(path.stem)
        if path.suffix == SUPERRES_SUFFIX and named and int(named[2]) == scale:
            loaders[f"OpenCV {title}"] = lambda path=path: load_superres(path, scale, options.threads)  # type: ignore[misc]
        elif path.suffix == ".param" and path.with_suffix(".bin").is_file():
            loaders[f"{NCNN}{title}"] = lambda path=path: load_ncnn(path, scale, options.threads)  # type: ignore[misc]
    return loaders


def import_libraries(name: str) -> None:
    """Import the libraries of a baseline that are installed, so that its loading time is that of its model alone.

    Args:
        name: see `find_baselines`.
    """
    modules = _MODULES.get(name, ("ncnn",) if name.startswith(NCNN) else ())
    for module in modules:
        with suppress(ImportError, OSError):  # loading says what is missing, and how to get it
            import_library(module)


def _files(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    with file_errors(InputError, folder):
        return sorted(path for path in folder.iterdir() if path.is_file())


def load_bicubic(scale: int, threads: int | None = None) -> Baseline:
    """Load OpenCV's bicubic interpolation, which computes uint8 images in integer arithmetic (an 8-bit method)."""
    limit_opencv(threads)

    def upscale(image: ImageBatch) -> ImageBatch:
        size = image.shape[1] * scale, image.shape[0] * scale
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)

    return Baseline(BICUBIC, "CPU", "int8", "", one_by_one(upscale))


def load_eager(scale: int, checkpoint: Path, threads: int | None = None) -> Baseline:
    """Load the network in eager PyTorch as the original runs it, on a GPU if torch finds one.

    Args:
        checkpoint: see `overnet.network.checkpoint.load_checkpoint`.

    Raises:
        MissingDependency: torch is not installed.
        CheckpointError: the checkpoint cannot be loaded.
        InputError: the scale is larger than the network's largest.
    """
    torch = require("torch", extra="torch", purpose="eager PyTorch")
    if threads is not None:
        torch.set_num_threads(threads)
    network = load_network(checkpoint, scale)
    device, name = "cpu", "CPU"
    if torch.cuda.is_available():
        device, name = "cuda", str(torch.cuda.get_device_name(0))
    counted = multiply_accumulates_per_pixel(network, scale)
    network = network.to(device)
    from overnet.network.model import reference_batch

    return Baseline(
        EAGER,
        name,
        "fp32",
        printable(checkpoint.name),
        lambda images: reference_batch(network, images, scale),
        is_network=True,
        multiply_accumulates_per_pixel=counted,
        bytes_per_pixel=TorchBackend.bytes_per_pixel,
    )


def load_plain(scale: int, checkpoint: Path, threads: int | None = None) -> Baseline:
    """Load the network's graph without any rewriting, in ONNX Runtime on the CPU.

    Args:
        checkpoint: see `load_eager`.

    Raises:
        MissingDependency: torch, onnx or onnxruntime is not installed.
        CheckpointError: the checkpoint cannot be loaded.
        InputError: the scale is larger than the network's largest.
    """
    for module, extra in (("torch", "export"), ("onnx", "export"), ("onnxruntime", "ort")):
        library = require(module, extra=extra, purpose=f"the {PLAIN}")
    from overnet.export.graph.network_graph import build_onnx
    from overnet.network.deploy import deploy

    network = load_network(checkpoint, scale)
    content = build_onnx(deploy(network), scale, form="as-defined").SerializeToString()
    options = library.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    session = library.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Baseline(
        PLAIN,
        "CPU",
        "fp32",
        printable(checkpoint.name),
        lambda images: np.asarray(session.run(None, {INPUT_NAME: images})[0], np.uint8),
        is_network=True,
        multiply_accumulates_per_pixel=multiply_accumulates_per_pixel(network, scale),
        bytes_per_pixel=_PLAIN_BYTES_PER_PIXEL,
    )
