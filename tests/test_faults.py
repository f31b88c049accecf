"""Every call into another library may fail: a command then ends with one line and without a part of a file."""

import random
import re
import shutil

import cv2
import numpy as np
import pytest

from overnet.benchmarks.results import write_run
from overnet.network.checkpoint import save_checkpoint
from overnet.network.family import build
from overnet.network.model import OverNetConfig
from tests.runtime.backends.test_hostile_models import model_file, repeated
from tests.support.clips import Clip, images
from tests.support.commands import run_command
from tests.support.example_run import example_run
from tests.support.faults import Faults, errors_of

_SEED = 5
TINY = OverNetConfig(width=8, groups=1, blocks=1, expansion=1, overscale=3, squeeze=4)


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class Command:
    """A command whose calls are to fail, with the files that it leaves where none does."""

    def __init__(self, folder, arguments, program="overnet-run"):
        self._folder, self._arguments, self._program = folder, arguments, program
        self.run(Faults())  # imports what it needs
        counted, result, self.files = self.run(Faults())
        assert result.returncode == 0, result.stderr
        self.calls = counted.calls

    def run(self, faults):
        output = self._folder / "out"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        with faults.active():
            result = run_command(*self._arguments(output), program=self._program, cwd=self._folder)
        return faults, result, files_of(output)

    def problem(self, site, number, error):
        """Return what is wrong after a failing call, or None."""
        try:
            faults, result, left = self.run(Faults(site, number, error))
        except Exception as raised:
            return f"{type(raised).__name__}: {raised}"
        if not faults.happened:
            return None
        if result.returncode == 0:
            # A temporary file that could not be removed is removed by the next run.
            kept = {name for name in left if site[1] != "unlink" or ".overnet-" not in name}
            return None if kept == self.files else f"exit 0, and {self.files ^ kept} differ"
        lines = result.stderr.splitlines()
        if len(lines) != 1 or not re.fullmatch(r"overnet: .{8,}", lines[0]) or not lines[0].isprintable():
            return f"exit {result.returncode}: {result.stderr!r}"
        if left - self.files and site[1] != "unlink":
            return f"left {left - self.files}"
        return None


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    rows, columns = np.mgrid[:40, :56]
    photo = np.stack([rows * 4, columns * 3, rows + columns], -1).astype(np.uint8)
    (folder / "images").mkdir()
    for name in ("a.png", "b.jpg", "c.tif", "d.webp"):
        cv2.imwrite(str(folder / "images" / name), photo)
    cv2.imwrite(str(folder / "deep.png"), np.dstack([photo, photo[..., :1]]).astype(np.uint16) * 257)
    Clip(frames=images(5), audio=["aac"], is_with_extras=True).make(folder / "a.mp4")
    model_file(folder / "x2.onnx", repeated(2), scale=2)  # a network would take longer
    save_checkpoint(build(TINY), folder / "tiny.safetensors")
    write_run(example_run(), folder / "run.json", overwrite=False)
    return folder


def run_arguments(*inputs, name="", model="x2.onnx", backend="openvino"):
    def arguments(output):
        target = output / name if name else output
        return [*inputs, "-o", target, "--model", model, "--quiet", "--threads", "1", "--backend", backend]

    return arguments


QUICK = [
    "--set",
    "patch=8",
    "--set",
    "warm_up=0",
    "--batch",
    "1",
    "--workers",
    "0",
    "--steps",
    "1",
    "--no-tensorboard",
    "-q",
]
COMMANDS = {
    "png": (run_arguments("images/a.png", name="a.png"), "overnet-run"),
    "jpg": (run_arguments("images/b.jpg", name="b.jpg", backend="onnxruntime"), "overnet-run"),
    "16-bit": (run_arguments("deep.png", name="deep.tif"), "overnet-run"),
    "torch": (run_arguments("images/a.png", name="a.png", model="tiny.safetensors", backend="torch"), "overnet-run"),
    "folder": (run_arguments("images"), "overnet-run"),
    "mkv": (run_arguments("a.mp4", name="a.mkv"), "overnet-run"),
    "mp4": (run_arguments("a.mp4", name="a.mp4"), "overnet-run"),
    "y4m": (lambda output: ["a.mp4", "-o", "-", "--model", "x2.onnx", "-q"], "overnet-run"),
    "info": (lambda output: ["info"], "overnet"),
    "eval": (lambda output: ["eval", "--data", "images", "--model", "x2.onnx", "--save", output, "-q"], "overnet"),
    "export": (
        lambda output: [
            "tiny.safetensors", "--scale", 2, "--target", "onnx", "--precision", "int8", "-o", output, "-q"
        ],
        "overnet-export",
    ),
    "report": (
        lambda output: ["--results", "run.json", "--report", output / "a.html", "--plots", output / "plots", "-q"],
        "overnet-bench",
    ),
    "train": (
        lambda output: [
            "train", "--data", "images", "-o", output / "run", "--from", "tiny.safetensors", "--scales", 2, *QUICK
        ],
        "overnet",
    ),
}  # fmt: skip


def failures(command, count):
    """Yield the problems of `count` failing calls, chosen by a fixed seed; of all sites where it is None."""
    dice = random.Random(_SEED)
    sites = sorted(command.calls)
    for site in sites if count is None else dice.sample(sites, min(count, len(sites))):
        kinds = errors_of(site[0])
        for error in kinds if count is None else [dice.choice(kinds)]:
            problem = command.problem(site, dice.randint(1, command.calls[site]), error)
            if problem:
                yield f"{site} {error!r}: {problem}"


# How many calls fail here: fewer of the commands that take longer, and none of the report, which draws plots for each.
_CALLS = {"info": 4, "export": 4, "train": 4, "eval": 10, "torch": 10}


@pytest.mark.parametrize("name", ["png", "16-bit", "folder", "mp4", "y4m", "eval"])
def test_a_failing_call_is_one_line(name, material):
    assert list(failures(Command(material, *COMMANDS[name]), 16)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "report"])
def test_any_failing_call_is_one_line(name, material):
    assert list(failures(Command(material, *COMMANDS[name]), _CALLS.get(name, 30))) == []


@pytest.mark.weekly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", COMMANDS)
def test_each_call_failing_in_each_way_is_one_line(name, material):
    assert list(failures(Command(material, *COMMANDS[name]), None)) == []
