"""ONNX Runtime sessions whose inputs and outputs lie in preallocated buffers, on a GPU or in the host's memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Number of input sizes that buffers are kept for, such as those of an image's tiles and of its parts for the means.
_KEPT_SIZES = 2


class BoundSession:
    """A session with buffers of its own, one set for each size of the inputs.

    A run copies the inputs into their buffers and the outputs into new arrays; once there are buffers of that size,
    nothing else is allocated. Runs from several threads wait for one another.

    Args:
        onnxruntime: the module.
        session: the session; `run` takes its inputs in order.
        memory: where to allocate the buffers, as ONNX Runtime names it: ``"cpu"``, ``"cuda"``, or ``"gpu"`` for a
            provider that is a library of its own; the number of the device; for ``"gpu"`` the vendor's PCI number.

    Attributes:
        input_names: the names of the inputs, in order.
    """

    def __init__(self, onnxruntime: Any, session: Any, memory: tuple[str | int, ...]) -> None:
        self._onnxruntime, self._session, self._memory = onnxruntime, session, memory
        self.input_names = [entry.name for entry in session.get_inputs()]
        self._output_names = [entry.name for entry in session.get_outputs()]
        self._buffers: dict[tuple[tuple[int, ...], ...], _Buffers] = {}  # the size that was used last is the last
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[NDArray[Any]], output_shape: tuple[int, ...] | None = None) -> list[NDArray[Any]]:
        """Run once.

        Args:
            inputs: one C-contiguous array for each of the session's inputs.
            output_shape: the shape of the only output, which is uint8; None for small outputs of unknown shapes, which
                ONNX Runtime then allocates in the host's memory.

        Returns:
            A new array for each output.
        """
        size = tuple(array.shape for array in inputs)
        with self._lock:
            buffers = self._buffers.pop(size, None)
            try:
                if buffers is None:
                    while len(self._buffers) >= _KEPT_SIZES:
                        del self._buffers[next(iter(self._buffers))]
                    buffers = self._allocated(inputs, output_shape)
                for buffer, array in zip(buffers.inputs, inputs, strict=True):
                    buffer.update_inplace(array)
                self._session.run_with_iobinding(buffers.binding)
                buffers.binding.synchronize_outputs()
                outputs: list[NDArray[Any]] = buffers.binding.copy_outputs_to_cpu()
            except Exception:
                # Their memory may be what is missing; the image is tried again in tiles.
                self._buffers.clear()
                raise
            self._buffers[size] = buffers
            return outputs

    def run_once(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run without buffers, for a size that does not come again and outputs of unknown shapes; see `run`."""
        outputs: list[NDArray[Any]] = self._session.run(None, dict(zip(self.input_names, inputs, strict=True)))
        return outputs

    def _allocated(self, inputs: Sequence[NDArray[Any]], output_shape: tuple[int, ...] | None) -> _Buffers:
        binding = self._session.io_binding()
        buffers = [self._buffer(array.shape, array.dtype) for array in inputs]
        for name, buffer in zip(self.input_names, buffers, strict=True):
            binding.bind_ortvalue_input(name, buffer)
        if output_shape is None:
            for name in self._output_names:
                binding.bind_output(name)
        else:
            (name,) = self._output_names
            binding.bind_ortvalue_output(name, self._buffer(output_shape, np.dtype(np.uint8)))
        return _Buffers(binding, buffers)

    def _buffer(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return self._onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype.type, *self._memory)


@dataclass
class _Buffers:
    """The buffers for one size: those of the inputs, and ONNX Runtime's binding, which also holds the output's."""

    binding: Any
    inputs: list[Any]
