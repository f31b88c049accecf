"""The export of an ONNX file from an earlier export, compared with it in OpenVINO. Needs no torch."""

import math
from dataclasses import replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from overnet.errors import ArtifactError, InputError, printable
from overnet.export.options import CalibrationOptions, ExportOptions
from overnet.export.precision.convert import LoweredGraph, converted, labelled
from overnet.export.verify.comparison import TOLERANCES, Parity, ReferenceResults, in_openvino
from overnet.files.onnx_metadata import Artifact, read_artifact
from overnet.types import Image, Progress, Upscale


class OnnxSource:
    """An ONNX file from an earlier export, with the same methods as `CheckpointSource`.

    A file in FP32 is converted to FP16 or BF16. A file in a lower precision is not changed.

    Args:
        path: of the file.
        options: of the export.
        name: the files' name without the precision, by default the file's name.

    Raises:
        ArtifactError: the file is damaged, or is not from an export.
        InputError: the options are not possible for the file.
    """

    def __init__(self, path: Path, options: ExportOptions, name: str | None) -> None:
        self._source = read_artifact(path)
        precision = options.precision or ("fp16" if self._source.precision == "fp32" else self._source.precision)
        reason = _why_not(self._source, options, precision)
        if reason:
            raise InputError(f"{printable(path)} {reason}")
        self._options = options
        self.path, self.is_kept = path, precision == self._source.precision
        self.artifact = replace(self._source, precision=precision)
        stem = name or path.stem
        self.stem = stem if self.is_kept else f"{stem}_{precision}"

    def lowered(self, images: list[Image], progress: Progress) -> LoweredGraph:
        """Read the graph, and convert it where another precision is wanted."""
        content = self.path.read_bytes()
        try:
            exact = onnx.ModelProto.FromString(content)
        except DecodeError as error:
            raise ArtifactError(f"{printable(self.path)}: not a complete ONNX file ({error})") from error
        if self.is_kept:
            return LoweredGraph(exact, content, exact, self.artifact, ())
        if self._source.foreign is not None:
            from overnet.export.foreign.lower import lower_foreign

            images = _fitting(images, self._source)
            calibration = self._options.calibration
            return lower_foreign(exact, self._source, self.artifact.precision, images, calibration, progress)
        model, notes = converted(exact, self.artifact.precision, images)
        return labelled(model, exact, self.artifact, notes)

    def check(self, file: Path, graph: LoweredGraph, images: list[Image], *, name: str) -> Parity:
        """Compare the converted file with its source, both in OpenVINO."""
        if self.is_kept:
            return Parity(0, math.inf, "nothing, as the ONNX file is unchanged", "")
        parity = ReferenceResults(self.reference(), _fitting(images, self._source)).compare(*in_openvino(file))
        tolerance = TOLERANCES[self.artifact.precision]
        if not tolerance.holds(parity):
            raise ArtifactError(tolerance.refusal(name, parity))
        return parity

    def reference(self) -> tuple[Upscale, str]:
        """Return the file in OpenVINO, and its name."""
        upscale, _ = in_openvino(self.path)
        return upscale, f"the {self._source.precision.upper()} ONNX file"


def _fitting(images: list[Image], artifact: Artifact) -> list[Image]:
    """Return images, cut to the largest size that another program's network takes."""
    largest = artifact.foreign.largest if artifact.foreign else None
    return images if largest is None else [image[: largest[0], : largest[1]] for image in images]


def _why_not(source: Artifact, options: ExportOptions, precision: str) -> str | None:
    """Return why the options are not possible for a file, as a text to follow its name; None where they are."""
    if options.scales is not None and options.scales != (source.scale,):
        wanted = ", ".join(f"{scale:g}" for scale in options.scales)
        return f"is for scale {source.scale:g}, not {wanted}: omit --scale, or give a checkpoint"
    is_calibrated = source.foreign is not None and precision == "int8"
    if options.form != "default" or (options.calibration != CalibrationOptions() and not is_calibrated):
        return "has the form and the numbers that it was exported with; give a checkpoint for others"
    if precision == source.precision:
        is_wanted = options.engine is not None or options.is_copied
        return None if is_wanted else f"is an ONNX file in {precision} already; there is nothing to export"
    if source.precision != "fp32":
        return f"is in {source.precision}, and only FP32 can be converted to another precision; give a file in FP32"
    if precision == "int8" and source.foreign is None:
        return "cannot be converted to INT8, which is calibrated on the network itself; give the checkpoint"
    return None
