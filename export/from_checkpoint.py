"""The export of a checkpoint, compared with its network in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from overnet.errors import InputError, printable
from overnet.export.graph.network_graph import artifact_of, build_onnx
from overnet.export.options import ExportOptions
from overnet.export.precision.calibration import calibration_images, pairs_of
from overnet.export.precision.convert import LoweredGraph, converted, labelled
from overnet.export.precision.int8 import Calibration, equalized, quantized, range_images
from overnet.export.verify.comparison import Parity
from overnet.export.verify.onnx_file import check_onnx_file
from overnet.network.checkpoint import load_checkpoint
from overnet.network.deploy import Deployed, DeployedPlainNetwork, deploy
from overnet.network.family import Network
from overnet.network.plain import PlainNetConfig
from overnet.types import Image, Progress

USUAL_SCALES = (2, 3, 4)


def checkpoint_sources(checkpoint: Path, options: ExportOptions, name: str | None) -> Iterator[CheckpointSource]:
    """Load a checkpoint, and yield the source of each scale.

    Args:
        name: the beginning of the files' names, by default the checkpoint's name.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        InputError: a scale is out of the network's range, or there is no calibration image.
    """
    model = load_checkpoint(checkpoint)
    if isinstance(model.config, PlainNetConfig) and options.form != "default":
        raise InputError(f"{printable(checkpoint)} has no {options.form} form: it needs little memory as it is")
    usual = model.config.scales if isinstance(model.config, PlainNetConfig) else USUAL_SCALES
    scales = options.scales or tuple(scale for scale in usual if model.config.serves(scale))
    for scale in scales:
        if not model.config.serves(scale):
            hint = ""
            if isinstance(model.config, PlainNetConfig) and scale % 1 and scale < max(usual):
                larger = min(each for each in usual if each > scale)
                hint = f": export --scale {larger}, and overnet-run --scale {scale:g} reduces its results"
            raise InputError(f"{checkpoint}: scale is {scale:g}; this network {model.config.scales_text}{hint}")
        if round(scale, 3) != scale:
            raise InputError(f"scale is {scale}; a fraction has at most three decimals, such as {scale:.3f}")
    network = deploy(model)
    precision = options.precision or "fp16"
    calibration = None
    if precision == "int8":
        images, remarks = calibration_images(options.calibration.folder)
        calibration = Calibration(images, remarks, options.calibration.max_loss_db, signed=options.engine is not None)
    for scale in scales:
        suffix = "" if precision == "fp32" else f"_{precision}"
        stem = f"{name or checkpoint.name.partition('.')[0]}_x{scale:g}{suffix}"
        yield CheckpointSource(checkpoint, stem, model, network, scale, precision, options, calibration)


@dataclass(frozen=True)
class CheckpointSource:
    """One scale of a network.

    Attributes:
        path: of the checkpoint.
        stem: the name of the files without suffix, such as ``name_x2_fp16``.
        model, network: the network, and its deployed form.
        precision: of the files.
        calibration: for INT8, and only for that.
    """

    path: Path
    stem: str
    model: Network
    network: Deployed
    scale: float
    precision: str
    options: ExportOptions
    calibration: Calibration | None

    def lowered(self, images: list[Image], progress: Progress) -> LoweredGraph:
        """Build the graph in the wanted precision. The range of its numbers is measured on `images`.

        Raises:
            InputError: no layer can be INT8 within the allowed loss.
        """
        build = partial(
            build_onnx, scale=self.scale, form=self.options.form, significant_bits=self.options.significant_bits
        )
        network, calibration = self.network, self.calibration
        exact = build(network)
        if calibration is not None and isinstance(network, DeployedPlainNetwork):
            network = equalized(network, exact, range_images(pairs_of(calibration.images, self.scale)))
            exact = build(network)
        artifact = replace(artifact_of(network, self.scale), precision=self.precision)
        if calibration is None:
            model, notes = converted(exact, self.precision, images)
        else:
            model, notes = quantized(exact, self.scale, images, calibration, progress)
        return labelled(model, exact, artifact, notes)

    def check(self, file: Path, graph: LoweredGraph, images: list[Image], *, name: str) -> Parity:
        """Compare the file with the network; see `overnet.export.verify.onnx_file.check_onnx_file`."""
        return check_onnx_file(file, graph.model, graph.exact, self.model, images, name=name)
