"""Measure what segments cost in time and bytes: `overnet-run` against `overnet-run --no-resume`.

    python -m overnet.benchmarks.studies.segment_cost
    python -m overnet.benchmarks.studies.segment_cost --length 240 --frames 2000

A clip of moving photographs is upscaled in both ways in turn, each time in another order. Segments have the length that
the program chooses, or one that is given; 240 frames are the shortest that it chooses. Given are the medians of the
rounds: processor time of the user and the system, which other work on the machine changes less, the time that passes,
and the bytes of the results.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from overnet.benchmarks.cases.video_stages import make_clip
from overnet.errors import OverNetError
from overnet.runtime.pipeline import PipelineReport
from overnet.runtime.plan import Job
from overnet.runtime.segments.status import read_status
from overnet.runtime.segments.writer import Cutting
from overnet.runtime.upscale_file import VideoOptions, upscale_video
from overnet.runtime.upscaler import Upscaler


def main(argv: list[str] | None = None) -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000, help="of the clip")
    parser.add_argument("--size", default="160x96", help="of the clip")
    parser.add_argument("--length", type=int, help="frames of a segment; by default, the program chooses")
    parser.add_argument("--model", default="realtime")
    parser.add_argument("--codec")
    parser.add_argument("--suffix", default=".mkv")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    width, height = map(int, options.size.split("x"))
    kinds = {
        name: VideoOptions(codec=options.codec, cutting=Cutting(is_wanted, frames=options.length))
        for name, is_wanted in (("one pass", False), ("segments", True))
    }
    figures: dict[str, list[tuple[float, float, int]]] = {name: [] for name in kinds}
    joins = []
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Upscaler(scale=2, model=options.model, backend="openvino") as upscaler,
        ):
            job = Job(Path(folder, "clip.mp4"), Path(folder, f"result{options.suffix}"), "video")
            make_clip(job.source, width=width, height=height, frames=options.frames)
            seen = 0

            def note(report: PipelineReport, expected: int | None) -> None:
                nonlocal seen
                if not report.frames % 100 and (status := read_status(job.target)) is not None:
                    seen = status.segments

            upscale_video(job, upscaler, VideoOptions(max_frames=100), overwrite=False)
            for number in range(options.rounds):
                for name in list(kinds)[:: -1 if number % 2 else 1]:
                    seen = 0
                    began, used = time.perf_counter(), sum(os.times()[:2])
                    upscale_video(job, upscaler, kinds[name], overwrite=True, on_frame=note)
                    took = time.perf_counter() - began, sum(os.times()[:2]) - used, job.target.stat().st_size
                    figures[name].append(took)
                    if name == "segments":
                        joins.append(seen)
                    print(f"{name}: {took[1]:.1f} s of processors, {took[0]:.1f} s, {took[2]} bytes", flush=True)
    except OverNetError as error:
        print(error, file=sys.stderr)
        return 1
    passed, used, size = (
        statistics.median(cut[index] / single[index] - 1 for single, cut in zip(*figures.values(), strict=True))
        for index in range(3)
    )
    print(f"{options.frames} frames of {options.size}, about {min(joins)} joins: processor time {used:+.1%}, ", end="")
    print(f"time {passed:+.1%}, bytes {size:+.1%} (medians of {options.rounds} rounds)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
