"""Engines for the doubles of TensorRT: an ONNX graph, with a builder's decisions in a header."""

import hashlib
import json
import platform
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from overnet.files.engine_sidecar import (
    Environment,
    Profile,
    RuntimeName,
    Sidecar,
    read_sidecar,
    sidecar_path,
    sidecar_text,
)
from overnet.files.onnx_metadata import (
    GIVEN_MEANS_NAME,
    INPUT_NAME,
    MEANS_NAME,
    OUTPUT_NAME,
    USE_GIVEN_MEANS_NAME,
    Artifact,
)
from tests.doubles.trt_classes import MAGIC

VERSIONS: dict[RuntimeName, str] = {"tensorrt": "10.3.0", "tensorrt-rtx": "1.7.1"}
DEVICE, CAPABILITY, MULTIPROCESSORS = "Stand-in", "8.7", 8


def nearest_model(
    scale: int = 2,
    *,
    means: int = 0,
    switch: int = onnx.TensorProto.FLOAT,
    switch_shape: Sequence[int] = (1, 1, 1, 1),
) -> bytes:
    """Return a small graph with the inputs and outputs of an exported one; each pixel becomes `scale` x `scale` pixels.

    Args:
        means: 3 adds engines' inputs and outputs for the means: the difference between the given means and the image's
            is added to each pixel.
        switch, switch_shape: number type and shape of the input that selects given means.
    """
    helper, types = onnx.helper, onnx.TensorProto
    node, value = helper.make_node, helper.make_tensor_value_info
    initializers = [
        helper.make_tensor("scales", types.FLOAT, [4], [1, 1, scale, scale]),
        helper.make_tensor("low", types.FLOAT, [], [0]),
        helper.make_tensor("high", types.FLOAT, [], [255]),
    ]
    nodes = [
        node("Cast", [INPUT_NAME], ["numbers"], to=types.FLOAT),
        node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        node("Resize", ["shifted" if means else "planes", "", "scales"], ["large"], mode="nearest"),
        node("Clip", ["large", "low", "high"], ["clipped"]),
        node("Round", ["clipped"], ["rounded"]),
        node("Transpose", ["rounded"], ["pixels"], perm=[0, 2, 3, 1]),
        node("Cast", ["pixels"], [OUTPUT_NAME], to=types.UINT8),
    ]
    inputs = [value(INPUT_NAME, types.UINT8, ["n", "h", "w", 3])]
    outputs = [value(OUTPUT_NAME, types.UINT8, ["n", None, None, 3])]
    if means:
        initializers.append(helper.make_tensor("axes", types.INT64, [2], [2, 3]))
        nodes[2:2] = [
            node("ReduceMean", ["planes", "axes"], [MEANS_NAME], keepdims=1),
            node("Cast", [USE_GIVEN_MEANS_NAME], ["use"], to=types.BOOL),
            node("Where", ["use", GIVEN_MEANS_NAME, MEANS_NAME], ["used"]),
            node("Sub", ["used", MEANS_NAME], ["shift"]),
            node("Add", ["planes", "shift"], ["shifted"]),
        ]
        inputs += [
            value(GIVEN_MEANS_NAME, types.FLOAT, ["n", means, 1, 1]),
            value(USE_GIVEN_MEANS_NAME, switch, list(switch_shape)),
        ]
        outputs.append(value(MEANS_NAME, types.FLOAT, ["n", means, 1, 1]))
    graph = helper.make_graph(nodes, "nearest", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    artifact = Artifact(scale=scale, overscale=scale, precision="fp32", weights_sha256="0" * 64)
    helper.set_model_props(model, artifact.to_metadata())
    return bytes(model.SerializeToString())


def make_engine(
    onnx_bytes: bytes,
    profile: Profile,
    *,
    activation_bytes_per_pixel: float = 100.0,
    library: RuntimeName = "tensorrt",
    version: str | None = None,
) -> bytes:
    """Return an engine that the doubles load.

    Args:
        onnx_bytes: the graph. Its input `overnet.files.onnx_metadata.INPUT_NAME` takes the profile's images; of its
            other inputs only the first side may vary, with the number of images.
        profile: the image sizes it takes.
        activation_bytes_per_pixel: its activation memory for each input pixel.
        library, version: what it was built with; None is the double's default version.
    """
    shapes: dict[str, list[tuple[int, ...]]] = {
        INPUT_NAME: [
            (1, *profile.minimum, 3),
            (profile.batch, *profile.optimum, 3),
            (profile.batch, *profile.maximum, 3),
        ]
    }
    graph = onnx.load_from_string(onnx_bytes).graph
    initializers = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name in initializers or value.name == INPUT_NAME:
            continue
        dims = value.type.tensor_type.shape.dim
        sides = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
        assert None not in sides[1:], f"{value.name}: more than the first side varies"
        shapes[value.name] = [
            tuple(batch if side is None else side for side in sides) for batch in (1, profile.batch, profile.batch)
        ]
    header = {
        "library": library,
        "version": version or VERSIONS[library],
        "image": INPUT_NAME,
        "profile": shapes,
        "activation_bytes_per_pixel": activation_bytes_per_pixel,
    }
    text = json.dumps(header).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + onnx_bytes


def mark_checked(path: Path) -> Path:
    """Store that an engine has passed the runtime's check on the stand-in's device, and return its path."""
    from overnet.runtime.backends.trt.engine_check import remember

    sidecar = read_sidecar(path)
    remember(sidecar.engine_sha256, replace(sidecar.environment, multiprocessors=MULTIPROCESSORS))
    return path


def write_engine(
    path: Path,
    model: Path | bytes,
    profile: Profile,
    *,
    activation_bytes_per_pixel: float = 100.0,
    library: RuntimeName = "tensorrt",
    version: str | None = None,
    device: str | None = DEVICE,
    capability: str | None = CAPABILITY,
) -> Path:
    """Write an engine and its sidecar, by default for the stand-in's device, and return its path.

    Args:
        path: of the engine.
        model: an exported ONNX file, or its content.
        profile, activation_bytes_per_pixel, library, version: see `make_engine`.
        device, capability: the sidecar's device.
    """
    content = model if isinstance(model, bytes) else model.read_bytes()
    engine = make_engine(
        content,
        profile,
        activation_bytes_per_pixel=activation_bytes_per_pixel,
        library=library,
        version=version,
    )
    path.write_bytes(engine)
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    sidecar = Sidecar(
        artifact=Artifact.from_metadata(metadata, name=path.name),
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        engine_size_bytes=len(engine),
        environment=Environment(
            runtime=library,
            runtime_version=version or VERSIONS[library],
            device_name=device,
            compute_capability=capability,
            driver=None,
            jetpack=None,
            operating_system=platform.system(),
            architecture=platform.machine(),
        ),
        profile=profile,
        activation_memory_bytes=round(profile.pixels * activation_bytes_per_pixel),
        multiply_accumulates_per_pixel=1.0,
        activation_bytes_per_pixel=activation_bytes_per_pixel,
        psnr_db=None,
        largest_difference=0,
        measured_by="the doubles",
    )
    sidecar_path(path).write_text(sidecar_text(sidecar))
    return path
