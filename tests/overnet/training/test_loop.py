import csv
import os
import signal
import threading
import time
from functools import partial

import cv2
import numpy as np
import pytest
import torch

import overnet.training.loop
import overnet.training.state
from overnet.errors import CheckpointError, InputError, InterruptedRun, OverNetError
from overnet.imaging.metrics import luma
from overnet.network.checkpoint import load_checkpoint, save_checkpoint
from overnet.network.family import NETWORKS
from overnet.network.model import OverNet
from overnet.network.plain import PlainNet
from overnet.training.data.packed_images import pack
from overnet.training.data.teacher_targets import fill_targets
from overnet.training.loop import pick_device, train
from overnet.training.patches import Patches
from overnet.training.state import BEST, CURVE, FINAL, LAST, PREVIOUS, TrainState, load_state
from overnet.training.step import Objective, computes_in_bf16
from overnet.training.validation import Example
from tests.support.small_run import CPU, assert_same_run, run, start, tiny_settings, tiny_state


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rows, columns = np.mgrid[0:64, 0:72]
    smooth = np.stack([rows * 3, columns * 2, (rows // 8 + columns // 8) % 2 * 200], axis=-1)
    cv2.imwrite(str(folder / "one.png"), smooth.astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def images(folder, tmp_path_factory):
    return pack([folder], tmp_path_factory.mktemp("packed") / "p.packed", report=print)


@pytest.fixture(scope="module")
def examples(images):
    high = np.array(images[0][:48, :48])
    return [Example(np.ascontiguousarray(high[::scale, ::scale]), high, scale) for scale in (2, 3)]


def test_training_lowers_the_loss_and_writes_what_it_says(tmp_path, images, examples):
    said = []
    with_options = {"examples": examples, "report": said.append}
    state = run(tmp_path, images, steps=45, learning_rate=3e-3, with_options=with_options)
    assert state.step == 45
    psnr = [line for line in said if "validation PSNR" in line]
    assert len(psnr) == 16
    best = load_checkpoint(tmp_path / BEST)
    assert isinstance(best, OverNet)
    final = load_checkpoint(tmp_path / FINAL)
    for name, tensor in final.named_parameters():
        assert torch.equal(tensor, state.average[name])
    first = float(psnr[0].split("x2 ")[1].split(",")[0])
    assert float(psnr[-1].split("x2 ")[1].split(",")[0]) > first


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"optimiser": "adam", "channels_last": False}, marks=pytest.mark.slow),
        pytest.param(
            {"accumulate": 2, "joint_scales": True, "ema": 0.0, "schedule": "halving", "halve_every": 2},
            marks=pytest.mark.slow,
        ),
        pytest.param({"autocast": "bf16"}, marks=pytest.mark.slow),
        {"optimiser": "muon", "teacher_share": 0.5, "fractional_share": 0.0},
        pytest.param({"optimiser": "muon", "network": "realtime"}, marks=pytest.mark.slow),
        pytest.param({"optimiser": "adam", "network": "realtime", "int8": True}, marks=pytest.mark.slow),
    ],
)
def test_a_run_resumed_at_any_step_is_the_uninterrupted_one(tmp_path, images, examples, monkeypatch, changes):
    teachers = {}
    if changes.get("optimiser") == "muon":
        for scale in (2, 3):
            repeat = partial(np.kron, b=np.ones((scale, scale, 1), np.uint8))
            teachers[scale] = fill_targets(images, scale, "0" * 64, repeat, report=print)
    monkeypatch.setattr("tests.support.small_run.train", partial(train, teachers=teachers))
    whole = run(tmp_path / "whole", images, with_options={"examples": examples}, **changes)
    for last in (1, 3, 5):
        with monkeypatch.context() as interrupted:
            interrupted.setattr("overnet.training.loop.Reporter.step", _interrupting_after(last))
            with pytest.raises(InterruptedRun, match=f"after step {last}"):
                run(tmp_path / str(last), images, with_options={"examples": examples}, **changes)
        resumed = run(tmp_path / str(last), images, resume=True, with_options={"examples": examples})
        assert_same_run(resumed, whole)
        finals = [(tmp_path / name / FINAL).read_bytes() for name in ("whole", str(last))]
        assert finals[0] == finals[1]


@pytest.mark.parametrize("within", ["batch", "forward", "backward", "update", "validation"])
@pytest.mark.parametrize("changes", [pytest.param({}, marks=pytest.mark.slow), {"accumulate": 2, "optimiser": "muon"}])
def test_a_run_interrupted_within_a_step_goes_on_exactly(tmp_path, images, examples, monkeypatch, within, changes):
    """The step that is running is abandoned, except in its update of the weights."""
    whole = run(tmp_path / "whole", images, with_options={"examples": examples}, **changes)
    owner, name = {
        "batch": (Patches, "__getitem__"),
        "validation": (overnet.training.loop, "validate"),
        "update": (TrainState, "update_average"),
    }.get(within, (Objective, "forward"))
    real = getattr(owner, name)
    calls = []

    def kill(*_):
        os.kill(os.getpid(), signal.SIGINT)

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == at and within != "backward":
            kill()
        result = real(*arguments)
        if len(calls) == at and within == "backward":
            result.register_hook(kill)
        return result

    at = 2 if within == "validation" else 4 * changes.get("accumulate", 1) if owner is Objective else 4
    step = 4 if within == "update" else 3
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupted)
        with pytest.raises(InterruptedRun, match=f"interrupted after step {step};"):
            run(tmp_path / "cut", images, with_options={"examples": examples}, **changes)
        assert len(calls) == at
    saved = load_state(tmp_path / "cut", CPU)
    assert (saved.step, saved.validated_step) == (step, 0 if within == "validation" else 3)
    assert_same_run(run(tmp_path / "cut", images, resume=True, with_options={"examples": examples}), whole)
    for file in (BEST, FINAL):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    rows, others = curve(tmp_path / "cut"), curve(tmp_path / "whole")
    assert [(row["step"], row["psnr_x2_db"]) for row in rows if row["psnr_x2_db"]] == [
        (row["step"], row["psnr_x2_db"]) for row in others
    ]


def _interrupting_after(last):
    def step(reporter, state, *_):
        if state.step == last:
            os.kill(os.getpid(), signal.SIGINT)

    return step


@pytest.mark.slow
def test_a_run_killed_while_it_runs_goes_on_exactly(tmp_path, folder):
    """Killed as hard as can be, twice, at whatever it is doing."""
    random = tmp_path / "random.safetensors"
    save_checkpoint(tiny_state().model, random)
    common = ["--data", folder, "--from", random, "--scales", "2,3", "--steps", 80, "--batch", 4, "--no-tensorboard",
              "--set", "patch=8", "--set", "ema=0.9", "--save-seconds", 0, "--threads", 1, "--quiet"]  # fmt: skip
    whole = start([*common, "-o", tmp_path / "whole"])
    assert whole.wait(120) == 0, whole.stderr.read()
    killed = tmp_path / "killed"
    steps = []
    for resume in ([], ["--resume"]):
        process = start([*common, "-o", killed, *resume])
        before = _written(killed / LAST)
        _wait_until(lambda before=before: _written(killed / LAST) > before, process)
        process.kill()
        process.wait()
        steps.append(load_state(killed, CPU).step)
    assert 0 < steps[0] < steps[1] < 80
    last = start([*common, "-o", killed, "--resume"])
    assert last.wait(120) == 0, last.stderr.read()
    assert_same_run(load_state(killed, CPU), load_state(tmp_path / "whole", CPU))
    assert (killed / FINAL).read_bytes() == (tmp_path / "whole" / FINAL).read_bytes()


def _written(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def _wait_until(reached, process, seconds=60):
    end = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_damaged_checkpoint_leaves_the_one_before(tmp_path, images):
    run(tmp_path, images, steps=3, with_options={"save_seconds": 0})
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:1000])
    assert load_state(tmp_path, CPU).step == 3
    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.pt: a damaged training checkpoint"):
        load_state(tmp_path, CPU)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_state(tmp_path / "elsewhere", CPU)


@pytest.mark.parametrize("optimiser", ["adamp", "adam", "muon"])
@pytest.mark.parametrize("value", [None, 7, "x", [1], {1: None}, torch.zeros(99), 1 << 70], ids=str)
def test_a_member_of_another_type_is_damage(tmp_path, optimiser, value):
    state = tiny_state(optimiser=optimiser)
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimiser.step()
    state.save(tmp_path)
    content = torch.load(tmp_path / LAST, weights_only=True)
    assert load_state(tmp_path, CPU).step == 0
    damaged = [{**content, name: value} for name in ("settings", "config", "scaler", "teachers", "origin")]
    for name in ("model", "optimiser", "average"):
        members = content[name]
        damaged += [
            {**content, name: each} for each in (value, *({**members, key: value} for key in list(members)[:2]))
        ]
    optimiser_state = content["optimiser"]
    others = [{**optimiser_state["param_groups"][0], "params": [1 << 70]}, *optimiser_state["param_groups"][1:]]
    damaged.append({**content, "optimiser": {**optimiser_state, "param_groups": others}})
    for each in damaged:
        torch.save(each, tmp_path / LAST)
        with pytest.raises(CheckpointError, match="a damaged training checkpoint"):
            load_state(tmp_path, CPU)


@pytest.mark.parametrize("error", [TypeError, AttributeError, NameError, AssertionError, torch.OutOfMemoryError])
def test_an_error_that_damage_does_not_raise_passes_through(tmp_path, monkeypatch, error):
    """A mistake in the program, or a lack of memory, is not reported as a damaged file."""
    tiny_state().save(tmp_path)

    def fail(*arguments):
        raise error("a mistake")

    monkeypatch.setattr(overnet.training.state, "new_state", fail)
    with pytest.raises(error, match="a mistake"):
        load_state(tmp_path, CPU)


def test_a_checkpoint_that_carries_code_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made"),))

    torch.save({"format": "overnet training 1", "model": Code()}, tmp_path / LAST)
    with pytest.raises(CheckpointError, match="a damaged training checkpoint"):
        load_state(tmp_path, CPU)
    assert not (tmp_path / "made").exists()


def test_accumulated_parts_are_the_whole_batch(tmp_path, images):
    # In FP32: the order of bf16's additions shows.
    whole = run(tmp_path / "whole", images, autocast="off")
    parts = run(tmp_path / "parts", images, autocast="off", accumulate=4)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("loss", "power"), [("l1", 1), ("l2", 2)])
def test_the_loss_mixes_the_errors_of_colours_and_luma_as_its_shares_say(loss, power):
    generator = torch.Generator().manual_seed(0)
    low, true, taught = (
        torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator) for side in (8, 16, 16)
    )
    model = PlainNet(NETWORKS["realtime"])
    mixed = Objective(model, loss, teacher_share=0.25, luma_share=0.75)(low, [true], [2.0], [taught])

    result = model(low.float() / 255, 2.0).detach().numpy().transpose(0, 2, 3, 1).astype(np.float64)
    expected = 0.0
    for tensor, share in ((true, 0.75), (taught, 0.25)):
        target = tensor.numpy().transpose(0, 2, 3, 1) / 255
        colour_error = np.mean(np.abs(result - target) ** power)
        # `luma` is for 0 to 255; white is 219 above black.
        lumas = [np.stack([luma(image * 255) for image in images]) / 219 for images in (result, target)]
        expected += share * (0.25 * colour_error + 0.75 * np.mean(np.abs(lumas[0] - lumas[1]) ** power))
    assert mixed.item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_for_int8_is_the_error_of_rounding_alone(tmp_path, images):
    state = run(tmp_path, images, network="realtime", int8=True, fractional_share=0.0, steps=1)
    low, true = (torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8) for side in (8, 16))
    assert not any(each.requires_grad for each in state.averaged_model().quantization._largest.values())
    loss = Objective(state.model, "l2", exact=state.exact)
    assert 0 < loss(low, [true], [2.0]).item() < 1e-3
    state.exact.load_state_dict(state.model.state_dict())
    state.model.quantization = None
    assert loss(low, [true], [2.0]).item() == 0


class Poisoned(Objective):
    """A loss that is not a number at some steps."""

    poisoned = ()
    calls = 0

    def forward(self, low, targets, scales, teacher_targets=None):
        loss = super().forward(low, targets, scales, teacher_targets)
        self.calls += 1
        return loss * float("nan") if self.calls in self.poisoned else loss


def test_steps_whose_loss_is_not_a_number_change_nothing_and_are_counted(tmp_path, images, monkeypatch):
    monkeypatch.setattr("overnet.training.step.Objective", Poisoned)
    monkeypatch.setattr(Poisoned, "poisoned", (2, 5))
    state = run(tmp_path, images)
    assert (state.step, state.skipped, state.skipped_in_a_row) == (6, 2, 0)
    assert all(torch.isfinite(tensor).all() for tensor in state.model.state_dict().values())
    assert state.optimiser.state_dict()["state"][0]["step"] == 4


def test_a_loss_that_stays_not_a_number_ends_the_run(tmp_path, images, monkeypatch):
    monkeypatch.setattr("overnet.training.step.Objective", Poisoned)
    monkeypatch.setattr(Poisoned, "poisoned", range(3, 1000))
    with pytest.raises(OverNetError, match="not finite for 20 steps in a row, up to step 22"):
        run(tmp_path, images, steps=1000)


def test_the_averaged_weights_follow_the_formula(images, tmp_path):
    state = tiny_state(steps=1, ema=0.75)
    before = {name: tensor.detach().clone() for name, tensor in state.model.named_parameters()}
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(1)
    state.update_average()
    for name, tensor in state.average.items():
        torch.testing.assert_close(tensor, before[name] + 0.25)


def test_a_run_by_the_clock_ends_in_time_and_goes_on_where_it_was(tmp_path, images):
    state = run(tmp_path, images, minutes=0.02, steps=None)
    assert state.step > 0
    assert 1.2 <= state.elapsed_seconds < 5
    assert load_state(tmp_path, CPU).elapsed_seconds == state.elapsed_seconds
    again = run(tmp_path, images, resume=True)
    assert again.step == state.step


def test_a_second_interruption_does_not_wait(tmp_path, images, monkeypatch):
    def twice(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("overnet.training.loop.Reporter.step", twice)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, images)
    assert not (tmp_path / LAST).exists()


def test_signals_are_as_before_after_a_run(tmp_path, images):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    run(tmp_path, images, steps=1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path, images):
    states = []
    thread = threading.Thread(target=lambda: states.append(run(tmp_path, images, steps=1)))
    thread.start()
    thread.join()
    assert states[0].step == 1


def curve(folder):
    with (folder / CURVE).open() as file:
        return list(csv.DictReader(file))


def test_the_curve_says_what_the_run_came_to(tmp_path, images, examples):
    state = run(tmp_path, images, steps=7, warm_up=0, with_options={"examples": examples})
    rows = curve(tmp_path)
    assert [row["step"] for row in rows] == ["0", "3", "6", "7"]
    assert [row["loss"] == "" for row in rows] == [True, False, False, False]
    assert float(rows[1]["learning_rate"]) > float(rows[2]["learning_rate"]) > 0
    assert all(float(row["patches_per_second"]) > 0 for row in rows[1:])
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= state.elapsed_seconds + 0.1
    best = max(sum(float(row[f"psnr_x{scale}_db"]) for scale in (2, 3)) / 2 for row in rows)
    assert best == pytest.approx(state.best_psnr_db, abs=1e-3)


def test_the_curve_of_a_resumed_run_is_the_uninterrupted_ones(tmp_path, images, examples, monkeypatch):
    run(tmp_path / "whole", images, with_options={"examples": examples})
    folder = tmp_path / "killed"
    # As if it was killed in step 7, while its last checkpoint is of step 4.
    monkeypatch.setattr("overnet.training.loop.Reporter.step", _interrupting_after(4))
    with pytest.raises(InterruptedRun):
        run(folder, images, with_options={"examples": examples})
    monkeypatch.undo()
    with (folder / CURVE).open("a") as file:
        file.write("5,9.9,0.1,0.001,9,,\n6,9.9,0.1,0.001,9,1.0,1.0\n7,1")
    run(folder, images, resume=True, with_options={"examples": examples})
    whole, resumed = curve(tmp_path / "whole"), curve(folder)
    names = ["step", "psnr_x2_db", "psnr_x3_db"]
    assert [[row[name] for name in names] for row in resumed] == [[row[name] for name in names] for row in whole]
    run(folder, images, resume=True, with_options={"examples": examples})
    assert curve(folder) == resumed


def test_a_run_writes_points_of_its_curve_now_and_then(tmp_path, images, monkeypatch):
    monkeypatch.setattr("overnet.training.report._EVERY_SECONDS", 0.0)
    run(tmp_path, images, steps=3)
    assert [row["step"] for row in curve(tmp_path)] == ["1", "2", "3"]


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_a_run_trains_the_loss_that_is_set(tmp_path, images, loss):
    """What it says against the network's own error, at a rate that changes nothing."""
    state = run(tmp_path, images, loss=loss, learning_rate=0.0, steps=1, autocast="off")
    batch = Patches(images, state.settings)[0]
    with torch.no_grad():
        (upscaled,) = state.model.upscale_to(batch.low.float() / 255, batch.scales)
    error = upscaled - batch.targets[0].float() / 255
    expected = {"l1": error.abs(), "l2": error.square()}[loss].mean()
    assert float(curve(tmp_path)[-1]["loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_tensorboard_gets_scalars_and_images(tmp_path, images, examples, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr("overnet.training.report._EVERY_SECONDS", 0.0)
    run(tmp_path, images, with_options={"tensorboard": True, "examples": examples})
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert {"loss", "rate", "PSNR/x2", "PSNR/x3"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("PSNR/x2")] == [0, 3, 6]
    assert board.Tags()["images"] == ["validation/0"]


@pytest.mark.weekly
def test_a_compiled_run_learns_the_same(tmp_path, images):
    plain = run(tmp_path / "plain", images, learning_rate=1e-4)
    compiled = run(tmp_path / "compiled", images, learning_rate=1e-4, compile=True)
    for name, tensor in plain.average.items():
        torch.testing.assert_close(compiled.average[name], tensor, rtol=0, atol=1e-3)


def test_devices_that_are_not_here_are_refused():
    from overnet.training.distributed import Team

    assert pick_device("cpu", Team()) == CPU
    with pytest.raises(InputError, match="'tpu' is not available"):
        pick_device("tpu", Team())


@pytest.mark.parametrize(
    ("words", "faster"),
    [
        ("vendor_id : GenuineIntel flags : avx2 fma", False),
        ("vendor_id : GenuineIntel flags : avx512f avx512_bf16", False),
        ("vendor_id : GenuineIntel flags : avx512f avx512_bf16 amx_bf16", True),
        ("vendor_id : AuthenticAMD flags : avx512f avx512_bf16", True),
        ("vendor_id : AuthenticAMD flags : avx2 fma", False),
        ("CPU implementer : 0x41 Features : asimd bf16", True),
    ],
)
def test_bf16_is_chosen_where_the_processor_is_faster_in_it(monkeypatch, words, faster):
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: words)
    assert computes_in_bf16(CPU) == faster


def test_settings_are_part_of_a_resumed_run(tmp_path, images):
    run(tmp_path, images, seed=5)
    assert load_state(tmp_path, CPU).settings == tiny_settings(seed=5)
