"""The CUDA runtime, run without a GPU: real PyCUDA and cuda.core over a stand-in of the driver, with TensorRT's double.

The same checks run on a real GPU, where there is one: `overnet.benchmarks.gpu_checks`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from overnet.benchmarks.gpu_checks import CHECKS
from overnet.benchmarks.gpu_setting import Setting
from overnet.export.engine.profile import make_profile
from overnet.files.engine_sidecar import Profile, sidecar_path
from overnet.files.onnx_metadata import read_artifact
from overnet.weights import bundled_folder
from tests.conftest import ROOT, write_clip
from tests.doubles.engines import mark_checked, nearest_model, write_engine
from tests.doubles.running import needs_cuda_core, run_over_stand_in, stand_in_environment

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SCENARIOS = "tests.support.cuda_scenarios"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of this module's own, in which its engines have passed the check."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERNET_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def model(small_models):
    return small_models / "small_x2.onnx"


@pytest.fixture(scope="module")
def large_model(model, tmp_path_factory):
    """The small network, which states that it takes as much memory as the bundled OverNet."""
    content = onnx.load(model)
    artifact = replace(read_artifact(model), activation_bytes=4876)
    onnx.helper.set_model_props(content, artifact.to_metadata())
    path = tmp_path_factory.mktemp("large") / "small_x2.onnx"
    onnx.save(content, path)
    return path


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    return write(tmp_path_factory.mktemp("engine") / "small_x2.engine", model)


SMALL = Profile((16, 16), (96, 96), (128, 128))


def write(path, model, profile=SMALL, *, checked=True, **options):
    from overnet.export.engine.engine_graph import with_means

    engine = write_engine(path, with_means(model.read_bytes()), profile, **options)
    return mark_checked(engine) if checked else engine


def run(scenario, *arguments, **options):
    return run_over_stand_in(f"{SCENARIOS}:{scenario}", *map(plain, arguments), **options)


def plain(argument):
    return str(argument) if isinstance(argument, Path) else argument


def marked(name):
    return pytest.param(name, marks=pytest.mark.timing) if name == "three_slots_are_no_slower_than_one" else name


@pytest.mark.parametrize("name", [marked(name) for name in CHECKS])
def test_checks(name, engine, model):
    counted = run("check", name, engine, model, {"frames": 48})
    assert counted["pageable_copies"] == counted["null_stream_operations"] == 0
    assert counted["htod_sync"] == counted["dtoh_sync"] == counted["context_synchronises"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["every_frame_in_order", "sizes_that_take_turns", "larger_than_the_engine_takes"])
def test_checks_at_a_fraction(name, small_checkpoint, tmp_path):
    """Whole frames and tiles, whose sides are multiples of the denominator."""
    from overnet.export.graph.network_graph import build_onnx
    from overnet.network.checkpoint import load_checkpoint
    from overnet.network.deploy import deploy

    path = tmp_path / "small_x2.5.onnx"
    onnx.save(build_onnx(deploy(load_checkpoint(small_checkpoint)), 2.5), path)
    found = run("check", name, write(tmp_path / "small_x2.5.engine", path), path, {"frames": 24, "scale": 2.5})
    assert found["launches"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("integrated", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_five_hundred_frames_under_random_delays(engine, model, seed, integrated):
    env = {"OVERNET_CUDA_DELAY": f"{seed}:1500", "OVERNET_CUDA_INTEGRATED": integrated}
    counted = run("check", "every_frame_in_order", engine, model, {"frames": 500}, env=env)
    assert counted["launches"] == 500
    if integrated == "1":
        # The number that switches given means on is all that is ever copied.
        assert (counted["htod_async"], counted["dtoh_async"]) == (1, 0)
    else:
        assert (counted["htod_async"], counted["dtoh_async"]) == (501, 500)


@pytest.mark.parametrize(
    "what",
    [
        "computing is not ordered",
        "a result is not waited for",
        "a slot is given back before its result is read",
    ],
)
def test_a_synchronisation_that_is_missing_is_found(engine, model, what):
    # So little memory that the slots share what they compute in.
    found = run("sabotaged", what, engine, model, env={"OVERNET_CUDA_MEMORY": "10000000"})
    assert found["races"], found


def test_nothing_is_found_where_nothing_is_missing(engine, model):
    found = run("sabotaged", "nothing", engine, model, env={"OVERNET_CUDA_MEMORY": "10000000"})
    assert found == {"races": [], "wrong": 0}


@pytest.mark.timing
def test_copies_overlap_with_computing(engine, model):
    # So little memory that computing goes one after the other, as on a GPU that one frame fills.
    env = {"OVERNET_CUDA_MEMORY": "10000000"}
    timeline = run("overlapping", engine, model, 3, env=env)
    by_kind = {kind: [t for t in timeline if t["kind"] == kind] for kind in {t["kind"] for t in timeline}}
    launches = next(timings for kind, timings in by_kind.items() if kind not in ("HtoD", "DtoH"))
    for kind in ("HtoD", "DtoH"):
        overlapping = sum(any(overlap(copy, launch) for launch in launches) for copy in by_kind[kind])
        assert overlapping >= 10, f"{overlapping} of {len(by_kind[kind])} {kind} copies ran beside computing"
    alone = run("overlapping", engine, model, 1, env=env)
    assert not any(overlap(one, other) for one in alone for other in alone if one is not other)
    assert duration(timeline) < 0.85 * duration(alone)


def overlap(one, other):
    together = min(one["end_s"], other["end_s"]) - max(one["start_s"], other["start_s"])
    return one["stream"] != other["stream"] and together > 0.0005


def duration(timeline):
    return max(t["end_s"] for t in timeline) - min(t["start_s"] for t in timeline)


@pytest.mark.slow
def test_nothing_is_left_after_a_thousand_frames(engine, model):
    counted = run("check", "nothing_is_left_behind", engine, model, {"frames": 1000})
    assert counted["launches"] > 1000


def test_nothing_is_allocated_for_a_frame(engine, model):
    first, *later = run("no_allocation_for_a_frame", engine, model)
    assert first > 0
    assert later == [0, 0]


@pytest.mark.timing
@pytest.mark.parametrize("graphs", [True, False])
def test_times_of_the_stages(engine, model, graphs):
    found = run("stage_times", engine, model, False, graphs)
    # Two images of 40 x 48, at 2 ms a kB, and 40 ms; never less than that, and what the timeline has beyond it.
    least = [2 * 5.76 * 2, 2 * 40, 2 * 23.04 * 2]
    # A busy machine may hold up the stream's thread between a mark and the work; the host's 30 ms an image are not in.
    for told, timeline, known in zip(found["told"], found["timeline"], least, strict=True):
        assert known - 0.1 <= timeline - 0.1 <= told <= timeline * 1.05 + 10
    assert found["right"] == [True] * 3
    assert found["launches"] == 4 and found["captures"] == 0
    assert found["graph launches"] == (4 if graphs else 0)


@pytest.mark.timing
def test_times_where_nothing_is_copied(engine, model):
    found = run("stage_times", engine, model, True, True)
    copy_in, compute, copy_out = found["told"]
    assert copy_in == copy_out == 0
    assert 80 <= found["timeline"][1] - 0.1 <= compute <= found["timeline"][1] * 1.05 + 10
    assert found["right"] == [True] * 3
    # As the engine states it for its largest image, at 100 bytes a pixel; one that was given is there at once.
    assert found["memory"] == [128 * 128 * 100] * 2


@pytest.mark.parametrize(("shares", "records"), [(False, 1), (True, 2)])
def test_runs_that_are_not_timed_cost_what_they_did(engine, model, shares, records):
    before, after = run("calls_of_untimed_runs", engine, model, shares)
    assert before == after
    # The end of an image, and where activation memory is shared the end of computing.
    assert before["event_records"] == 5 * records
    assert (before["graph_launches"], before["captures"]) == (5, 0)


def short_of_memory(engine, model, size, limit_bytes):
    return run("short_of_memory", engine, model, size, 3, env={"OVERNET_CUDA_LIMIT": str(limit_bytes)})


def test_short_of_memory_for_all_slots(engine, model):
    """The weights take 101,435 bytes, shared activations 921,600, and a slot 27,648 for the way in and 110,592 out."""
    found = short_of_memory(engine, model, (96, 96), 1_350_000)
    assert found["differences"] == [0] * 6
    assert found["notes"] == ["2 of 3 frames at once on the GPU: its memory is short"]
    assert found["peak"] <= 1_350_000


def test_short_of_memory_for_an_image_in_one_piece(tmp_path, model):
    engine = write(tmp_path / "hungry.engine", model, Profile((16, 16), (160, 208), (160, 208)))
    found = short_of_memory(engine, model, (160, 208), 1_800_000)
    assert len(found["differences"]) == 6
    # The frames are noise, on which tiles differ most.
    assert max(found["differences"]) <= 8
    assert any("cut into 6 tiles of 96x104" in note for note in found["notes"])


@pytest.mark.parametrize("limit_bytes", [1_000_000, 20_000])
def test_no_memory_at_all_is_one_error_with_the_numbers(engine, model, limit_bytes):
    """Too little for the smallest tile, and for the engine itself."""
    found = short_of_memory(engine, model, (96, 96), limit_bytes)
    assert "out of memory" in found["error"] and "\n" not in found["error"]
    assert re.search(r"\d+ MB of GPU memory needed; of Stand-in's \d+ MB \d+ MB are free|\d+ bytes", found["error"])


def test_the_context_is_shared_and_given_back(engine, model):
    assert run("shared_with_others", engine, model) == {"retained": 1, "after": 0, "depth": 0}


@pytest.mark.parametrize("how", ["dropped", "kept", "interrupted while current"])
def test_ending_python_with_frames_on_their_way(engine, model, how):
    run("left_open", engine, model, how)


@pytest.mark.parametrize(
    ("function", "code"),
    [("cuMemcpyHtoDAsync", 700), ("cuMemcpyDtoHAsync", 999), ("cuEventSynchronize", 719), ("cuEventRecord", 400)],
)
def test_a_failing_call_is_one_error(engine, model, function, code):
    found = run("failing_in_the_middle", engine, model, function, code)
    assert found["error"] is not None and "\n" not in found["error"]
    assert found["after"] == [0, 1, 2, 3, 4]


def test_frames_that_are_never_fetched_cost_no_slots(engine, model):
    found = run("never_fetched", engine, model)
    assert found == {"received": ["failed"] * 6 + [0, 1, 2, 3, 4], "free": 3}


@pytest.mark.timing
def test_live_video_through_an_engine(engine, model):
    found = run("live", engine, model)
    assert found["in order"] and found["frames"] + found["dropped"] == found["captured"]
    assert found["captured"] + found["before"] == 120 and found["before"] < 40
    assert 20 < found["frames"] < 120
    # Three frames' computing and what a busy machine takes: nothing queues up.
    assert found["latency_ms"] < 400


def test_computing_is_recorded_anew_for_another_size(engine, model):
    assert run("recorded_anew", engine, model) == [[1, 4]] * 3


@needs_cuda_core
@pytest.mark.parametrize(
    "where",
    ["import", "from_handle", "create_graph_builder", "begin_building", "end_building", "complete", "launch", "close"],
)
def test_without_graphs_where_any_part_of_cuda_core_fails(engine, model, where):
    found = run("graphs_fail", engine, model, where)
    assert found["differences"] == [0] * 5
    (note,) = found["notes"]
    assert note.startswith("CUDA graphs are not used: ") and "\n" not in note


def test_ctrl_c_in_a_recording(engine, model):
    assert run("interrupted_while_recording", engine, model) == ["interrupted"]


@pytest.mark.parametrize("function", ["cuStreamCreate", "cuMemcpyHtoDAsync", "cuMemAlloc", "cuMemHostAlloc"])
def test_a_set_up_that_fails_once_does_not_spoil_results(engine, model, function):
    assert run("set_up_fails_once", engine, model, function) == 0


def test_memory_that_grows_under_a_filled_slot(engine, model):
    assert run("memory_that_grows_under_a_filled_slot", engine, model, env={"OVERNET_CUDA_MEMORY": "10000000"}) == [
        0,
        0,
    ]


def test_out_of_turn_is_an_error_and_no_deadlock(engine, model):
    held, closed = run("out_of_turn", engine, model)
    assert "a stream of this upscaler holds all of them" in held
    assert "closed before the frame was fetched" in closed


@pytest.mark.parametrize(
    ("size", "tile", "wished"),
    [
        ((400, 240), None, "16x16:192x192:192x192"),
        ((240, 400), None, "16x16:192x192:192x192"),
        ((700, 380), 200, "16x16:360x640:360x640"),
    ],
)
def test_tiles_and_means_of_an_image_go_to_one_engine(large_model, tmp_path, size, tile, wished):
    """Standing or lying; and where tiles are asked for, no engine is built for the whole image."""
    env = {"OVERNET_CUDA_MEMORY": "900000000" if tile is None else "8000000000"}
    found = run("loads_for_tiles", large_model, tmp_path, size, tile, env=env)
    assert found == {"wished": [wished], "loaded": [1, 0, 0]}


def test_standing_images_in_tiles(large_model, tmp_path):
    """An engine for a standing image, of which square tiles are cut: these go to it as well."""
    env = {"OVERNET_CUDA_MEMORY": "3500000000"}
    found = run("loads_for_tiles", large_model, tmp_path, (1000, 600), None, env=env)
    assert found == {"wished": ["16x16:960x540:960x540"], "loaded": [1, 0, 0]}


@pytest.mark.parametrize(
    ("memory_bytes", "size"),
    # A card of 12 GB, and what is free on an Orin Nano of 8 GB; both got the next smaller engine, and tiles.
    [(11_300_000_000, (1080, 1920)), (4_500_000_000, (720, 1280))],
)
def test_an_engine_takes_most_of_the_memory_to_run(large_model, tmp_path, memory_bytes, size):
    env = {"OVERNET_CUDA_MEMORY": str(memory_bytes), "OVERNET_CACHE": str(tmp_path)}
    found = run("loads_for_tiles", large_model, tmp_path, size, None, env=env)
    assert found == {"wished": ["16x16:{0}x{1}:{0}x{1}".format(*size)], "loaded": [1, 0, 0]}


@pytest.mark.parametrize(
    ("size", "largest", "tiles"),
    [
        # 18 runs each before: 6 square tiles, and 12 for their means.
        ((1080, 1920), (720, 1280), 4),
        # Upright in the engine that is exported by default: 36 runs, 12 tiles and 24 for their means.
        ((1280, 720), make_profile(None).maximum, 6),
        ((720, 1280), (540, 960), 4),
    ],
)
def test_runs_of_a_video_in_tiles(tmp_path, size, largest, tiles):
    """One for each tile; for two frames of each scene as many again, for the means; and three are always in flight."""
    from tests.doubles.engines import nearest_model, write_engine

    engine = write_engine(tmp_path / "x2.engine", nearest_model(means=3), Profile((16, 16), largest, largest))
    found = run("tiled_video", engine, size, env={"OVERNET_CACHE": str(tmp_path)})
    assert found["launches"] == [2 * tiles, 2 * tiles, *[tiles] * 4, 2 * tiles, 2 * tiles]
    assert found["in flight"] == [3] * 8
    assert any(f"cut into {tiles} tiles" in note for note in found["notes"])


def test_an_upright_video_goes_whole_through_the_engine_exported_by_default(tmp_path):
    """It took 12 runs a frame: 4 tiles, and 8 for their means."""
    from tests.doubles.engines import nearest_model, write_engine

    engine = write_engine(tmp_path / "x2.engine", nearest_model(means=3), make_profile(None))
    found = run("tiled_video", engine, (640, 360), env={"OVERNET_CACHE": str(tmp_path)})
    assert found["launches"] == [1] * 8


def test_devices(engine, model):
    two = {"OVERNET_CUDA_DEVICES": "2", "OVERNET_CUDA_NAME": "Stand-in"}
    found = run("devices", engine, model, 5, env=two)
    assert "device is 5; there are 2: Stand-in 0, Stand-in 1" in found["error"]
    # The engine is for a device of another name.
    assert "engine Stand-in, here Stand-in 1" in run("devices", engine, model, 1, env=two)["error"]
    hidden = run("devices", engine, model, 0, env={"CUDA_VISIBLE_DEVICES": ""})
    assert "no NVIDIA GPU" in hidden["error"]


def test_visible_devices_are_counted_anew(tmp_path, model):
    engine = write(tmp_path / "x2.engine", model, device="Stand-in 1")
    env = {"OVERNET_CUDA_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "1"}
    assert run("devices", engine, model, 0, env=env) == {"device": "Stand-in 1"}
    both = {"OVERNET_CUDA_DEVICES": "2"}
    assert run("devices", engine, model, 1, env=both) == {"device": "Stand-in 1"}


def test_auto_takes_the_gpu_for_an_engine(engine):
    assert run("chosen", engine, "auto") == {"backend": "tensorrt", "notes": []}


@pytest.mark.slow
@pytest.mark.parametrize("rtx", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_auto_goes_on_with_the_cpu_where_no_engine_can_be_built(model, tmp_path, rtx):
    """The doubles cannot build; the real TensorRT-RTX builds an engine, and cannot load it over the stand-in."""
    found = run("chosen", model, "auto", env={"OVERNET_CACHE": str(tmp_path)}, rtx=rtx)
    assert found["backend"] == "openvino"
    assert any("tensorrt is not used" in note for note in found["notes"])


def test_engines_in_a_folder(engine, tmp_path):
    for file in (engine, engine.with_name(f"{engine.name}.json")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert run("chosen", tmp_path, "tensorrt")["backend"] == "tensorrt"


def test_frames_are_not_copied_on_the_host(engine, tmp_path):
    write_clip(tmp_path / "clip.mp4", frames=12)
    counted = run("host_copies", engine, tmp_path / "clip.mp4", tmp_path / "out.mp4")
    assert counted["frames"] == counted["decoded to pinned"] == counted["encoded from pinned"] == 12
    assert counted["copied for the encoder"] == counted["copied to a slot"] == counted["pageable_copies"] == 0


def test_smaller_than_the_engine_takes(engine, model):
    found = run("smaller_than_the_engine_takes", engine, model)
    assert found["shape"] == [18, 60, 3]
    assert found["difference"] < 8
    assert any("padded to 30x16" in note for note in found["notes"])


def test_waiting_for_a_buffer_ends(engine, model):
    assert run("stopped_while_waiting", engine, model) == {"waited": True, "got": [None]}


def test_engines_built_at_first_use(model, tmp_path):
    """One for the sizes that a profile holds, another for images that stand; each compared with the CPU once."""
    sizes = [(40, 48), (200, 300), (600, 200), (40, 48)]
    env = {"OVERNET_CACHE": str(tmp_path)}
    found = run("built_at_first_use", model, model, tmp_path, sizes, "tensorrt", env=env)
    assert found["wished"] == ["fp16 16x16:360x640:360x640", "fp16 16x16:640x360:640x360"]
    assert found["differences"] == [0, 0, 0, 0]
    assert found["checked"] == 2
    assert found["progress"] == [["building", 1, 2]] * 2


def test_engines_for_small_memory(large_model, tmp_path):
    """360x640 would need about 691 MB of the three quarters that may be planned with."""
    env = {"OVERNET_CUDA_MEMORY": "900000000", "OVERNET_CACHE": str(tmp_path)}
    found = run("built_at_first_use", large_model, large_model, tmp_path, [(200, 300)], "tensorrt", env=env)
    assert found["wished"] == ["fp16 16x16:192x192:192x192"]
    assert found["differences"][0] <= 3
    assert any("4 tiles of 176x128" in note for note in found["notes"])


def test_an_engine_that_does_not_load_after_an_update_of_the_driver(model, tmp_path):
    """It is built again once; where the driver is the same, building would not help."""
    env = {"OVERNET_CACHE": str(tmp_path / "cache")}
    found = run("after_an_update", model, tmp_path, "1.0", env=env)
    assert found["asked"] == 2
    assert [note.partition(":")[0] for note in found["said"]] == [
        "an engine in the cache is not used, and is built again"
    ]
    found = run("after_an_update", model, tmp_path, None, env=env)
    assert found["asked"] == 1
    assert "cannot load the engine" in found["said"][0] and "expecting library version" in found["said"][0]


def test_an_engine_that_computes_something_else_is_not_used(model, tmp_path):
    """As FP16 does on some GPUs: the engine is of other weights here."""
    model_and_weights = model, other_weights(model, tmp_path / "other.onnx")
    env = {"OVERNET_CACHE": str(tmp_path)}
    found = run("built_at_first_use", *model_and_weights, tmp_path, [(40, 48)], "auto", env=env, rtx=True)
    assert found["backend"] == "openvino" and found["differences"][0] <= 1
    assert any("dB from the same network on the CPU" in note for note in found["notes"])
    assert found["checked"] == 0
    with pytest.raises(AssertionError, match="dB from the same network on the CPU"):
        run("built_at_first_use", *model_and_weights, tmp_path, [(40, 48)], "tensorrt", env=env)


@pytest.mark.slow
def test_a_given_engine_is_compared_with_its_network_once(model, tmp_path):
    engine = write(tmp_path / "x2.engine", model, checked=False)
    (tmp_path / "network.onnx").write_bytes(model.read_bytes())
    env = {"OVERNET_CACHE": str(tmp_path / "cache")}
    first, second = (run("given", engine, env=env) for _ in range(2))
    assert first["notes"] == second["notes"] == []
    assert first["launches"] > second["launches"] == 1
    # A GPU of another kind is another matter.
    other = run("given", engine, env={**env, "OVERNET_TENSORRT_VERSION": "10.3.0", "OVERNET_CUDA_SMS": "16"})
    assert other["launches"] == first["launches"]


def test_a_given_engine_without_its_network_is_compared_with_bicubic_enlargement(model, tmp_path):
    engine = write(tmp_path / "x2.engine", model, checked=False)
    env = {"OVERNET_CACHE": str(tmp_path / "cache")}
    (note,) = run("given", engine, env=env)["notes"]
    assert "x2.engine was compared with bicubic enlargement only: no ONNX file" in note
    assert run("given", engine, env=env)["notes"] == []


def black_engine(path):
    """An engine whose results are black, as of a network that fails in FP16."""
    content = onnx.load_from_string(nearest_model(means=3))
    for constant in content.graph.initializer:
        if constant.name == "high":
            constant.CopyFrom(onnx.helper.make_tensor("high", onnx.TensorProto.FLOAT, [], [0]))
    return write_engine(path, content.SerializeToString(), SMALL)


def changed_sidecar(engine, **fields):
    path = sidecar_path(engine)
    content = json.loads(path.read_text())
    for name, value in fields.items():
        content[name].update(value)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("lie", ["black", "weights", "scale up", "scale down", "sizes", "numbers"])
def test_a_given_engine_that_is_wrong_is_refused(model, small_models, tmp_path, lie):
    """Whatever its sidecar states: before its first result, in one line, and without a wrong access to memory."""
    path = tmp_path / "x2.engine"
    if lie == "black":
        black_engine(path)
        expected = r"dB from bicubic enlargement, and 14 are needed; export it again"
    elif lie == "weights":
        write(path, other_weights(model, tmp_path / "other.onnx"), checked=False)
        (tmp_path / "other.onnx").write_bytes(model.read_bytes())
        expected = r"dB from the same network on the CPU, and 50 are needed; export it again"
    elif lie.startswith("scale"):
        write(path, small_models / f"small_x{3 if lie == 'scale up' else 2}.onnx")
        changed_sidecar(path, artifact={"overnet.scale": "2" if lie == "scale up" else "3"})
        expected = r"the engine makes 1 x \d+ x \d+ x 3 of an image of \d+x\d+, not 1 x .*, as the scale [23] in its"
    elif lie == "sizes":
        write(path, model)
        changed_sidecar(path, profile={"maximum": [512, 512]})
        expected = "its sidecar states other image sizes than it takes"
    else:
        content = onnx.load_from_string(nearest_model())
        content.graph.node[-1].attribute[0].i = onnx.TensorProto.FLOAT
        content.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        write_engine(path, content.SerializeToString(), SMALL)
        expected = "OverNet did not make this engine: upscaled is DataType.FLOAT of"
    scale = 3 if lie == "scale down" else 2
    for _ in range(2):  # a refused engine is refused again
        found = run("given", path, scale, env={"OVERNET_CACHE": str(tmp_path / "cache")})
        assert re.search(expected, found["error"]), found
        assert "\n" not in found["error"]


def other_weights(model, path):
    graph = onnx.load(model)
    for constant in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(constant)
        if values.ndim == 4 and values.size > 100:
            constant.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy() * 1.5, constant.name))
    onnx.save(graph, path)
    return path


@pytest.mark.parametrize("graphs", [True, False])
def test_tensorrt_rtx(tmp_path, model, graphs):
    engine = write(tmp_path / "x2.engine", model, library="tensorrt-rtx")
    (tmp_path / "x2.onnx").write_bytes(model.read_bytes())
    env = {"OVERNET_CACHE": str(tmp_path)}
    for _ in range(2):  # the second time with the kernels of the first
        found = run("with_tensorrt_rtx", engine, model, graphs, env=env, rtx=True)
        assert found["differences"] == [0] * 12
        assert found["notes"] == [] and found["kernels"] == 1
        assert ("WHOLE_GRAPH_CAPTURE" in found["strategy"]) is graphs
        assert found["captures"] == 0, "it records by itself"
    (tmp_path / "kernels").chmod(0o777)
    with pytest.raises(AssertionError, match="kernels: other users may write there"):
        run("with_tensorrt_rtx", engine, model, graphs, env=env, rtx=True)


def command(*arguments, env=None, **options):
    """overnet-run over the stand-in."""
    program = [sys.executable, "-c", "from overnet.__main__ import main_run; main_run()", *map(str, arguments)]
    return subprocess.Popen(
        program,
        cwd=ROOT,
        env=stand_in_environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_video_through_an_engine_is_the_cpus(engine, model, tmp_path):
    write_clip(tmp_path / "clip.mp4", frames=30)
    results = []
    for name, options in (("gpu", ["--model", engine]), ("cpu", ["--model", model, "--backend", "onnxruntime"])):
        output = tmp_path / f"{name}.mkv"
        process = command(tmp_path / "clip.mp4", "-o", output, "--codec", "ffv1", *options)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        with av.open(str(output)) as video:
            results.append([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    assert len(results[0]) == 30
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.slow
def test_ctrl_c_leaves_a_partial_video_and_nothing_else(engine, tmp_path):
    write_clip(tmp_path / "clip.mp4", frames=400)
    process = command(
        tmp_path / "clip.mp4", "-o", tmp_path / "out.mp4", "--model", engine, env={"OVERNET_CUDA_DELAY": "1:40000"}
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".overnet-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.partial.mp4"]
    with av.open(str(tmp_path / "out.partial.mp4")) as video:
        assert 0 < sum(1 for _ in video.decode(video=0)) < 400


def test_an_engine_of_another_machine_is_refused_in_one_line(tmp_path, model):
    engine = write(tmp_path / "x2.engine", model, device="Orin")
    write_clip(tmp_path / "clip.mp4")
    process = command(tmp_path / "clip.mp4", "-o", tmp_path / "out.mp4", "--model", engine)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.count("\n") == 1 and "device: engine Orin, here Stand-in" in said
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.needs_cuda
@pytest.mark.parametrize("name", CHECKS)
def test_checks_on_the_gpu(name):
    """Where there is a GPU. ``OVERNET_REQUIRE_CUDA=1`` makes it a failure that there is none."""
    reference = str(bundled_folder() / "overnet_x2.onnx")
    assert CHECKS[name](Setting(reference, reference, "tensorrt"))


def checks_command(*arguments, env, program=("-m", "overnet.benchmarks.gpu_checks")):
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=env,
        check=False,
        timeout=240,
    )


@pytest.mark.weekly
def test_the_command_that_checks_a_gpu(engine, model):
    options = ["--model", engine, "--reference", model, "--frames", 24, "--json"]
    result = checks_command(*options, env=stand_in_environment())
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith(
        "Stand-in, compute capability 8.7, driver unknown, no JetPack, TensorRT 10.3.0, PyCUDA"
    )
    report = json.loads(result.stdout)
    assert [check["name"] for check in report["checks"]] == list(CHECKS)
    assert all(check["passed"] for check in report["checks"])


def test_a_check_that_fails_fails_the_command(tmp_path, engine, model):
    """The engine is of other weights than the reference."""
    reference = other_weights(model, tmp_path / "other.onnx")
    options = ["--model", engine, "--reference", reference, "--frames", 8]
    # Two checks are enough, and take a fifth of the time of all.
    two = (
        "from overnet.benchmarks import gpu_checks as all\n"
        "all.CHECKS = {name: all.CHECKS[name] for name in ('every_frame_in_order', 'nothing_is_left_behind')}\n"
        "all.main()"
    )
    result = checks_command(*options, env=stand_in_environment(), program=("-c", two))
    assert result.returncode == 1
    assert "nothing is left behind: " in result.stderr, "the others run after a failure"
    assert re.search(
        r"FAILED every frame in order: CheckFailed: frame 0 of \d+x\d+: [\d.]+ dB from the CPU's result", result.stderr
    )


def test_the_command_without_a_gpu():
    result = checks_command(env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1


def test_a_library_that_does_not_start(monkeypatch):
    """`overnet info` said that it works; the bindings of TensorRT raise TypeError and log the reason."""
    trt = pytest.importorskip("tensorrt_rtx")
    from overnet.errors import BackendError
    from overnet.runtime.backends.trt.loaded_engine import start_runtime

    def refuse(logger):
        logger.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "Runtime", refuse)
    with pytest.raises(BackendError, match=r"TensorRT-RTX does not start.*failure with error: 35"):
        start_runtime("tensorrt-rtx")
