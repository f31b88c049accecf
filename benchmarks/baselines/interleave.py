"""Methods timed in rounds in which all take turns: what slows the machine down for a while slows all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# With fewer rounds there is no median to speak of.
LEAST_ROUNDS = 3
# Doubled so often, a method's rounds are enough for any median.
_MOST_DOUBLINGS = 6
# Libraries let their threads spin for a while after they worked (ncnn for 20 ms), in which the next would share cores.
PAUSE_SECONDS = 0.025


@dataclass(frozen=True)
class Times:
    """What one method's turns took.

    Attributes:
        rounds: in which rounds it took part.
        milliseconds: how long each of these turns took.
    """

    rounds: list[int]
    milliseconds: list[float]


def plan_rounds(seconds: Mapping[str, float], budget_seconds: float) -> dict[str, int]:
    """How many rounds each method is to take part in, so that all of it takes about the budget.

    All have an equal share of the time, and what the fast ones leave goes to the slow ones. Counts are
    `LEAST_ROUNDS` doubled some times: so every round of a slow method is one of the faster ones too.

    Args:
        seconds: that one turn takes, by method.
        budget_seconds: for all turns and the pauses between them. Where it is too little, all have `LEAST_ROUNDS`.
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
        methods: what to run, by name; each has run before, so that nothing is done for the first time.
        counts: in how many rounds each takes part, as `plan_rounds` gives it. There are as many rounds as the largest.
        clock: gives seconds.
        pause: waits for so many seconds.

    Returns:
        By name, in the order of `methods`.
    """
    times = {name: Times([], []) for name in methods}
    rounds = max(counts.values(), default=0)
    rounds_of_the_same: Counter[tuple[str, ...]] = Counter()
    for index in range(rounds):
        names = tuple(name for name in methods if index % (rounds // counts[name]) == 0)
        for name in _in_order(names, rounds_of_the_same[names]):
            pause(PAUSE_SECONDS)
            start = clock()
            methods[name]()
            times[name].milliseconds.append(1000 * (clock() - start))
            times[name].rounds.append(index)
        rounds_of_the_same[names] += 1
    return times


def _in_order(names: tuple[str, ...], turn: int) -> tuple[str, ...]:
    """Another order at every turn: each comes first as often as the others, and after each of its neighbours."""
    first = turn % len(names)
    turned = names[first:] + names[:first]
    return turned[::-1] if turn // len(names) % 2 else turned


def in_common(one: Times, other: Times) -> tuple[list[float], list[float]]:
    """The times in milliseconds of two methods in the rounds in which both took part."""
    ours, theirs = (dict(zip(each.rounds, each.milliseconds, strict=True)) for each in (one, other))
    both = [index for index in one.rounds if index in theirs]
    return [ours[index] for index in both], [theirs[index] for index in both]
