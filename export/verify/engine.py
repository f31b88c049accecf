"""The comparison of an engine with its reference, on the GPU.

Buffers and streams are PyTorch's, which an export of a checkpoint needs anyway; the runtime has its own, faster ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from overnet.errors import ArtifactError, BackendError
from overnet.export.engine.messages import BuildMessages
from overnet.export.engine.trt_api import ICudaEngine, IExecutionContext, Library
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
from overnet.types import Image, Upscale


def check_engine(
    serialized: bytes,
    target: RuntimeName,
    profile: Profile,
    artifact: Artifact,
    reference: tuple[Upscale, str],
    images: list[Image],
    *,
    name: str,
) -> Parity | None:
    """Run an engine on the GPU and compare it with its reference.

    Args:
        serialized: an engine that this process built: deserialising runs code from it.
        target: the library it is for.
        profile: the image sizes it takes.
        artifact: its scale and precision.
        reference: the network, or the ONNX file that replaces it; with its name.
        images: H x W x 3 uint8 each; cut or repeated to sizes that the profile has.
        name: the file's name in messages.

    Returns:
        The difference; None where PyTorch has no GPU to run the engine on.

    Raises:
        ArtifactError: the difference is too large.
        BackendError: TensorRT cannot run the engine.
    """
    if not torch.cuda.is_available():
        return None
    library = Library(target)
    with BuildMessages(None, "") as messages, library.listening(messages.add):
        engine: ICudaEngine = library.load(serialized)
    if engine is None:
        raise BackendError(f"{name}: {TITLES[target]} cannot load the engine that it has just built: {messages.error}")
    label = f"{TITLES[target]} {library.version} on {torch.cuda.get_device_name()}"
    fitted = [fitting(image, profile) for image in images]
    return check_loaded_engine(engine, torch.device("cuda"), artifact, reference, fitted, name=name, label=label)


def check_loaded_engine(
    engine: ICudaEngine,
    device: torch.device,
    artifact: Artifact,
    reference: tuple[Upscale, str],
    images: list[Image],
    *,
    name: str,
    label: str,
) -> Parity:
    """Compare a loaded engine with its reference. See `check_engine`.

    Args:
        device: where its buffers are allocated.
        images: of sizes that the engine takes.
        label: what runs it, for messages.
    """
    expected = ReferenceResults(reference, images)
    # Tiles of an OverNet are upscaled with given means. An image with its own means given must give the same result as
    # without. A network whose reach is known has no means.
    ways = (False, True) if artifact.has_means else (False,)
    parities = [expected.compare(_in_engine(engine, artifact, device, give=give), label) for give in ways]
    parity = replace(parities[0].worse(parities[-1]), measured_by=label)
    tolerance = TOLERANCES[artifact.precision]
    if not tolerance.holds(parity):
        raise ArtifactError(f"{tolerance.refusal(name, parity)}; the graph it was built from passed")
    return parity


def fitting(image: Image, profile: Profile) -> Image:
    """Return an image in the nearest size that the profile takes, by repeating or cutting it."""
    sides = [
        min(max(side, low), high)
        for side, low, high in zip(image.shape, profile.minimum, profile.maximum, strict=False)
    ]
    repeats = [-(-wanted // side) for wanted, side in zip(sides, image.shape, strict=False)]
    repeated: Image = np.tile(image, (*repeats, 1))[: sides[0], : sides[1]]
    return repeated


def _in_engine(engine: ICudaEngine, artifact: Artifact, device: torch.device, *, give: bool) -> Upscale:
    """Return a function that runs an engine on one image, and with `give` once more, with the image's means given."""
    context: IExecutionContext = engine.create_execution_context()
    scale = int(artifact.scale)
    channels = engine.get_tensor_shape(MEANS_NAME)[1] if artifact.has_means else 0
    cuda: Any = torch.cuda  # typed only in parts
    # On the default stream, TensorRT would synchronise at every step.
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
        # Means that are not used may have any value: undefined numbers would show a use.
        unused = torch.full((1, channels, 1, 1), torch.nan, device=device)
        tensors = {
            INPUT_NAME: torch.from_numpy(np.ascontiguousarray(image[None])).to(device),
            OUTPUT_NAME: torch.empty((1, height * scale, width * scale, 3), dtype=torch.uint8, device=device),
        }
        if channels:
            tensors |= {
                GIVEN_MEANS_NAME: unused,
                USE_GIVEN_MEANS_NAME: torch.zeros((1, 1, 1, 1), device=device),
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
