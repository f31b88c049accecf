"""A run that is small enough for tests: a tiny network, tiny patches, one image."""

import os
import subprocess
import sys

import torch

from overnet.network.family import build
from overnet.network.model import OverNetConfig
from overnet.network.plain import PlainNetConfig
from overnet.training.loop import TrainOptions, train
from overnet.training.settings import PRESETS, settings_from
from overnet.training.state import load_state, new_state
from tests.conftest import ROOT

CPU = torch.device("cpu")


def tiny_settings(**changes):
    few = {"patch": 8, "batch": 4, "steps": 6, "warm_up": 1, "ema": 0.9, "validate_every": 3, "overscale": 3}
    return settings_from({**few, "scales": [2, 3], **changes}, PRESETS["multiscale"], name="test")


def tiny_state(**changes):
    settings = tiny_settings(**changes)
    torch.manual_seed(settings.seed)
    if settings.network == "overnet":
        model = build(OverNetConfig(width=8, groups=1, blocks=1, expansion=1, overscale=3, squeeze=4))
    else:
        model = build(PlainNetConfig(width=4, depth=1, scales=(2, 3)))
    return new_state(settings, model, CPU)


def options(folder, **changes):
    folder.mkdir(exist_ok=True)
    return TrainOptions(folder, **{"workers": 0, "tensorboard": False, "report": lambda line: None, **changes})


def run(folder, images, *, resume=False, team=None, with_options=None, **changes):
    state = load_state(folder, CPU) if resume else tiny_state(**changes)
    return train(state, images, options(folder, **(with_options or {})), team)


def assert_same_run(one, other):
    """Bit for bit: weights, optimiser, averaged weights, counts."""
    assert (one.step, one.skipped, one.best_psnr_db) == (other.step, other.skipped, other.best_psnr_db)
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
    for name, tensor in one.average.items():
        assert torch.equal(tensor, other.average[name]), name
    ours, others = (state.optimiser.state_dict()["state"] for state in (one, other))
    for index, entry in ours.items():
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(others[index][name])), (index, name)


def start(arguments, *, own_group=False, **environment):
    """Run ``overnet train`` in a process of its own, and where wanted in a group of processes, as a terminal does."""
    program = (
        "import sys; from overnet.cli.common import PLAIN, print_error; from overnet.cli.train import train_command\n"
        "from overnet.errors import OverNetError; import typer\n"
        "app = typer.Typer(**PLAIN); app.command()(train_command)\n"
        "try: app(standalone_mode=False)\n"
        "except OverNetError as error: print_error(error); sys.exit(error.exit_code)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=own_group,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )
