import pytest

pytest.importorskip("torch")

from overnet.benchmarks.studies.training_step import (
    ORIGINAL,
    OVERNET,
    StepSetting,
    StepTimes,
    compare_steps,
    make_original_step,
    make_step,
    table,
)
from overnet.errors import InputError

SMALL = StepSetting(scale=2, batch=2, patch=8, threads=1)


@pytest.mark.weekly
def test_both_sides_learn_the_same_from_the_same_patches():
    """The same first loss, and one that falls: what differs is how it is computed."""
    losses = [[step() for _ in range(4)] for step in (make_step(SMALL), make_original_step(SMALL))]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.02)
    assert all(each[-1] < each[0] for each in losses)


@pytest.mark.weekly
def test_both_sides_are_timed_in_turns():
    times = compare_steps(SMALL, rounds=2, warm_up=1)
    assert [len(times.seconds[side]) for side in (OVERNET, ORIGINAL)] == [2, 2]
    assert all(seconds > 0 for side in times.seconds.values() for seconds in side)


def test_impossible_settings_are_refused_before_anything_starts():
    with pytest.raises(InputError, match="scale is 6"):
        compare_steps(StepSetting(scale=6), rounds=1)


def test_figures_are_medians():
    times = StepTimes(StepSetting(scale=4, batch=16), {OVERNET: [1.0, 1.0, 50.0], ORIGINAL: [4.0, 3.0, 2.0]})
    assert times.patches_per_second(OVERNET) == 16
    ratio, low, high = times.speedup()
    assert ratio == 3
    assert low <= 3 <= high
    assert "| x4 | 16 of 32x32 | 5.33 | 16.00 | 3.00 |" in table([times])[-1]
