"""A backend for networks in a server that has none for them: the class that its Python backend calls. No test itself.

It computes the requests that Triton joins in one batch, as the backend for ONNX Runtime does.
"""

from pathlib import Path

import numpy as np

from overnet import Upscaler


class TritonPythonModel:
    def initialize(self, args):
        network = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._backend = Upscaler(2, model=network).backend_for(2)

    def execute(self, requests):
        import triton_python_backend_utils as pb_utils

        parts = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        # Which fails where sizes differ.
        large = np.split(self._backend.upscale(np.concatenate(parts)), np.cumsum([len(part) for part in parts])[:-1])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("upscaled", part)]) for part in large]
