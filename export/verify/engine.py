"""The comparison of an engine with its network, on the GPU that is here, through the runtime's own slots.

Needs PyCUDA, and neither PyTorch nor a GPU of its own for the network: that is computed by OpenVINO on the CPU.
"""

import hashlib
from dataclasses import replace

import onnx

from overnet.errors import ArtifactError
from overnet.export.verify.comparison import TOLERANCES, Parity, ReferenceResults, comparison_images, in_openvino
from overnet.files.engine_sidecar import Profile, RuntimeName
from overnet.files.onnx_metadata import Artifact
from overnet.runtime.backends.trt.engine_check import engine_in_slots, fitted, remember, why_not_here
from overnet.system.environment import current_environment
from overnet.system.memory import available_memory_bytes

# Memory that OpenVINO takes, as a multiple of the graph's tensors (tests/runtime/backends/test_memory.py).
_REFERENCE_RATIO = 3.0
# Of tensors in FP32, for each input pixel, where a file does not state it: those of the bundled OverNet.
_USUAL_ACTIVATION_BYTES = 4876


def check_engine(
    serialized: bytes, target: RuntimeName, profile: Profile, artifact: Artifact, exact: onnx.ModelProto, *, name: str
) -> Parity | str:
    """Run an engine on the GPU and compare it with its network in FP32.

    Args:
        serialized: an engine that this process built: deserialising runs code from it.
        target: the library it is for.
        profile: the image sizes it takes. Images are cut or repeated to these.
        artifact: its scale and precision.
        exact: its graph in FP32.
        name: the file's name in messages.

    Returns:
        The difference; or the reason why the engine was not run, as the end of a sentence.

    Raises:
        ArtifactError: the difference is too large.
        BackendError: the library cannot load or run the engine.
    """
    reason = why_not_here()
    if reason:
        return reason
    images = fitted(comparison_images(), profile)
    needed = _REFERENCE_RATIO * (artifact.activation_bytes or _USUAL_ACTIVATION_BYTES)
    needed *= max(image.shape[0] * image.shape[1] for image in images)
    if needed > available_memory_bytes():
        return f"comparing it with its network needs about {needed / 1e9:.1f} GB of the CPU's memory"
    upscale, openvino = in_openvino(exact)
    expected = ReferenceResults((upscale, f"the FP32 network in {openvino}"), images)
    try:
        with engine_in_slots(serialized, target, artifact.scale) as (ways, label):
            parities = [expected.compare(way, label) for way in ways]
    except MemoryError as error:
        return f"the GPU's memory is too short ({error})"
    parity = replace(parities[0].worse(parities[-1]), measured_by=label)
    tolerance = TOLERANCES[artifact.precision]
    if not tolerance.holds(parity):
        raise ArtifactError(f"{tolerance.refusal(name, parity)}; the graph it was built from passed")
    remember(hashlib.sha256(serialized).hexdigest(), current_environment(target))
    return parity
