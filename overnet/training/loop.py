"""The training loop, with checkpoints from which it is resumed exactly."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from overnet.errors import InputError, InterruptedRun
from overnet.system.ending_signals import noted_signals
from overnet.training.curve import Curve
from overnet.training.data.packed_images import PackedImages
from overnet.training.data.teacher_targets import TeacherTargets
from overnet.training.distributed import Team
from overnet.training.malloc import keep_freed_memory
from overnet.training.patches import Batch, Patches, load_batches, lost_worker
from overnet.training.report import Reporter
from overnet.training.settings import learning_rate, share_done
from overnet.training.state import BEST, CURVE, FINAL, TrainState
from overnet.training.step import TrainStep
from overnet.training.validation import Example, validate


@dataclass(frozen=True)
class TrainOptions:
    """Options of a run that do not change its results.

    Attributes:
        folder: for checkpoints and weights; all processes and machines must see the same folder.
        examples: for validation. If there are none, no weights are kept as the best.
        workers: processes that prepare patches.
        save_seconds: between checkpoints.
        timeout_seconds: how long to wait for a worker or another process before it counts as hung.
        tensorboard: whether to write scalars and images to ``folder/tensorboard``.
        report: called with lines of progress, in process 0 only.
    """

    folder: Path
    examples: list[Example] = field(default_factory=list)
    workers: int = 1
    save_seconds: float = 300.0
    timeout_seconds: float = 600.0
    tensorboard: bool = True
    report: Callable[[str], None] = print


class _Stopped(Exception):
    """A signal asked the run to stop, and its state is saved."""


class _Abandoned(Exception):
    """A signal asked the run to stop within a step or a validation, which has changed nothing yet."""


def train(
    state: TrainState,
    images: PackedImages,
    options: TrainOptions,
    team: Team | None = None,
    teachers: Mapping[int, TeacherTargets] | None = None,
) -> TrainState:
    """Train until the run's length is reached.

    On a CPU, the process keeps the memory that it frees (`overnet.training.malloc.keep_freed_memory`).

    Args:
        state: of a new run or a resumed one; changed in place.
        images: the source of the patches.
        options: those that do not change the result.
        team: which process this is, of those that `overnet.training.distributed.joined` brought together; left out,
            there is one.
        teachers: outputs of teachers on `images`, by scale; those of the run, `TrainState.teachers`.

    Returns:
        `state` after the last step. The folder then holds ``last.pt``, ``best.safetensors``, ``final.safetensors`` and
        ``curve.csv``.

    Raises:
        InterruptedRun: Ctrl-C or SIGTERM; a checkpoint has been written.
        BackendError: a process that prepares patches was lost or hangs; the last checkpoint remains.
        OutputError: the disk is full, or the folder unwritable.
        OverNetError: the loss was not finite too many times in a row.
    """
    team = team or Team()
    patches = Patches(images, state.settings, rank=team.rank, world=team.world, teachers=teachers)
    with ExitStack() as stack:
        # The step that a signal interrupts is abandoned between two layers; a second signal interrupts anywhere.
        stop = _Stop()
        stop.wanted = stack.enter_context(noted_signals(again_raises=True, raises_at_once=lambda: stop.may_raise))
        reporter = stack.enter_context(closing(_reporter(state, options, team)))
        loop = _Loop(state, patches, options, team, reporter, stop)
        try:
            loop.run()
        except _Stopped as stopped:
            raise InterruptedRun(f"interrupted after step {state.step}; --resume goes on from there") from stopped
        except RuntimeError as error:
            problem = lost_worker(error)
            if problem is None:
                raise
            raise problem from error
    return state


def _reporter(state: TrainState, options: TrainOptions, team: Team) -> Reporter:
    if not team.is_main:
        return Reporter(None, None, lambda line: None, state.step)
    scales = sorted({example.scale for example in options.examples})
    # A validation that was interrupted is done again, and writes the line of its step.
    curve = Curve(options.folder / CURVE, scales, max(0, state.step - (bool(scales) and _validation_is_due(state))))
    return Reporter(options.folder / "tensorboard" if options.tensorboard else None, curve, options.report, state.step)


def _validation_is_due(state: TrainState) -> bool:
    return state.step % state.settings.validate_every == 0 and state.validated_step != state.step


@dataclass
class _Stop:
    """Whether a signal has come, and whether one may raise KeyboardInterrupt, as a batch is awaited."""

    wanted: Callable[[], bool] = lambda: False
    may_raise: bool = False


class _Loop:
    """The loop over steps, with what it needs."""

    def __init__(
        self,
        state: TrainState,
        patches: Patches,
        options: TrainOptions,
        team: Team,
        reporter: Reporter,
        stop: _Stop,
    ) -> None:
        self.state, self.patches, self.options, self.team, self.reporter = state, patches, options, team, reporter
        self.stop = stop
        self.settings = state.settings
        self.device = next(state.model.parameters()).device
        self.step = TrainStep(state, team)
        self.saved = self.resumed = time.monotonic()
        self.elapsed_before = state.elapsed_seconds
        self.share_before = share_done(self.settings, state.step, state.elapsed_seconds)
        self._thread = threading.get_ident()

    def run(self) -> None:
        """Train until the end of the run.

        Raises:
            _Stopped: a signal has come, and the state after the last complete step is saved.
        """
        state = self.state
        if self.device.type == "cpu":
            keep_freed_memory()
        last = self.settings.steps if self.settings.steps is not None else 1 << 60
        # Closed also where the run is stopped: the program may end without cleaning up after its workers.
        with closing(
            load_batches(
                self.patches,
                state.step,
                last,
                workers=self.options.workers,
                timeout_seconds=self.options.timeout_seconds,
                pin=self.device.type == "cuda",
            )
        ) as batches:
            try:
                self._run(batches)
            except (_Abandoned, KeyboardInterrupt) as error:
                if isinstance(error, KeyboardInterrupt) and not self.stop.may_raise:
                    raise
                self.stop.may_raise = False
                self._save()
                raise _Stopped from error
        self._save()
        if self.team.is_main:
            state.export(self.options.folder / FINAL)

    def _run(self, batches: Iterator[Batch]) -> None:
        state, is_first = self.state, True
        while True:
            if _validation_is_due(state):
                self._validate()
            if self.team.any(self.stop.wanted()):
                raise _Abandoned
            if time.monotonic() - self.saved > self.options.save_seconds and not is_first:
                self._save()
            if (done := self._share_done()) >= 1:
                break
            rate = learning_rate(self.settings, state.step, done)
            # Workers take seconds to import modules. Later, a worker would report a batch whose receipt is interrupted.
            self.stop.may_raise = self.team.world == 1 and (is_first or not self.options.workers)
            if self.stop.may_raise and self.stop.wanted():
                raise _Abandoned
            batch = next(batches)
            self.stop.may_raise = is_first = False
            with self._abandoning():
                loss = self.step(batch, rate)
            self._read_clock()
            if loss is not None:
                self.reporter.step(state, loss, rate, self._seconds_left())
        if state.step % self.settings.validate_every:
            self._validate()

    @contextmanager
    def _abandoning(self) -> Iterator[None]:
        """Raise `_Abandoned` in the block between two layers, forward or backward, once a signal has come.

        Python runs the handler of a signal only where it runs itself, and a backward pass is not Python but for hooks.
        PyTorch compiles no graph with hooks that raise, so that a compiled step is completed. So is one of several
        processes, which wait for one another.
        """
        if self.settings.compile or self.team.world > 1:
            yield
            return

        def check(gradient: Tensor | None = None) -> None:
            if threading.get_ident() == self._thread and self.stop.wanted():
                raise _Abandoned

        def watch(module: nn.Module, inputs: Any, output: Any) -> None:
            check()
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(check)  # type: ignore[no-untyped-call]

        handle = register_module_forward_hook(watch)
        try:
            yield
        finally:
            handle.remove()

    def _read_clock(self) -> None:
        self.state.elapsed_seconds = self.elapsed_before + time.monotonic() - self.resumed

    def _share_done(self) -> float:
        self._read_clock()
        # A run by the clock ends at the same step in all processes, by the clock of process 0.
        share = share_done(self.settings, self.state.step, self.state.elapsed_seconds)
        return share if self.settings.minutes is None else self.team.broadcast(share)

    def _seconds_left(self) -> float | None:
        """Estimate the rest of the run from its minutes, or from the steps since it was started or resumed."""
        share = share_done(self.settings, self.state.step, self.state.elapsed_seconds)
        if self.settings.minutes is not None:
            return 60 * self.settings.minutes - self.state.elapsed_seconds
        if share <= self.share_before:
            return None
        return (time.monotonic() - self.resumed) / (share - self.share_before) * (1 - share)

    def _validate(self) -> None:
        """Measure the averaged weights, and save them if they are the best so far."""
        self.state.validated_step, before = self.state.step, self.state.validated_step
        if not self.team.is_main or not self.options.examples:
            return
        began = time.monotonic()
        try:
            with self._abandoning():
                psnr_db, images = validate(self.state.averaged_model(), self.options.examples)
        except _Abandoned:
            self.state.validated_step = before
            raise
        mean = sum(psnr_db.values()) / len(psnr_db)
        best = mean > self.state.best_psnr_db
        if best:
            self.state.best_psnr_db = mean
            self.state.export(self.options.folder / BEST)
        largest = max(psnr_db)
        shown = [p for p, example in zip(images, self.options.examples, strict=True) if example.scale == largest]
        if self.state.step == 0:
            # It would otherwise take all the minutes of a short run.
            self.resumed += time.monotonic() - began
        self._read_clock()
        self.reporter.validated(self.state.step, self.state.elapsed_seconds, psnr_db, shown, best=best)

    def _save(self) -> None:
        if self.team.is_main:
            self._read_clock()
            self.state.save(self.options.folder)
        self.saved = time.monotonic()


def pick_device(name: str, team: Team) -> torch.device:
    """Return the device of a name, or the fastest one for "auto"; each process takes the GPU of its local rank.

    Raises:
        InputError: the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        device = torch.device("cuda", team.local_rank)
        torch.cuda.set_device(device)
        return device
    if name == "cpu" or (name == "mps" and torch.backends.mps.is_available()):
        return torch.device(name)
    raise InputError(f"device {name!r} is not available; there are auto, cpu, cuda and mps")
