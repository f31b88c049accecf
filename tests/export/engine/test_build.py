"""Real engines of TensorRT-RTX, built without a GPU.

What can be looked at without one: the network as the library parsed it (names, types, shapes), the profile as the
library keeps it and as it lies in the engine, the builder's statement of memory, and whether the library finds an
engine's file well-formed. Deserialising needs a GPU.
"""

import signal
import threading
import time

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from overnet.errors import InputError, MissingDependency, OutputError
from overnet.export.engine import build as trt_build
from overnet.export.engine import trt_api
from overnet.export.engine.build import BuildError, build_engine, buildable_targets, check_builder
from overnet.export.engine.engine_graph import with_means, with_signs
from overnet.export.engine.profile import HIGHEST_RATIO, make_profile, predicted_bytes
from overnet.export.engine.trt_api import Library, Tensor
from overnet.export.graph.costs import count_costs
from overnet.export.graph.network_graph import build_onnx
from overnet.export.precision.half import to_half
from overnet.export.precision.quantizer import candidates, largest_inputs, quantize
from overnet.export.verify.comparison import drawn_images
from overnet.files.engine_sidecar import Profile
from overnet.files.onnx_metadata import GIVEN_MEANS_NAME, INPUT_NAME, MEANS_NAME, OUTPUT_NAME, USE_GIVEN_MEANS_NAME
from overnet.network.checkpoint import load_checkpoint
from overnet.network.deploy import deploy
from overnet.network.model import OverNet, OverNetConfig
from overnet.network.plain import PlainNet, PlainNetConfig
from overnet.weights import bundled_checkpoint

trt = pytest.importorskip("tensorrt_rtx")

_SIZES = "16x24:184x328:360x640"
DYNAMIC = make_profile(_SIZES)
TINY = make_profile("32x32")
# What the library says of an engine and of other bytes; without a GPU it calls both invalid.
WELL_FORMED, MALFORMED = 0, 32


def graph(network, scale, *, form="default", precision="fp16"):
    model = build_onnx(network, scale, form=form)
    if precision == "int8":
        largest = largest_inputs(model, drawn_images()[-3:])
        return to_half(quantize(model, largest, set(candidates(model))), "fp16").SerializeToString()
    return (model if precision == "fp32" else to_half(model, precision)).SerializeToString()


@pytest.fixture(scope="module")
def bundled():
    return deploy(load_checkpoint(bundled_checkpoint()))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(7)
    return deploy(OverNet(OverNetConfig(width=8, groups=1, blocks=1, expansion=2, overscale=3, squeeze=4)))


@pytest.fixture(scope="module")
def small_graph(small):
    return graph(small, 2)


def build(model, profile, **options):
    return build_engine(model, profile, target="tensorrt-rtx", **options)


@pytest.fixture(scope="module")
def tiny_engine(small_graph):
    return build(small_graph, TINY)


def refused(kind, model, profile=TINY, **options):
    """The one line with which a build is refused."""
    with pytest.raises(kind) as caught:
        build(model, profile, **options)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 600
    return message


def profile_in(serialized, profile):
    """How often the three shapes of a profile lie in an engine, one after the other."""
    sizes = [(1, profile.minimum), (profile.batch, profile.optimum), (profile.batch, profile.maximum)]
    return [serialized.count(np.array([batch, *size, 3], "<i8").tobytes()) for batch, size in sizes]


def invalidity(serialized):
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    return runtime.get_engine_validity(serialized)[1]


@pytest.mark.parametrize("scale", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 4])
def test_engines_for_images_of_many_sizes(bundled, scale):
    built = build(graph(bundled, scale), DYNAMIC)
    assert 500_000_000 < built.activation_memory_bytes <= 600_000_000
    assert built.serialized.startswith(b"vtrt") and len(built.serialized) > 2_000_000
    assert invalidity(built.serialized) == WELL_FORMED
    assert invalidity(b"?" + built.serialized[1:]) == MALFORMED
    assert INPUT_NAME.encode() in built.serialized and OUTPUT_NAME.encode() in built.serialized
    assert profile_in(built.serialized, DYNAMIC) == [1, 1, 1]
    assert built.environment.runtime_version == trt.__version__
    assert (built.environment.device_name, built.environment.compute_capability) == (None, None)
    assert built.notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_engines_of_the_lean_memory_form(bundled, scale):
    built = build(graph(bundled, scale, form="lean-memory"), DYNAMIC)
    assert 300_000_000 < built.activation_memory_bytes <= 450_000_000


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_engines_for_images_of_one_size(bundled, scale):
    profile = make_profile("180x320")
    built = build(graph(bundled, scale), profile)
    assert 60_000_000 < built.activation_memory_bytes <= 170_000_000
    # The tensors have this shape too.
    assert min(profile_in(built.serialized, profile)) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "largest"), [("fp32", 1_100_000_000), ("bf16", 600_000_000)])
def test_engines_of_other_precisions(bundled, precision, largest):
    built = build(graph(bundled, 2, precision=precision), DYNAMIC)
    assert 500_000_000 < built.activation_memory_bytes <= largest


@pytest.mark.parametrize(
    ("scale", "shape"),
    [
        pytest.param(2, "180x320", marks=pytest.mark.weekly),
        pytest.param(2, _SIZES, marks=pytest.mark.slow),
        pytest.param(3, "180x320", marks=pytest.mark.weekly),
        pytest.param(3, _SIZES, marks=pytest.mark.weekly),
        pytest.param(4, "180x320", marks=pytest.mark.slow),
        pytest.param(4, _SIZES, marks=pytest.mark.weekly),
    ],
)
def test_engines_in_int8(bundled, scale, shape):
    """TensorRT-RTX 1.7 plans more memory for them than for FP16: a layer's FP16 and INT8 forms are both there."""
    profile = make_profile(shape)
    model = graph(bundled, scale, precision="int8")
    built = build(model, profile)
    assert built.serialized != build(graph(bundled, scale), profile).serialized
    bytes_per_pixel = count_costs(onnx.ModelProto.FromString(model)).activation_bytes_per_pixel
    most_bytes = predicted_bytes(profile, bytes_per_pixel * HIGHEST_RATIO["int8"])
    assert bytes_per_pixel * profile.pixels <= built.activation_memory_bytes <= most_bytes
    assert invalidity(built.serialized) == WELL_FORMED
    assert INPUT_NAME.encode() in built.serialized and OUTPUT_NAME.encode() in built.serialized
    assert min(profile_in(built.serialized, profile)) >= 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("form", ["default", "lean-memory"])
def test_images_and_means_go_in_and_come_out(small, form, precision):
    build = Library("tensorrt-rtx").start()
    assert build.parse(with_means(graph(small, 3, form=form, precision=precision))) == []
    # Two means over 8 channels.
    assert build.inputs == [
        Tensor("image", "UINT8", (-1, -1, -1, 3)),
        Tensor("given_means", "FLOAT", (-1, 16, 1, 1)),
        Tensor("use_given_means", "FLOAT", (1, 1, 1, 1)),
    ]
    assert build.outputs == [Tensor("upscaled", "UINT8", (-1, -1, -1, 3)), Tensor("means", "FLOAT", (-1, 16, 1, 1))]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_an_engine_for_a_fraction(bundled, precision):
    """The size of the result is computed in integers; and the memory is what the profile is made by."""
    model = graph(bundled, 2.5, precision=precision)
    built = build(model, DYNAMIC)
    assert invalidity(built.serialized) == WELL_FORMED
    assert min(profile_in(built.serialized, DYNAMIC)) >= 1
    bytes_per_pixel = count_costs(onnx.ModelProto.FromString(model)).activation_bytes_per_pixel
    assert built.activation_memory_bytes <= predicted_bytes(DYNAMIC, bytes_per_pixel * HIGHEST_RATIO[precision])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_images_alone_go_in_and_come_out_without_tiles(small, precision):
    build = Library("tensorrt-rtx").start()
    assert build.parse(with_signs(graph(small, 3, precision=precision))) == []
    assert [tensor.name for tensor in (*build.inputs, *build.outputs)] == ["image", "upscaled"]
    serialized = build_engine(graph(small, 3, precision=precision), TINY, target="tensorrt-rtx", is_tiled=False)
    assert MEANS_NAME.encode() not in serialized.serialized


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("form", ["default", "lean-memory"])
def test_every_form_is_built_with_its_means(small, form, precision):
    built = build(graph(small, 2, form=form, precision=precision), make_profile("16x16:32x32:64x64", 2))
    assert invalidity(built.serialized) == WELL_FORMED
    for name in (INPUT_NAME, GIVEN_MEANS_NAME, USE_GIVEN_MEANS_NAME, OUTPUT_NAME, MEANS_NAME):
        assert name.encode() in built.serialized


def test_the_library_keeps_the_profile_as_given(small_graph, monkeypatch):
    profiles = []
    create = trt.Builder.create_optimization_profile

    class Builder:
        def __init__(self, builder):
            self._builder = builder

        def __getattr__(self, name):
            return getattr(self._builder, name)

        def create_optimization_profile(self):
            profiles.append(create(self._builder))
            return profiles[-1]

    start = trt_api.Build.__init__

    def started(self, *arguments, **options):
        start(self, *arguments, **options)
        self._builder = Builder(self._builder)

    monkeypatch.setattr(trt_api.Build, "__init__", started)
    build(small_graph, Profile((16, 24), (32, 48), (64, 96), 4))
    (profile,) = profiles
    kept = {name: [tuple(shape) for shape in profile.get_shape(name)] for name in (INPUT_NAME, GIVEN_MEANS_NAME)}
    assert kept == {
        INPUT_NAME: [(1, 16, 24, 3), (4, 32, 48, 3), (4, 64, 96, 3)],
        GIVEN_MEANS_NAME: [(1, 16, 1, 1), (4, 16, 1, 1), (4, 16, 1, 1)],
    }


def test_memory_grows_with_the_batch(small_graph):
    # Large enough that what every engine needs does not count for much.
    one, two = (build(small_graph, make_profile("16x16:64x64:180x320", batch)) for batch in (1, 2))
    assert 1.7 < two.activation_memory_bytes / one.activation_memory_bytes < 2.1


def test_an_engine_for_a_named_device(small_graph, tiny_engine):
    built = build(small_graph, TINY, compute_capability="7.5")
    assert built.environment.compute_capability == "7.5"
    assert len(built.serialized) != len(tiny_engine.serialized)


@pytest.mark.parametrize("capability", ["8.7", "11.0", "", "current"])
def test_a_device_that_it_does_not_build_for(small_graph, capability):
    assert "7.5, 8.0, 8.6, 8.9, 12.0" in refused(InputError, small_graph, compute_capability=capability)


@pytest.mark.parametrize(
    "profile",
    [
        Profile((0, 16), (16, 16), (16, 16)),
        Profile((32, 16), (16, 16), (64, 64)),
        Profile((16, 16), (16, 16), (9999, 9999)),
    ],
)
def test_impossible_profiles(small_graph, profile):
    assert f"shape {profile}" in refused(InputError, small_graph, profile)


def test_the_library_s_own_word_on_a_profile(small_graph, monkeypatch):
    monkeypatch.setattr(Profile, "problem", lambda _: None)
    message = refused(BuildError, small_graph, Profile((64, 64), (32, 32), (32, 32)))
    assert "MIN<=OPT<=MAX" in message and ".cpp" not in message


def test_too_little_workspace(small_graph):
    message = refused(BuildError, small_graph, make_profile("360x640"), workspace_bytes=20 << 20)
    assert "21 MB of workspace are too little for 360x640" in message
    assert "workspace" in refused(BuildError, small_graph, workspace_bytes=0)


def test_enough_workspace(small_graph):
    limited = build(small_graph, TINY, workspace_bytes=512 << 20)
    assert limited.activation_memory_bytes <= 512 << 20


@pytest.mark.parametrize(("share", "expected"), [(0.5, "cannot read the graph"), (0.0, "not made by overnet export")])
def test_a_broken_graph(small_graph, share, expected):
    assert expected in refused(BuildError, small_graph[: int(share * len(small_graph))])


def foreign(*nodes, number_type=TensorProto.UINT8):
    names = (INPUT_NAME, OUTPUT_NAME)
    ends = [helper.make_tensor_value_info(name, number_type, ["n", "h", "w", 3]) for name in names]
    model = helper.make_model(
        helper.make_graph(list(nodes), "foreign", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    return model.SerializeToString()


def test_an_operator_that_is_not_supported():
    message = refused(
        BuildError,
        foreign(
            helper.make_node("Cast", [INPUT_NAME], ["a"], to=TensorProto.FLOAT),
            helper.make_node("Det", ["a"], ["b"], name="determinant"),
            helper.make_node("Cast", ["b"], [OUTPUT_NAME], to=TensorProto.UINT8),
        ),
    )
    assert "node determinant (Det)" in message and "UNSUPPORTED_NODE" in message


def test_a_type_that_is_not_supported():
    message = refused(
        BuildError,
        foreign(
            helper.make_node("Transpose", [INPUT_NAME], ["a"], name="planar", perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["b"], [OUTPUT_NAME], to=TensorProto.UINT8),
        ),
    )
    assert "has type UInt8 but must have type Float" in message
    assert "cudaError" not in message and ".cpp" not in message


def test_a_graph_that_is_not_ours():
    assert "not made by overnet export" in refused(
        BuildError, foreign(helper.make_node("Relu", [INPUT_NAME], [OUTPUT_NAME]), number_type=TensorProto.FLOAT)
    )


def test_the_builder_s_messages_go_to_the_log_alone(small_graph, tmp_path, capfd):
    log = tmp_path / "build.log"
    built = build(small_graph, TINY, log=log)
    text = log.read_text()
    assert text.startswith("# TensorRT-RTX, 32x32\n")
    assert f"info: Total Activation Memory: {built.activation_memory_bytes} bytes" in text
    refused(BuildError, small_graph, log=log, workspace_bytes=0)
    assert log.read_text().startswith(text) and "\nerror: " in log.read_text()
    build(small_graph, TINY)
    assert capfd.readouterr() == ("", "")


def test_a_log_that_cannot_be_written(small_graph, tmp_path):
    assert "cannot be written" in refused(OutputError, small_graph, log=tmp_path / "missing" / "build.log")


def test_a_disk_that_is_full_costs_the_log_only(small_graph):
    built = build(small_graph, TINY, log=full_device())
    assert built.serialized and "the log is incomplete" in built.notes[0]


def full_device():
    from pathlib import Path

    path = Path("/dev/full")
    if not path.exists():
        pytest.skip("no /dev/full here")
    return path


def test_progress(small_graph):
    seen, threads = [], set()

    def progress(phase, done, total):
        seen.append((phase, done, total))
        threads.add(threading.current_thread())

    build(small_graph, TINY, progress=progress)
    assert len(seen) > 100 and all(1 <= done <= total for _, done, total in seen)
    assert ("Building engine" in {phase for phase, _, _ in seen}) and threading.main_thread() not in threads


def test_what_progress_raises_ends_the_build(small_graph):
    calls = []

    def progress(phase, done, total):
        calls.append(phase)
        raise RuntimeError("the bar broke")

    with pytest.raises(RuntimeError, match="the bar broke"):
        build(small_graph, TINY, progress=progress)
    assert len(calls) == 1


@pytest.mark.parametrize("strikes", [1, 3])
def test_ctrl_c_stops_the_builder(small_graph, monkeypatch, strikes):
    stopped, struck, results = threading.Event(), [], []
    stop, run = trt_api.Watch.stop, trt_api.Build.run

    def stop_and_tell(self):
        stop(self)
        stopped.set()

    def run_and_keep(self, watcher):
        results.append(run(self, watcher))
        return results[0]

    monkeypatch.setattr(trt_api.Watch, "stop", stop_and_tell)
    monkeypatch.setattr(trt_api.Build, "run", run_and_keep)

    def progress(phase, done, total):
        while len(struck) < strikes:
            struck.append(phase)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            # The builder is held in its first step until the main thread has seen it; further strikes come while
            # that waits for the builder to stop.
            stopped.wait(10) if len(struck) == 1 else time.sleep(0.1)

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        build(small_graph, TINY, progress=progress)
    assert threading.active_count() == threads
    assert (len(struck), results) == (strikes, [None])


def test_a_build_after_one_that_was_stopped(small_graph, tiny_engine):
    def progress(phase, done, total):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        build(small_graph, TINY, progress=progress)
    assert build(small_graph, TINY).activation_memory_bytes == tiny_engine.activation_memory_bytes


def test_builds_from_two_threads_do_not_mix(small_graph, tiny_engine):
    sizes = {"one": TINY, "two": make_profile("360x640")}
    together = {}
    threads = [
        threading.Thread(target=lambda name=name: together.update({name: build(small_graph, sizes[name])}))
        for name in sizes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together["one"].activation_memory_bytes == tiny_engine.activation_memory_bytes
    assert together["two"].activation_memory_bytes > 2 * tiny_engine.activation_memory_bytes


def test_without_a_gpu_an_engine_cannot_be_asked(small_graph, tiny_engine, monkeypatch):
    """Its own account of its memory is asked for where a GPU is; where it has none, the builder's counts."""
    if trt_build.cuda_device() is not None:
        pytest.skip("a GPU is here")
    assert Library("tensorrt-rtx").activation_memory_bytes(tiny_engine.serialized) is None
    monkeypatch.setattr(trt_build, "cuda_device", object)
    assert build(small_graph, TINY).activation_memory_bytes == tiny_engine.activation_memory_bytes
    monkeypatch.setattr(Library, "activation_memory_bytes", lambda _self, _serialized: 12345)
    assert build(small_graph, TINY).activation_memory_bytes == 12345


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_a_timing_cache_is_used_and_kept(small_graph, tmp_path, monkeypatch):
    """TensorRT-RTX takes timing caches, though it makes nothing of them: so it stands in for TensorRT here."""

    class Claimed(Library):
        def __init__(self, target):
            super().__init__(target)
            self.is_rtx = False

    monkeypatch.setattr(trt_build, "Library", Claimed)
    cache = tmp_path / "timing.cache"
    assert build(small_graph, TINY, timing_cache=cache).notes == ()
    assert len(cache.read_bytes()) > 0
    kept = cache.read_bytes()
    used = []
    original = trt_api.Build.use_timing_cache

    def use(self, stored):
        used.append(stored)
        return original(self, stored)

    monkeypatch.setattr(trt_api.Build, "use_timing_cache", use)
    assert build(small_graph, TINY, timing_cache=cache).notes == ()
    assert used == [kept]
    (note,) = build(small_graph, TINY, timing_cache=tmp_path).notes[:1]
    assert "is not used" in note
    assert not list(tmp_path.glob(".overnet-*"))


def test_timings_of_another_machine_are_left(monkeypatch):
    """The library's answers are set, as they cannot be had without a GPU."""
    accepted = []

    class Config:
        def create_timing_cache(self, stored):
            return None if stored == b"damaged" else stored

        def set_timing_cache(self, cache, ignore_mismatch):
            accepted.append(cache)
            return cache != b"foreign"

    one = Library("tensorrt-rtx").start()
    monkeypatch.setattr(one, "_config", Config())
    assert [one.use_timing_cache(stored) for stored in (b"mine", b"foreign", b"damaged")] == [True, False, False]
    assert accepted == [b"mine", b"foreign", b"", b""]


def test_no_timing_cache_for_tensorrt_rtx(small_graph, tmp_path):
    build(small_graph, TINY, timing_cache=tmp_path / "timing.cache")
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing(small_graph, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependency, match=r"building for TensorRT needs tensorrt, .*overnet\[gpu\]"):
        build_engine(small_graph, TINY, target="tensorrt")


def test_a_library_that_does_not_start(small_graph, monkeypatch):
    """As the bindings of TensorRT 10.3 and 11.4 do without a GPU."""

    def refuse(_logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "Builder", refuse)
    assert "TensorRT-RTX does not start: it gave no reason" in refused(BuildError, small_graph)


def test_tensorrt_without_a_gpu(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(trt_build, "cuda_device", lambda: None)
    with pytest.raises(BuildError, match="there is none here"):
        check_builder("tensorrt")
    check_builder("tensorrt-rtx")
    monkeypatch.setattr(trt_build, "cuda_device", object)
    check_builder("tensorrt")


def test_what_can_be_built_here(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", type(sys)("tensorrt"))
    monkeypatch.setattr(trt_build, "cuda_device", lambda: None)
    assert buildable_targets() == ["tensorrt-rtx"]
    monkeypatch.setattr(trt_build, "cuda_device", object)
    assert buildable_targets() == ["tensorrt", "tensorrt-rtx"]
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert buildable_targets() == ["tensorrt"]


@pytest.mark.parametrize("activation", ["relu", "prelu"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_engines_of_plain_networks_have_no_means(activation, precision):
    torch.manual_seed(7)
    network = deploy(PlainNet(PlainNetConfig(width=8, depth=2, activation=activation)))
    profile = make_profile("16x16:32x32:64x64", 2)
    built = build(graph(network, 2, precision=precision), profile)
    assert invalidity(built.serialized) == WELL_FORMED
    assert INPUT_NAME.encode() in built.serialized and OUTPUT_NAME.encode() in built.serialized
    assert GIVEN_MEANS_NAME.encode() not in built.serialized
    assert profile_in(built.serialized, profile) == [1, 1, 1]
