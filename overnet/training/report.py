"""The reports of a training run: lines of text, a table of its curve, and scalars and images for TensorBoard."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from overnet.errors import require
from overnet.training.curve import Curve, CurvePoint
from overnet.training.state import TrainState
from overnet.types import Image
from overnet.words import counted, duration

# Seconds between lines of progress.
_EVERY_SECONDS = 30.0


def require_tensorboard() -> Any:
    """Import PyTorch's writer of TensorBoard files.

    Raises:
        MissingDependency: TensorBoard is not installed.
    """
    require("tensorboard", extra="train", purpose="writing for TensorBoard")
    return require("torch.utils.tensorboard", extra="train", purpose="writing for TensorBoard")


class _Interval:
    """Sums over the steps since the last report."""

    def __init__(self) -> None:
        self.seconds, self._losses, self._patches, self._steps = 0.0, 0.0, 0, 0

    def add(self, seconds: float, loss: float, patches: int) -> None:
        self.seconds, self._losses = self.seconds + seconds, self._losses + loss
        self._patches, self._steps = self._patches + patches, self._steps + 1

    @property
    def loss(self) -> float:
        """The mean loss of the steps."""
        return self._losses / self._steps

    @property
    def patches_per_second(self) -> float:
        return self._patches / max(self.seconds, 1e-9)


class Reporter:
    """Collects the results of steps and reports them every half minute.

    Args:
        folder: for TensorBoard's files; None writes none.
        curve: given a point every half minute, and at each validation; None writes none.
        report: called with a line of progress every half minute, and with each validation.
        start: the step at which the run begins or is resumed.

    Raises:
        MissingDependency: `folder` is given and TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, curve: Curve | None, report: Callable[[str], None], start: int) -> None:
        self._report, self._curve = report, curve
        self._board: Any = None
        if folder is not None:
            # TensorBoard then hides what an earlier start wrote of steps that are now done again.
            self._board = require_tensorboard().SummaryWriter(str(folder), purge_step=start)
        self._psnr_db: float | None = None
        self._said, self._pointed = _Interval(), _Interval()
        self._point: CurvePoint | None = None
        self._now = time.monotonic()

    def step(self, state: TrainState, loss: float, rate: float, left_seconds: float | None) -> None:
        """Record a step, and report it if half a minute has passed.

        Args:
            state: after the step.
            loss, rate: of this step.
            left_seconds: until the end; None where it is not known yet.
        """
        # A validation would have written the point of the step before.
        if self._pointed.seconds >= _EVERY_SECONDS:
            self._write_point()
        before, self._now = self._now, time.monotonic()
        for interval in (self._said, self._pointed):
            interval.add(self._now - before, loss, state.settings.batch)
        pointed = self._pointed
        self._point = CurvePoint(state.step, state.elapsed_seconds, pointed.loss, rate, pointed.patches_per_second)
        if self._said.seconds < _EVERY_SECONDS:
            return
        mean, speed = self._said.loss, self._said.patches_per_second
        psnr = f", PSNR {self._psnr_db:.2f} dB" if self._psnr_db is not None else ""
        left = "" if left_seconds is None else f", {duration(left_seconds)} left"
        lost = f", {counted(state.skipped, 'step')} skipped" if state.skipped else ""
        self._report(f"step {state.step}: loss {mean:.5f}{psnr}, rate {rate:.2e}, {speed:.1f} patches/s{left}{lost}")
        if self._board is not None:
            scalars = {"loss": mean, "rate": rate, "patches per second": speed, "skipped": state.skipped}
            for name, value in scalars.items():
                self._board.add_scalar(name, value, state.step)
        self._said = _Interval()

    def _write_point(self) -> None:
        if self._point is not None and self._curve is not None:
            self._curve.add(self._point)
        self._point, self._pointed = None, _Interval()

    def validated(
        self, step: int, elapsed_seconds: float, psnr_db: dict[float, float], images: list[Image], *, best: bool
    ) -> None:
        """Report a validation: the mean PSNR in dB for each scale, and upscaled images for TensorBoard."""
        self._point = replace(self._point or CurvePoint(step, elapsed_seconds), psnr_db=psnr_db)
        self._write_point()
        # The time of a validation is not part of the next step.
        self._now = time.monotonic()
        self._psnr_db = float(np.mean(list(psnr_db.values())))
        each = ", ".join(f"x{scale:g} {value:.3f}" for scale, value in psnr_db.items())
        self._report(f"step {step}: validation PSNR {each} dB{' (the best so far)' if best else ''}")
        if self._board is not None:
            for scale, value in psnr_db.items():
                self._board.add_scalar(f"PSNR/x{scale:g}", value, step)
            for number, image in enumerate(images):
                self._board.add_image(f"validation/{number}", image, step, dataformats="HWC")
            self._board.flush()

    def close(self) -> None:
        """Write the last point of the curve and close the files."""
        self._write_point()
        if self._board is not None:
            self._board.close()
