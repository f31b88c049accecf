import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from overnet.benchmarks.baselines import race
from overnet.benchmarks.baselines.race import Entrant, RaceRequest, run_race
from overnet.benchmarks.baselines.race_child import race as race_here
from overnet.benchmarks.baselines.registry import BICUBIC, EAGER, PLAIN
from overnet.benchmarks.options import ImageSize
from overnet.errors import BackendError, InputError

SMALL = ImageSize(24, 16)


@pytest.fixture
def request_(small_checkpoint):
    """A race of a small network that takes no time to speak of."""
    return RaceRequest([Entrant("torch")], 2, [ImageSize(40, 30), SMALL], seconds=0.5, model=small_checkpoint)


@pytest.mark.slow
def test_every_baseline_has_times_quality_and_a_ratio_at_every_size(request_):
    for module in ("onnx", "onnxruntime"):
        pytest.importorskip(module)
    # More time than it takes even on a busy machine, or the slow ones would be left out.
    outcome = run_race(replace(request_, seconds=2))
    assert outcome.notes == []
    cases = [(result.case.method, result.case.width) for result in outcome.results]
    assert sorted(cases) == sorted((name, width) for name in (BICUBIC, EAGER, PLAIN) for width in (24, 40))
    for result in outcome.results:
        assert result.error is None
        assert len(result.latency.samples_ms) == result.latency.host.runs >= 3
        assert result.images_per_second == pytest.approx(1000 / result.latency.host.mean_ms)
        # A speed without its quality is not shown: each has at least the one.
        assert result.quality.ground_truth_psnr_db is not None
        assert (result.quality.largest_difference_levels is None) == (result.case.method == BICUBIC)
        assert (result.multiply_accumulates is None) == (result.case.method == BICUBIC)
    eager, plain = ({r.case.method: r for r in outcome.results}[name] for name in (EAGER, PLAIN))
    assert eager.quality.largest_difference_levels == 0
    assert eager.quality.reference.startswith("PyTorch")
    assert plain.quality.largest_difference_levels <= 1
    assert plain.multiply_accumulates == eager.multiply_accumulates
    assert len(outcome.ratios) == 6
    for ratio in outcome.ratios:
        assert (ratio.case.method, ratio.case.kind, ratio.case.precision) == ("torch", "backend", "fp32")
        assert (ratio.case.width, ratio.case.height) == (ratio.baseline.width, ratio.baseline.height)
        assert 0 < ratio.low <= ratio.times_as_fast <= ratio.high
        assert ratio.rounds >= 3
    # Bicubic costs next to nothing: a ratio the wrong way round would be more than 1.
    assert all(ratio.times_as_fast < 1 for ratio in outcome.ratios if ratio.baseline.method == BICUBIC)


def test_a_baseline_too_slow_for_the_time_limit_is_left_out_with_a_note(request_):
    reply = race_here(replace(request_, seconds=1e-4, sizes=[SMALL], only=[BICUBIC, EAGER]))
    assert EAGER not in [result.case.method for result in reply.outcome.results]
    (note,) = [note for note in reply.outcome.notes if note.startswith(EAGER)]
    assert "24x16 is not raced: a run takes about" in note and "\n" not in note


def test_a_backend_that_does_not_load_is_a_note(request_):
    entrants = [Entrant("torch"), Entrant("torch", "int8"), Entrant("none")]
    reply = race_here(replace(request_, entrants=entrants, sizes=[SMALL], only=[BICUBIC]))
    assert {ratio.case.precision for ratio in reply.outcome.ratios} == {"fp32"}
    assert len(reply.outcome.notes) == 2
    assert "torch int8 x2 24x16 is not raced" in reply.outcome.notes[0]
    assert "there is no backend 'none'" in reply.outcome.notes[1]


def test_a_baseline_that_fails_leaves_the_others_alone(request_, monkeypatch):
    from overnet.benchmarks.baselines import race_child
    from overnet.benchmarks.baselines import registry as baselines

    def broken(images):
        raise RuntimeError("its own\nwords")

    kept = baselines.load_bicubic(2)
    loaders = {"broken": lambda: replace(kept, name="broken", upscale=broken), BICUBIC: lambda: kept}
    monkeypatch.setattr(race_child, "find_baselines", lambda scale, options: loaders)
    reply = race_here(replace(request_, sizes=[SMALL]))
    errors = {result.case.method: result.error for result in reply.outcome.results}
    assert errors["broken"].endswith("RuntimeError: its own words")
    assert errors[BICUBIC] is None


def test_a_baseline_that_needs_too_much_memory_is_not_run(request_, monkeypatch):
    from overnet.benchmarks.baselines import race_child

    monkeypatch.setattr(race_child, "available_memory_bytes", lambda: 1_000_000)
    reply = race_here(replace(request_, sizes=[SMALL], only=[BICUBIC, EAGER]))
    errors = {result.case.method: result.error for result in reply.outcome.results}
    assert "GB of memory" in errors[EAGER]
    assert errors[BICUBIC] is None


def test_a_batch_is_timed_as_one(request_):
    reply = race_here(replace(request_, sizes=[SMALL], batch=3, only=[BICUBIC]))
    (result,) = reply.outcome.results
    assert result.case.batch == 3
    assert result.images_per_second == pytest.approx(3000 / result.latency.host.mean_ms)


def test_what_libraries_print_does_not_spoil_the_reply(request_):
    noisy = (
        "import os; from overnet.benchmarks.baselines import race_child; kept = race_child.race\n"
        "def race(request):\n    os.write(1, b'from C'); print('from Python', flush=True); return kept(request)\n"
        "race_child.race = race; race_child.main()"
    )
    request = replace(request_, entrants=[], sizes=[SMALL], only=[BICUBIC], seconds=0.1)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", noisy]
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None and process.stdout is not None
        # Its end would tell the process that its parent has ended.
        process.stdin.write(json.dumps(asdict(request), default=str) + "\n")
        process.stdin.flush()
        reply = process.stdout.read()
        noise = process.communicate()[1]
    assert [result["case"]["method"] for result in json.loads(reply)["outcome"]["results"]] == [BICUBIC]
    assert "from C" in noise
    assert "from Python" in noise


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": []}, "at least one size"),
        ({"sizes": [ImageSize(0, 9)]}, "size is 0x9"),
        ({"scale": 0}, "scale is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"seconds": 0.0}, "seconds is 0"),
        ({"data": Path("nowhere")}, "nowhere: No such file"),
        ({"baseline_models": Path("nowhere")}, "nowhere: No such file"),
    ],
)
def test_a_race_that_cannot_be_is_refused(request_, change, message):
    reply = race_here(replace(request_, **change))
    assert reply.kind == "InputError"
    assert message in reply.error


def test_errors_and_crashes_of_the_process_are_one_line(request_, monkeypatch):
    with pytest.raises(InputError, match="scale is 0"):
        run_race(replace(request_, scale=0))
    monkeypatch.setattr(race, "_COMMAND", "import sys; sys.stdin.readline(); sys.exit('words before\\nits last words')")
    with pytest.raises(BackendError, match="the race against baselines at x2 failed: its last words"):
        run_race(request_)
    if sys.platform != "win32":
        monkeypatch.setattr(race, "_COMMAND", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        with pytest.raises(BackendError, match="was ended by SIGKILL; memory may have run out"):
            run_race(request_)
