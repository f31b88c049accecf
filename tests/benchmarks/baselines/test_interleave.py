import itertools

from overnet.benchmarks.baselines.interleave import (
    LEAST_ROUNDS,
    PAUSE_SECONDS,
    in_common,
    plan_rounds,
    take_turns,
)


def _spent(seconds, counts):
    return sum(count * (seconds[name] + PAUSE_SECONDS) for name, count in counts.items())


def test_the_budget_is_spent_but_not_exceeded():
    seconds = {"slow": 0.8, "fast": 0.001, "middle": 0.1}
    counts = plan_rounds(seconds, 20)
    assert counts["fast"] > counts["middle"] > counts["slow"] > LEAST_ROUNDS
    assert 10 <= _spent(seconds, counts) <= 20


def test_slow_methods_have_the_fewest_rounds_there_may_be_however_long_they_take():
    assert plan_rounds({"slow": 60, "fast": 0.001}, 1)["slow"] == LEAST_ROUNDS


def test_in_every_round_of_a_slow_method_all_faster_ones_take_part():
    now, turns = itertools.count(), []
    methods = {name: (lambda name=name: turns.append(name)) for name in ("slow", "middle", "fast")}
    counts = {"slow": 3, "middle": 6, "fast": 24}
    times = take_turns(methods, counts, clock=lambda: next(now), pause=lambda seconds: None)
    assert {name: len(each) for name, each in times.items()} == counts
    assert set(times["slow"]) < set(times["middle"]) < set(times["fast"])
    assert set(times["fast"].values()) == {1000}
    assert {name: turns.count(name) for name in methods} == counts


def test_each_comes_first_as_often_as_the_others_and_after_each_of_them():
    turns = []
    methods = {name: (lambda name=name: turns.append(name)) for name in ("one", "two", "three")}
    take_turns(methods, dict.fromkeys(methods, 6), pause=lambda seconds: None)
    rounds = [tuple(turns[at : at + 3]) for at in range(0, len(turns), 3)]
    assert len(set(rounds)) == 6
    assert all([each[0] for each in rounds].count(name) == 2 for name in methods)


def test_only_rounds_of_both_are_compared():
    one, other = {0: 10, 1: 11, 2: 12, 3: 13}, {0: 20, 2: 22}
    assert in_common(one, other) == ([10, 12], [20, 22])
    assert in_common(other, one) == ([20, 22], [10, 12])
