"""The commands and programs in README and docs/: each is run here, or marked with what it needs."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import cv2
import pytest
import typer

from tests.conftest import ROOT
from tests.support.clips import Clip, images
from tests.support.pages import BY_TRITON, REASONS, blocks_of, calls_of_ours, commands_in, lines_of, options_of, pages

PAGES = pages()
RUN = [block for page in PAGES for block in blocks_of(page) if block.reason is None]
# What a program of a page is given, by a name in it.
GIVEN = {
    "OverscalingHead": "import torch\nimages, features = torch.rand(1, 3, 8, 8), torch.rand(1, 16, 8, 8)\n"
    "height, width = 20, 30\n",
    "YourNetwork": "from tests.support.foreign_networks import Compact as YourNetwork\n",
}


def by_place(block):
    return f"{block.page.name}:{block.line}"


def by_name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_options_in_the_pages_exist(path):
    from overnet.cli import app

    commands = typer.main.get_command(app).commands
    unknown = []
    for name, words in calls_of_ours(path):
        known = {option for parameter in commands[name].params for option in options_of(parameter)} | {"--help", "-"}
        unknown += [f"{name} {word}" for word in words if word.startswith("-") and word not in known]
    assert not unknown


def test_both_ways_to_write_a_command_are_found():
    calls = [call for page in PAGES for call in calls_of_ours(page)]
    assert {name for name, _ in calls} == {"run", "export", "bench", "eval", "train", "info", "web"}
    assert ["overnet-run", "-", "-o", "-"] in [words for page in PAGES for words in commands_in(page)]  # in a pipe


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_modules_and_extras_in_the_pages_exist(path):
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = path.read_text()
    for names in re.findall(r"(?:overnet|\.)\[([\w,-]+)\]", text):
        assert set(names.split(",")) <= set(extras), names
    for module in re.findall(r"python3? -m (overnet[\w.]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")) is not None, module


def test_reasons_for_not_running_a_block_are_known():
    blocks = [block for page in PAGES for block in blocks_of(page)]
    assert {block.language for block in blocks} <= {"sh", "python"}
    assert {block.reason for block in blocks if block.reason} == set(REASONS)
    programs = [block for block in blocks if block.reason and block.language != "sh"]
    assert all(block.reason == BY_TRITON for block in programs), "programs are always run"
    ci = (ROOT / ".ci/run").read_text()
    for block in blocks:
        for words in re.findall(r"samples/\S+ -o|'\.\[dev\]'", block.text) if block.reason == ".ci/run does it" else ():
            assert words in ci


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the pages' commands take, small ones."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from overnet.network.checkpoint import TRAINING_FORMAT
    from overnet.network.model import OverNet, OverNetConfig
    from tests.support.foreign_networks import write_onnx

    path = tmp_path_factory.mktemp("pages")
    photograph = cv2.imread(str(ROOT / "samples/harbour.png"))
    for name in ("photo.jpg", "photo.png", "holiday/a.jpg", "holiday/sub/b.png", "photos/a.png", "Set5/a.png"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path / name), photograph[:96, :128])
    Clip(frames=images(6)).make(path / "clip.mp4")
    Clip(frames=images(100, 32, 24), rate=Fraction(1), pts=[number * 90_000 for number in range(100)]).make(
        path / "clip.mkv"
    )
    write_onnx(path / "theirs.onnx", "compact_x4")
    torch.manual_seed(7)
    config = OverNetConfig(width=16, groups=2, blocks=1, expansion=2, overscale=5, squeeze=4)
    state = {"format": TRAINING_FORMAT, "model": OverNet(config).state_dict(), "average": {}, "config": asdict(config)}
    torch.save(state, path / "checkpoint.pth.tar")
    (path / "bin").mkdir()
    for name, function in {
        "run": "main_run",
        "export": "main_export",
        "bench": "main_bench",
        "": "run_program",
    }.items():
        program = path / "bin" / f"overnet-{name}".rstrip("-")
        program.write_text(f"#!{sys.executable}\nfrom overnet.__main__ import {function}\n{function}()\n")
        program.chmod(0o755)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=by_place)
def test_what_the_pages_show_works(block, folder):
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"OVERNET_CACHE": str(folder / "cache"), "NO_COLOR": "1"}
    if block.language == "python":
        given = "".join(text for name, text in GIVEN.items() if name in block.text)
        commands = [[sys.executable, "-c", given + block.text]]
    else:
        # An installation is not repeated; `test_modules_and_extras_in_the_pages_exist` looks at its extras.
        lines = [line for line in lines_of(block.text) if not line.startswith("pip install")]
        commands = [["bash", "-euo", "pipefail", "-c", line] for line in lines]
    for command in commands:
        for name in re.findall(r" -o (\S+)", command[-1]):
            # Examples of one block write the same file.
            if Path(name).suffix:
                (folder / name).unlink(missing_ok=True)
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert result.returncode == 0, f"{command[-1]}\n{result.stdout}{result.stderr}"
        for name in re.findall(r" -o (\S+)", command[-1]):
            assert (folder / name).exists(), command[-1]
