"""Measure what a segment costs on a cluster beyond its frames: `overnet-run --cluster` against `overnet-run`.

    python -m overnet.benchmarks.studies.cluster_cost

Both upscale a video in the same many short segments of small frames, so that what a segment costs outweighs its frames.
The cluster is one machine with one processor, a process here. Both take turns, and the least time of each counts.
Joining is what follows the last segment: the packets are put into one file.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from overnet.benchmarks.cases.video_stages import make_clip
from overnet.errors import OverNetError, require
from overnet.runtime.cluster.connection import NO_REPORTS
from overnet.runtime.cluster.run import ClusterRun
from overnet.runtime.pipeline import PipelineReport
from overnet.runtime.plan import Job
from overnet.runtime.segments.writer import Cutting
from overnet.runtime.upscale_file import VideoOptions, upscale_video
from overnet.runtime.upscaler import Upscaler

WIDTH, HEIGHT = 64, 48
UPSCALING: dict[str, Any] = {"scale": 2, "model": "realtime", "backend": "openvino", "threads": 1}


def measure(address: str, *, segments: int, length: int, rounds: int) -> list[str]:
    """Return lines with the figures.

    Args:
        address: of a cluster with one processor.
        segments: number of segments.
        length: frames of a segment.
        rounds: runs of each kind.
    """
    options = VideoOptions(cutting=Cutting(frames=length))
    times: dict[str, list[float]] = {"one machine": [], "cluster": [], "joining": []}
    noted = 0.0

    def note(report: PipelineReport, expected: int | None) -> None:
        nonlocal noted
        noted = time.perf_counter()

    def time_of(name: str, upscale: Callable[[], object]) -> None:
        began = time.perf_counter()
        upscale()
        times[name].append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as folder, Upscaler(**UPSCALING) as upscaler:
        job = Job(Path(folder, "clip.mp4"), Path(folder, "result.mp4"), "video")
        make_clip(job.source, width=WIDTH, height=HEIGHT, frames=segments * length)
        with ClusterRun(address, UPSCALING, [job], options, overwrite=True) as run:
            run.video(job)  # starts the process of the tasks and loads the model there
            for _ in range(rounds):
                time_of("one machine", lambda: upscale_video(job, upscaler, options, overwrite=True))
                time_of("cluster", lambda: run.video(job, on_frame=note))
                times["joining"].append(time.perf_counter() - noted)
    least = {name: min(seconds) for name, seconds in times.items()}
    more = 1000 * (least["cluster"] - least["one machine"]) / segments
    return [
        f"{segments} segments of {length} frames of {WIDTH}x{HEIGHT}",
        *(f"{name}: {seconds:.2f} s" for name, seconds in least.items()),
        f"more on the cluster: {more:.0f} ms for each segment",
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=50)
    parser.add_argument("--length", type=int, default=4, help="frames of a segment")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    try:
        os.environ.update(NO_REPORTS)
        require("ray", extra="cluster", purpose="this study")
        from ray.cluster_utils import Cluster

        cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            lines = measure(cluster.address, segments=options.segments, length=options.length, rounds=options.rounds)
        finally:
            cluster.shutdown()
    except OverNetError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
