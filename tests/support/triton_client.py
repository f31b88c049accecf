"""What tests of `overnet.export.triton` run in the Python of `tests.support.triton_server`, which has Triton's client.

No test itself. ``python -m tests.support.triton_client FUNCTION ARGUMENTS`` has arguments and result in JSON.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http
from google.protobuf import json_format, text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

_KINDS = {"scale": "FP64", "file": "BYTES", "format": "BYTES"}


def configs(folder):
    """Return each config.pbtxt in a repository, read by Triton's own definition, as JSON."""
    found = {}
    for path in sorted(Path(folder).glob("*/config.pbtxt")):
        parsed = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        found[path.parent.name] = json_format.MessageToDict(parsed, preserving_proto_field_name=True)
    return found


def infer(protocol, port, requests, folder):
    """Send requests, four at once by gRPC, and return the answer to each: an error, or what it holds.

    Args:
        protocol: "http" or "grpc".
        port: of the server.
        requests: for each the model, the inputs, and the outputs that are asked for. An input is a number, a text, or
            the path of a file with its value: ``.npy`` for an array, any other for its bytes.
        folder: for the outputs: the names of files with them are in the answer.
    """
    library = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    with (
        library.InferenceServerClient(f"127.0.0.1:{port}") as client,
        ThreadPoolExecutor(4 if protocol == "grpc" else 1) as threads,  # the client by HTTP is for one thread
    ):

        def answer(index):
            model, inputs, outputs = requests[index]
            try:
                result = client.infer(
                    model,
                    [_tensor(library, name, value) for name, value in inputs.items()],
                    outputs=[library.InferRequestedOutput(name) for name in outputs],
                )
            except InferenceServerException as error:
                return {"status": error.status(), "error": error.message()}
            return _kept(result, outputs, Path(folder) / f"{protocol}_{index}")

        return list(threads.map(answer, range(len(requests))))


def _tensor(library, name, value):
    if isinstance(value, str) and value.endswith(".npy"):
        array = np.load(value)
    elif isinstance(value, str):
        array = np.array([Path(value).read_bytes() if "/" in value else value.encode()], dtype=np.object_)
    else:
        array = np.array([value], dtype=np.float64)
    kind = _KINDS.get(name) or {"uint8": "UINT8", "float32": "FP32"}[array.dtype.name]
    tensor = library.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return tensor


def _kept(result, outputs, stem):
    answer: dict[str, object] = {}
    for name in outputs:
        value = result.as_numpy(name)
        if name == "notes":
            answer[name] = [note.decode() for note in value]
        elif name == "upscaled":
            np.save(f"{stem}.npy", value)
            answer[name] = f"{stem}.npy"
        else:
            Path(f"{stem}.file").write_bytes(value[0])
            answer[name] = f"{stem}.file"
    return answer


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))))
