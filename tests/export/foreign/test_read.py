"""Files of other programs that cannot be converted, each refused in one line that names the node and the reason."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from overnet.errors import ArtifactError, InputError
from overnet.export.foreign.probe import find_convention
from overnet.export.foreign.read import read_foreign
from overnet.export.options import ForeignOptions


def nearest(times=2, channels=3):
    """Nodes and constants that enlarge an image by its nearest pixels."""
    factors = numpy_helper.from_array(np.array([1, 1, times, times], np.float32), "factors")
    return [helper.make_node("Resize", ["x", "", "factors"], ["y"], name="grow", mode="nearest")], [factors]


def write(
    path,
    nodes=None,
    constants=(),
    *,
    shape=("n", 3, "h", "w"),
    kind=TensorProto.FLOAT,
    result=None,
    opset=17,
    domains=(),
):
    """Write a model with the input x and the output y; without nodes one that enlarges by the nearest pixels."""
    if nodes is None:
        nodes, constants = nearest()
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    extra = {name for node in nodes for name in node.input if name.startswith("other")}
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in sorted(extra)]
    graph = helper.make_graph(
        nodes, "theirs", inputs, [helper.make_tensor_value_info("y", result or kind, None)], list(constants)
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def identity_like(operator, **attributes):
    return [helper.make_node(operator, ["x"], ["y"], name="odd", **attributes)]


def branch():
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "body", [], [value])
    condition = numpy_helper.from_array(np.array(True), "condition")
    node = helper.make_node("If", ["condition"], ["y"], name="odd", then_branch=body, else_branch=body)
    return {"nodes": [node], "constants": [condition]}


def huge():
    size = numpy_helper.from_array(np.array([1, 3, 1 << 20, 1 << 20], np.int64), "size")
    one = numpy_helper.from_array(np.float32(1), "one")
    return {
        "nodes": [helper.make_node("Expand", ["one", "size"], ["big"], name="odd"), *nearest()[0]],
        "constants": [size, one, *nearest()[1]],
    }


CASES = {
    "custom": ({"nodes": identity_like("Magic", domain="com.example"), "domains": ["com.example"]}, "odd.*custom"),
    "unknown": ({"nodes": identity_like("Magic")}, "the node odd .Magic. is no operator of ONNX's opset 17"),
    "branch": (branch(), "the node odd .If. has a branch"),
    "random": ({"nodes": identity_like("RandomNormalLike")}, "the node odd .RandomNormalLike."),
    "inputs": ({"nodes": [helper.make_node("Add", ["x", "other"], ["y"])]}, r"2 inputs \(x, other\)"),
    "frames": ({"shape": ("n", 5, 3, "h", "w")}, "n?. x 5 x 3 .* several frames at once"),
    "stacked": ({"shape": ("n", 15, "h", "w")}, "x 15 x .* several frames at once"),
    "alpha": ({"shape": ("n", 4, "h", "w")}, "x 4 x .* N x 3 or N x 1"),
    "last": ({"shape": ("n", "h", "w", 3)}, "export it with N x 3 x H x W"),
    "batch": ({"shape": (8, 3, "h", "w")}, "8 images at once"),
    "levels": ({"kind": TensorProto.UINT8}, "its input is UINT8"),
    "levels out": (
        {"nodes": identity_like("Cast", to=TensorProto.UINT8), "result": TensorProto.UINT8},
        "its output is UINT8, and FLOAT or FLOAT16",
    ),
    "no shape": ({"shape": None}, "its input is of no stated shape, and N x 3"),
    "old": ({"opset": 9}, "opset 9 is not supported, and 11 to 25 are"),
    "huge": (huge(), "the node odd .Expand. makes [0-9,]+ numbers of a small image"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_converted_is_named(tmp_path, case):
    options, message = CASES[case]
    path = write(tmp_path / "theirs.onnx", **options)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_foreign(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_truncated_and_damaged_files(tmp_path):
    path = write(tmp_path / "theirs.onnx")
    content = path.read_bytes()
    for length in (len(content) // 2, len(content) - 3):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"theirs.onnx: "):
            read_foreign(path)
    with pytest.raises(ArtifactError, match="No such file"):
        read_foreign(tmp_path / "missing.onnx")
    # A weight of another size than its numbers.
    nodes, (factors,) = nearest()
    factors.dims[0] = 1 << 40
    with pytest.raises(ArtifactError, match="the tensor factors takes more than"):
        read_foreign(write(path, nodes, [factors]))


@pytest.fixture
def with_external_data(tmp_path):
    """A function of a location that writes a file whose weights lie there; the true ones are in ``theirs.bin``."""
    (tmp_path / "folder").mkdir()
    path = write(tmp_path / "folder/theirs.onnx")
    model = onnx.load(path)
    weights = model.graph.initializer[0].raw_data
    (tmp_path / "folder/theirs.bin").write_bytes(b"before" + weights)

    def save(location, offset=6):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(len(weights)))):
            tensor.external_data.add(key=key, value=value)
        tensor.data_location = TensorProto.EXTERNAL
        path.write_bytes(model.SerializeToString())
        return path

    return save


def test_external_data_in_the_same_folder(with_external_data):
    found = read_foreign(with_external_data("theirs.bin"))
    (factors,) = found.model.graph.initializer
    assert numpy_helper.to_array(factors).tolist() == [1, 1, 2, 2]
    before = found.sha256
    data = found.path.with_name("theirs.bin")
    data.write_bytes(b"BEFORE" + data.read_bytes()[6:])
    assert read_foreign(found.path).sha256 != before


def test_external_data_elsewhere_are_refused(with_external_data, tmp_path):
    (tmp_path / "outside.bin").write_bytes(bytes(100))
    (tmp_path / "folder/link.bin").symlink_to(tmp_path / "outside.bin")
    for location in ("../outside.bin", str(tmp_path / "outside.bin"), "link.bin", "missing.bin", "", ".."):
        with pytest.raises(ArtifactError, match=r"the tensor factors lies in .*same folder"):
            read_foreign(with_external_data(location))
    for offset in (-1, 20, 1 << 60):
        with pytest.raises(ArtifactError, match=r"the tensor factors lies outside of 'theirs.bin'"):
            read_foreign(with_external_data("theirs.bin", offset))


def found_in(path, **options):
    return find_convention(read_foreign(path), ForeignOptions(**options))[1:]


def test_what_is_found_by_running_a_file(tmp_path):
    convention, line = found_in(write(tmp_path / "theirs.onnx"))
    assert (convention.scale, convention.multiple, convention.smallest, convention.fixed) == (2, 1, 1, None)
    assert line.startswith("theirs.onnx: x2, RGB, 0..1 in, ")
    with pytest.raises(InputError, match="is for scale 2, not 3"):
        found_in(tmp_path / "theirs.onnx", scale=3)


def test_a_range_and_a_multiple_are_found(tmp_path):
    # Half the size, then four times the size: odd sides come out smaller. Levels above 1 are needed.
    half, four = (
        numpy_helper.from_array(np.array([1, 1, s, s], np.float32), n) for s, n in ((0.5, "half"), (4, "four"))
    )
    bias = numpy_helper.from_array(np.full((1, 3, 1, 1), 100, np.float32), "bias")
    nodes = [
        helper.make_node("Sub", ["x", "bias"], ["a"]),
        helper.make_node("Relu", ["a"], ["up"]),
        helper.make_node("Neg", ["a"], ["minus"]),
        helper.make_node("Relu", ["minus"], ["down"]),
        helper.make_node("Sub", ["up", "down"], ["c"]),
        helper.make_node("Add", ["c", "bias"], ["d"]),
        helper.make_node("Resize", ["d", "", "half"], ["e"], mode="linear"),
        helper.make_node("Clip", ["e", "zero"], ["f"]),
        helper.make_node("Pow", ["f", "one"], ["g"]),
        helper.make_node("Resize", ["g", "", "four"], ["y"], mode="linear"),
    ]
    zero, one = (numpy_helper.from_array(np.float32(value), name) for value, name in ((0, "zero"), (1, "one")))
    convention, line = found_in(write(tmp_path / "theirs.onnx", nodes, [half, four, bias, zero, one]))
    assert (convention.scale, convention.multiple) == (2, 2)
    assert "sides padded to multiples of 2" in line
    with pytest.raises(ArtifactError, match="upscales no image with sides in multiples of 3"):
        found_in(tmp_path / "theirs.onnx", multiple=3)


def test_scales_that_are_not_whole_are_refused(tmp_path):
    """The result of a square image does not pass for that of a network which cuts off a border."""
    nodes, constants = nearest(1.5)
    for shape in (("n", 3, "h", "w"), (1, 3, 64, 64)):
        with pytest.raises(ArtifactError, match=r"it makes 1 x 3 x \d+ x \d+ of 1 x 3 x|does not upscale: it makes"):
            found_in(write(tmp_path / "theirs.onnx", nodes, constants, shape=shape))


def test_one_side_that_is_declared(tmp_path):
    convention, line = found_in(write(tmp_path / "theirs.onnx", shape=("n", 3, 64, "w")))
    assert convention.scale == 2 and "any size, though ?x64 is declared" in line


def test_results_that_are_no_images_are_refused(tmp_path):
    nodes, constants = nearest()
    nodes = [helper.make_node("Sin", ["x"], ["s"]), helper.make_node("Mul", ["s", "much"], ["z"]), *nodes]
    nodes[-1].input[0] = "z"
    much = numpy_helper.from_array(np.float32(-1e6), "much")
    path = write(tmp_path / "theirs.onnx", nodes, [*constants, much])
    with pytest.raises(ArtifactError, match="look like no enlarged image in any range"):
        found_in(path)
    assert found_in(path, input_range="0..1")[0].scale == 2


def test_what_fails_while_it_runs_names_the_node(tmp_path):
    shape = numpy_helper.from_array(np.array([1, 3, 100, 100], np.int64), "shape")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], name="flat")]
    with pytest.raises(ArtifactError, match=r"the node flat .Reshape. fails: The input tensor cannot"):
        found_in(write(tmp_path / "theirs.onnx", nodes, [shape]))
