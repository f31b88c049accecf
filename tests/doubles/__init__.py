"""Stand-ins for the CUDA driver and TensorRT, over which tests run the CUDA runtime without a GPU. See README.md.

A test calls a function of a module. Its arguments and result must be JSON types::

    from tests.doubles.running import run_over_stand_in

    def test_frames(tmp_path):
        engine = write_engine(tmp_path / "x2.engine", onnx_path, Profile((16, 16), (64, 64), (128, 128)))
        found = run_over_stand_in("tests.support.cuda_scenarios:frames", str(engine), 10)
        assert found == {"races": [], "live": {}, "wrong": 0}

The function, in a module without tests, reads what happened from the driver::

    def frames(engine, count):
        driver = CudaDriver()
        driver.set_delay(seed=1, most_microseconds=300)
        ...
        live = driver.counters().live  # before the context is detached: PyCUDA frees nothing afterwards
        return {"races": driver.races(), "live": live, "wrong": wrong}

All threads of the host count as one: work that one thread has waited for is complete for all. A missing wait between
streams is therefore only found reliably where no thread waits for the work in the meantime; where one does, make
launches long (`CudaDriver.set_rates`) or hold a stream, instead of relying on delays.
"""
