"""The gate for an engine itself, where there is a GPU to run it on.

Buffers and streams are PyTorch's, which an export of a checkpoint has anyway; the runtime has its own, faster ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from overnet.errors import ArtifactError, BackendError
from overnet.export.engine.trt_api import ICudaEngine, IExecutionContext, Module, Runtime
from overnet.export.verify.comparison import TOLERANCES, Parity, ReferenceResults
from overnet.files.engine_sidecar import TITLES, Profile, RuntimeName
from overnet.files.onnx_metadata import (
    GIVEN_MEANS_NAME,
    INPUT_NAME,
    MEANS_NAME,
    OUTPUT_NAME,
    USE_GIVEN_MEANS_NAME,
    Artifact,
)
from overnet.system.environment import bindings
from overnet.types import Image, Upscale


def pass_engine_gate(
    serialized: bytes,
    target: RuntimeName,
    profile: Profile,
    artifact: Artifact,
    reference: tuple[Upscale, str],
    images: list[Image],
    *,
    name: str,
) -> Parity | None:
    """Run an engine on the GPU, compare it with what it was made from, and refuse it if it is too far.

    Args:
        serialized: the engine; its own build, so that deserialising it is safe.
        reference: the network, or the ONNX file that stands for it; with its name.
        images: H x W x 3 uint8 each; brought to sizes that the profile has.
        name: what the file is going to be called, for messages.

    Returns:
        How far it is; None where PyTorch has no GPU to run it on.

    Raises:
        ArtifactError: it is too far from the reference.
        BackendError: TensorRT cannot run it.
    """
    if not torch.cuda.is_available():
        return None
    trt: Module = bindings(target, purpose="running an engine")
    runtime: Runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine: ICudaEngine = runtime.deserialize_cuda_engine(serialized)
    if engine is None:
        raise BackendError(f"{name}: {TITLES[target]} cannot load the engine that it has just built")
    label = f"{TITLES[target]} {trt.__version__} on {torch.cuda.get_device_name()}"
    fitted = [fitting(image, profile) for image in images]
    return check_engine(engine, torch.device("cuda"), artifact, reference, fitted, name=name, label=label)


def check_engine(
    engine: ICudaEngine,
    device: torch.device,
    artifact: Artifact,
    reference: tuple[Upscale, str],
    images: list[Image],
    *,
    name: str,
    label: str,
) -> Parity:
    """Compare a loaded engine with the reference; the same as `pass_engine_gate` otherwise.

    Args:
        device: where its buffers are to lie.
        images: of sizes that it takes.
        label: what to call that which runs it.
    """
    scale = int(artifact.scale)
    reference_results = ReferenceResults(reference, images)
    # Tiles are upscaled with given means, and an image with its own given has to come out as it does without.
    alone, given = (
        reference_results.compare(_in_engine(engine, scale, device, give=give), label) for give in (False, True)
    )
    parity = replace(alone.worse(given), measured_by=label)
    gate = TOLERANCES[artifact.precision]
    if not gate.holds(parity):
        raise ArtifactError(f"{gate.refusal(name, parity)}; the graph it was built from passed")
    return parity


def fitting(image: Image, profile: Profile) -> Image:
    """An image as it is where the profile takes it; else repeated or cut to the nearest size that it takes."""
    sides = [
        min(max(side, low), high)
        for side, low, high in zip(image.shape, profile.minimum, profile.maximum, strict=False)
    ]
    repeats = [-(-wanted // side) for wanted, side in zip(sides, image.shape, strict=False)]
    repeated: Image = np.tile(image, (*repeats, 1))[: sides[0], : sides[1]]
    return repeated


def _in_engine(engine: ICudaEngine, scale: int, device: torch.device, *, give: bool) -> Upscale:
    """Run an engine on one image after the other, each waited for; if asked, once more with its own means given."""
    context: IExecutionContext = engine.create_execution_context()
    channels = engine.get_tensor_shape(MEANS_NAME)[1]
    cuda: Any = torch.cuda  # typed only in parts
    # Not the default stream, on which TensorRT would wait at every step.
    stream = cuda.Stream(device) if device.type == "cuda" else None

    def run(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if name not in (OUTPUT_NAME, MEANS_NAME):
                context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        if stream is not None:
            stream.wait_stream(cuda.current_stream(device))
        if not context.execute_async_v3(stream.cuda_stream if stream is not None else 0):
            raise BackendError("TensorRT could not run the engine that it has just built")
        if stream is not None:
            stream.synchronize()

    def upscale(image: Image) -> Image:
        height, width = image.shape[:2]
        # Given means that are not to be used may be anything, undefined numbers too.
        unused = torch.full((1, channels, 1, 1), torch.nan, device=device)
        tensors = {
            INPUT_NAME: torch.from_numpy(np.ascontiguousarray(image[None])).to(device),
            GIVEN_MEANS_NAME: unused,
            USE_GIVEN_MEANS_NAME: torch.zeros((1, 1, 1, 1), device=device),
            OUTPUT_NAME: torch.empty((1, height * scale, width * scale, 3), dtype=torch.uint8, device=device),
            MEANS_NAME: torch.empty_like(unused),
        }
        run(tensors)
        if give:
            tensors[GIVEN_MEANS_NAME] = tensors[MEANS_NAME]
            tensors[USE_GIVEN_MEANS_NAME] = torch.ones((1, 1, 1, 1), device=device)
            run({**tensors, MEANS_NAME: torch.empty_like(unused)})
        result: Image = tensors[OUTPUT_NAME][0].cpu().numpy()
        return result

    return upscale
