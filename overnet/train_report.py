"""What a training run says: a line on the terminal, and scalars and pictures for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from overnet.errors import require
from overnet.packing import Picture

# How often a line is said, in seconds.
_EVERY_SECONDS = 30.0


class Reporter:
    """Collects what the steps came to and says it now and then.

    Parameters
    ----------
    folder : where TensorBoard's files go; None writes none.
    say : told a line of progress every half minute, and each validation.
    start : the step that the run begins at or is resumed at.

    Raises
    ------
    MissingDependency : TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path | None, say: Callable[[str], None], start: int) -> None:
        self._say = say
        self._board: Any = None
        if folder is not None:
            require("tensorboard", extra="train", purpose="writing for TensorBoard")
            board = require("torch.utils.tensorboard", extra="train", purpose="writing for TensorBoard")
            # What an earlier start wrote of steps that are now done again is hidden.
            self._board = board.SummaryWriter(str(folder), purge_step=start)
        self._psnr_db: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._since, self._losses, self._patches = time.monotonic(), 0.0, 0
        self._steps = 0

    def step(self, step: int, loss: float, rate: float, patches: int, left_seconds: float | None, skipped: int) -> None:
        """Take note of a step that was done.

        Parameters
        ----------
        step : steps done so far.
        loss, rate : of this step.
        patches : in this step, over all processes.
        left_seconds : until the end, None where it is not known yet.
        skipped : steps without effect so far.
        """
        self._losses, self._patches, self._steps = self._losses + loss, self._patches + patches, self._steps + 1
        seconds = time.monotonic() - self._since
        if seconds < _EVERY_SECONDS:
            return
        mean, speed = self._losses / self._steps, self._patches / max(seconds, 1e-9)
        psnr = f", PSNR {self._psnr_db:.2f} dB" if self._psnr_db is not None else ""
        left = f", {_duration(left_seconds)} left" if left_seconds is not None else ""
        lost = f", {skipped} steps skipped" if skipped else ""
        self._say(f"step {step}: loss {mean:.5f}{psnr}, rate {rate:.2e}, {speed:.1f} patches/s{left}{lost}")
        if self._board is not None:
            for name, value in {"loss": mean, "rate": rate, "patches per second": speed, "skipped": skipped}.items():
                self._board.add_scalar(name, value, step)
        self._begin()

    def validated(self, step: int, psnr_db: dict[int, float], pictures: list[Picture], *, best: bool) -> None:
        """Take note of a validation: mean PSNR in dB for each scale, and pictures to look at."""
        self._psnr_db = float(np.mean(list(psnr_db.values())))
        each = ", ".join(f"x{scale} {value:.3f}" for scale, value in psnr_db.items())
        self._say(f"step {step}: validation PSNR {each} dB{' (the best so far)' if best else ''}")
        if self._board is not None:
            for scale, value in psnr_db.items():
                self._board.add_scalar(f"PSNR/x{scale}", value, step)
            for number, picture in enumerate(pictures):
                self._board.add_image(f"validation/{number}", picture, step, dataformats="HWC")
            self._board.flush()

    def close(self) -> None:
        """Write what is left."""
        if self._board is not None:
            self._board.close()


def _duration(seconds: float) -> str:
    minutes = int(seconds / 60 + 0.5)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
