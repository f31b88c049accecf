"""The export of a model repository: a folder that NVIDIA Triton Inference Server serves."""

import re
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from overnet.export.exporter import ExportedFile, export_source, open_sources
from overnet.export.options import ExportOptions, TritonOptions
from overnet.export.triton.config import network_config, upscaler_config
from overnet.files.atomic import ensure_folder
from overnet.files.whole_folder import whole_folder
from overnet.types import Progress

_WARM_UP_SIZE = (180, 320)
_MODEL_PY = '''"""Upscales whole images, with the ONNX files beside; OverNet must be installed."""

from overnet.runtime.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def export_repository(
    source: Path,
    repository: Path,
    options: ExportOptions,
    triton: TritonOptions,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[list[ExportedFile], str]:
    """Export a source to a model repository: a model for each scale, and one for whole images of any scale.

    Each model is a folder with its configuration and its version 1. A repository that is not there yet gets its name
    when it is complete; in one that is there, each model does, and other models stay as they are.

    Args:
        source: see `overnet.export.exporter.export`.
        repository: the folder to make or to add to.
        options: of the export; with an engine for the platform ``"tensorrt"``, and only for that.
        triton: the platform, and the largest batch.
        overwrite: whether models of the same names may be replaced.
        progress: see `overnet.export.exporter.export`.

    Returns:
        The result for each scale, with the paths in the repository; and the name of the model for whole images.

    Raises:
        OverNetError: see `overnet.export.exporter.export`. Nothing is written then.
    """
    sources = open_sources(source, options)
    stems = [one.stem for one in sources]
    # The model for whole images is named after all files: without their scales where there are several.
    common = stems[0] if len(stems) == 1 else re.sub(r"_x\d+(\.\d+)?(?=_|$)", "", stems[0])
    *names, upscaler = (re.sub(r"[^A-Za-z0-9_.-]", "_", name) for name in (*stems, f"{common}_upscaler"))
    ensure_folder(repository.absolute().parent)
    with ExitStack() as stack:
        if repository.is_dir():
            folders = [
                stack.enter_context(whole_folder(repository / name, overwrite=overwrite)) for name in (*names, upscaler)
            ]
        else:
            whole = stack.enter_context(whole_folder(repository, overwrite=False))
            folders = [whole / name for name in (*names, upscaler)]
        versions = [folder / "1" for folder in folders]
        for version in versions:
            version.mkdir(parents=True)
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="overnet-")))
        files = []
        for one, name, version in zip(sources, names, versions[:-1], strict=True):
            file = export_source(one, scratch, options, progress=progress)
            shutil.copyfile(file.path, versions[-1] / file.path.name)
            files.append(_placed(file, version, repository / name / "1", triton))
            (version.parent / "config.pbtxt").write_text(_config_of(files[-1], name, triton), encoding="utf-8")
        (versions[-1] / "model.py").write_text(_MODEL_PY, encoding="utf-8")
        smallest = min(file.artifact.scale for file in files)
        (folders[-1] / "config.pbtxt").write_text(upscaler_config(upscaler, smallest), encoding="utf-8")
    return files, upscaler


def _placed(file: ExportedFile, version: Path, final: Path, triton: TritonOptions) -> ExportedFile:
    """Move a file of an export into a model's version; return it with the path that it gets in the end."""
    if triton.platform == "tensorrt":
        assert file.engine is not None
        shutil.move(file.engine.path, version / "model.plan")
        return replace(file, engine=replace(file.engine, path=final / "model.plan"))
    shutil.move(file.path, version / "model.onnx")
    return replace(file, path=final / "model.onnx")


def _config_of(file: ExportedFile, name: str, triton: TritonOptions) -> str:
    artifact, batch, warm_up = file.artifact, triton.batch, _WARM_UP_SIZE
    if file.engine is not None:
        profile = file.engine.sidecar.profile
        batch, warm_up = profile.batch, profile.optimum
    elif artifact.foreign is not None and artifact.foreign.largest is not None:
        height, width = artifact.foreign.largest
        warm_up = min(warm_up[0], height), min(warm_up[1], width)
    return network_config(name, triton.platform, artifact.scale, artifact.precision, batch, warm_up)
