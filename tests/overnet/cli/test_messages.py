"""Messages and results that cannot be written, and texts of files that must not reach the terminal."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.commands import command_line, environment, run_command

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((10, 12, 3), 40 * index, np.uint8))
    return folder


def dead_reader():
    """Return the writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.slow
@pytest.mark.parametrize("errors", ["full", "dead", "closed"])
@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_all_images_are_written_though_messages_are_not(images, tmp_path, errors, options):
    (images / "5.txt").write_text("no image")  # a note
    output = tmp_path / "large"
    script = "import os, sys; os.close(2); os.execv(sys.argv[1], sys.argv[1:])"
    command = command_line(images, "-o", output, "--model", "realtime", *options)
    if errors == "closed":
        command = [sys.executable, "-c", script, *command]
    stream = {"full": lambda: os.open(FULL, os.O_WRONLY), "dead": dead_reader, "closed": lambda: None}[errors]()
    finished = subprocess.run(
        list(map(str, command)), stderr=stream, stdin=subprocess.DEVNULL, env=environment(), check=False
    )
    if stream is not None:
        os.close(stream)
    assert finished.returncode == 0
    assert sorted(path.name for path in output.iterdir()) == ["0.png", "1.png", "2.png", "3.png"]
    for path in output.iterdir():
        assert cv2.imread(str(path)).shape == (20, 24, 3)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["info", "--json"], ["--help"], ["run", "--help"]])
def test_results_on_a_full_disk_are_one_line(arguments):
    with FULL.open("w") as full:
        finished = subprocess.run(
            list(map(str, command_line(*arguments, program="overnet"))),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
            check=False,
        )
    assert finished.returncode == 1
    assert finished.stderr == "overnet: cannot read or write: No space left on device\n"


def test_control_characters_do_not_reach_the_terminal(images, tmp_path):
    odd = images / "\x1b]0;title\x07\u202egnp.png"
    (images / "0.png").rename(odd)
    made = run_command(odd, "-o", tmp_path / "a.png", "--model", "realtime")
    assert made.returncode == 0
    again = run_command(odd, "-o", tmp_path / "\x9b31mred.png", "--model", "realtime")
    assert again.returncode == 0
    assert "?31mred.png" in again.stderr
    missing = run_command("no\x1b[2Jsuch\nfile.png", "-o", tmp_path / "b.png")
    assert missing.returncode == 1
    for said in (made.stderr, again.stderr, missing.stderr):
        assert all(line.isprintable() for line in said.splitlines())
