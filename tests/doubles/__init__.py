"""Stand-ins for what needs a GPU, so that the CUDA runtime is really run without one.

- `cuda_driver`: a CUDA driver, for the real PyCUDA (`pycuda_build`) and cuda.core. It runs streams for real, counts,
  finds operations that are not ordered though they use the same memory, and can fail, be slow, or hold a stream up.
- `tensorrt_double`, `tensorrt_rtx_double`: the Python modules, which run the ONNX graph in an engine of `engines`.
- `running`: all of these in a process of its own, as the driver has to be there first.

A test calls a function of a module, with arguments and a result that JSON has::

    from tests.doubles.running import run_over_stand_in

    def test_frames(tmp_path):
        engine = write_engine(tmp_path / "x2.engine", onnx_path, Profile((16, 16), (64, 64), (128, 128)))
        found = run_over_stand_in("tests.runtime.backends.trt.cuda_scenarios:frames", str(engine), 10)
        assert found == {"races": [], "live": {}, "wrong": 0}

and the function, in a module that is no test, asks the driver what happened::

    def frames(engine, count):
        driver = CudaDriver()
        driver.set_delay(seed=1, most_microseconds=300)
        ...
        live = driver.counters().live  # before the context is detached: PyCUDA frees nothing afterwards
        return {"races": driver.races(), "live": live, "wrong": wrong}

All threads of the host count as one: what one of them has waited for is taken to be over for all. So a wait that is
missing between streams is only sure to be found where no thread waits for the work in the meantime; where one does,
make launches long (`CudaDriver.set_rates`) or hold a stream up, instead of relying on delays.

For commands, `running.stand_in_environment` gives the environment. Where CUDA's headers or a compiler are missing, both
skip the test, unless ``OVERNET_REQUIRE_DOUBLES`` is 1. ``python -m tests.doubles.pycuda_build`` builds PyCUDA up front.
"""
