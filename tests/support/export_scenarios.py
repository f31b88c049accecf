"""What tests of `overnet.export` run over the stand-in of the CUDA driver; see `tests.doubles`. No test itself."""

import hashlib
from pathlib import Path
from unittest import mock

import onnx
from onnx import numpy_helper

from overnet.errors import OverNetError
from overnet.export import exporter
from overnet.export.engine.build import BuiltEngine
from overnet.export.engine.engine_graph import with_means, with_signs
from overnet.export.engine.profile import make_profile
from overnet.export.options import EngineOptions, ExportOptions, TritonOptions
from overnet.export.triton.repository import export_repository
from overnet.files.onnx_metadata import OUTPUT_NAME
from overnet.runtime.backends.trt.engine_check import passed_before
from overnet.system.environment import current_environment
from tests.doubles.cuda_driver import CudaDriver
from tests.doubles.engines import make_engine, nearest_model
from tests.support.cuda_scenarios import nothing_wrong


def exported(source, folder, precision, spoil, scale=2):
    """Export one file with an engine, which is "built" from a graph that is spoilt; what came of it."""
    engines = []

    def build(content, profile, **_):
        engine = make_engine(spoiled(with_means(content), spoil), profile)
        engines.append(engine)
        return BuiltEngine(engine, 1000, current_environment("tensorrt"), ())

    options = ExportOptions(
        scales=(scale,), precision=precision, engine=EngineOptions("tensorrt", make_profile("16x16:64x64:128x128"))
    )
    driver, error, measured = CudaDriver(), None, {}
    with mock.patch.object(exporter, "build_engine", build):
        try:
            (file,) = exporter.export(Path(source), Path(folder), options, overwrite=True)
        except OverNetError as caught:
            error = str(caught)
        else:
            sidecar = file.engine.sidecar
            measured = {
                "measured by": sidecar.measured_by,
                "psnr_db": sidecar.psnr_db,
                "not run": file.engine.not_run,
                "notes": file.notes,
            }
    counters = nothing_wrong(driver)
    return {
        "error": error,
        **measured,
        "launches": counters["launches"],
        "files": sorted(path.name for path in Path(folder).iterdir() if path.name != "cache"),
        "remembered": passed_before(hashlib.sha256(engines[0]).hexdigest(), current_environment("tensorrt")),
    }


def served(source, folder):
    """Export a repository for Triton with an engine, which is "built" from the graph without means; what came of it."""

    def build(content, profile, *, is_tiled, **_):
        assert not is_tiled
        return BuiltEngine(make_engine(with_signs(content), profile), 1000, current_environment("tensorrt"), ())

    profile = make_profile("16x16:64x64:128x128", 2)
    options = ExportOptions(precision="fp16", engine=EngineOptions("tensorrt", profile, is_tiled=False))
    driver = CudaDriver()
    with mock.patch.object(exporter, "build_engine", build):
        (file,), _ = export_repository(Path(source), Path(folder), options, TritonOptions("tensorrt", 2))
    nothing_wrong(driver)
    return {
        "measured by": file.engine.sidecar.measured_by,
        "not run": file.engine.not_run,
        "path": str(file.engine.path),
    }


def spoiled(content, what):
    """Return an engine's graph that computes something else."""
    if what == "scale":
        return nearest_model(3, means=onnx_means(content))
    model = onnx.load_from_string(content)
    graph = model.graph
    if what == "weights":
        for constant in graph.initializer:
            values = numpy_helper.to_array(constant)
            if values.ndim == 4 and values.size > 100:
                wrong = values[::-1] * values.dtype.type(1.5)
                constant.CopyFrom(numpy_helper.from_array(wrong, constant.name))
    elif what == "black":
        (last,) = [node for node in graph.node if OUTPUT_NAME in node.output]
        last.output[0] = "not_black"
        graph.initializer.append(onnx.helper.make_tensor("spoil.black", onnx.TensorProto.UINT8, [], [0]))
        graph.node.append(onnx.helper.make_node("Mul", ["not_black", "spoil.black"], [OUTPUT_NAME]))
    elif what in ("given means", "unused means"):
        # Given means are used half; or they are used where they must not be.
        (choice, *_) = [node for node in graph.node if node.op_type == "Where" and node.input[0] == "use_given"]
        if what == "given means":
            graph.initializer.append(onnx.helper.make_tensor("three", onnx.TensorProto.FLOAT, [], [3]))
            scaled = onnx.helper.make_node("Mul", [choice.input[1], "three"], ["scaled_means"])
            place = list(graph.node).index(choice)
            graph.node.insert(place, scaled)
            graph.node[place + 1].input[1] = "scaled_means"
        else:
            choice.input[2] = choice.input[1]
    return model.SerializeToString()


def onnx_means(content):
    """The number of means that a graph takes: `tests.doubles.engines.nearest_model` has 3 or none."""
    return 3 if any(value.name == "means" for value in onnx.load_from_string(content).graph.output) else 0
