"""The export of another program's ONNX file, compared with that file in ONNX Runtime. Needs no torch."""

from dataclasses import replace
from pathlib import Path

from overnet._version import __version__
from overnet.errors import ArtifactError, InputError, printable
from overnet.export.foreign.convention import in_onnxruntime, in_runner
from overnet.export.foreign.declared import in_declared
from overnet.export.foreign.lower import lower_foreign
from overnet.export.foreign.probe import find_convention
from overnet.export.foreign.read import read_foreign
from overnet.export.foreign.tensors import tensor_shapes
from overnet.export.foreign.tiles import measure_tiles
from overnet.export.foreign.wrap import with_means_named, without_means_named, wrapped
from overnet.export.options import ExportOptions
from overnet.export.precision.convert import LoweredGraph
from overnet.export.verify.comparison import TOLERANCES, Parity, ReferenceResults, in_openvino
from overnet.files.onnx_metadata import Artifact, Foreign
from overnet.types import Image, Progress, Upscale

# Height and width of the image that shapes are looked at for.
_SIDE = 64


class ForeignSource:
    """Another program's ONNX file, with the same methods as `overnet.export.from_onnx.OnnxSource`.

    Args:
        path: of the file.
        options: of the export.
        name: the files' name without scale and precision, by default the file's name.

    Raises:
        ArtifactError: the file is damaged, or cannot be converted.
        InputError: the options are not possible for the file.
    """

    def __init__(self, path: Path, options: ExportOptions, name: str | None) -> None:
        if options.form != "default":
            raise InputError(f"{printable(path)}: --lean-memory is for this program's own networks")
        if options.scales is not None and len(options.scales) > 1:
            raise InputError(f"{printable(path)} is for one scale, not {len(options.scales)}")
        given = options.foreign
        if options.scales is not None:
            given = replace(given, scale=options.scales[0])
        self.path, self._options = path, options
        self._file, self._convention, self._found = find_convention(read_foreign(path), given)
        precision = options.precision or "fp16"
        scale = self._convention.scale
        suffix = "" if precision == "fp32" else f"_{precision}"
        stem = name or path.stem
        self.stem = f"{stem}{suffix}" if stem.endswith(f"_x{scale}") else f"{stem}_x{scale}{suffix}"
        self._precision = precision

    def lowered(self, images: list[Image], progress: Progress) -> LoweredGraph:
        """Write the graph between nodes of ours, and convert it to the wanted precision."""
        artifact = Artifact(
            scale=self._convention.scale,
            overscale=self._convention.scale,
            precision="fp32",
            weights_sha256=self._file.sha256,
            producer=f"overnet {__version__}",
            foreign=Foreign(printable(self.path.name)[:200], largest=self._convention.largest),
        )
        try:
            exact = wrapped(self._file, self._convention, artifact)
            progress("measuring how far the network sees", 0, 0)
            with_means_named(exact, tensor_shapes(exact, *(self._convention.largest or (_SIDE, _SIDE))))
            tiles = measure_tiles(exact, self._convention)
            assert artifact.foreign is not None
            foreign = replace(artifact.foreign, margin=tiles.margin, align=tiles.align)
            artifact = replace(artifact, reach=tiles.reach, foreign=foreign)
            if not artifact.has_means:
                without_means_named(exact)
            lowered = lower_foreign(
                exact, artifact, self._precision, self._fitting(images), self._options.calibration, progress
            )
        except ArtifactError as error:
            raise ArtifactError(f"{printable(self.path)}: {error}") from error
        return replace(lowered, notes=(self._found, tiles.note, *lowered.notes))

    def check(self, file: Path, graph: LoweredGraph, images: list[Image], *, name: str) -> Parity:
        """Compare the file with theirs: in OpenVINO, in ONNX Runtime, and with each number in its declared type."""
        expected = ReferenceResults(self.reference(), self._fitting(images))
        try:
            declared = expected.compare(*in_declared(graph.model))
            parity = expected.compare(*in_openvino(file)).worse(declared)
            if self._precision != "bf16":  # which ONNX Runtime computes on no CPU
                parity = parity.worse(expected.compare(*in_runner(graph.content)))
        except ArtifactError as error:
            raise ArtifactError(f"{name} is refused: {error}") from error
        tolerance = TOLERANCES[self._precision]
        if not tolerance.holds(parity):
            raise ArtifactError(tolerance.refusal(name, parity))
        return parity

    def reference(self) -> tuple[Upscale, str]:
        """Return their file in ONNX Runtime, and its name."""
        return in_onnxruntime(self._file, self._convention)

    def _fitting(self, images: list[Image]) -> list[Image]:
        """Return the images, cut to the largest size that the network takes."""
        largest = self._convention.largest
        return images if largest is None else [image[: largest[0], : largest[1]] for image in images]
