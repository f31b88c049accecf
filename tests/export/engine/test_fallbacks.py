"""What a build falls back on where TensorRT refuses: weak typing before version 10.12, and smaller images.

The library is a stand-in; tests/export/engine/test_trt_names.py looks up every name that is used of the real ones.
"""

from contextlib import contextmanager
from unittest import mock

import pytest

from overnet.errors import OverNetError
from overnet.export import exporter
from overnet.export.engine import build as trt_build
from overnet.export.engine import trt_api
from overnet.export.engine.build import BuildError, BuiltEngine, TooLargeError, build_engine
from overnet.export.engine.profile import make_profile
from overnet.export.engine.trt_api import Build, Library, Tensor
from overnet.export.exporter import export
from overnet.export.options import EngineOptions, ExportOptions
from overnet.files.engine_sidecar import Environment
from overnet.files.onnx_metadata import INPUT_NAME, OUTPUT_NAME
from overnet.system.cuda_device import CudaDevice

HERE = Environment("tensorrt", "10.3.0", "Orin", "8.7", None, None, "Linux", "aarch64")
TINY = make_profile("32x32")


class StandIn:
    """A library whose builds answer as `answers` say, by precision of the weak typing; None is strong typing."""

    is_rtx = False

    def __init__(self, answers, *, has_weak_typing=True):
        self.answers, self.has_weak_typing, self.tried = answers, has_weak_typing, []
        self._listener = None

    @contextmanager
    def listening(self, listener):
        self._listener = listener
        yield

    def start(self, weak_precision=None):
        self.tried.append(weak_precision)
        answer = self.answers[weak_precision]
        image = (-1, -1, -1, 3)
        started = mock.Mock(inputs=[Tensor(INPUT_NAME, "UINT8", image)], outputs=[Tensor(OUTPUT_NAME, "UINT8", image)])
        started.parse.return_value = [answer[1]] if answer[0] == "unread" else []

        def run(watch):
            if answer[0] == "stopped":
                watch.stop()
            if answer[0] in ("failed", "stopped"):
                self._listener("error", answer[1])
                return None
            return b"engine"

        started.run = run
        return started


@pytest.fixture
def built(monkeypatch):
    def build(library, precision="fp16"):
        monkeypatch.setattr(trt_build, "Library", lambda target: library)
        monkeypatch.setattr(trt_build, "current_environment", lambda target: HERE)
        monkeypatch.setattr(trt_build, "with_means", lambda model: model)
        monkeypatch.setattr(trt_build, "cuda_device", lambda: None)
        return build_engine(b"graph", TINY, target="tensorrt", precision=precision)

    return build


NO_KERNEL = "Error Code 9: no kernel for Half in node {1}"


@pytest.mark.parametrize("failing", [("failed", NO_KERNEL), ("unread", "In node 3 (Cast): type Half [INVALID_GRAPH]")])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp32"])
def test_weak_typing_where_strong_typing_fails(built, failing, precision):
    library = StandIn({None: failing, precision: ("built", "")})
    engine = built(library, precision)
    assert engine.serialized == b"engine" and library.tried == [None, precision]
    (note,) = engine.notes
    assert note.startswith("built with weak typing, as the strongly typed network failed (TensorRT cannot ")


def test_strong_typing_is_tried_first(built):
    library = StandIn({None: ("built", "")})
    assert built(library).notes == () and library.tried == [None]


def test_the_first_error_is_told_where_both_fail(built):
    library = StandIn({None: ("failed", NO_KERNEL), "fp16": ("failed", "something else")})
    with pytest.raises(BuildError, match="no kernel for Half"):
        built(library)
    assert library.tried == [None, "fp16"]


def test_versions_with_complete_strong_typing_have_no_other(built):
    library = StandIn({None: ("failed", NO_KERNEL)}, has_weak_typing=False)
    with pytest.raises(BuildError, match="no kernel for Half"):
        built(library)
    assert library.tried == [None]


def test_a_build_that_is_stopped_is_not_begun_again(built):
    library = StandIn({None: ("stopped", "cancelled")})
    with pytest.raises(BuildError):
        built(library)
    assert library.tried == [None]


@pytest.mark.parametrize(
    ("target", "version", "expected"),
    [
        ("tensorrt", "10.3.0", True),
        ("tensorrt", "10.11.0.33", True),
        ("tensorrt", "10.12.0.36", False),
        ("tensorrt", "11.4.0.106", False),
        ("tensorrt-rtx", "1.7.1.116", False),
    ],
)
def test_which_versions_have_weak_typing(monkeypatch, target, version, expected):
    monkeypatch.setattr(trt_api, "bindings", lambda *_, **__: mock.Mock(__version__=version))
    monkeypatch.setattr(trt_api, "tensorrt_logger", lambda trt: None)
    assert Library(target).has_weak_typing is expected


@pytest.mark.parametrize(
    ("weak", "network", "flags"),
    [(None, 2, []), ("fp32", 0, []), ("fp16", 0, ["FP16"]), ("bf16", 0, ["BF16"]), ("int8", 0, ["INT8", "FP16"])],
)
def test_the_flags_of_a_weakly_typed_network(weak, network, flags):
    trt, builder = mock.Mock(), mock.Mock()
    trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    for name in ("FP16", "BF16", "INT8"):
        setattr(trt.BuilderFlag, name, name)
    Build(trt, None, builder, is_rtx=False, weak_precision=weak)
    builder.create_network.assert_called_once_with(network)
    config = builder.create_builder_config.return_value
    assert [call.args[0] for call in config.set_flag.call_args_list] == flags


@pytest.mark.parametrize(
    "message",
    [
        "Error Code 4: Internal Error (conv1: tensor volume exceeds (2^31)-1, dimensions are [1,384,2160,4096])",
        "Error Code 1: Cuda Runtime (out of memory)",
        "Error Code 2: OutOfMemory (Requested size was 5435817984 bytes.)",
    ],
)
def test_errors_of_the_size(built, message):
    """No weak typing is tried then: the images are too large for it as well."""
    library = StandIn({None: ("failed", message)})
    with pytest.raises(TooLargeError):
        built(library)
    assert library.tried == [None]


def test_a_kernel_that_is_missing_may_be_one_of_the_types_or_of_the_size(built):
    message = "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[expand]}.)"
    library = StandIn({None: ("failed", message), "fp16": ("built", "")})
    assert built(library).serialized == b"engine"
    library = StandIn({None: ("failed", message), "fp16": ("failed", message)})
    with pytest.raises(TooLargeError, match="Could not find any implementation"):
        built(library)
    assert library.tried == [None, "fp16"]


@pytest.fixture
def tried(monkeypatch):
    """Exports whose builds fail for more than 20,000 pixels; returns the profiles and workspaces that were tried."""
    tried = []

    def build(content, profile, *, workspace_bytes, **_):
        tried.append((str(profile), workspace_bytes))
        if profile.pixels > 20_000:
            raise TooLargeError("TensorRT cannot build the engine: too large")
        return BuiltEngine(b"engine", 1000, HERE, ())

    monkeypatch.setattr(exporter, "build_engine", build)
    monkeypatch.setattr(exporter, "check_builder", lambda target: None)
    monkeypatch.setattr(exporter, "check_engine", lambda *_, **__: "nothing is run here")
    monkeypatch.setattr(exporter, "available_device_memory", lambda: 4_000_000_000)
    return tried


def exported(small_models, folder, **options):
    engine = EngineOptions("tensorrt", make_profile("16x16:90x160:180x320", 2), **options)
    (file,) = export(small_models / "small_x2.onnx", folder, ExportOptions(engine=engine))
    return file


def test_smaller_images_where_a_build_says_so(small_models, tmp_path, tried):
    file = exported(small_models, tmp_path)
    assert [profile for profile, _ in tried] == [
        "16x16:90x160:180x320, batch 2",
        "16x16:90x160:180x320",
        "16x16:90x160:112x224",
        "16x16:90x128:96x128",
    ][: len(tried)]
    assert file.engine.sidecar.profile.pixels <= 20_000
    assert len(file.notes) == len(tried) - 1
    assert all("TensorRT cannot build the engine: too large: 16x16" in note for note in file.notes)
    assert file.engine.not_run == "small_x2_fp16.engine was not run: nothing is run here"


def test_a_workspace_that_was_given_is_kept(small_models, tmp_path, tried):
    with pytest.raises(OverNetError, match="too large"):
        exported(small_models, tmp_path, workspace_bytes=1 << 20)
    assert tried == [("16x16:90x160:180x320, batch 2", 1 << 20)]


@pytest.mark.parametrize(("shares_memory", "expected"), [(True, 2_000_000_000), (False, None)])
def test_the_workspace_is_limited_where_the_memory_is_the_systems_too(
    small_models, tmp_path, tried, monkeypatch, shares_memory, expected
):
    """On a Jetson, automatic builds too: the builder may take as much as the plan counts with."""
    device = CudaDevice("Orin", "8.7", shares_memory)
    monkeypatch.setattr(exporter, "cuda_device", lambda: device)
    exported(small_models, tmp_path)
    assert {workspace for _, workspace in tried} == {expected}
