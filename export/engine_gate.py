"""The gate for an engine itself, where there is a GPU to run it on.

Buffers and streams are PyTorch's, which an export has anyway; the runtime has its own, faster ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from overnet.artifact import INPUT_NAME, OUTPUT_NAME, Artifact
from overnet.environment import bindings
from overnet.errors import ArtifactError, BackendError
from overnet.export.gate import GATES
from overnet.export.parity import Parity, Picture, Referee, Upscale
from overnet.export.trt_api import ICudaEngine, IExecutionContext, Module, Runtime
from overnet.model import OverNet
from overnet.sidecar import TITLES, Profile, RuntimeName


def pass_engine_gate(
    serialized: bytes,
    target: RuntimeName,
    profile: Profile,
    artifact: Artifact,
    model: OverNet,
    pictures: list[Picture],
    *,
    name: str,
) -> Parity | None:
    """Run an engine on the GPU, compare it with the network, and refuse it if it is too far.

    Parameters
    ----------
    serialized : the engine; its own build, so that deserialising it is safe.
    pictures : H x W x 3 uint8 each; brought to sizes that the profile has.
    name : what the file is going to be called, for messages.

    Returns
    -------
    How far it is; None where PyTorch has no GPU to run it on.

    Raises
    ------
    ArtifactError : it is too far from the network.
    BackendError : TensorRT cannot run it.
    """
    if not torch.cuda.is_available():
        return None
    trt: Module = bindings(target, purpose="running an engine")
    runtime: Runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine: ICudaEngine = runtime.deserialize_cuda_engine(serialized)
    if engine is None:
        raise BackendError(f"{name}: {TITLES[target]} cannot load the engine that it has just built")
    label = f"{TITLES[target]} {trt.__version__} on {torch.cuda.get_device_name()}"
    fitted = [fitting(picture, profile) for picture in pictures]
    return judge_engine(engine, torch.device("cuda"), artifact, model, fitted, name=name, label=label)


def judge_engine(
    engine: ICudaEngine,
    device: torch.device,
    artifact: Artifact,
    model: OverNet,
    pictures: list[Picture],
    *,
    name: str,
    label: str,
) -> Parity:
    """Compare a loaded engine with the network; the same as `pass_engine_gate` otherwise.

    Parameters
    ----------
    device : where its buffers are to lie.
    pictures : of sizes that it takes.
    label : what to call that which runs it.
    """
    scale = int(artifact.scale)
    parity = Referee(model, scale, pictures).compare(_in_engine(engine, scale, device), label)
    gate = GATES[artifact.precision]
    if not gate.holds(parity):
        raise ArtifactError(
            f"{name} is refused: it differs from the network by up to {parity.largest_difference} grey levels, "
            f"{parity.psnr_db:.1f} dB (in {label}), and {gate} is needed; the graph it was built from passed"
        )
    return parity


def fitting(picture: Picture, profile: Profile) -> Picture:
    """A picture as it is where the profile takes it; else repeated or cut to the nearest size that it takes."""
    sides = [
        min(max(side, low), high)
        for side, low, high in zip(picture.shape, profile.minimum, profile.maximum, strict=False)
    ]
    repeats = [-(-wanted // side) for wanted, side in zip(sides, picture.shape, strict=False)]
    repeated: Picture = np.tile(picture, (*repeats, 1))[: sides[0], : sides[1]]
    return repeated


def _in_engine(engine: ICudaEngine, scale: int, device: torch.device) -> Upscale:
    """Run an engine on one picture after the other, each waited for."""
    context: IExecutionContext = engine.create_execution_context()
    cuda: Any = torch.cuda  # typed only in parts
    # Not the default stream, on which TensorRT would wait at every step.
    stream = cuda.Stream(device) if device.type == "cuda" else None

    def upscale(picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        given = torch.from_numpy(np.ascontiguousarray(picture[None])).to(device)
        upscaled = torch.empty((1, height * scale, width * scale, 3), dtype=torch.uint8, device=device)
        context.set_input_shape(INPUT_NAME, tuple(given.shape))
        context.set_tensor_address(INPUT_NAME, given.data_ptr())
        context.set_tensor_address(OUTPUT_NAME, upscaled.data_ptr())
        if stream is not None:
            stream.wait_stream(cuda.current_stream(device))
        if not context.execute_async_v3(stream.cuda_stream if stream is not None else 0):
            raise BackendError("TensorRT could not run the engine that it has just built")
        if stream is not None:
            stream.synchronize()
        result: Picture = upscaled[0].cpu().numpy()
        return result

    return upscale
