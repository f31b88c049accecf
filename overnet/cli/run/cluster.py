"""The option of ``overnet run`` for a cluster of several machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from overnet.cli.options import HARDWARE
from overnet.cli.run.upscaling import UpscalerOptions, default_scale

if TYPE_CHECKING:
    from overnet.runtime.cluster.run import ClusterRun
    from overnet.runtime.plan import Plan
    from overnet.runtime.segments.estimate import Estimate
    from overnet.runtime.upscale_file import VideoOptions

ClusterOption = Annotated[
    str | None,
    HARDWARE(
        metavar="ADDRESS",
        help="Files: upscale on the machines of a Ray cluster: HOST:PORT of its head; auto for the one that this "
        "machine belongs to; or local. Videos go in segments, images in batches.",
    ),
]


def check_cluster(upscaling: UpscalerOptions, *, fps: str | None, resume: bool, has_stream: bool) -> None:
    """Refuse what cannot be done on a cluster."""
    for option, is_given, why in (
        ("a stream or pipe", has_stream, "frames are upscaled here, one after another"),
        ("--fps", fps is not None, "it measures this machine"),
        ("--no-resume", not resume, "the machines need segments"),
        ("--device", upscaling.device != 0, "Ray gives each task a GPU"),
    ):
        if is_given:
            raise typer.BadParameter(f"{option} and --cluster exclude each other: {why}")


def cluster_run(
    address: str,
    plan: Plan,
    upscaling: UpscalerOptions,
    scale: float | None,
    video: VideoOptions,
    quality: int | None,
    on_estimate: Callable[[Estimate], None],
    *,
    overwrite: bool,
) -> ClusterRun:
    """Return the run of a plan on a cluster."""
    from overnet.runtime.cluster.run import ClusterRun

    return ClusterRun(
        address,
        {**vars(upscaling), "scale": default_scale(upscaling) if scale is None else scale},
        plan.jobs,
        video,
        overwrite=overwrite,
        quality=quality,
        on_estimate=on_estimate,
    )
