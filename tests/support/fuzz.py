"""Mutated files of one kind, each given to what reads such files: ``python -m tests.support.fuzz KIND FOLDER COUNT``.

Prints one JSON list of the failures: mutants that end in anything but success or one line, or take too long. Runs in a
process of its own, since a library may crash on a mutant; the mutant at work is kept in the folder.
"""

import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from overnet.benchmarks.compare_runs import compare
from overnet.benchmarks.report.html_report import html_report
from overnet.benchmarks.results import read_run
from overnet.errors import OverNetError
from overnet.export.foreign.source import ForeignSource
from overnet.export.options import ExportOptions
from overnet.files.engine_sidecar import read_sidecar
from overnet.imaging.image_io import read_image
from overnet.network.checkpoint import load_checkpoint
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.openvino_backend import OpenVinoBackend
from overnet.runtime.backends.ort.backend import OnnxRuntimeBackend
from overnet.runtime.video.reader import VideoReader
from overnet.training.data.packed_images import PackedImages
from overnet.training.state import load_state

_MEMORY_BYTES, _SECONDS = 3 << 30, 20.0


def _mutated(content: bytes, dice: random.Random) -> bytes:
    """Change a file in one to four places: bits, bytes, lengths, numbers, repeated or missing parts."""
    mutant = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        # Headers are short and decide most.
        end = len(mutant) if dice.random() < 0.5 else min(len(mutant), 2000)
        at, length = dice.randrange(max(1, end)), dice.choice((1, 1, 2, 4, 8, 50))
        change = dice.randrange(7)
        if change == 0:
            mutant[at : at + 1] = bytes([(mutant[at : at + 1] or b"\0")[0] ^ 1 << dice.randrange(8)])
        elif change == 1:
            mutant[at : at + length] = dice.randbytes(length)
        elif change == 2:
            mutant[at : at + length] = dice.choice((b"\xff", b"\x00", b"\x7f")) * length
        elif change == 3:
            del mutant[at : at + length * dice.choice((1, 100))]
        elif change == 4:
            mutant[at:at] = mutant[at : at + length * 10]
        elif change == 5:
            mutant[at:] = b""
        else:
            digit = next((i for i in range(at, len(mutant)) if 48 <= mutant[i] <= 57), at)
            mutant[digit : digit + 1] = dice.choice(
                (b"-1", b"1e999", b"NaN", b"null", b"9" * 30, b'"a"', b"[]", b"2.5")
            )
    return bytes(mutant)


def _use_model(path: Path) -> None:
    for backend in (OpenVinoBackend, OnnxRuntimeBackend):
        backend(path, 2, BackendOptions(threads=1)).upscale(np.zeros((1, 6, 8, 3), np.uint8))


def _use_foreign(path: Path) -> None:
    source = ForeignSource(path, ExportOptions(precision="fp16"), None)
    source.lowered([np.zeros((16, 16, 3), np.uint8)], lambda doing, done, total: None)


def _use_run(path: Path) -> None:
    run = read_run(path)
    html_report(run, compare(run, run, fail_above_percent=5))


def _use_clip(path: Path) -> None:
    with VideoReader(path, max_frames=50) as reader:
        for frame in reader:
            frame.rgb.sum()


def _use_packed(path: Path) -> None:
    images = PackedImages(path)
    for index in range(len(images)):
        images[index].sum()


# How a file of each kind is used, and its name, which says to some readers what it is.
USES: dict[str, tuple[Callable[[Path], object], str]] = {
    "checkpoint": (load_checkpoint, "mutant.safetensors"),
    "pickle": (load_checkpoint, "mutant.pth"),
    "onnx": (_use_model, "mutant.onnx"),
    "foreign": (_use_foreign, "mutant.onnx"),
    "results": (_use_run, "mutant.json"),
    "state": (lambda path: load_state(path.parent, torch.device("cpu")), "last.pt"),
    "sidecar": (lambda path: read_sidecar(path.with_suffix("")), "mutant.engine.json"),
    "packed": (_use_packed, "mutant.packed"),
    "image": (read_image, "mutant.png"),
    "clip": (_use_clip, "mutant.mp4"),
}


def main(kind: str, folder: Path, count: int) -> None:
    """Use `count` mutants of the folder's seeds."""
    use, name = USES[kind]
    seeds = sorted((folder / "seeds").iterdir())
    cv2.setNumThreads(1)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _MEMORY_BYTES,) * 2)
    failures = []
    for number in range(count):
        dice = random.Random(number)
        path = folder / name
        path.write_bytes(_mutated(seeds[number % len(seeds)].read_bytes(), dice))
        started = time.monotonic()
        problem = None
        try:
            use(path)
        except OverNetError as error:
            if not str(error).isprintable():
                problem = f"not one printable line: {str(error)!r}"
        except MemoryError:
            pass  # the commands report it in one line
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if time.monotonic() - started > _SECONDS:
            problem = f"{time.monotonic() - started:.0f} s"
        if problem:
            failures.append(f"{number}: {problem[:300]}")
    sys.stdout.write(json.dumps(failures))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
