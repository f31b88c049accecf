"""The double of TensorRT's Python module, in version ``OVERNET_TENSORRT_VERSION``, by default 10.3.0."""

import os

from tests.doubles import trt_classes
from tests.doubles.trt_classes import (
    DataType,
    Dims,
    ExecutionContextAllocationStrategy,
    ICudaEngine,
    IExecutionContext,
    ILogger,
    Logger,
    TensorIOMode,
    nptype,
    volume,
)

__all__ = [
    "DataType",
    "Dims",
    "ExecutionContextAllocationStrategy",
    "ICudaEngine",
    "IExecutionContext",
    "ILogger",
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
__version__ = os.environ.get("OVERNET_TENSORRT_VERSION", "10.3.0")

float32, float16 = DataType.FLOAT, DataType.HALF
int8, int32, int64, uint8 = DataType.INT8, DataType.INT32, DataType.INT64, DataType.UINT8
bool = DataType.BOOL

if int(__version__.partition(".")[0]) >= 11:

    class IRuntimeConfig(trt_classes.IRuntimeConfig):
        """Options for an execution context, from version 11 on."""

    class ICudaEngine(trt_classes.ICudaEngineWithConfig):  # type: ignore[no-redef]
        """A loaded engine of version 11."""

        _config_class = IRuntimeConfig

    __all__ += ["IRuntimeConfig"]


class Runtime(trt_classes.Runtime):
    """The loader of engines of this version."""

    _library, _version = "tensorrt", __version__
    _engine_class = ICudaEngine
