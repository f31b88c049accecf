"""The parts that the slots of a ring share: the engine, and the activation memory where memory is short."""

import numpy as np

from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.trt.cuda import CudaEvent, CudaStream, DeviceBuffer, Gpu
from overnet.runtime.backends.trt.loaded_engine import ALIGNMENT_BYTES, LoadedEngine

FLOAT_BYTES = 4
# Share of the GPU's free memory up to which each slot has activation memory of its own: other programs, and the images
# themselves, need some too.
_ACTIVATION_SHARE = 0.25


class SlotShared:
    """The engine on its GPU and the memory that its slots share. All methods within `Gpu.current`.

    Args:
        gpu: the GPU.
        engine: loaded on that GPU.
        scale: of the engine; a whole number.
        options: of the backend; this uses `zero_copy` and `cuda_graphs`.

    Attributes:
        zero_copy: whether the GPU works on the host's page-locked memory without copying it.
        records: whether computing is recorded as a CUDA graph. TensorRT-RTX does so by itself.
        shares_activations: whether all slots compute one after the other in the same activation memory.
        notes: one-line remarks for the user.
    """

    def __init__(self, gpu: Gpu, engine: LoadedEngine, scale: float, options: BackendOptions) -> None:
        self.gpu, self.engine, self.scale = gpu, engine, scale
        self.zero_copy = gpu.shares_memory if options.zero_copy is None else options.zero_copy
        self.records = options.cuda_graphs and not engine.is_rtx
        self.shares_activations = True
        self.notes: list[str] = []
        self._activations: DeviceBuffer | None = None
        self._switches: DeviceBuffer | None = None
        # The event after the last computation in the shared memory.
        self._computed: CudaEvent | None = None

    def begin(self, slots: int, *, shares_activations: bool | None = None) -> None:
        """Allocate the shared memory; later calls do nothing.

        Args:
            slots: the number of slots.
            shares_activations: None decides by the free memory: where one frame does not fill the GPU, computing
                several at once, each in memory of its own, is faster.
        """
        if self._switches is not None:
            return
        if shares_activations is None:
            free, _ = self.gpu.free_memory_bytes()
            wanted = slots * self.engine.device_memory_bytes
            shares_activations = self.gpu.shares_memory or wanted > free * _ACTIVATION_SHARE
        self.shares_activations = shares_activations
        size_bytes = 2 * ALIGNMENT_BYTES
        values = self.gpu.pinned(size_bytes)
        switches = None
        try:
            off_and_on = values.shaped(size_bytes).view(np.float32)
            off_and_on[:] = 0
            off_and_on[ALIGNMENT_BYTES // FLOAT_BYTES] = 1
            switches = self.gpu.device(size_bytes)
            stream = self.gpu.stream()
            try:
                self.gpu.copy_in(switches, values.shaped(size_bytes), stream)
                stream.synchronize()
            finally:
                stream.close()
        except BaseException:
            # Their content is not initialised.
            if switches is not None:
                switches.free()
            raise
        finally:
            values.free()
        self._switches = switches

    def switch(self, *, on: bool) -> int:
        """Return the address of a float on the GPU that is 1 or 0."""
        assert self._switches is not None
        return self._switches.pointer + (ALIGNMENT_BYTES if on else 0)

    def activations(self, needed_bytes: int) -> DeviceBuffer:
        """Return the shared activation memory, grown to at least this size."""
        if self._activations is None or self._activations.size_bytes < needed_bytes:
            if self._activations is not None:
                if self._computed is not None:
                    self._computed.synchronize()
                self._activations.free()
                self._activations = None
            self._activations = self.gpu.device(needed_bytes)
        return self._activations

    def before_compute(self, stream: CudaStream) -> None:
        """Let a stream wait for the computation before, which uses the same memory."""
        if self.shares_activations and self._computed is not None:
            stream.wait_for(self._computed)

    def after_compute(self, stream: CudaStream, computed: CudaEvent) -> None:
        """Record the slot's event at the end of its computation."""
        if self.shares_activations:
            computed.record(stream)
            self._computed = computed

    def forget(self, computed: CudaEvent) -> None:
        """Drop the event of a slot that is closed."""
        if self._computed is computed:
            self._computed = None

    def give_up_recording(self, reason: str) -> None:
        """Continue without CUDA graphs, and note why."""
        self.records = False
        self.notes.append(f"CUDA graphs are not used: {reason}")

    def close(self) -> None:
        """Free everything, after all slots are closed."""
        for buffer in (self._activations, self._switches):
            if buffer is not None:
                buffer.free()
        self._activations = self._switches = self._computed = None
