import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnet.errors import ArtifactError
from overnet.files.onnx_metadata import (
    Artifact,
    Foreign,
    exact_scale,
    is_foreign,
    read_artifact,
    read_onnx_metadata,
    scaled_size,
)
from overnet.weights import bundled_folder

ARTIFACT = Artifact(scale=2, overscale=5, precision="fp32", weights_sha256="a" * 64, producer="overnet 1")


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(1, 8))
def test_scaled_size_is_the_nearest_whole_number(height, width, scale):
    rows, columns = scaled_size(height, width, scale)
    assert abs(rows - height * scale) < 0.5 + 1e-8 and abs(columns - width * scale) < 0.5 + 1e-8


def test_scaled_size_rounds_halves_up():
    assert scaled_size(15, 17, 1.5) == (23, 26)
    # In binary, 100 x 1.005 is a little less than 100.5.
    assert scaled_size(100, 300, 1.005) == (101, 302)


def test_scales_are_exact_fractions():
    assert exact_scale(2.3) == Fraction(23, 10)
    assert exact_scale(4.0) == 4


def test_metadata_round_trip():
    assert Artifact.from_metadata({**ARTIFACT.to_metadata(), "other": "x"}, name="f") == ARTIFACT


@pytest.mark.parametrize(
    ("foreign", "reach", "has_means"),
    [
        (None, None, True),
        (None, 7, False),
        (Foreign("theirs.onnx", 40, 8, (720, 1280), 1234.5), 40, False),
        (Foreign("theirs.onnx", 12), None, True),
        (Foreign("theirs.onnx"), None, False),
    ],
)
def test_metadata_of_other_programs_networks(foreign, reach, has_means):
    artifact = replace(ARTIFACT, foreign=foreign, reach=reach)
    assert Artifact.from_metadata(artifact.to_metadata(), name="f") == artifact
    assert artifact.has_means == has_means


@pytest.mark.parametrize(
    "change",
    [{"margin": "-1"}, {"margin": "9999"}, {"align": "0"}, {"align": "x"}, {"largest": "0x64"}, {"largest": "64"}],
)
def test_damaged_metadata_of_other_programs_networks(change):
    metadata = replace(ARTIFACT, foreign=Foreign("theirs.onnx", 12)).to_metadata()
    with pytest.raises(ArtifactError, match="damaged"):
        Artifact.from_metadata({**metadata, **{f"overnet.{key}": value for key, value in change.items()}}, name="f")


def test_files_of_other_programs_state_no_scale(tmp_path, small_models):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(small_models / "small_x2.onnx")
    assert not is_foreign(small_models / "small_x2.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "theirs.onnx")
    assert is_foreign(tmp_path / "theirs.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    assert not is_foreign(tmp_path / "damaged.onnx") and not is_foreign(tmp_path / "missing.onnx")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"overnet.scale": None}, "states no scale"),
        ({"overnet.scale": "two"}, "damaged"),
        ({"overnet.scale": "nan"}, "damaged"),
        ({"overnet.scale": "1e9"}, "damaged"),
        ({"overnet.overscale": None}, "damaged"),
        ({"overnet.weights_sha256": "../../etc"}, "damaged"),
        ({"overnet.format": "99"}, "newer"),
    ],
)
def test_damaged_metadata(change, expected):
    metadata = {**ARTIFACT.to_metadata(), **change}
    with pytest.raises(ArtifactError, match=expected):
        Artifact.from_metadata({key: value for key, value in metadata.items() if value is not None}, name="f")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bundled_files_describe_themselves(scale):
    artifact = read_artifact(bundled_folder() / f"overnet_x{scale}.onnx")
    assert (artifact.scale, artifact.overscale, artifact.precision) == (scale, 5, "fp32")


def test_metadata_is_what_onnx_itself_reads(small_models):
    onnx = pytest.importorskip("onnx")
    path = small_models / "small_x2.onnx"
    expected = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert read_onnx_metadata(path) == expected


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_files(tmp_path, share):
    content = (bundled_folder() / "overnet_x2.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArtifactError, match=r"cut\.onnx"):
        read_artifact(path)


def test_what_is_no_message_at_all(tmp_path):
    path = tmp_path / "zeros.onnx"
    path.write_bytes(bytes(1000))
    with pytest.raises(ArtifactError, match="a field without a number"):
        read_artifact(path)


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        read_artifact(tmp_path / "none.onnx")


@given(content=st.binary(max_size=200))
def test_hostile_bytes_never_do_more_than_be_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hostile.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        read_artifact(path)


@given(position=st.integers(0, 3000), value=st.integers(0, 255), from_end=st.booleans())
def test_flipped_bytes_are_read_or_refused(tmp_path_factory, position, value, from_end):
    content = bytearray((bundled_folder() / "overnet_x2.onnx").read_bytes())
    content[-1 - position if from_end else position] = value
    path = tmp_path_factory.getbasetemp() / "flipped.onnx"
    path.write_bytes(content)
    try:
        assert math.isfinite(read_artifact(path).scale)
    except ArtifactError as error:
        assert "\n" not in str(error)
