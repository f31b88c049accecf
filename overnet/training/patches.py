"""Training patches: low-resolution ones as MATLAB's imresize makes them, with their targets.

The patches of a step depend on the seed and the step's number only. So a run that is resumed, shared by several
processes, or read by another number of workers has the same patches.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import threading
from collections.abc import Generator as Yielding
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from overnet.errors import BackendError, InputError, one_line
from overnet.files.onnx_metadata import exact_scale
from overnet.imaging.resample import imresize
from overnet.system.ending_signals import ending_signals
from overnet.training.data.packed_images import PackedImages
from overnet.training.data.teacher_targets import TeacherTargets
from overnet.training.settings import FRACTION, TrainSettings
from overnet.types import Image

# Low-resolution pixels to cut around a patch, more than the two that the antialiased kernel reaches.
_MARGIN = 4

# How long workers may take to end by themselves.
_ENDING_SECONDS = 0.5

# Philox's key has two halves: the seed, and the number of a patch, from 0, or of a step, from here.
_STEPS = 1 << 63


@dataclass(frozen=True)
class Batch:
    """Low-resolution patches N x 3 x P x P and their targets, one tensor a scale, N x 3 x sP x sP; all uint8 RGB.

    Attributes:
        low: the patches.
        targets: the true images, one tensor for each of `scales`.
        scales: of the targets.
        teacher_targets: a teacher's outputs, as `targets`; empty where there is no teacher for the scale.
    """

    low: Tensor
    targets: list[Tensor]
    scales: list[float]
    teacher_targets: list[Tensor] = field(default_factory=list)

    def pin_memory(self) -> Batch:
        """Return the same in page-locked memory, from which a GPU copies without the CPU."""
        return Batch(
            self.low.pin_memory(),
            [target.pin_memory() for target in self.targets],
            self.scales,
            [target.pin_memory() for target in self.teacher_targets],
        )


class Patches(Dataset[Batch]):
    """The patches of each step; item k is one process's share of step k.

    Args:
        images: the source of the patches.
        settings: of the run.
        rank, world: the number of this process and of all; each has an equal share of the batch.
        teachers: outputs of teachers on the same images, by scale.

    Raises:
        InputError: no image is large enough, the batch cannot be shared equally, or teachers are to teach several
            scales from one low-resolution patch.
    """

    def __init__(
        self,
        images: PackedImages,
        settings: TrainSettings,
        *,
        rank: int = 0,
        world: int = 1,
        teachers: Mapping[int, TeacherTargets] | None = None,
    ) -> None:
        if settings.batch % (world * settings.accumulate):
            raise InputError(
                f"training: a batch of {settings.batch} cannot be shared by {world} processes in "
                f"{settings.accumulate} parts each"
            )
        if teachers and settings.joint_scales:
            raise InputError("training: joint_scales cannot be used with a teacher, whose input differs for each scale")
        self.images, self.settings, self.teachers = images, settings, dict(teachers or {})
        self.share = settings.batch // world
        self.first = rank * self.share
        self._sizes = np.array([(image.height, image.width) for image in images.images])
        self._large_enough(exact_scale(max(settings.scales)))

    def __getitem__(self, step: int) -> Batch:
        """Cut the patches of a step, from 0."""
        scales = self.scales(step)
        numbers = range(step * self.settings.batch + self.first, step * self.settings.batch + self.first + self.share)
        patches = [self._patch(self._random(number), scales) for number in numbers]
        low, *targets = (torch.from_numpy(np.stack(each)).permute(0, 3, 1, 2) for each in zip(*patches, strict=True))
        count = len(scales)
        return Batch(low, targets[:count], [float(scale) for scale in scales], targets[count:])

    def scales(self, step: int) -> list[Fraction]:
        """Return the scales of a step: one of the settings' or one in between; or all of them, the largest first."""
        settings = self.settings
        whole = sorted((exact_scale(scale) for scale in settings.scales), reverse=True)
        if settings.joint_scales:
            return whole
        random = self._random(_STEPS + step)
        if settings.has_fractional_scales and random.random() < settings.fractional_share:
            # From just above 1, since a network is also used below its smallest training scale.
            return [Fraction(int(random.integers(int(1 / FRACTION) + 1, int(whole[0] / FRACTION) + 1))) * FRACTION]
        return [whole[random.integers(len(whole))]]

    def _random(self, number: int) -> Generator:
        return Generator(Philox(key=np.array([self.settings.seed, number], np.uint64)))

    def _large_enough(self, scale: Fraction) -> NDArray[np.intp]:
        """Return the numbers of the images that are large enough for a patch at a scale."""
        side = self.settings.patch * scale
        chosen: NDArray[np.intp] = np.flatnonzero((self._sizes >= float(side)).all(axis=1))
        if not len(chosen):
            raise InputError(f"{self.images.path}: no image has {side} x {side} pixels, a patch at x{float(scale):g}")
        return chosen

    def _patch(self, random: Generator, scales: list[Fraction]) -> list[Image]:
        """Return a low-resolution patch, its target at each scale and, where there is one, a teacher's output.

        P x P x 3, and sP x sP x 3.
        """
        settings = self.settings
        chosen = self._large_enough(scales[0])
        number = int(chosen[random.integers(len(chosen))])
        image = self.images[number]
        # Both corners of a patch lie on whole pixels at all of its scales.
        unit = int(np.lcm.reduce([scale.denominator for scale in scales]))
        grid = [int(side / scales[0]) // unit * unit for side in image.shape[:2]]
        places = [
            [int(random.integers((length - settings.patch) // unit + 1)) * unit for length in grid]
            for _ in range(settings.candidates)
        ]
        place = max(places, key=lambda place: _activity(_cut(image, place, settings.patch, scales[0])))
        teacher = self.teachers.get(int(scales[0])) if scales[0].denominator == 1 else None
        if teacher is None:
            patches = cut_patch(image, place, settings.patch, scales)
        else:
            low, output = teacher[number]
            patches = [
                _cut(low, place, settings.patch, Fraction(1)),
                *(_cut(each, place, settings.patch, scales[0]) for each in (image, output)),
            ]
        if settings.augment:
            turns, mirrored = int(random.integers(4)), bool(random.integers(2))
            patches = [np.rot90(patch[:, ::-1] if mirrored else patch, turns) for patch in patches]
        return patches


def _cut(image: Image, place: Sequence[int], side: int, scale: Fraction) -> Image:
    rows, columns = (slice(int(start * scale), int((start + side) * scale)) for start in place)
    return image[rows, columns]


def _activity(patch: Image) -> float:
    """Return the mean difference of neighbours in green, in grey levels; flat patches teach little."""
    green = patch[..., 1].astype(np.int16)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())


def cut_patch(image: Image, place: Sequence[int], side: int, scales: list[Fraction]) -> list[Image]:
    """Cut a patch out of the image reduced by the largest scale, and its targets.

    The low-resolution patch is, to the bit, what lies there in `imresize` of the whole image, once that is cut to a
    multiple of the scale as the test protocol has it: pixels around the patch are resized with it and left out after.

    Args:
        image: H x W x 3 uint8.
        place: row and column of the patch's corner in the reduced image, multiples of the scales' denominators.
        side: of the patch, in pixels of the reduced image.
        scales: the largest first; targets of the others are the image reduced to their size.

    Returns:
        The low-resolution patch and one target a scale.
    """
    scale, unit = scales[0], int(np.lcm.reduce([each.denominator for each in scales]))
    margin = -(-_MARGIN // unit) * unit
    limits = [int(length / scale) // unit * unit for length in image.shape[:2]]
    spans = [(max(0, p - margin), min(limit, p + side + margin)) for p, limit in zip(place, limits, strict=True)]
    around = image[tuple(slice(int(first * scale), int(last * scale)) for first, last in spans)]
    patches = []
    for factor in (Fraction(1), *scales):
        if factor == scale:
            patches.append(_cut(image, place, side, scale))
            continue
        height, width = (int((last - first) * factor) for first, last in spans)
        reduced = imresize(around, size=(height, width), edge="replicate")
        rows, columns = (
            slice(int((p - first) * factor), int((p - first + side) * factor))
            for p, (first, _) in zip(place, spans, strict=True)
        )
        patches.append(reduced[rows, columns])
    return patches


def load_batches(
    patches: Patches, first_step: int, last_step: int, *, workers: int, timeout_seconds: float, pin: bool
) -> Yielding[Batch, None, None]:
    """Return the batches of the steps from `first_step` to before `last_step`, made ahead by worker processes.

    The processes are started before this returns, so that a KeyboardInterrupt may come while a batch is awaited.
    Closing the generator ends them.

    Args:
        workers: number of processes; with 0, this process makes each batch when it is needed.
        timeout_seconds: how long a batch may take before the workers count as hung.
        pin: whether to put batches into page-locked memory, from which a GPU copies without the CPU.

    Raises:
        BackendError: a worker was lost or hangs.
    """
    loader = DataLoader(
        patches,
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=workers,
        # In a fork of a process with threads, a lock that another thread held is never released.
        multiprocessing_context="spawn" if workers else None,
        timeout=timeout_seconds if workers else 0,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_run,
    )
    batches = _read(loader)
    next(batches)
    return batches


def _read(loader: DataLoader[Any]) -> Yielding[Any, None, None]:
    """Yield once, when the workers are started, and then the batches."""
    others, other_threads = set(multiprocessing.active_children()), set(threading.enumerate())
    with _children_without_interrupts():
        batches = iter(loader)
    children = set(multiprocessing.active_children()) - others
    feeders = set(threading.enumerate()) - other_threads
    problem: BaseException | None = None
    try:
        yield None
        yield from batches
    except KeyboardInterrupt:
        problem = KeyboardInterrupt()  # the traceback of the other holds what is to go
    except (RuntimeError, EOFError, ConnectionError) as error:
        problem = lost_worker(error)
        if problem is None:
            raise
    finally:
        # PyTorch waits for workers that import modules or make a batch: not for long ones. Its handler would raise an
        # error about those that are killed.
        handler = None
        if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

        def kill() -> None:
            for child in children:
                child.kill()

        timer = threading.Timer(_ENDING_SECONDS, kill)
        timer.start()
        # This ends the workers. Until then PyTorch raises the error about a lost one again and again.
        del batches
        # Its queues are in reference cycles and held by the threads that feed them, which end after the workers. Their
        # semaphores outlive a program that ends without a clean-up.
        for feeder in feeders:
            feeder.join(_ENDING_SECONDS)
        gc.collect()
        timer.cancel()
        timer.join()
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)
    if problem is not None:
        raise problem


@contextmanager
def _children_without_interrupts() -> Iterator[None]:
    """Block Ctrl-C and SIGHUP in the processes that are started in the block, from their beginning.

    These reach all processes, and a worker imports modules for seconds before it could ignore them itself. A
    process inherits the blocked signals of the one that starts it. Here they take effect when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Python starts its resource tracker with the first process, and unblocks Ctrl-C after that.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def lost_worker(error: Exception) -> BackendError | None:
    """Return the error to raise for PyTorch's error about a lost worker, which any code can meet; else None."""
    # A worker that is lost while it sends a batch leaves an incomplete message.
    if "DataLoader" not in str(error) and not isinstance(error, EOFError | ConnectionError):
        return None
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        # PyTorch's handler would raise the error again at the end of every other process.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return BackendError(f"a process that prepares patches was lost or hangs ({one_line(error, line=0)})")


def _leave_signals_to_the_run(worker: int) -> None:
    """Ignore Ctrl-C and SIGHUP, as the current step still needs its patches, and end on SIGTERM even when hung."""
    for number in ending_signals():
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
