"""The double of TensorRT-RTX's Python module, in version ``OVERNET_TENSORRT_RTX_VERSION``, by default 1.7.1."""

import os

from tests.doubles import trt_classes
from tests.doubles.trt_classes import (
    CudaGraphStrategy,
    DataType,
    Dims,
    ExecutionContextAllocationStrategy,
    IExecutionContext,
    ILogger,
    IRuntimeCache,
    Logger,
    TensorIOMode,
    nptype,
    volume,
)

__all__ = [
    "CudaGraphStrategy",
    "DataType",
    "Dims",
    "ExecutionContextAllocationStrategy",
    "ICudaEngine",
    "IExecutionContext",
    "ILogger",
    "IRuntimeCache",
    "IRuntimeConfig",
    "Logger",
    "Runtime",
    "TensorIOMode",
    "bool",
    "float16",
    "float32",
    "int8",
    "int32",
    "int64",
    "nptype",
    "uint8",
    "volume",
]
__version__ = os.environ.get("OVERNET_TENSORRT_RTX_VERSION", "1.7.1")

float32, float16 = DataType.FLOAT, DataType.HALF
int8, int32, int64, uint8 = DataType.INT8, DataType.INT32, DataType.INT64, DataType.UINT8
bool = DataType.BOOL


class IRuntimeConfig(trt_classes.IRuntimeConfigOfRtx):
    """Options for an execution context."""


class ICudaEngine(trt_classes.ICudaEngineWithConfig):
    """A loaded engine."""

    _config_class = IRuntimeConfig


class Runtime(trt_classes.Runtime):
    """The loader of engines of this version."""

    _library, _version = "tensorrt-rtx", __version__
    _engine_class = ICudaEngine
