"""A slot: all that one frame needs on its way through a GPU.

A slot has a CUDA stream, an execution context of the engine, page-locked buffers of the host and buffers of the GPU,
and an event. In its stream a frame is copied in, upscaled and copied out; the streams of several slots overlap, so that
one frame is copied while another is computed. Where slots share the activation memory, the computing itself goes one
after the other, in the order of submission, which an event sees to.

Nothing is allocated for a frame: buffers grow to the largest size seen and stay. Two sizes that take turns reuse them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
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
from overnet.runtime.backends.trt.cuda import CudaStream, DeviceBuffer, Gpu, PinnedBuffer, RecordedWork
from overnet.runtime.backends.trt.loaded_engine import ALIGNMENT_BYTES
from overnet.runtime.backends.trt.slot_shared import FLOAT_BYTES, SlotShared
from overnet.types import Image

Means = NDArray[np.float32]

_CHANNELS = 3
_ACTIVATIONS = "activations"
# Runs that set things up and record, or have the library do so, and are slow.
_SETTLING_RUNS = 2


@dataclass(frozen=True)
class StageTimes:
    """What the GPU took for one or several images, in milliseconds, summed over them.

    Attributes:
        copy_in_ms: from page-locked memory of the host to the GPU's; 0 where the GPU works on the host's memory itself.
        compute_ms: the engine.
        copy_out_ms: from the GPU's memory to page-locked memory of the host; 0 as for `copy_in_ms`.
    """

    copy_in_ms: float = 0.0
    compute_ms: float = 0.0
    copy_out_ms: float = 0.0

    def __add__(self, other: StageTimes) -> StageTimes:
        return StageTimes(
            self.copy_in_ms + other.copy_in_ms,
            self.compute_ms + other.compute_ms,
            self.copy_out_ms + other.copy_out_ms,
        )


class StageMarks:
    """The marks around the stages in a slot's queue. All methods within `Gpu.current`.

    Args:
        gpu: the slot's.
        copies: whether images are copied at all.
    """

    def __init__(self, gpu: Gpu, *, copies: bool) -> None:
        self._copies = copies
        self._events = [gpu.event(timed=True) for _ in range(4)]
        self._began, self._copied_in, self._computed, self._copied_out = self._events

    def begin(self, stream: CudaStream) -> None:
        """Mark that copying in is next."""
        self._began.record(stream)

    def copied_in(self, stream: CudaStream) -> None:
        """Mark that computing is next."""
        self._copied_in.record(stream)

    def computed(self, stream: CudaStream) -> None:
        """Mark that copying out is next."""
        self._computed.record(stream)

    def copied_out(self, stream: CudaStream) -> None:
        """Mark the end."""
        self._copied_out.record(stream)

    def times(self) -> StageTimes:
        """The times between the marks, all of which have been set and reached."""
        compute_ms = self._computed.milliseconds_since(self._copied_in)
        if not self._copies:
            return StageTimes(compute_ms=compute_ms)
        return StageTimes(
            self._copied_in.milliseconds_since(self._began),
            compute_ms,
            self._copied_out.milliseconds_since(self._computed),
        )

    def close(self) -> None:
        """Destroy them."""
        for event in self._events:
            event.close()


class Slot:
    """One frame's way; see the module. All its methods within `Gpu.current`, by one thread at a time.

    Attributes:
        input, output: H x W x 3 and scale*H x scale*W x 3 uint8, page-locked; of the size given to `fit` last.
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
        # Runs since anything changed that a recording holds: the first sets things up and cannot be recorded.
        self._runs = 0

    def fit(self, size: tuple[int, int]) -> None:
        """Make ready for frames of this height and width.

        Raises:
            MemoryError: there is not enough for them.
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
        # Given anew after every change of shape, as TensorRT asks for.
        self._given_memory = None
        if engine.means:
            self._need(MEANS_NAME, engine.means * FLOAT_BYTES)
            self._need(GIVEN_MEANS_NAME, engine.means * FLOAT_BYTES)
            self._context.set_shape(GIVEN_MEANS_NAME, (1, engine.means, 1, 1))
            self._context.set_shape(USE_GIVEN_MEANS_NAME, (1, 1, 1, 1))
            self._address(GIVEN_MEANS_NAME, self._device[GIVEN_MEANS_NAME].pointer)
            self._address(MEANS_NAME, self._device[MEANS_NAME].pointer)
        for name in shapes:
            buffer = self._host[name] if self._shared.zero_copy else self._device[name]
            self._address(name, buffer.pointer)
        known_bytes = self._context.needed_memory_bytes()
        self._needed_bytes = max(known_bytes or self._shared.engine.device_memory_bytes, ALIGNMENT_BYTES)
        self.input = self._host[INPUT_NAME].shaped(*shapes[INPUT_NAME])
        self.output = self._host[OUTPUT_NAME].shaped(*shapes[OUTPUT_NAME])
        self._forget_recording()

    def _need(self, name: str, size_bytes: int, *, on_device: bool = True) -> None:
        """Have a buffer of the host, and one of the GPU, of at least this size."""
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

    def run(self, *, given_means: Means | None = None, wanted_means: bool = False, timed: bool = False) -> None:
        """Begin to copy in, compute and copy out; `done` is set in the stream at the end.

        Args:
            given_means: over all channels, to use in place of the frame's own.
            wanted_means: whether it is the frame's means that are wanted, and not the upscaled frame.
            timed: whether `stage_times` is to tell how long each stage took. It takes about twice as long.
        """
        gpu = self._gpu
        # What is shared may have grown since the slot was made ready.
        self._give_memory()
        if self._shared.engine.means:
            self._address(USE_GIVEN_MEANS_NAME, self._shared.switch(on=given_means is not None))
        marks = self._begun_marks() if timed else None
        if given_means is not None:
            host = self._host[GIVEN_MEANS_NAME].shaped(given_means.nbytes)
            host[:] = np.ascontiguousarray(given_means).view(np.uint8).reshape(-1)
            gpu.copy_in(self._device[GIVEN_MEANS_NAME], host, self.stream)
        if not self._shared.zero_copy:
            gpu.copy_in(self._device[INPUT_NAME], self.input, self.stream)
        if marks is not None:
            marks.copied_in(self.stream)
        self._shared.before_compute(self.stream)
        self._compute()
        if marks is not None:
            marks.computed(self.stream)
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
            marks.copied_out(self.stream)
        self.done.record(self.stream)

    def _begun_marks(self) -> StageMarks:
        """Marks, of which the first is in the queue, behind computing for nothing.

        It keeps the GPU busy while the host puts in what is timed. Else the GPU would wait for the host between two
        marks, and that time would count as its own.
        """
        if self._marks is None:
            self._marks = StageMarks(self._gpu, copies=not self._shared.zero_copy)
        self._shared.before_compute(self.stream)
        while self._runs < _SETTLING_RUNS:
            self._compute()
        self._compute()
        self._marks.begin(self.stream)
        return self._marks

    def _compute(self) -> None:
        handle = self.stream.handle
        if self._recorded is None and self._runs > 0 and self._shared.records:
            try:
                self._recorded = RecordedWork(handle, lambda: self._context.enqueue(handle))
            except BackendError as error:
                self._shared.give_up_recording(str(error))
        if self._recorded is not None:
            self._recorded.launch()
        else:
            self._context.enqueue(handle)
        self._runs += 1

    def _forget_recording(self) -> None:
        self._runs = 0
        if self._recorded is not None:
            self._recorded.close()
            self._recorded = None

    def wait(self) -> None:
        """Wait until `done`."""
        self.done.synchronize()

    def stage_times(self) -> StageTimes:
        """How long the stages of the last run took, which was timed and is done."""
        assert self._marks is not None
        return self._marks.times()

    def means(self) -> Means:
        """The frame's means, after a run for which they were wanted; a copy."""
        stored = self._host[MEANS_NAME].shaped(self._shared.engine.means * FLOAT_BYTES)
        means: Means = stored.view(np.float32).copy().reshape(1, -1, 1, 1)
        return means

    def close(self) -> None:
        """Wait for what runs, and free everything."""
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
            # Each is tried whatever becomes of those before it; the last failure is raised.
            for step in reversed(steps):
                stack.callback(step)


_Buffer = TypeVar("_Buffer", PinnedBuffer, DeviceBuffer)


def _grow(buffers: dict[str, _Buffer], name: str, size_bytes: int, allocate: Callable[[int], _Buffer]) -> None:
    """Have a buffer of at least this size under a name. The old one goes first: both might not fit."""
    if name in buffers and buffers[name].size_bytes < size_bytes:
        buffers.pop(name).free()
    if name not in buffers:
        buffers[name] = allocate(size_bytes)
