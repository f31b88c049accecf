import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import cv2
import numpy as np
import psutil
import pytest
import torch
import typer
from typer.testing import CliRunner

from overnet.cli.common import PLAIN
from overnet.cli.train import train_command
from overnet.errors import CheckpointError, InputError
from overnet.network.checkpoint import load_checkpoint, load_overnet, save_checkpoint
from overnet.network.family import NETWORKS, build
from overnet.network.plain import PlainNetConfig
from overnet.runtime.upscaler import Upscaler
from overnet.training import loop
from overnet.training.state import CURVE, load_state
from overnet.weights import bundled_checkpoint
from tests.conftest import ROOT
from tests.support.commands import command_line, environment
from tests.support.small_run import CPU, start, tiny_state

NO_IMAGE = "is not a PNG, JPEG, WebP, TIFF, BMP, PPM, JPEG 2000, AVIF, HEIC, JPEG XL or TGA image"
QUICK = ["--set", "patch=8", "--set", "warm_up=0", "--batch", "2", "--workers", "0", "--no-tensorboard"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    cv2.imwrite(str(folder / "one.png"), np.random.default_rng(0).integers(0, 256, (48, 56, 3), np.uint8))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(tiny_state().model, path)
    return path


def train(*arguments):
    app = typer.Typer(**PLAIN)
    app.command()(train_command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result, str(result.exception) if result.exception is not None else ""


def test_a_run_from_weights_and_its_resumption(tmp_path, folder, weights):
    out = tmp_path / "run"
    common = ["--data", folder, "-o", out, *QUICK, "--validation", folder / "one.png"]
    result, error = train(*common[:-2], "--from", weights, "--steps", "2", "--scales", "2,3", "--validation", tmp_path)
    assert "no images for scale 2" in error
    assert not out.exists()
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "one.png").write_bytes((folder / "one.png").read_bytes())
    result, error = train(
        "--data", folder, "-o", out, *QUICK, "--from", weights, "--steps", "2", "--scales", "2,3", "--validation", sets
    )
    assert (result.exit_code, error) == (0, "")
    assert "2 steps in" in result.output
    assert (
        "broken.png is not a PNG, JPEG, WebP, TIFF, BMP, PPM, JPEG 2000, AVIF, HEIC, JPEG XL or TGA image, and left out"
        in result.output
    )
    with (out / CURVE).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "2"]
    assert all(float(row[f"psnr_x{scale}_db"]) > 5 for row in rows for scale in (2, 3))
    assert load_checkpoint(out / "best.safetensors").config == load_checkpoint(weights).config
    result, error = train("--data", folder, "-o", out, "--workers", "0", "--no-tensorboard", "--resume")
    assert (result.exit_code, error) == (0, "")
    resumed = ["--data", folder, "-o", out, "--workers", "0", "--no-tensorboard", "--resume"]
    for options, message in (
        (["--steps", "1"], "--resume goes on with steps 2, not 1; it may only become longer"),
        (["--minutes", "1"], "--resume goes on with steps 2, not None"),
        (["--preset", "distil"], "--resume goes on with the settings that the run began with; --preset gives others"),
        (["--from", other_weights(tmp_path)], "the weights that the run began with; --from gives others"),
    ):
        result, error = train(*resumed, *options)
        assert message in error + result.output
    others = tmp_path / "others"
    others.mkdir()
    cv2.imwrite(str(others / "two.png"), np.zeros((48, 56, 3), np.uint8))
    packed = (out / "images.packed").read_bytes()
    result, error = train("--data", others, *resumed[2:])
    assert "--resume goes on with the images that the run began with; --data gives others" in error
    assert (out / "images.packed").read_bytes() == packed  # it was replaced, and packed anew at the next resumption
    result, error = train(*resumed, "--steps", "3", "--from", weights, "--preset", "multiscale")
    assert (result.exit_code, error) == (0, "")
    assert load_state(out, CPU).step == load_state(out, CPU).settings.steps == 3
    result, error = train("--data", folder, "-o", out, *QUICK)
    assert "there is a run in it already" in error


def other_weights(folder):
    path = folder / "other.safetensors"
    torch.manual_seed(1)
    model = tiny_state(seed=1).model
    with torch.no_grad():
        next(model.parameters()).add_(1)
    save_checkpoint(model, path)
    return path


def test_the_weights_of_a_training_state_are_a_checkpoint(tmp_path, folder, weights):
    """They are the averaged ones, those of final.safetensors; it was refused as holding no model_state_dict."""
    out = tmp_path / "run"
    result, error = train("--data", folder, "-o", out, *QUICK, "--from", weights, "--steps", "2", "--scales", "2,3")
    assert (result.exit_code, error) == (0, "")
    last, final = load_checkpoint(out / "last.pt"), load_checkpoint(out / "final.safetensors")
    assert last.config == final.config
    assert all(torch.equal(tensor, final.state_dict()[name]) for name, tensor in last.state_dict().items())
    result, error = train(
        "--data", folder, "-o", tmp_path / "next", *QUICK, "--from", out / "last.pt", "--steps", "1", "--scales", "2"
    )
    assert (result.exit_code, error) == (0, "")
    with Upscaler(2, model=out / "last.pt") as one, Upscaler(2, model=out / "final.safetensors") as other:
        image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
        assert np.array_equal(one(image), other(image))


@pytest.mark.parametrize("damage", ["model", "average", "config"])
def test_a_damaged_training_state_is_no_checkpoint(tmp_path, folder, weights, damage):
    out = tmp_path / "run"
    train("--data", folder, "-o", out, *QUICK, "--from", weights, "--steps", "1", "--scales", "2,3")
    content = torch.load(out / "last.pt", weights_only=True)
    content[damage] = 7
    torch.save(content, out / "last.pt")
    with pytest.raises(CheckpointError, match="a damaged training checkpoint"):
        load_checkpoint(out / "last.pt")


def test_a_damaged_last_state_is_named_with_the_one_that_is_used(tmp_path, folder, weights):
    out = tmp_path / "run"
    common = ["--data", folder, "-o", out, *QUICK, "--scales", "2,3"]
    train(*common, "--from", weights, "--steps", "2")
    train(*common, "--resume", "--steps", "4")
    (out / "last.pt").write_bytes((out / "last.pt").read_bytes()[:1000])
    result, error = train(*common, "--resume", "--steps", "4")
    assert (result.exit_code, error) == (0, "")
    assert "last.pt: a damaged training checkpoint" in result.output
    assert "previous.pt is used, of step 2" in result.output


def test_fractional_scales_validate(tmp_path, folder, weights):
    """Nothing was validated, and no weights were kept as the best."""
    out, images = tmp_path / "run", tmp_path / "images"
    images.mkdir()
    (images / "one.png").write_bytes((folder / "one.png").read_bytes())
    common = ["--data", folder, "-o", out, *QUICK, "--validation", images]
    result, error = train(*common, "--from", weights, "--steps", "1", "--scales", "1.5,2")
    assert (result.exit_code, error) == (0, "")
    with (out / CURVE).open() as file:
        rows = list(csv.DictReader(file))
    assert all(float(row[f"psnr_x{scale}_db"]) > 5 for row in rows for scale in ("1.5", "2"))
    assert (out / "best.safetensors").exists()
    result, error = train(*common, "--resume", "--steps", "2")
    assert (result.exit_code, error) == (0, "")
    with (out / CURVE).open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "1", "2"]


@pytest.mark.slow
def test_a_short_run_by_the_clock_trains_however_long_validation_takes(tmp_path, folder, weights, monkeypatch):
    """The first validation took all the minutes, and no step was trained."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "one.png").write_bytes((folder / "one.png").read_bytes())
    validate = loop.validate

    def slowly(model, examples):
        time.sleep(0.7)
        return validate(model, examples)

    monkeypatch.setattr(loop, "validate", slowly)
    out = tmp_path / "run"
    result, error = train(
        "--data",
        folder,
        "-o",
        out,
        *QUICK,
        "--from",
        weights,
        "--minutes",
        "0.01",
        "--scales",
        "2",
        "--validation",
        images,
    )
    assert (result.exit_code, error) == (0, "")
    assert load_state(out, CPU).step > 0


def test_a_preset_a_file_and_options_go_over_one_another(tmp_path, folder, weights):
    config = tmp_path / "c.json"
    config.write_text('{"patch": 16, "steps": 1, "batch": 64, "seed": 4}')
    result, error = train(
        "--data", folder, "-o", tmp_path / "run", "--preset", "original", "--config", config, "--from", weights,
        "--scales", "2", "--batch", "2", "--set", "optimiser=adam", "--set", "learning_rate=1e-4", *QUICK[6:],
    )  # fmt: skip
    assert (result.exit_code, error) == (0, "")
    settings = load_state(tmp_path / "run", CPU).settings
    assert (settings.schedule, settings.patch, settings.batch, settings.seed) == ("halving", 16, 2, 4)
    assert (settings.optimiser, settings.learning_rate, settings.scales) == ("adam", 1e-4, (2.0,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "seed"], "NAME=VALUE"),
        (["--set", "speed=1"], "no setting 'speed'"),
        (["--scales", "two"], "numbers with commas"),
        (["--preset", "best"], "multiscale"),
        (["--steps", "5", "--minutes", "5"], "in steps or in minutes"),
        (["--resume"], "no such checkpoint"),
        (["--device", "tpu"], "'tpu' is not available"),
        (["--set", "patch=64"], "no image has 256 x 256 pixels"),
    ],
)
def test_refused_options_are_one_line(tmp_path, folder, arguments, message):
    result, error = train("--data", folder, "-o", tmp_path / "run", *arguments)
    assert message in error + result.output
    assert result.exit_code != 0
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_named_and_refused_in_a_line(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        (images / f"{number}.png").write_bytes(b"no image")
    result, error = train("--data", images, "-o", tmp_path / "below" / "run", *QUICK)
    assert error == f"{images}: no image in it can be read, of 3"
    assert isinstance(result.exception, InputError)
    assert [line for line in result.output.splitlines() if "2.png" in line] == [
        f"{images}/2.png {NO_IMAGE}, and left out"
    ]
    assert not (tmp_path / "below").exists()


def test_a_refused_run_leaves_a_folder_that_was_there(tmp_path, folder):
    (tmp_path / "notes.txt").write_text("mine")
    result, _ = train("--data", folder, "-o", tmp_path, "--no-tensorboard", "--set", "patch=64")
    assert isinstance(result.exception, InputError)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_packed_file_trains_in_a_new_folder(tmp_path, folder, weights):
    common = ["--from", weights, "--scales", "2,3", "--steps", "1", *QUICK]
    result, error = train("--data", folder, "-o", tmp_path / "one", *common)
    assert (result.exit_code, error) == (0, "")
    result, error = train("--data", tmp_path / "one" / "images.packed", "-o", tmp_path / "new" / "two", *common)
    assert (result.exit_code, error) == (0, "")
    assert load_state(tmp_path / "new" / "two", CPU).step == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "seconds", [pytest.param(0.0, marks=pytest.mark.weekly), 0.1, pytest.param(1.0, marks=pytest.mark.weekly)]
)
def test_an_interruption_while_workers_start_is_one_line(tmp_path, folder, weights, seconds):
    """Ctrl-C in a terminal reaches the workers as well, before they can say what they make of it."""
    process = start(
        ["--data", folder, "-o", tmp_path / "run", "--from", weights, "--scales", "2,3", "--steps", 100_000,
         "--workers", 2, *QUICK[:6], "--no-tensorboard", "--quiet"],
        own_group=True,
    )  # fmt: skip
    while not _workers(process):
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    lines = said.splitlines()
    assert len(lines) == 1, said
    assert "overnet: interrupted" in lines[0]


@pytest.mark.slow
def test_workers_are_ended_with_a_run_that_is_interrupted(tmp_path, folder, weights):
    """Python's resource tracker warned of the semaphores of workers that were not."""
    arguments = ["--data", folder, "-o", tmp_path / "run", "--from", weights, "--scales", "2,3", "--steps", 100_000]
    more = [*QUICK[:6], "--workers", 2, "--no-tensorboard", "--quiet", "--save-seconds", 0.1]
    command = command_line("train", *arguments, *more, program="overnet")
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/last.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.count("\n")) == (130, 1), said


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize(
    ("seconds", "workers"),  # while workers import modules, and within the first step
    [
        pytest.param(0.1, 0, marks=pytest.mark.weekly),
        (0.1, 2),
        pytest.param(1.5, 0, marks=pytest.mark.weekly),
        pytest.param(1.5, 2, marks=pytest.mark.weekly),
    ],
)
def test_a_run_of_long_steps_ends_within_two_seconds(tmp_path, folder, workers, seconds):
    arguments = ["--data", folder, "-o", tmp_path / "run", "--network", "overnet", "--scales", "2", "--steps", 9]
    more = ["--batch", 64, "--set", "patch=24", "--threads", 1, "--workers", workers, "--no-tensorboard"]
    command = command_line("train", *arguments, *more, program="overnet")
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "run/curve.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 2
    assert process.returncode == 130
    assert "interrupted after step 0; --resume goes on from there" in said
    assert load_state(tmp_path / "run", CPU).step == 0


def _workers(process):
    with suppress(psutil.Error):
        children = psutil.Process(process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    return []


@pytest.mark.slow
def test_torchrun_runs_it(tmp_path, folder, weights):
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "overnet", "train",
         "--data", str(folder),
         "-o", str(tmp_path / "run"), "--from", str(weights), "--steps", "3", "--scales", "2,3", *QUICK],
        check=True,
        cwd=ROOT,
        timeout=200,
    )  # fmt: skip
    assert load_state(tmp_path / "run", torch.device("cpu")).step == 3


def test_a_small_network_learns_from_a_teacher_and_goes_on_without_it(tmp_path, folder):
    teacher = tmp_path / "teacher.safetensors"
    torch.manual_seed(0)
    save_checkpoint(build(PlainNetConfig(width=4, depth=1)), teacher)
    out = tmp_path / "run"
    arguments = ["--data", folder, "-o", out, "--preset", "distil", "--network", "realtime", "--steps", "2", *QUICK]
    result, error = train(*arguments, "--teacher", teacher, "--teacher-share", "0.75")
    assert (result.exit_code, error) == (0, "")
    assert sorted(path.name.split(".")[1] for path in out.glob("*.targets")) == ["x2", "x3", "x4"]
    state = load_state(out, CPU)
    assert (state.settings.optimiser, state.settings.teacher_share) == ("muon", 0.75)
    assert sorted(state.teachers) == [2, 3, 4]
    assert load_checkpoint(out / "final.safetensors").config == NETWORKS["realtime"]
    # The teacher is not needed any more, and another is refused.
    resumed = ["--data", folder, "-o", out, "--resume", "--workers", "0", "--no-tensorboard"]
    teacher.unlink()
    result, error = train(*resumed)
    assert (result.exit_code, error) == (0, "")
    save_checkpoint(build(PlainNetConfig(width=4, depth=2)), teacher)
    _, error = train(*resumed, "--teacher", teacher)
    assert "teachers that the run began with" in error
    next(out.glob("*.x2.*.targets")).write_bytes(b"")
    _, error = train(*resumed)
    assert "not this teacher's outputs" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "edsr"], "network is 'edsr'; it must be one of overnet, fast, realtime"),
        (["--network", "fast", "--scales", "2,2.5"], "the network 'fast' has 2, 3, 4"),
        (["--teacher-share", "2"], "teacher_share is 2.0; it must be from 0 to 1"),
        (["--teacher", "none.onnx"], "none.onnx: No such file"),
        (["--network", "fast", "--set", "int8=true"], "int8=true trains a network on; give its weights with --from"),
        (
            ["--network", "fast", "--from", bundled_checkpoint("fast"), "--set", "int8=true", "--teacher", "best"],
            "a network that is trained for INT8 learns from its own outputs",
        ),
    ],
)
def test_networks_and_teachers_that_cannot_be_are_refused(tmp_path, folder, arguments, message):
    result, error = train("--data", folder, "-o", tmp_path / "run", *QUICK, *arguments)
    assert message in error + result.output
    assert not (tmp_path / "run").exists()


def test_a_network_of_no_known_size_is_refused(tmp_path, folder):
    save_checkpoint(build(PlainNetConfig(width=4, depth=1)), tmp_path / "small.safetensors")
    _, error = train("--data", folder, "-o", tmp_path / "run", *QUICK, "--from", tmp_path / "small.safetensors")
    assert "small.safetensors: a network of another size than overnet, fast, realtime" in error


def test_muon_trains_an_overnet_with_plain_weights(tmp_path, folder, weights):
    options = ["--from", weights, "--scales", "2,3", "--preset", "distil", "--steps", "1", *QUICK]
    result, error = train("--data", folder, "-o", tmp_path / "run", *options)
    assert (result.exit_code, error) == (0, "")
    assert not load_overnet(tmp_path / "run" / "final.safetensors").config.weight_normalised
