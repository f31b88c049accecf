"""What tests of the CUDA runtime run over the stand-in of the driver; see `tests.doubles`. No test itself."""

from overnet.benchmarks import gpu_checks
from overnet.benchmarks.gpu_checks import Setting
from tests.doubles.cuda_driver import CudaDriver


def setting(engine, reference, **changes):
    """The checks' setting for the double: equal to ONNX Runtime to the bit."""
    small = {
        "size": (40, 48),
        "other_size": (32, 64),
        "too_large": (150, 170),
        "reference_backend": "onnxruntime",
        "least_psnr_db": None,
        "tile_levels": 3,
        "backend": "tensorrt",
    }
    return Setting(model=engine, reference=reference, **{**small, **changes})


def ask(driver):
    """What the driver saw; every object has to be gone by now."""
    counters = driver.counters()
    assert driver.races() == [], driver.races()[:3]
    assert driver.messages() == [], driver.messages()[:3]
    assert driver.callback_errors() == []
    return counters


def check(name, engine, reference, changes):
    """One of the checks that run on a real GPU as well; what is left behind is an error."""
    driver = CudaDriver()
    detail = gpu_checks.CHECKS[name](setting(engine, reference, **changes))
    counters = ask(driver)
    assert not any(counters.live.values()), counters.live
    return {"detail": detail, **counters._asdict()}
