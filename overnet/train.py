"""The training loop: patches in, weights out, and at any moment a checkpoint from which it goes on exactly."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from overnet.data import Batch, Patches, load_batches, lost_worker
from overnet.distributed import Team
from overnet.errors import InputError, InterruptedRun, OverNetError
from overnet.model import OverNet
from overnet.packing import PackedPictures
from overnet.schedule import learning_rate, share_done
from overnet.train_report import Reporter
from overnet.train_state import BEST, FINAL, TrainState
from overnet.validation import Example, validate

# A network that gives no finite loss so many times in a row does not come back.
_MOST_SKIPPED_IN_A_ROW = 20


@dataclass(frozen=True)
class TrainOptions:
    """How a run is carried out; nothing here changes its numbers.

    Attributes
    ----------
    folder : where checkpoints and weights go; all processes and machines must see the same.
    examples : what to validate on; none: no validation, and the best weights are not kept apart.
    workers : processes that prepare patches.
    save_seconds : between checkpoints.
    timeout_seconds : how long to wait for a worker or another process before it counts as hung.
    tensorboard : whether to write scalars and pictures to ``folder/tensorboard``.
    say : told lines for people; only in the process that leads.
    """

    folder: Path
    examples: list[Example] = field(default_factory=list)
    workers: int = 1
    save_seconds: float = 300.0
    timeout_seconds: float = 600.0
    tensorboard: bool = True
    say: Callable[[str], None] = print


class Objective(nn.Module):
    """The network with its loss: what is computed, and differentiated, for one part of a batch."""

    def __init__(self, model: OverNet, loss: str) -> None:
        super().__init__()
        self.model = model
        self.loss = {"l1": functional.l1_loss, "l2": functional.mse_loss}[loss]

    def forward(self, low: Tensor, targets: list[Tensor], scales: list[float]) -> Tensor:
        """Mean error over the targets, uint8 pictures all, as a scalar of pictures in [0, 1]."""
        pictures = self.model.upscale_to(low.float() / 255, scales)
        losses = [
            self.loss(picture.float(), target.float() / 255)
            for picture, target in zip(pictures, targets, strict=True)
        ]
        return torch.stack(losses).mean()


class _Stopped(Exception):  # noqa: N818 - not an error
    """Somebody asked the run to stop, and the step at hand is done."""


def train(state: TrainState, pictures: PackedPictures, options: TrainOptions, team: Team | None = None) -> TrainState:
    """Train until the run's length is reached.

    Parameters
    ----------
    state : a new run's, or a resumed one's; changed in place.
    pictures : to cut patches from.
    options : how.
    team : which process this is, of those that `overnet.distributed.joined` brought together; left out, there is one.

    Returns
    -------
    `state`, at its end. ``last.pt``, ``best.safetensors`` and ``final.safetensors`` are in the folder.

    Raises
    ------
    InterruptedRun : Ctrl-C or SIGTERM; a checkpoint was written before.
    BackendError : a process that prepares patches was lost or hangs; the last checkpoint is good.
    OverNetError : the loss was not finite too many times in a row.
    """
    team = team or Team()
    patches = Patches(pictures, state.settings, rank=team.rank, world=team.world)
    with ExitStack() as stack:
        stop_wanted = stack.enter_context(_stop_signals())
        board = options.folder / "tensorboard" if options.tensorboard and team.leads else None
        reporter = Reporter(board, options.say if team.leads else _silent, state.step)
        stack.callback(reporter.close)
        loop = _Loop(state, patches, options, team, reporter)
        try:
            loop.run(stop_wanted)
        except _Stopped as stopped:
            raise InterruptedRun(f"interrupted after step {state.step}; --resume goes on from there") from stopped
        except RuntimeError as error:
            problem = lost_worker(error)
            if problem is None:
                raise
            raise problem from error
    return state


class _Loop:
    """What a run needs while it runs."""

    def __init__(
        self, state: TrainState, patches: Patches, options: TrainOptions, team: Team, reporter: Reporter
    ) -> None:
        self.state, self.patches, self.options, self.team, self.reporter = state, patches, options, team, reporter
        self.settings = state.settings
        self.device = next(state.model.parameters()).device
        self.autocast = _autocast_type(self.settings.autocast, self.device)
        if self.settings.compile:
            state.model.features = torch.compile(state.model.features)  # type: ignore[method-assign]
        objective = Objective(state.model, self.settings.loss)
        self.objective: nn.Module = objective
        if team.world > 1:
            self.objective = DistributedDataParallel(
                objective,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                broadcast_buffers=False,  # the network's are constants
            )
        self.saved = self.resumed = time.monotonic()
        self.elapsed_before = state.elapsed_seconds
        self.share_before = share_done(self.settings, state.step, state.elapsed_seconds)

    def run(self, stop_wanted: Callable[[], bool]) -> None:
        """Step after step until the end."""
        state = self.state
        last = self.settings.steps if self.settings.steps is not None else 1 << 60
        batches = load_batches(
            self.patches,
            state.step,
            last,
            workers=self.options.workers,
            timeout_seconds=self.options.timeout_seconds,
            pin=self.device.type == "cuda",
        )
        if state.step == 0:
            self._validate()
        while (done := self._share_done()) < 1:
            self._step(next(batches), learning_rate(self.settings, state.step, done))
            if state.step % self.settings.validate_every == 0:
                self._validate()
            if self.team.agree(float(stop_wanted())):
                self._save()
                raise _Stopped
            if time.monotonic() - self.saved > self.options.save_seconds:
                self._save()
        if state.step % self.settings.validate_every:
            self._validate()
        self._save()
        if self.team.leads:
            state.export(self.options.folder / FINAL)

    def _read_clock(self) -> None:
        self.state.elapsed_seconds = self.elapsed_before + time.monotonic() - self.resumed

    def _share_done(self) -> float:
        self._read_clock()
        # By the clock, all processes follow one clock.
        share = share_done(self.settings, self.state.step, self.state.elapsed_seconds)
        return share if self.settings.minutes is None else self.team.agree(share)

    def _step(self, batch: Batch, rate: float) -> None:
        state, settings = self.state, self.settings
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.zero_grad()
        loss = self.team.mean(self._backward(batch))
        state.scaler.unscale_(state.optimiser)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip or math.inf)
        finite = bool(torch.isfinite(norm + loss))
        if finite:
            state.scaler.step(state.optimiser)
            state.update_average()
        state.scaler.update()
        state.step += 1
        self._count(finite)
        if finite:
            self.reporter.step(state.step, float(loss), rate, settings.batch, self._seconds_left(), state.skipped)

    def _backward(self, batch: Batch) -> Tensor:
        """Sum the gradients of the batch's parts; its mean loss."""
        parts = self.settings.accumulate
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        total = torch.zeros((), device=self.device)
        lows = batch.low.to(self.device, non_blocking=True).contiguous(memory_format=layout).chunk(parts)
        targets = [target.to(self.device, non_blocking=True).chunk(parts) for target in batch.targets]
        for part, low in enumerate(lows):
            with ExitStack() as stack:
                if isinstance(self.objective, DistributedDataParallel) and part + 1 < parts:
                    stack.enter_context(self.objective.no_sync())
                with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
                    loss = self.objective(low, [each[part] for each in targets], batch.scales) / parts
                self.state.scaler.scale(loss).backward()
                total += loss.detach()
        return total

    def _count(self, finite: bool) -> None:
        state = self.state
        # With fp16, a first gradient that is too large is how the scaler finds its scale.
        state.skipped += not finite
        state.skipped_in_a_row = 0 if finite else state.skipped_in_a_row + 1
        if state.skipped_in_a_row >= _MOST_SKIPPED_IN_A_ROW:
            raise OverNetError(
                f"the loss or its gradient was not finite for {state.skipped_in_a_row} steps in a row, up to step "
                f"{state.step}; a lower learning rate may help"
            )

    def _seconds_left(self) -> float | None:
        """By the clock, or by the steps since the run was started or resumed."""
        share = share_done(self.settings, self.state.step, self.state.elapsed_seconds)
        if self.settings.minutes is not None:
            return 60 * self.settings.minutes - self.state.elapsed_seconds
        if share <= self.share_before:
            return None
        return (time.monotonic() - self.resumed) / (share - self.share_before) * (1 - share)

    def _validate(self) -> None:
        """Measure the averaged weights and keep them where they are the best so far."""
        if not self.team.leads or not self.options.examples:
            return
        psnr_db, pictures = validate(self.state.averaged_model(), self.options.examples)
        mean = sum(psnr_db.values()) / len(psnr_db)
        best = mean > self.state.best_psnr_db
        if best:
            self.state.best_psnr_db = mean
            self.state.export(self.options.folder / BEST)
        largest = max(psnr_db)
        shown = [p for p, example in zip(pictures, self.options.examples, strict=True) if example.scale == largest]
        self.reporter.validated(self.state.step, psnr_db, shown, best=best)

    def _save(self) -> None:
        if self.team.leads:
            self._read_clock()
            self.state.save(self.options.folder)
        self.saved = time.monotonic()


def _silent(line: str) -> None:
    """Processes other than the first say nothing."""


def _autocast_type(name: str, device: torch.device) -> torch.dtype | None:
    if name == "auto":
        name = "bf16" if computes_in_bf16(device) else "off"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[name]


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bf16 by itself; where it does not, bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def pick_device(name: str, team: Team) -> torch.device:
    """The device of that name, or the best there is for "auto"; of several GPUs, each process takes its own.

    Raises
    ------
    InputError : there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        device = torch.device("cuda", team.local_rank)
        torch.cuda.set_device(device)
        return device
    if name == "cpu" or (name == "mps" and torch.backends.mps.is_available()):
        return torch.device(name)
    raise InputError(f"device {name!r} is not here; there are auto, cpu, cuda and mps")


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM wait for the step at hand; a second one does not."""
    wanted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal wanted
        if wanted:
            raise KeyboardInterrupt
        wanted = True

    before: dict[signal.Signals, Any] = {}
    try:
        # Python lets only its main thread choose what signals do.
        in_main_thread = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if in_main_thread else ():
            before[number] = signal.signal(number, note)
        yield lambda: wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
