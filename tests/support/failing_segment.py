"""A task of a cluster that fails for one segment. No test itself."""

from pathlib import Path

from overnet.runtime.cluster.worker import make_segment

NUMBER = 2


def make_all_but_one(request, source, frames, *rest):
    """Make any segment but one, and count in the source's folder how often that one was tried."""
    if frames.cut.number == NUMBER:
        with Path(source.path.parent, "tries").open("a") as file:
            file.write("x")
        raise RuntimeError("the GPU is on fire\nand so on")
    return make_segment(request, source, frames, *rest)
