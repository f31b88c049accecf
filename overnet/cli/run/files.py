"""The files of a run: options on images, the default name of the result, and which file is written for which."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overnet.cli.common import print_status
from overnet.cli.options import among, check_choice, check_range, listed, under
from overnet.cli.run.upscaling import UpscalerOptions, default_scale
from overnet.errors import printable

if TYPE_CHECKING:
    from overnet.runtime.plan import Plan
    from overnet.runtime.upscale_file import VideoOptions

_IMAGES = under("Images")
_FORMATS = ("png", "jpg", "webp", "tiff", "bmp", "avif")


@dataclass(frozen=True)
class ImageOptions:
    """Options on the images that are written."""

    image_format: Annotated[
        str | None,
        _IMAGES(
            "--format",
            metavar="NAME",
            help=f"In a folder: {listed(_FORMATS)}. Default: as the input.",
            autocompletion=among(*_FORMATS),
        ),
    ] = None
    quality: Annotated[
        int | None, _IMAGES(metavar="N", help="JPEG, WebP, AVIF: quality, 1 to 100. Default: 95, and WebP as it was.")
    ] = None

    def check(self) -> None:
        """Refuse values out of range."""
        check_choice("--format", self.image_format, _FORMATS)
        check_range("--quality", self.quality, 1, 100)


def default_output(inputs: list[str], upscaling: UpscalerOptions, scale: float | None, images: ImageOptions) -> str:
    """Return the name of the result beside a single input: ``photo_x2.jpg``, or for a folder ``photos_x2/``."""
    from overnet.runtime.plan import kind_and_suffix

    if len(inputs) > 1:
        raise typer.BadParameter("--output / -o is missing: the folder to write several inputs to")
    if upscaling.height is not None or upscaling.width is not None:
        label = f"h{upscaling.height}" if upscaling.height is not None else f"w{upscaling.width}"
    else:
        label = f"x{default_scale(upscaling) if scale is None else scale:g}"
    source = Path(os.path.abspath(inputs[0]))  # noqa: PTH100 (a link keeps its name)
    if source.is_dir():
        return f"{source}_{label}{os.sep}"
    kind, suffix = kind_and_suffix(source)
    if kind == "image" and images.image_format is not None:
        suffix = f".{images.image_format}"
    return str(Path(inputs[0]).with_name(f"{source.stem}_{label}{suffix}"))


def plan_files(
    inputs: list[str],
    output: str,
    video: VideoOptions,
    images: ImageOptions,
    *,
    only_videos: bool,
    overwrite: bool,
    quiet: bool,
) -> Plan:
    """Plan which file is written for which."""
    from overnet.runtime.plan import make_plan
    from overnet.runtime.video.formats import Encoding, find_encoder, output_format

    is_folder = output.endswith(os.sep)
    plan = make_plan(
        [Path(text) for text in inputs],
        Path(output),
        overwrite=overwrite,
        is_folder=is_folder,
        image_suffix=images.image_format and f".{images.image_format}",
    )
    for note in plan.notes:
        print_status(f"note: {note}", quiet=quiet)
    for path in plan.kept:
        print_status(f"{path}: exists already and is kept (--overwrite replaces it)", quiet=quiet)
    image = next((job.source for job in plan.jobs if job.kind == "image"), None)
    image_options = images.image_format is not None or images.quality is not None
    if plan.jobs and image_options and all(job.kind == "video" for job in plan.jobs):
        raise typer.BadParameter("--format and --quality are for images, and there is none")
    if only_videos and image is not None:
        raise typer.BadParameter(f"--fps is for videos, and {printable(str(image))} is an image")
    frame = any(job.kind == "frame" for job in plan.jobs)
    videos = any(job.kind == "video" for job in plan.jobs)
    if frame and replace(video, start_seconds=0) != type(video)():
        raise typer.BadParameter("--frames, --codec and --crf are for videos, and one image of it is to be written")
    if plan.jobs and not videos and not frame and video != type(video)():
        raise typer.BadParameter("--frames, --start, --codec and --crf are for videos, and there is none")
    for container in {output_format(job.target) for job in plan.jobs if job.kind == "video"}:
        find_encoder(Encoding(video.codec, video.crf), container)
    return plan
