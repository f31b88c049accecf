"""Interleaved timing: all methods run once per round, so that a temporary slow-down affects all of them."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeAlias

# The minimum for a meaningful median.
LEAST_ROUNDS = 3
# The maximum of doublings of a method's rounds; more would not improve the median.
_MOST_DOUBLINGS = 6
# The times of one method in milliseconds, by the number of each round in which it took part.
Times: TypeAlias = dict[int, float]
# Threads of libraries spin for a while after their work (ncnn's for 20 ms) and would take cores from the next method.
PAUSE_SECONDS = 0.025


def plan_rounds(seconds: Mapping[str, float], budget_seconds: float) -> dict[str, int]:
    """Choose the number of rounds of each method so that all of them together take about the budget.

    All methods have an equal share of the time; time that fast methods do not need goes to the slow ones. Counts are
    `LEAST_ROUNDS` times a power of two, so that a slow method runs only in rounds in which all faster ones run.

    Args:
        seconds: the time of one run, by method.
        budget_seconds: for all runs and the pauses between them. If it is too small, all have `LEAST_ROUNDS`.
    """
    left, planned = budget_seconds, {}
    by_time = sorted(seconds, key=lambda name: seconds[name])
    for index, name in enumerate(by_time):
        turn = seconds[name] + PAUSE_SECONDS
        share = left / (len(by_time) - index)
        doublings = 0
        while doublings < _MOST_DOUBLINGS and LEAST_ROUNDS * 2 ** (doublings + 1) * turn <= share:
            doublings += 1
        planned[name] = LEAST_ROUNDS * 2**doublings
        left -= planned[name] * turn
    return planned


def take_turns(
    methods: Mapping[str, Callable[[], object]],
    counts: Mapping[str, int],
    *,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Times]:
    """Run methods in rounds, each round in another order.

    Args:
        methods: by name; each has run before, so that the times contain no initialisation.
        counts: the number of rounds of each method, see `plan_rounds`; the largest is the number of all rounds.
        clock: returns seconds.
        pause: waits for a number of seconds.

    Returns:
        The times by name, in the order of `methods`.
    """
    times: dict[str, Times] = {name: {} for name in methods}
    rounds = max(counts.values(), default=0)
    rounds_of_the_same: Counter[tuple[str, ...]] = Counter()
    for index in range(rounds):
        names = tuple(name for name in methods if index % (rounds // counts[name]) == 0)
        # Rotated and reversed by turn: each is first equally often and follows each of its neighbours.
        reversals, first = divmod(rounds_of_the_same[names], len(names))
        turned = names[first:] + names[:first]
        for name in turned[::-1] if reversals % 2 else turned:
            pause(PAUSE_SECONDS)
            start = clock()
            methods[name]()
            times[name][index] = 1000 * (clock() - start)
        rounds_of_the_same[names] += 1
    return times


def in_common(one: Times, other: Times) -> tuple[list[float], list[float]]:
    """Return the times in milliseconds of two methods in the rounds in which both took part."""
    both = [index for index in one if index in other]
    return [one[index] for index in both], [other[index] for index in both]
