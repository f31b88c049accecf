import pytest

from overnet.benchmarks.cases.method import on_gpu, open_upscaler
from overnet.benchmarks.cases.run import CaseRequest
from overnet.benchmarks.results import Case
from overnet.system.cuda_device import cuda_device_count


def test_a_provider_is_onnxruntime_s_and_others_are_measured_beside_it(small_models):
    case = Case("openvino", "backend", "fp32", 2, 48, 32)
    with open_upscaler(CaseRequest(case, model=small_models, provider="cuda")) as upscaler:
        assert upscaler.backend_name == "openvino"


@pytest.mark.skipif(cuda_device_count() > 0, reason="there is a GPU, which torch takes")
def test_which_backends_compute_on_a_gpu():
    backends = ("openvino", "onnxruntime", "torch", "tensorrt", "tensorrt-rtx", "none")
    assert [name for name in backends if on_gpu(name, "cuda")] == ["onnxruntime", "tensorrt", "tensorrt-rtx"]
    assert [name for name in backends if on_gpu(name, "cpu")] == ["tensorrt", "tensorrt-rtx"]
