"""A slot: everything that a GPU needs to upscale one frame.

A slot has a CUDA stream, an execution context of the engine, page-locked buffers of the host, buffers of the GPU, and
events. In its stream a frame is copied in, upscaled and copied out; the streams of several slots overlap, so that one
frame is copied while another is computed. Where slots share the activation memory, an event makes each frame's
computation wait for the one before.

No memory is allocated for a frame: buffers grow to the largest size so far and are reused by smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from overnet.errors import BackendError
from overnet.files.onnx_metadata import (
    GIVEN_MEANS_NAME,
    INPUT_NAME,
    MEANS_NAME,
    OUTPUT_NAME,
    USE_GIVEN_MEANS_NAME,
    scaled_size,
)
from overnet.runtime.backends.trt.cuda import DeviceBuffer, Gpu, PinnedBuffer, RecordedWork
from overnet.runtime.backends.trt.loaded_engine import ALIGNMENT_BYTES
from overnet.runtime.backends.trt.slot_shared import FLOAT_BYTES, SlotShared
from overnet.types import Image

# One frame's means over all channels: 1 x C x 1 x 1.
MeanVector = NDArray[np.float32]

_CHANNELS = 3
_ACTIVATIONS = "activations"
# The first runs, which are slow: they initialise the library and record the CUDA graph.
_SETTLING_RUNS = 2


@dataclass(frozen=True)
class StageTimes:
    """The time a GPU took for one or several images, in milliseconds, summed over them.

    Attributes:
        copy_in_ms: copying from page-locked memory of the host to the GPU's; 0 where the GPU works on the host's
            memory.
        compute_ms: running the engine.
        copy_out_ms: copying back; 0 like `copy_in_ms`.
    """

    copy_in_ms: float = 0.0
    compute_ms: float = 0.0
    copy_out_ms: float = 0.0

    def __add__(self, other: StageTimes) -> StageTimes:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return StageTimes(*(mine + theirs for mine, theirs in pairs))


class StageMarks:
    """Timed events before, between and after the stages in a slot's stream. All methods within `Gpu.current`.

    The GPU sets their times when it reaches them, so they measure the GPU's work alone. Only the TensorRT backends have
    them: ONNX Runtime copies and computes in one call.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._events = [gpu.event(timed=True) for _ in range(4)]
        self.began, self.copied_in, self.computed, self.copied_out = self._events

    def times(self, *, copies: bool) -> StageTimes:
        """Return the times between the events, all of which the GPU has reached; `copies`: images are copied at all."""
        copy_in_ms, compute_ms, copy_out_ms = (
            later.milliseconds_since(earlier) for earlier, later in pairwise(self._events)
        )
        return StageTimes(copy_in_ms, compute_ms, copy_out_ms) if copies else StageTimes(compute_ms=compute_ms)

    def close(self) -> None:
        """Destroy the events."""
        for event in self._events:
            event.close()


class Slot:
    """The stream, context and buffers for one frame. All methods within `Gpu.current`, by one thread at a time.

    Attributes:
        input, output: H x W x 3 and scale*H x scale*W x 3 uint8, page-locked, for the size last given to `fit`.
    """

    input: Image
    output: Image

    def __init__(self, shared: SlotShared) -> None:
        self._shared, self._gpu = shared, shared.gpu
        self.stream = self._gpu.stream()
        self.done = self._gpu.event()
        self.computed = self._gpu.event()
        self._context = shared.engine.context(self.stream.handle)
        self._host: dict[str, PinnedBuffer] = {}
        self._device: dict[str, DeviceBuffer] = {}
        self._addresses: dict[str, int] = {}
        self._size: tuple[int, int] | None = None
        self._given_memory: tuple[int, int] | None = None
        self._needed_bytes = 0
        self._recorded: RecordedWork | None = None
        self._marks: StageMarks | None = None
        # Runs since an address or shape changed that a recording contains; the first initialises and is not recorded.
        self._runs = 0

    def fit(self, size: tuple[int, int]) -> None:
        """Prepare for frames of this height and width.

        Raises:
            MemoryError: there is too little memory.
            BackendError: the engine does not take this size.
        """
        if size != self._size:
            self._size = None
            self._reshape(size)
            self._size = size
        self._give_memory()

    def _reshape(self, size: tuple[int, int]) -> None:
        engine = self._shared.engine
        upscaled = scaled_size(*size, self._shared.scale)
        shapes = {INPUT_NAME: (*size, _CHANNELS), OUTPUT_NAME: (*upscaled, _CHANNELS)}
        for name, shape in shapes.items():
            self._need(name, int(np.prod(shape)), on_device=not self._shared.zero_copy)
        self._context.set_shape(INPUT_NAME, (1, *shapes[INPUT_NAME]))
        # Set again after every change of shape, as TensorRT requires.
        self._given_memory = None
        if engine.means:
            self._need(MEANS_NAME, engine.means * FLOAT_BYTES)
            self._need(GIVEN_MEANS_NAME, engine.means * FLOAT_BYTES)
            self._context.set_shape(GIVEN_MEANS_NAME, (1, engine.means, 1, 1))
            self._context.set_shape(USE_GIVEN_MEANS_NAME, (1, 1, 1, 1))
            self._address(GIVEN_MEANS_NAME, self._device[GIVEN_MEANS_NAME].pointer)
            self._address(MEANS_NAME, self._device[MEANS_NAME].pointer)
        # A sidecar may state another scale than the engine has, which would write beyond the buffer.
        found, expected = self._context.shape(OUTPUT_NAME), (1, *shapes[OUTPUT_NAME])
        if found != expected:
            raise BackendError(
                f"the engine makes {' x '.join(map(str, found))} of an image of {size[1]}x{size[0]}, not "
                f"{' x '.join(map(str, expected))}, as the scale {self._shared.scale:g} in its sidecar asks for"
            )
        for name in shapes:
            buffer = self._host[name] if self._shared.zero_copy else self._device[name]
            self._address(name, buffer.pointer)
        known_bytes = self._context.needed_memory_bytes()
        self._needed_bytes = max(known_bytes or self._shared.engine.device_memory_bytes, ALIGNMENT_BYTES)
        self.input = self._host[INPUT_NAME].shaped(*shapes[INPUT_NAME])
        self.output = self._host[OUTPUT_NAME].shaped(*shapes[OUTPUT_NAME])
        self._forget_recording()

    def _need(self, name: str, size_bytes: int, *, on_device: bool = True) -> None:
        """Make sure that a buffer of the host, and one of the GPU, has at least this size."""
        _grow(self._host, name, size_bytes, self._gpu.pinned)
        if on_device:
            _grow(self._device, name, size_bytes, self._gpu.device)

    def _give_memory(self) -> None:
        needed_bytes = self._needed_bytes
        if self._shared.shares_activations:
            memory = self._shared.activations(needed_bytes)
        else:
            _grow(self._device, _ACTIVATIONS, needed_bytes, self._gpu.device)
            memory = self._device[_ACTIVATIONS]
        given = (memory.pointer, memory.size_bytes)
        if given != self._given_memory:
            self._context.set_memory(*given)
            self._given_memory = given
            self._forget_recording()

    def _address(self, name: str, pointer: int) -> None:
        if self._addresses.get(name) != pointer:
            self._context.set_address(name, pointer)
            self._addresses[name] = pointer
            self._forget_recording()

    def run(self, *, given_means: MeanVector | None = None, wanted_means: bool = False, timed: bool = False) -> None:
        """Begin to copy in, compute and copy out; `done` is recorded in the stream at the end.

        Args:
            given_means: means to use in place of the frame's own.
            wanted_means: whether to copy out the frame's means in place of the upscaled frame.
            timed: whether to measure each stage for `stage_times`, which makes the run take about twice as long.
        """
        gpu = self._gpu
        # The shared memory may have grown since the slot was prepared.
        self._give_memory()
        if self._shared.engine.means:
            self._address(USE_GIVEN_MEANS_NAME, self._shared.switch(on=given_means is not None))
        marks = self._start_marks() if timed else None
        if given_means is not None:
            host = self._host[GIVEN_MEANS_NAME].shaped(given_means.nbytes)
            host[:] = np.ascontiguousarray(given_means).view(np.uint8).reshape(-1)
            gpu.copy_in(self._device[GIVEN_MEANS_NAME], host, self.stream)
        if not self._shared.zero_copy:
            gpu.copy_in(self._device[INPUT_NAME], self.input, self.stream)
        if marks is not None:
            marks.copied_in.record(self.stream)
        self._shared.before_compute(self.stream)
        self._compute()
        if marks is not None:
            marks.computed.record(self.stream)
        self._shared.after_compute(self.stream, self.computed)
        if wanted_means:
            gpu.copy_out(
                self._host[MEANS_NAME].shaped(self._shared.engine.means * FLOAT_BYTES),
                self._device[MEANS_NAME],
                self.stream,
            )
        elif not self._shared.zero_copy:
            gpu.copy_out(self.output, self._device[OUTPUT_NAME], self.stream)
        if marks is not None:
            marks.copied_out.record(self.stream)
        self.done.record(self.stream)

    def _start_marks(self) -> StageMarks:
        """Put one untimed computation and then the first mark into the stream, and return the marks.

        The untimed computation keeps the GPU busy while the host submits the timed work. Otherwise the GPU would wait
        for the host between two marks, and the times would include that.
        """
        if self._marks is None:
            self._marks = StageMarks(self._gpu)
        self._shared.before_compute(self.stream)
        while self._runs < _SETTLING_RUNS:
            self._compute()
        self._compute()
        self._marks.began.record(self.stream)
        return self._marks

    def _compute(self) -> None:
        handle = self.stream.handle
        if self._recorded is None and self._runs > 0 and self._shared.records:
            try:
                self._recorded = RecordedWork(handle, lambda: self._context.enqueue(handle))
            except BackendError as error:
                self._shared.give_up_recording(str(error))
        if self._recorded is not None:
            try:
                self._recorded.launch()
            except BackendError as error:
                self._shared.give_up_recording(str(error))
                self._forget_recording()
        if self._recorded is None:
            self._context.enqueue(handle)
        self._runs += 1

    def _forget_recording(self) -> None:
        self._runs = 0
        recorded, self._recorded = self._recorded, None
        if recorded is not None:
            # What cannot be destroyed is only lost memory.
            with suppress(BackendError):
                recorded.close()

    def wait(self) -> None:
        """Wait for the end of the last run."""
        self.done.synchronize()

    def stage_times(self) -> StageTimes:
        """Return how long the stages of the last run took, which was timed and has ended."""
        assert self._marks is not None
        return self._marks.times(copies=not self._shared.zero_copy)

    def means(self) -> MeanVector:
        """Return a copy of the frame's means, after a run with `wanted_means`."""
        stored = self._host[MEANS_NAME].shaped(self._shared.engine.means * FLOAT_BYTES)
        means: MeanVector = stored.view(np.float32).copy().reshape(1, -1, 1, 1)
        return means

    def close(self) -> None:
        """Wait for running work and free everything."""
        self._shared.forget(self.computed)
        buffers: list[PinnedBuffer | DeviceBuffer] = [*self._host.values(), *self._device.values()]
        steps = [
            self.stream.synchronize,
            self._forget_recording,
            self._context.close,
            *(buffer.free for buffer in buffers),
            *(used.close for used in (self.stream, self.done, self.computed)),
            *([] if self._marks is None else [self._marks.close]),
        ]
        self._host.clear()
        self._device.clear()
        with ExitStack() as stack:
            # Each step is tried, also where one before it fails; the last failure is raised.
            for step in reversed(steps):
                stack.callback(step)


_Buffer = TypeVar("_Buffer", PinnedBuffer, DeviceBuffer)


def _grow(buffers: dict[str, _Buffer], name: str, size_bytes: int, allocate: Callable[[int], _Buffer]) -> None:
    """Make sure that the named buffer has at least this size. The old one is freed first: both might not fit."""
    if name in buffers and buffers[name].size_bytes < size_bytes:
        buffers.pop(name).free()
    if name not in buffers:
        buffers[name] = allocate(size_bytes)
