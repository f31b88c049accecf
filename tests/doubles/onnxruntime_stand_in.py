"""A stand-in for ONNX Runtime on a machine with GPUs: the providers it reports, and the location of buffers.

Sessions, bindings and buffers are ONNX Runtime's own, on the CPU.
"""

import types

import numpy as np
import onnxruntime

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT, RTX = "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"


class StandIn(types.SimpleNamespace):
    """The module onnxruntime, built for GPUs.

    `opened` has the providers requested for each session, `buffers` the location requested for each buffer.
    """

    def __init__(self, folder):
        super().__init__(__version__="1.31.1", __file__=str(folder / "onnxruntime/__init__.py"))
        self.available = [TENSORRT, CUDA, CPU]
        self.opened, self.buffers, self.severities, self.devices = [], [], [], []
        self.leaves_out, self.refusal = (), None
        self.set_default_logger_severity = self.severities.append
        stand_in = self

        class SessionOptions(onnxruntime.SessionOptions):  # type: ignore[misc] # has no types
            added = None

            def add_provider_for_devices(self, devices, options):
                self.added = [(device.ep_name, options) for device in devices]
                stand_in.chosen = [device.number for device in devices]

        class Session(onnxruntime.InferenceSession):  # type: ignore[misc] # has no types
            def __init__(self, content, options, providers, *, enable_fallback):
                stand_in.opened.append(types.SimpleNamespace(providers=providers or options.added, by_name=providers))
                assert enable_fallback == 0, "it would print on stdout, and take the CPU"
                if stand_in.refusal is not None:
                    raise stand_in.refusal
                super().__init__(content, options, providers=[CPU])
                names = [entry if isinstance(entry, str) else entry[0] for entry in providers or options.added]
                self._claimed = [name for name in names if name not in stand_in.leaves_out]

            def get_providers(self):
                return getattr(self, "_claimed", [])

        def make(shape, dtype, kind, ordinal, vendor=-1):
            stand_in.buffers.append((kind, ordinal, vendor, tuple(shape), np.dtype(dtype)))
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cpu", 0)

        self.SessionOptions, self.InferenceSession = SessionOptions, Session
        self.OrtValue = types.SimpleNamespace(ortvalue_from_shape_and_type=make)

    def get_available_providers(self):
        return self.available

    def get_ep_devices(self):
        return self.devices

    def register_execution_provider_library(self, name, path):
        if path == "broken":
            raise RuntimeError("[ONNXRuntimeError] libcuda.so.1: cannot open shared object file")
        self.available = [*self.available, name]
        named = [(CPU, 0), (name, 0), (name, 1)]
        self.devices = [types.SimpleNamespace(ep_name=other, number=number) for other, number in named]
