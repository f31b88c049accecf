"""Options and names that end a command with one line, before work."""

import json
import subprocess
import sys

import av
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.support.commands import environment, run_command
from tests.support.example_run import example_run


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "in.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--crf", "99"), "crf is 99; for libx264 it must be between 0 (best) and 51"),
        (("--crf", "-1"), "crf is -1; for libx264 it must be between 0 (best) and 51"),
        (("--height", "100000"), "with 133334x100000 pixels: the sides of a video may have up to 16384 pixels"),
        (("--codec", "none"), "no video encoder 'none'"),
        (("--start", "1e15"), "ends before the start, 1e+15 s"),
    ],
)
def test_options_of_videos(video, tmp_path, options, expected):
    result = run_command(video, "-o", tmp_path / "out.mp4", "--model", "realtime", *options)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert expected in result.stderr
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("source", "output", "expected"),
    [
        ("loop.png", "out.png", "loop.png cannot be read: it is a link that leads back to itself"),
        ("gone.png", "out.png", "gone.png cannot be read: it is a link to nowhere.png, which does not exist"),
        ("loop.png/in.png", "out.png", "in.png cannot be read: it is a link that leads back to itself"),
        ("in.mp4", "loop.png/out.mp4", "loop.png cannot be made: it is a link that leads back to itself"),
    ],
)
def test_links_that_lead_nowhere(video, source, output, expected):
    (video.parent / "loop.png").symlink_to("loop.png")
    (video.parent / "gone.png").symlink_to("nowhere.png")
    result = run_command(source, "-o", output, "--model", "realtime", cwd=video.parent)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert expected in result.stderr


@pytest.mark.parametrize("source", ["in.mp4", "-", "udp://127.0.0.1:9"])
def test_no_frames_are_refused_alike_from_every_source(video, source):
    result = run_command(source, "-o", "out.mp4", "--model", "realtime", "--frames", "0", cwd=video.parent)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "--frames is 0; it must be at least 1" in result.stderr


@pytest.mark.parametrize("pixel_format", ["pal8", "bayer_rggb8", "cuda"])
def test_pixel_formats_of_raw_output(video, pixel_format):
    options = ("--model", "realtime", "--output-format", "raw", "--pixel-format", pixel_format)
    result = run_command(video, "-o", "-", *options)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert pixel_format in result.stderr


@pytest.mark.parametrize(
    "options",
    [("--workers", "-1"), ("--threads", "0"), ("--timeout-seconds", "-1"), ("--save-seconds", "nan")],
)
def test_numbers_of_training(tmp_path, options):
    pytest.importorskip("torch")
    result = run_command("train", "--data", tmp_path, "-o", tmp_path / "run", *options, program="overnet")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert f"{options[0]} is {options[1]}; it must be" in result.stderr


def test_a_training_state_that_the_disk_has_no_space_for(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from overnet.errors import OutputError
    from overnet.network.family import NETWORKS, build
    from overnet.training.settings import PRESETS
    from overnet.training.state import new_state

    def fail(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    state = new_state(PRESETS["multiscale"], build(NETWORKS["realtime"]), torch.device("cpu"))
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match=r"last\.pt cannot be written: .*file write failed"):
        state.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_removed_meanwhile(tmp_path):
    (tmp_path / "gone").mkdir()
    code = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); from overnet.cli import main; "
        "sys.exit(main(sys.argv[2:], 'overnet-run'))"
    )
    arguments = [ROOT / "samples/harbour.png", "-o", "a.png", "--model", "realtime"]
    command = [sys.executable, "-c", code, str(tmp_path / "gone"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert (result.returncode, result.stderr) == (1, "overnet: the current folder was removed: change to another\n")


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_a_link_to_itself_is_not_replaced(video, tmp_path, name):
    (tmp_path / name).symlink_to(name)
    source = video if name == "a.mp4" else ROOT / "samples/harbour.png"
    result = run_command(source, "-o", tmp_path / name, "--model", "realtime", "--overwrite")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "a link that leads back to itself" in result.stderr and (tmp_path / name).is_symlink()


def test_settings_that_are_a_link_to_itself(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "c.json").symlink_to("c.json")
    options = ("--data", tmp_path, "-o", tmp_path / "run", "--config", tmp_path / "c.json")
    result = run_command("train", *options, program="overnet")
    assert result.returncode == 1
    assert result.stderr == f"overnet: {tmp_path / 'c.json'} cannot be read: Too many levels of symbolic links\n"


def test_a_gpu_s_number_is_small(video, tmp_path):
    result = run_command(video, "-o", tmp_path / "out.mp4", "--device", "1" + "0" * 21)
    assert result.returncode == 2 and "no number of a GPU" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run["results"].clear(), "no case was measured"),
        (lambda run: run["results"][0]["latency"]["samples_ms"].clear(), "no run was timed"),
    ],
)
def test_results_without_measurements(tmp_path, change, message):
    run = example_run().to_json()
    run = json.loads(json.dumps(run))
    (tmp_path / "good.json").write_text(json.dumps(run))
    change(run)
    (tmp_path / "a.json").write_text(json.dumps(run))
    options = ("--results", "a.json", "--compare", "good.json", "--report", "a.html", "--quiet")
    result = run_command(*options, program="overnet-bench", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert message in result.stderr


@pytest.mark.parametrize("name", ["empty.avif", "empty.heic", "empty.png", "empty.jp2"])
def test_empty_images(tmp_path, name):
    (tmp_path / name).touch()
    result = run_command(name, "-o", "out.png", "--model", "realtime", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, f"overnet: {name} is empty\n")
