"""How images go into somebody else's network and come out of it, and the network in ONNX Runtime.

This is the reference for the converted file: written with NumPy, apart from the graph that `wrap` writes.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnet.errors import ArtifactError, one_line, require
from overnet.export.foreign.read import PREFIX, ForeignFile
from overnet.imaging.resample import network_bicubic
from overnet.system.memory import usable_cores
from overnet.types import Image, Upscale

# Factor and offset from levels, 0 to 255, to a network's numbers.
RANGES = {"0..1": (1 / 255, 0.0), "0..255": (1.0, 0.0), "-1..1": (2 / 255, -1.0)}
COLOURS = ("rgb", "bgr")
# Of luma in full-range BT.601, as JPEG's: what is added to it can be added to red, green and blue alike.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Convention:
    """How images go in and come out.

    Attributes:
        scale: the factor from input to output.
        channels: 3, or 1 for a network that takes luma.
        colour: the order of the channels, one of `COLOURS`.
        input_range, output_range: keys of `RANGES`.
        multiple: height and width are padded to multiples of this.
        smallest: height and width are padded to at least this.
        fixed: the only height and width that the network takes; None where it takes any.
        border: pixels that the network cuts off each side, as those without padding do; images get as many more.
    """

    scale: int
    channels: int = 3
    colour: str = "rgb"
    input_range: str = "0..1"
    output_range: str = "0..1"
    multiple: int = 1
    smallest: int = 1
    fixed: tuple[int, int] | None = None
    border: int = 0

    @property
    def largest(self) -> tuple[int, int] | None:
        """The largest height and width of an image; None where there is no limit."""
        if self.fixed is None:
            return None
        return self.fixed[0] - 2 * self.border, self.fixed[1] - 2 * self.border

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that the network sees of an image."""
        if self.fixed is not None:
            return self.fixed
        bordered = (max(side + 2 * self.border, self.smallest) for side in (height, width))
        rows, columns = (-(-side // self.multiple) * self.multiple for side in bordered)
        return rows, columns


class Runner:
    """A graph in ONNX Runtime on the CPU, in FP32.

    Args:
        content: a serialised model.
        exactly: leave every node as it is, so that each number is rounded where the graph says so.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
        MissingDependency: ONNX Runtime is not installed.
    """

    def __init__(self, content: bytes, *, exactly: bool = False) -> None:
        onnxruntime = require("onnxruntime", extra="ort", purpose="converting a model of another program")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = usable_cores()
        # Memory of one run is freed after it: images of many sizes are run, most of them once.
        options.enable_cpu_mem_arena = False
        if exactly:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session: Any = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own types
            raise ArtifactError(f"ONNX Runtime cannot load it: {_reason(error)}") from error
        self.version: str = f"ONNX Runtime {onnxruntime.__version__}"
        first = self._session.get_inputs()[0]
        self._input, self.is_half = first.name, first.type == "tensor(float16)"

    def run(
        self, x: NDArray[Any], names: list[str] | None = None, others: dict[str, NDArray[Any]] | None = None
    ) -> list[NDArray[Any]]:
        """Return the outputs, or those that are named; FP16 ones as float32.

        Args:
            x: the first input.
            others: further inputs, by their names.

        Raises:
            ArtifactError: the graph fails; the message names the node.
        """
        try:
            inputs = {self._input: x.astype(np.float16) if self.is_half else x, **(others or {})}
            outputs = self._session.run(names, inputs)
        except Exception as error:
            raise ArtifactError(_reason(error)) from error
        return [each.astype(np.float32) if each.dtype == np.float16 else each for each in outputs]


def _reason(error: Exception) -> str:
    """Return ONNX Runtime's message without codes, source files and signatures, and with a node's own name."""
    # As in "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code ...".
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    text = re.sub(r"/\S+\.\w+:\d+ (?:[^()]*\([^()]*\)(?: const)?)? *", "", text)
    failed = re.match(r"Non-zero status code returned while running (\w+) node\. Name:'(.*?)' Status Message: ", text)
    if failed is not None:
        reason = re.sub(r"^\S.{,200}? was false\. ", "", text[failed.end() :])
        text = f"the node {failed[2][:80]} ({failed[1]}) fails: {reason}"
    return one_line(text.replace(PREFIX, ""))


def to_network(image: NDArray[Any], convention: Convention) -> NDArray[np.float32]:
    """Return an image, H x W x 3 in levels, as the network's input, N x C x padded H x padded W."""
    factor, offset = RANGES[convention.input_range]
    if convention.channels == 1:
        planes = (image.astype(np.float32) @ np.asarray(LUMA, np.float32))[None]
    else:
        planes = (image[..., ::-1] if convention.colour == "bgr" else image).transpose(2, 0, 1).astype(np.float32)
    border = convention.border
    missing = [
        after - side - border for after, side in zip(convention.padded(*image.shape[:2]), image.shape, strict=False)
    ]
    if min(missing) < border:
        raise ValueError(f"an image of {image.shape} for a network that takes {convention.largest}")
    padded = np.pad(planes, ((0, 0), (border, missing[0]), (border, missing[1])), mode="edge")
    return np.ascontiguousarray(padded[None] * np.float32(factor) + np.float32(offset), np.float32)


def from_network(output: NDArray[Any], image: Image, convention: Convention) -> Image:
    """Return the network's result for an image, scale*H x scale*W x 3 uint8."""
    factor, offset = RANGES[convention.output_range]
    height, width = (side * convention.scale for side in image.shape[:2])
    # In a wrong range a network may make numbers that are too large, or undefined: they count as black.
    output = np.clip(np.nan_to_num(output[0, :, :height, :width]), -1e9, 1e9)
    levels = (output - np.float32(offset)) / np.float32(factor)
    if convention.channels == 1:
        luma = image.astype(np.float32) @ np.asarray(LUMA, np.float32)
        enlarged = network_bicubic(image.astype(np.float32) - luma[..., None], (height, width))
        upscaled = enlarged + levels[0][..., None]
    else:
        upscaled = levels.transpose(1, 2, 0)
        upscaled = upscaled[..., ::-1] if convention.colour == "bgr" else upscaled
    result: Image = np.rint(np.clip(upscaled, 0, 255)).astype(np.uint8)
    return result


def in_onnxruntime(file: ForeignFile, convention: Convention) -> tuple[Upscale, str]:
    """Return a function that upscales an image with their file as it came, and what to call that."""
    runner = Runner(file.content)

    def upscale(image: Image) -> Image:
        return from_network(runner.run(to_network(image, convention))[0], image, convention)

    return upscale, f"{file.path.name} in {runner.version}"


def in_runner(content: bytes) -> tuple[Upscale, str]:
    """Return a function that upscales an image with a wrapped graph in ONNX Runtime, and what to call that."""
    runner = Runner(content)
    return lambda image: np.asarray(runner.run(image[None])[0][0], np.uint8), runner.version
