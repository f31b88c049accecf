import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnet.training.settings import PRESETS, learning_rate, settings_from, share_done


def settings(**changes):
    return settings_from(changes, PRESETS["multiscale"], name="test")


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 1e-3), (149_999, 1e-3), (150_000, 5e-4), (299_999, 5e-4), (450_000, 1.25e-4)]
)
def test_the_original_halves_its_rate_every_150_000_steps(step, rate):
    original = PRESETS["original"]
    assert learning_rate(original, step, share_done(original, step, 0.0)) == pytest.approx(rate)


def test_the_cosine_falls_from_the_rate_to_its_final_share():
    cosine = settings(learning_rate=1.0, warm_up=0, final_share=0.1)
    assert learning_rate(cosine, 0, 0.0) == 1
    assert learning_rate(cosine, 5, 0.5) == pytest.approx(0.55)
    assert learning_rate(cosine, 9, 1.0) == pytest.approx(0.1)


def test_the_rate_rises_linearly_while_warming_up():
    warming = settings(learning_rate=1.0, schedule="constant", warm_up=3)
    assert [learning_rate(warming, step, 0.0) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_a_run_by_the_clock_is_done_when_its_minutes_are_over():
    timed = settings(minutes=2)
    assert timed.steps is None
    assert [share_done(timed, 10**9, seconds) for seconds in (0, 60, 120, 500)] == [0, 0.5, 1, 1]


@given(st.integers(0, 10**7), st.floats(0, 1), st.sampled_from(["constant", "halving", "cosine"]))
def test_the_rate_is_never_negative_or_above_the_highest(step, done, schedule):
    rate = learning_rate(settings(schedule=schedule), step, done)
    assert 0 <= rate <= 1e-3
    assert math.isfinite(rate)
