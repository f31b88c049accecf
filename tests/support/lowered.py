"""A network's graph as the export of its checkpoint makes it."""

from pathlib import Path

from overnet.export.from_checkpoint import CheckpointSource
from overnet.export.options import ExportOptions
from overnet.network.deploy import deploy


def lowered(model, scale, precision, images, calibration=None):
    source = CheckpointSource(Path(), "", model, deploy(model), scale, precision, ExportOptions(), calibration)
    return source.lowered(images, lambda *_: None)
