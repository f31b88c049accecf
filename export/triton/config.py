"""The configurations of models for Triton Inference Server: config.pbtxt, a protobuf message as text."""

from overnet.files.onnx_metadata import INPUT_NAME, OUTPUT_NAME

# Where a network's instances run. Triton's OpenVINO backend is for CPUs.
_KINDS = {"onnxruntime": "KIND_AUTO", "openvino": "KIND_CPU", "tensorrt": "KIND_GPU"}

_NETWORK = """\
# OverNet x{scale:g}, {precision}: images of any size, N x H x W x 3 RGB, are upscaled whole.
name: "{name}"
backend: "{platform}"
default_model_filename: "model.{suffix}"
{size}

{batching}
instance_group {{ count: 1 kind: {kind} }}
model_warmup {{
  name: "black"
  batch_size: 1
  inputs {{ key: "{input}" value {{ data_type: TYPE_UINT8 dims: [ {warm_up}, 3 ] zero_data: true }} }}
}}
"""
_BATCHES = """\
max_batch_size: {batch}
input {{ name: "{input}" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }}
output {{ name: "{output}" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }}"""
_BATCHING = """\
# Requests with images of one size that come within a millisecond are computed together.
dynamic_batching {
  max_queue_delay_microseconds: 1000
  default_queue_policy { max_queue_size: 64 }
}"""
# With a max_batch_size, Triton's OpenVINO backend computes exactly as many images and refuses fewer.
_ANY_BATCH = """\
# N is a dimension like the others: a request's images are computed together, those of several requests are not.
max_batch_size: 0
input {{ name: "{input}" data_type: TYPE_UINT8 dims: [ -1, -1, -1, 3 ] }}
output {{ name: "{output}" data_type: TYPE_UINT8 dims: [ -1, -1, -1, 3 ] }}"""
_QUEUE = "dynamic_batching { default_queue_policy { max_queue_size: 64 } }"

_UPSCALER = """\
# Whole images of any size at any scale, in tiles where they do not fit the memory. OverNet must be installed for the
# Python backend. A request has either "{input}" (RGB, H x W x 3) or "file", an image file's bytes.
name: "{name}"
backend: "python"
max_batch_size: 0
input {{ name: "{input}" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] optional: true }}
input {{ name: "file" data_type: TYPE_STRING dims: [ 1 ] optional: true }}
input {{ name: "scale" data_type: TYPE_FP64 dims: [ 1 ] optional: true }}
input {{ name: "format" data_type: TYPE_STRING dims: [ 1 ] optional: true }}
output {{ name: "{output}" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] }}
output {{ name: "{output}_file" data_type: TYPE_STRING dims: [ 1 ] }}
output {{ name: "notes" data_type: TYPE_STRING dims: [ -1 ] }}

{queue}
instance_group {{ count: 1 kind: KIND_AUTO }}
model_warmup {{
  name: "black"
  batch_size: 1
  inputs {{ key: "{input}" value {{ data_type: TYPE_UINT8 dims: [ 64, 64, 3 ] zero_data: true }} }}
}}

# One of the backends of overnet-run, the side of tiles in pixels, and the CPU threads of each instance.
parameters {{ key: "backend" value {{ string_value: "auto" }} }}
parameters {{ key: "tile" value {{ string_value: "auto" }} }}
parameters {{ key: "threads" value {{ string_value: "auto" }} }}
# Of requests that state no scale.
parameters {{ key: "scale" value {{ string_value: "{scale:g}" }} }}
# Images with more pixels are refused, and images whose results would have more.
parameters {{ key: "max_pixels" value {{ string_value: "{most:d}" }} }}
parameters {{ key: "max_result_pixels" value {{ string_value: "{most_result:d}" }} }}
"""


def network_config(name: str, platform: str, scale: float, precision: str, batch: int, warm_up: tuple[int, int]) -> str:
    """Return the configuration of a model that is one ONNX file or engine: uint8 N x H x W x 3 in and out.

    Args:
        name: of the model, and of its folder: letters, digits, "_", "." and "-".
        platform: the backend of Triton that runs it: ``"onnxruntime"``, ``"openvino"`` or ``"tensorrt"``.
        scale, precision: of the file.
        batch: the largest number of images at once, of one request or of several; OpenVINO has no limit.
        warm_up: height and width of the black image that is computed before the first request.
    """
    has_batches = platform != "openvino"
    size = (_BATCHES if has_batches else _ANY_BATCH).format(batch=batch, input=INPUT_NAME, output=OUTPUT_NAME)
    return _NETWORK.format(
        name=name,
        platform=platform,
        scale=scale,
        precision=precision.upper(),
        suffix="plan" if platform == "tensorrt" else "onnx",
        size=size,
        batching=_BATCHING if has_batches else _QUEUE,
        input=INPUT_NAME,
        kind=_KINDS[platform],
        warm_up=", ".join(map(str, warm_up if has_batches else (1, *warm_up))),
    )


def upscaler_config(name: str, scale: float) -> str:
    """Return the configuration of the model for whole images, `overnet.runtime.triton_model.TritonPythonModel`.

    Args:
        name: of the model; see `network_config`.
        scale: of a request that states none.
    """
    return _UPSCALER.format(
        name=name,
        scale=scale,
        input=INPUT_NAME,
        output=OUTPUT_NAME,
        queue=_QUEUE,
        most=1 << 26,
        most_result=1 << 28,
    )
