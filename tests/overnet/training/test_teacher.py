import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from overnet.errors import InputError
from overnet.network.checkpoint import save_checkpoint
from overnet.network.family import build
from overnet.network.model import reference
from overnet.network.plain import PlainNetConfig
from overnet.training.data.packed_images import pack
from overnet.training.data.teacher import file_sha256, load_onnx, teacher_targets
from overnet.training.data.teacher_targets import TeacherTargets, fill_targets, targets_path
from overnet.training.patches import Patches
from overnet.training.settings import PRESETS, settings_from


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number, size in enumerate([(60, 50), (41, 77), (1, 1), (20, 90)]):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 256, (*size, 3), np.uint8))
    return pack([folder], folder / "p.packed", report=print)


@pytest.fixture(autouse=True)
def _no_targets_left(images):
    yield
    for path in [*images.path.parent.glob("*.targets"), *images.path.parent.glob(".*.partial")]:
        path.unlink()


def repeated(low, scale=2):
    return np.repeat(np.repeat(low, scale, axis=0), scale, axis=1)


def onnx_file(path, *, shape=("n", 3, "h", "w"), kind=TensorProto.FLOAT, scales=(1, 1, 2, 2), outputs=1):
    """An enlargement by repetition, in N x 3 x H x W or what else is given."""
    nodes = [helper.make_node("Resize", ["x", "", "scales"], [f"y{n}"], mode="nearest") for n in range(outputs)]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(f"y{n}", kind, ["a", "b", "c", "d"]) for n in range(outputs)],
        [helper.make_tensor("scales", TensorProto.FLOAT, [len(scales)], scales)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shape": (1, 3, "h", "w"), "kind": TensorProto.FLOAT16},
        {"shape": ("n", "h", "w", 3), "kind": TensorProto.UINT8, "scales": (1, 2, 2, 1)},
    ],
)
def test_networks_in_onnx_are_run_in_their_layout_and_type(tmp_path, changes):
    run, scale = load_onnx(onnx_file(tmp_path / "t.onnx", **changes))
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert scale == 2
    np.testing.assert_array_equal(run(image), repeated(image))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": ("n", "h", "w", 3)}, "a teacher takes floating-point N x 3 x H x W"),
        ({"shape": ("n", 1, "h", "w")}, "a teacher takes floating-point N x 3 x H x W"),
        ({"kind": TensorProto.INT32}, "a teacher takes floating-point N x 3 x H x W"),
        ({"shape": ("n", 3, "h")}, "four dimensions"),
        ({"shape": ("n", 3, 64, 64)}, "fixed size"),
        ({"scales": (1, 1, 1, 1)}, "its scale must be whole"),
        ({"scales": (1, 1, 2.5, 2.5)}, "its scale must be whole"),
        ({"scales": (1, 1, 2, 3)}, "its scale must be whole"),
        ({"outputs": 2}, "one input and one output"),
    ],
)
def test_networks_that_are_no_teachers_are_refused_in_a_line(tmp_path, changes, message):
    if changes.get("shape", ("",) * 4)[-1] == "h":
        changes = {**changes, "scales": (1, 1, 2)}
    with pytest.raises(InputError, match=r"t\.onnx: ") as caught:
        load_onnx(onnx_file(tmp_path / "t.onnx", **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_other_kinds_are_refused(tmp_path, images):
    for name in ("t.onnx", "t.safetensors"):
        (tmp_path / name).write_bytes(b"no network")
        with pytest.raises(InputError, match=name):
            teacher_targets([tmp_path / name], images, [2], fill=True, report=print)
    with pytest.raises(InputError, match="No such file"):
        teacher_targets([tmp_path / "none.onnx"], images, [2], fill=True, report=print)


def test_teachers_have_the_runs_scales_and_one_each(tmp_path, images):
    two = onnx_file(tmp_path / "t.onnx")
    with pytest.raises(InputError, match="a teacher for x2; the run trains x3, x4"):
        teacher_targets([two], images, [3, 4], fill=True, report=print)
    with pytest.raises(InputError, match="another teacher for x2 already"):
        teacher_targets([two, two], images, [2], fill=True, report=print)


def test_a_checkpoint_of_ours_teaches_all_scales_it_has(tmp_path, images):
    torch.manual_seed(0)
    model = build(PlainNetConfig(width=4, depth=1, scales=(2, 3))).eval()
    save_checkpoint(model, tmp_path / "t.safetensors")
    targets = teacher_targets([tmp_path / "t.safetensors"], images, [2, 3, 4], fill=True, report=print)
    assert sorted(targets) == [2, 3]
    for scale, each in targets.items():
        low, output = each[1]
        np.testing.assert_array_equal(output, reference(model, np.array(low), scale))
    with pytest.raises(InputError, match="none of the scales that are trained for"):
        teacher_targets([tmp_path / "t.safetensors"], images, [4], fill=True, report=print)


def test_outputs_that_are_there_need_no_teacher_that_can_be_run(tmp_path, images):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(b"another program's")
    fill_targets(images, 2, file_sha256(path), repeated, report=print)
    targets = teacher_targets([path], images, [2, 3], fill=True, report=print)
    assert list(targets) == [2]


def test_a_changed_teacher_or_image_has_other_targets(tmp_path, images):
    path = onnx_file(tmp_path / "t.onnx")
    first = teacher_targets([path], images, [2], fill=True, report=print)[2]
    onnx_file(path, shape=("m", 3, "h", "w"))
    second = teacher_targets([path], images, [2], fill=True, report=print)[2]
    assert first.path != second.path
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((9, 9, 3), np.uint8))
    others = pack([tmp_path], images.path.parent / "other" / images.path.name, report=print)
    assert targets_path(others, 2, first.teacher_sha256).name != first.path.name


def test_patches_are_cut_from_what_the_teacher_saw_and_made(images):
    settings = settings_from({"patch": 8, "batch": 4, "scales": [2, 3]}, PRESETS["distil"], name="test")
    plain = Patches(images, settings)
    inverted = fill_targets(images, 2, "a" * 64, lambda low: 255 - repeated(low), report=print)
    taught = Patches(images, settings, teachers={2: inverted})
    seen = set()
    for step in range(12):
        without, batch = plain[step], taught[step]
        assert torch.equal(without.low, batch.low)
        assert torch.equal(without.targets[0], batch.targets[0])
        seen.update(batch.scales)
        if batch.scales == [2]:
            expected = 255 - torch.nn.functional.interpolate(batch.low, scale_factor=2, mode="nearest")
            assert torch.equal(batch.teacher_targets[0], expected)
        else:
            assert batch.teacher_targets == []
    assert seen == {2, 3}


def test_targets_for_several_scales_at_once_are_refused(images):
    settings = settings_from({"patch": 8, "joint_scales": True, "scales": [2, 3]}, PRESETS["distil"], name="test")
    with pytest.raises(InputError, match="joint_scales"):
        Patches(images, settings, teachers={2: fill_targets(images, 2, "a" * 64, repeated, report=print)})


def test_filling_goes_on_where_it_was_interrupted(images):
    calls = []

    def failing(low):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(low.shape)
        return repeated(low)

    with pytest.raises(KeyboardInterrupt):
        fill_targets(images, 2, "b" * 64, failing, report=print)
    with pytest.raises(InputError, match="No such file"):
        TeacherTargets(images, 2, "b" * 64)
    # What was written last may be incomplete, or zeros after a loss of power.
    partial = next(images.path.parent.glob(".*.partial"))
    partial.write_bytes(partial.read_bytes()[:-9] + bytes(9) + b"incomplete")
    calls = [(0, 0, 0)] * 3
    targets = fill_targets(images, 2, "b" * 64, failing, report=print)
    assert calls[3:] == [(20, 38, 3), (10, 45, 3)]
    for index in range(len(images)):
        low, output = targets[index]
        np.testing.assert_array_equal(output, repeated(low))
    assert not partial.exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "other"])
def test_damaged_targets_are_refused_and_computed_again(images, damage):
    path = fill_targets(images, 2, "c" * 64, repeated, report=print).path
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-1], "empty": b"", "other": b"x" + content[1:]}[damage])
    with pytest.raises(InputError, match=r"not this teacher|truncated or damaged"):
        TeacherTargets(images, 2, "c" * 64)
    said = []
    targets = fill_targets(images, 2, "c" * 64, repeated, report=said.append)
    assert "computed again" in said[0]
    assert path.read_bytes() == content
    np.testing.assert_array_equal(targets[0][1], repeated(targets[0][0]))


def test_filling_again_computes_nothing(images):
    fill_targets(images, 2, "d" * 64, repeated, report=print)
    fill_targets(images, 2, "d" * 64, lambda low: pytest.fail("computed again"), report=pytest.fail)


def test_a_teacher_of_another_scale_is_refused(images):
    with pytest.raises(InputError, match=r"the teacher makes \(60, 50, 3\) uint8 of an image of 20 x 16"):
        fill_targets(images, 3, "e" * 64, lambda low: np.zeros((60, 50, 3), np.uint8), report=print)
