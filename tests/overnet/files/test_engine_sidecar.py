import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnet.errors import ArtifactError
from overnet.files.engine_sidecar import (
    LARGEST_SIDE,
    Environment,
    Profile,
    Sidecar,
    StaleEngineError,
    load_engine,
    mismatches,
    read_sidecar,
    remarks,
    sidecar_path,
    sidecar_text,
)
from overnet.files.onnx_metadata import Artifact

ENGINE = b"not what TensorRT writes, but bytes all the same"
ORIN = Environment("tensorrt", "10.3.0", "Orin", "8.7", "540.4.0", "6.2 (L4T 36.4.3)", "Linux", "aarch64")
ANY_RTX = Environment("tensorrt-rtx", "1.7.1.116", None, None, None, None, "Linux", "x86_64")
DESKTOP = Environment("tensorrt-rtx", "1.7.1.116", "NVIDIA RTX 4070", "8.9", "560.35.03", None, "Windows", "x86_64")
SIDECAR = Sidecar(
    artifact=Artifact(scale=2, overscale=5, precision="fp16", weights_sha256="a" * 64, producer="overnet 1"),
    onnx_sha256="b" * 64,
    engine_sha256=hashlib.sha256(ENGINE).hexdigest(),
    engine_size_bytes=len(ENGINE),
    environment=ORIN,
    profile=Profile((16, 16), (180, 320), (360, 640), 1),
    activation_memory_bytes=535_132_160,
    multiply_accumulates_per_pixel=1_110_426.1,
    activation_bytes_per_pixel=2444.0,
    psnr_db=62.5,
    largest_difference=1,
    measured_by="ONNX Runtime 1.23 on a CPU",
)


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "overnet_x2_fp16.engine"
    path.write_bytes(ENGINE)
    sidecar_path(path).write_text(sidecar_text(SIDECAR))
    return path


def refused(engine):
    """The one line with which a sidecar is refused."""
    with pytest.raises(ArtifactError) as caught:
        read_sidecar(engine)
    message = str(caught.value)
    assert message.isprintable()
    return message


def changed(engine, *keys, to):
    """Change one field of the sidecar's file."""
    path = sidecar_path(engine)
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    if to is KeyError:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    path.write_text(json.dumps(content))


words = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40)
optional_words = st.none() | words
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
per_pixel = st.floats(0, 1e12)


@st.composite
def profiles(draw):
    heights = sorted(draw(st.lists(st.integers(1, 1000), min_size=3, max_size=3)))
    widths = sorted(draw(st.lists(st.integers(1, 1000), min_size=3, max_size=3)))
    minimum, optimum, maximum = zip(heights, widths, strict=True)
    return Profile(minimum, optimum, maximum, draw(st.integers(1, 8)))


@given(
    st.builds(
        Sidecar,
        artifact=st.builds(
            Artifact,
            scale=st.sampled_from([1, 1.5, 2, 3, 4]),
            overscale=st.integers(1, 9),
            precision=st.sampled_from(["fp32", "fp16", "bf16", "int8"]),
            weights_sha256=hashes,
            producer=words,
        ),
        onnx_sha256=hashes,
        engine_sha256=hashes,
        engine_size_bytes=st.integers(1, 1 << 34),
        environment=st.builds(
            Environment,
            runtime=st.sampled_from(["tensorrt", "tensorrt-rtx"]),
            runtime_version=st.sampled_from(["10.3.0", "11.4.0.106", "1.7.1.116", "10.16.2"]),
            device_name=optional_words,
            compute_capability=st.none() | st.sampled_from(["7.5", "8.7", "12.0"]),
            driver=optional_words,
            jetpack=optional_words,
            operating_system=words,
            architecture=words,
            multiprocessors=st.none() | st.integers(1, 200),
            memory_bytes=st.none() | st.integers(1, 1 << 40),
        ),
        profile=profiles(),
        activation_memory_bytes=st.none() | st.integers(0, 1 << 40),
        multiply_accumulates_per_pixel=per_pixel,
        activation_bytes_per_pixel=per_pixel,
        psnr_db=st.none() | st.floats(0, 200),
        largest_difference=st.integers(0, 255),
        measured_by=words,
    )
)
def test_round_trip(tmp_path_factory, sidecar):
    path = tmp_path_factory.getbasetemp() / "round-trip.engine"
    sidecar_path(path).write_text(sidecar_text(sidecar))
    assert read_sidecar(path) == sidecar


def test_text_is_sorted_and_states_its_format():
    text = sidecar_text(SIDECAR)
    content = json.loads(text)
    assert content["format"] == 1
    assert list(content) == sorted(content) and text.endswith("}\n")


def test_what_could_not_be_read_back_is_not_written():
    with pytest.raises(ArtifactError, match=r"environment\.device_name"):
        sidecar_text(replace(SIDECAR, environment=replace(ORIN, device_name="two\nlines")))
    with pytest.raises(ArtifactError, match="activation_bytes_per_pixel is not a finite number"):
        sidecar_text(replace(SIDECAR, activation_bytes_per_pixel=float("nan")))


NUMBERS = ("multiply_accumulates_per_pixel", "activation_bytes_per_pixel", "psnr_db", "activation_memory_bytes")


@pytest.mark.parametrize("value", ["2", True, [], {}, -1, 1e300, float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("key", [*NUMBERS, "largest_difference", "engine_size_bytes"])
def test_hostile_numbers(engine, key, value):
    changed(engine, key, to=value)
    message = refused(engine)
    assert f"{key} is" in message


@pytest.mark.parametrize("value", [None, 3, "", "x" * 300, "two\nlines", "\x1b[31mred", ["Orin"], "ü"])
@pytest.mark.parametrize(
    "keys", [("measured_by",), ("environment", "operating_system"), ("environment", "architecture"), ("onnx_sha256",)]
)
def test_hostile_text(engine, keys, value):
    changed(engine, *keys, to=value)
    assert ".".join(keys) in refused(engine)


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("engine_sha256",), "A" * 64, "engine_sha256 does not have the expected form"),
        (("environment", "runtime"), "openvino", "environment.runtime is not one of tensorrt, tensorrt-rtx"),
        (("environment", "runtime_version"), "10", "environment.runtime_version does not have"),
        (("environment", "compute_capability"), "87", "environment.compute_capability does not have"),
        (("environment",), None, "environment is not an object"),
        (("environment", "extra"), 1, "environment.extra is unknown"),
        (("extra\x1b[31m",), 1, "extra?[31m is unknown"),
        (("profile", "minimum"), [16], "profile.minimum is not a list of 2"),
        (("profile", "minimum"), [16, 16, 3], "profile.minimum is not a list of 2"),
        (("profile", "minimum"), [16, True], "profile.minimum[1] is not a whole number"),
        (("profile", "minimum"), [16, 0], "profile.minimum[1] is out of range"),
        (("profile", "maximum"), [LARGEST_SIDE + 1, 16], "profile.maximum[0] is out of range"),
        (("profile", "maximum"), [170, 640], "profile has heights of 16, 180 and 170"),
        (("profile", "maximum"), [8000, 8000], "profile takes 64000000 pixels"),
        (("profile", "batch"), 0, "profile.batch is out of range"),
        (("profile", "batch"), 10**30, "profile.batch is out of range"),
        (("artifact", "overnet.scale"), "nan", "damaged"),
        (("artifact", "overnet.scale"), 2, "artifact.overnet.scale is not text"),
        (("artifact", "overnet.scale"), KeyError, "artifact.overnet.scale is missing"),
        (("artifact",), [], "artifact is not an object"),
        (("format",), 2, "newer overnet (format 2)"),
        (("format",), "1", "format is not a whole number"),
        *[((key,), KeyError, f"{key} is missing") for key in json.loads(sidecar_text(SIDECAR))],
        *[
            (("environment", key), KeyError, f"environment.{key} is missing")
            for key in json.loads(sidecar_text(SIDECAR))["environment"]
            if key not in ("multiprocessors", "memory_bytes")  # which earlier versions did not state
        ],
        (("environment", "multiprocessors"), 0, "environment.multiprocessors is out of range"),
        (("environment", "memory_bytes"), "64 GB", "environment.memory_bytes is not a whole number"),
    ],
)
def test_damaged_fields(engine, keys, value, expected):
    changed(engine, *keys, to=value)
    assert expected in refused(engine)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"format": 1, "format": 1}', "a field is there twice"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b" " * 70_000, "larger than 65536 bytes"),
    ],
)
def test_no_sidecar_of_ours(engine, content, expected):
    sidecar_path(engine).write_bytes(content)
    assert expected in refused(engine)


def test_a_missing_sidecar(engine):
    sidecar_path(engine).unlink()
    assert "no overnet_x2_fp16.engine.json beside it" in refused(engine)


def test_a_folder_for_a_sidecar(engine):
    sidecar_path(engine).unlink()
    sidecar_path(engine).mkdir()
    assert "Is a directory" in refused(engine)


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (ORIN, []),
        (replace(ORIN, runtime_version="10.16.2"), ["TensorRT version: engine 10.3.0, here 10.16.2"]),
        (replace(ORIN, device_name="Thor"), ["device: engine Orin, here Thor"]),
        (replace(ORIN, compute_capability="11.0"), ["compute capability: engine 8.7, here 11.0"]),
        (replace(ORIN, architecture="x86_64"), ["architecture: engine aarch64, here x86_64"]),
        (replace(ORIN, operating_system="Windows"), ["operating system: engine Linux, here Windows"]),
        (replace(ORIN, driver="580.1", jetpack="7.2"), []),
        (replace(ORIN, runtime="tensorrt-rtx"), ["runtime: engine TensorRT, here TensorRT-RTX"]),
        (
            replace(ORIN, runtime_version="11.4.0.106", device_name=None, compute_capability=None),
            [
                "TensorRT version: engine 10.3.0, here 11.4.0.106",
                "compute capability: engine 8.7, here unknown",
                "device: engine Orin, here unknown",
            ],
        ),
    ],
)
def test_what_makes_an_engine_of_tensorrt_unusable(here, expected):
    assert mismatches(SIDECAR, here) == expected


@pytest.mark.parametrize(
    ("built", "here", "expected"),
    [
        (ANY_RTX, DESKTOP, []),
        (ANY_RTX, replace(DESKTOP, compute_capability="12.0"), []),
        (ANY_RTX, replace(DESKTOP, compute_capability=None, device_name=None), []),
        (ANY_RTX, replace(DESKTOP, compute_capability="7.5"), ["compute capability: engine 8.0 or later, here 7.5"]),
        (
            ANY_RTX,
            replace(DESKTOP, runtime_version="1.6.0"),
            ["TensorRT-RTX version: engine 1.7.1.116, here 1.6.0"],
        ),
        (ANY_RTX, replace(DESKTOP, architecture="aarch64"), ["architecture: engine x86_64, here aarch64"]),
        (replace(ANY_RTX, compute_capability="8.9"), DESKTOP, []),
        (replace(ANY_RTX, compute_capability="7.5"), DESKTOP, ["compute capability: engine 7.5, here 8.9"]),
    ],
)
def test_what_makes_an_engine_of_tensorrt_rtx_unusable(built, here, expected):
    assert mismatches(replace(SIDECAR, environment=built), here) == expected


AGX, NANO = (
    replace(ORIN, multiprocessors=count, memory_bytes=memory)
    for count, memory in ((16, 65_890_000_000), (8, 7_990_000_000))
)


@pytest.mark.parametrize(
    ("built", "here", "expected"),
    [
        (AGX, NANO, ["multiprocessors: engine 16, here 8", "GPU memory: engine 65.9 GB, here 8.0 GB"]),
        (NANO, AGX, ["multiprocessors: engine 8, here 16", "GPU memory: engine 8.0 GB, here 65.9 GB"]),
        (AGX, replace(AGX, memory_bytes=31_000_000_000), ["GPU memory: engine 65.9 GB, here 31.0 GB"]),
        # What another JetPack reserves of the memory does not make another board.
        (NANO, replace(NANO, memory_bytes=7_400_000_000, jetpack="7.2"), []),
        (NANO, ORIN, ["multiprocessors: engine 8, here unknown", "GPU memory: engine 8.0 GB, here unknown"]),
        # Sidecars of earlier versions.
        (ORIN, NANO, []),
    ],
)
def test_boards_of_one_name_are_told_apart(built, here, expected):
    """Every Jetson Orin is called Orin, with compute capability 8.7."""
    assert mismatches(replace(SIDECAR, environment=built), here) == expected


def test_remarks():
    assert remarks(SIDECAR, replace(ORIN, driver="540.9")) == []
    assert remarks(SIDECAR, replace(ORIN, driver="540.9"), exactly=True) == ["driver: engine 540.4.0, here 540.9"]
    assert remarks(SIDECAR, replace(ORIN, driver="580.1", jetpack="7.2 (L4T 39.2)")) == [
        "driver: engine 540, here 580",
        "JetPack: engine 6.2 (L4T 36.4.3), here 7.2 (L4T 39.2)",
    ]
    assert remarks(replace(SIDECAR, environment=ANY_RTX), DESKTOP) == []


def test_an_engine_that_fits(engine):
    assert load_engine(engine, ORIN) == (ENGINE, SIDECAR)


def test_an_engine_for_another_machine(engine):
    with pytest.raises(StaleEngineError, match=r"10\.3\.0, here 11\.4\.0.*: engine Orin, here Thor") as caught:
        load_engine(engine, replace(ORIN, runtime_version="11.4.0", device_name="Thor"))
    assert len(caught.value.mismatches) == 2 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "expected"),
    [(ENGINE[:-1], "its sidecar is for 48"), (ENGINE[:-1] + b"!", "its sha256 is another"), (None, "No such file")],
)
def test_an_engine_that_is_another(engine, content, expected):
    engine.unlink()
    if content is not None:
        engine.write_bytes(content)
    # Even on the wrong machine: what is damaged is not to be built again without a word.
    with pytest.raises(ArtifactError, match=expected) as caught:
        load_engine(engine, replace(ORIN, device_name="Thor"))
    assert not isinstance(caught.value, StaleEngineError)


def test_an_engine_without_a_sidecar(engine):
    sidecar_path(engine).unlink()
    with pytest.raises(ArtifactError, match=r"no .*\.engine\.json beside it"):
        load_engine(engine, ORIN)


def test_reading_needs_no_torch(engine):
    import subprocess
    import sys

    program = (
        "import sys; import overnet.system.environment, overnet.files.engine_sidecar; print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (Profile((16, 16), (180, 320), (360, 640)), "16x16:180x320:360x640"),
        (Profile((64, 96), (64, 96), (64, 96), 4), "64x96, batch 4"),
    ],
)
def test_profiles_as_text(profile, expected):
    assert str(profile) == expected
