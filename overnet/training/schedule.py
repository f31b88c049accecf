"""The learning rate over a run."""

from __future__ import annotations

import math

from overnet.training.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int, done: float) -> float:
    """Return the learning rate of a step.

    Args:
        settings: of the run.
        step: from 0.
        done: the share of the run before this step, 0 to 1, of its steps or its minutes.

    Returns:
        The rate, 0 or more.
    """
    rate = settings.learning_rate
    if settings.schedule == "halving":
        rate *= 0.5 ** (step // settings.halve_every)
    elif settings.schedule == "cosine":
        share = (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2
        rate *= settings.final_share + (1 - settings.final_share) * share
    return rate * min(1.0, (step + 1) / (settings.warm_up + 1))


def share_done(settings: TrainSettings, step: int, elapsed_seconds: float) -> float:
    """Return the share of the run that is done, 0 to 1; at 1 the run is complete."""
    if settings.minutes is not None:
        return min(1.0, elapsed_seconds / (60 * settings.minutes))
    assert settings.steps is not None
    return min(1.0, step / settings.steps)
