"""The model of NVIDIA Triton Inference Server that upscales whole images: the class that its Python backend calls.

``overnet-export --target triton`` writes a repository with a ``model.py`` that imports it, and the ONNX files beside.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnet.errors import InputError, OutputError, OverNetError, line_for, one_line
from overnet.imaging.image_inspect import START_BYTES, image_kind
from overnet.imaging.image_io import KIND_BY_SUFFIX, DecodedImage, decode_image, upright_rgb
from overnet.imaging.image_write import encode_image
from overnet.runtime.still_image import enlarge_image
from overnet.runtime.upscaler import Upscaler

# The name of encoded images in messages.
_FILE = Path("the file")


@dataclass(frozen=True)
class Settings:
    """The parameters in the model's config.pbtxt.

    Attributes:
        backend: one of `overnet.runtime.backends.registry.BACKENDS`, or ``"auto"``.
        tile, threads: see `Upscaler`.
        scale: of a request that states none.
        max_pixels: of an image that is sent.
        max_result_pixels: of its result.
    """

    backend: str
    tile: int | None
    threads: int | None
    scale: float
    max_pixels: int
    max_result_pixels: int

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Settings:
        """Read the parameters of a model's configuration, as Triton gives it.

        Raises:
            InputError: a parameter is missing, or is no number.
        """
        given = {name: entry.get("string_value", "") for name, entry in config["parameters"].items()}
        try:
            tile, threads = (None if given[name] == "auto" else int(given[name]) for name in ("tile", "threads"))
            scale, most, most_result = given["scale"], given["max_pixels"], given["max_result_pixels"]
            return cls(given["backend"], tile, threads, float(scale), int(most), int(most_result))
        except KeyError as error:
            raise InputError(f"config.pbtxt lacks the parameter {error}; export the repository again") from error
        except ValueError as error:
            raise InputError(f"config.pbtxt: a parameter is no number ({one_line(error)})") from error


class TritonPythonModel:
    """Images through `Upscaler`, as Triton's Python backend calls it.

    A request has either ``image``, uint8 H x W x 3 RGB, or ``file``, the bytes of an image file; and perhaps ``scale``
    and ``format``, the kind of the file to return. The answer has those that are asked for of ``upscaled``, uint8, its
    file ``upscaled_file``, and ``notes``.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the smallest scale's model from the folder of the model's version.

        Args:
            args: the configuration as JSON, and where the model lies and runs.
        """
        self._settings = Settings.from_config(json.loads(args["model_config"]))
        self._upscaler = Upscaler(
            self._settings.scale,
            model=Path(args["model_repository"]) / args["model_version"],
            backend=self._settings.backend,
            tile=self._settings.tile,
            threads=self._settings.threads,
            device=int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0,
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request: with an image, or with an error of one line."""
        import triton_python_backend_utils as pb_utils  # which exists in Triton's Python backend only

        responses = []
        for request in requests:
            try:
                outputs = self._answer(request)
                tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items()]
                responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
            except Exception as error:
                # An image can be too large for the format that is asked for.
                is_request = isinstance(error, InputError | OutputError)
                code = pb_utils.TritonError.INVALID_ARG if is_request else pb_utils.TritonError.INTERNAL
                line = one_line(error) if isinstance(error, OverNetError) else line_for(error)
                if line is None:
                    pb_utils.Logger.log_error(traceback.format_exc())
                    line = f"a fault of OverNet, see the server's log ({type(error).__name__})"
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(line, code)))
        return responses

    def finalize(self) -> None:
        """Free the models."""
        self._upscaler.close()

    def _answer(self, request: Any) -> dict[str, NDArray[Any]]:
        """Return the outputs that a request asks for."""
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        image, kind = self._image(given)
        scale = float(_one(given, "scale", self._settings.scale))
        kind = _kind(_one(given, "format", b"")) or kind
        upscaler = self._upscaler.at_scale(scale)
        height, width = upscaler.output_size(*image.rgb.shape[:2])
        most = self._settings.max_result_pixels
        if height * width > most:
            raise InputError(f"the result of {width}x{height} pixels is too large; the limit is {most} pixels")
        large = enlarge_image(image, upscaler)
        wanted = request.requested_output_names()
        notes = [*image.notes, *upscaler.pop_notes()]
        outputs: dict[str, NDArray[Any]] = {}
        if "upscaled" in wanted:
            outputs["upscaled"] = upright_rgb(large)
            notes += ["the array holds no transparency: it was dropped"] if large.alpha is not None else []
        if "upscaled_file" in wanted:
            content, lost = encode_image(large, kind, _FILE)
            outputs["upscaled_file"] = np.array([content], dtype=np.object_)
            notes += lost
        if "notes" in wanted:
            outputs["notes"] = np.array([note.encode() for note in notes], dtype=np.object_)
        return outputs

    def _image(self, given: dict[str, NDArray[Any]]) -> tuple[DecodedImage, str]:
        """Return the image of a request, and the kind of file to return unless the request states one."""
        if ("image" in given) == ("file" in given):
            raise InputError("a request needs either image, uint8 H x W x 3, or file, the bytes of an image file")
        most = self._settings.max_pixels
        if "file" in given:
            data = bytes(_one(given, "file", b""))
            kind = image_kind(data[:START_BYTES], "") or ""
            return decode_image(data, _FILE, max_pixels=most), kind if kind in KIND_BY_SUFFIX.values() else "PNG"
        rgb = given["image"]
        if rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size or rgb.dtype != np.uint8:
            raise InputError(f"an image must be H x W x 3 uint8; this is {rgb.shape} {rgb.dtype}")
        height, width = rgb.shape[:2]
        if height * width > most:
            raise InputError(f"the image is too large: {width} x {height} pixels, the limit is {most}")
        return DecodedImage(rgb, None, False, None, None), "PNG"


def _one(given: dict[str, NDArray[Any]], name: str, default: Any) -> Any:
    """Return the one value of an input that may be missing."""
    if name not in given:
        return default
    if given[name].size != 1:
        raise InputError(f"{name} has {given[name].size} values; it must have one")
    return given[name].reshape(-1)[0]


def _kind(name: bytes) -> str:
    """Return the kind of file that a format names, such as PNG for b"png"; empty where it is empty."""
    text = name.decode("utf-8", "replace").lower()
    kind = KIND_BY_SUFFIX.get(f".{text}", "")
    if text and not kind:
        known = ", ".join(suffix[1:] for suffix in KIND_BY_SUFFIX)
        raise InputError(f"format is {text[:20]!r}; it can be {known}")
    return kind
