"""How long an image is copied to a GPU, computed there and copied back, by the GPU's own clock.

Marks in the queue of a slot are given the time when the GPU reaches them. So they tell what the GPU does, and not when
the host had time to ask for it. It is the backends on TensorRT that have this: ONNX Runtime, on whichever provider,
copies and computes behind one call, and shows nothing in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from overnet.runtime.backends.trt.cuda import CudaStream, Gpu


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
