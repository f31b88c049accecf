import multiprocessing
import os
import signal
import socket
import time

import cv2
import numpy as np
import pytest
import torch

from overnet.errors import InputError, OverNetError
from overnet.training.data.packed_images import pack
from overnet.training.distributed import Team, joined, team_from_environment
from overnet.training.state import load_state
from tests.support.small_run import CPU, run

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no distributed part")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    cv2.imwrite(str(folder / "one.png"), np.random.default_rng(0).integers(0, 256, (48, 56, 3), np.uint8))
    return pack([folder], folder / "p.packed", report=print)


@pytest.fixture(autouse=True)
def _one_thread():
    # As the processes below: the order of additions depends on the number of threads.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def member(rank, port, folder, images, said, misfortune, ranks, changes):
    """One process of a run of two."""
    from unittest.mock import patch

    import overnet.training.loop
    import overnet.training.step

    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    team = team_from_environment()
    if misfortune == signal.SIGINT and rank in ranks:
        forward = overnet.training.step.Objective.forward
        calls = []

        def interrupted(*arguments):
            calls.append(arguments)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return forward(*arguments)

        patch.object(overnet.training.step.Objective, "forward", interrupted).start()
    elif rank in ranks and misfortune is not None:
        step = overnet.training.loop.Reporter.step

        def meets_misfortune(reporter, state, *rest):
            return os.kill(os.getpid(), misfortune) if state.step == 3 else step(reporter, state, *rest)

        patch.object(overnet.training.loop.Reporter, "step", meets_misfortune).start()
    try:
        with joined(team, CPU, 3.0):
            run(folder, images, team=team, **changes)
        said.put((rank, "done"))
    except OverNetError as error:
        said.put((rank, str(error)))


def run_two(folder, images, misfortune=None, ranks=(1,), **changes):
    """Run two processes; what the first one said, and the seconds it took."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A fork of a process with threads, as pytest is after other tests, may wait for a lock that nobody holds.
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    members = [
        context.Process(target=member, args=(rank, port, folder, images, said, misfortune, ranks, changes))
        for rank in (0, 1)
    ]
    start = time.monotonic()
    for process in members:
        process.start()
    members[0].join(120)
    seconds = time.monotonic() - start
    for process in members:
        process.kill()
        process.join()
    messages = {}
    while not said.empty():
        rank, message = said.get()
        messages[rank] = message
    return messages.get(0), seconds


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [pytest.param({}, marks=pytest.mark.weekly), {"accumulate": 2, "joint_scales": True}]
)
def test_two_processes_give_the_result_of_one_with_their_whole_batch(tmp_path, images, changes):
    changes = {**changes, "autocast": "off"}  # the order of bf16's additions shows
    message, _ = run_two(tmp_path / "two", images, **changes)
    assert message == "done"
    two = load_state(tmp_path / "two", CPU)
    alone = run(tmp_path / "alone", images, **changes)
    assert two.step == alone.step
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("misfortune", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.weekly)])
def test_a_lost_or_silent_process_ends_the_run_with_an_error(tmp_path, images, misfortune):
    message, seconds = run_two(tmp_path / "two", images, misfortune, steps=100_000)
    assert message is not None
    assert "process 0 of 2 stopped, since another was lost or did not answer" in message
    assert seconds < 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "interrupted", [[0, 1], pytest.param([0], marks=pytest.mark.weekly), pytest.param([1], marks=pytest.mark.weekly)]
)
def test_processes_end_after_the_step_in_which_one_is_interrupted(tmp_path, images, interrupted):
    message, _ = run_two(tmp_path / "two", images, signal.SIGINT, interrupted, steps=100_000)
    assert message == "interrupted after step 3; --resume goes on from there"
    assert load_state(tmp_path / "two", CPU).step == 3


def test_one_process_is_alone():
    team = Team()
    assert team.is_main
    assert team.broadcast(0.25) == 0.25
    with joined(team, CPU, 1.0):
        assert team.mean(torch.tensor(2.0)) == 2


@pytest.mark.parametrize("variables", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "one"}])
def test_contradictory_environments_are_refused(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="RANK"):
        team_from_environment()
