"""Every name of TensorRT's bindings that the runtime uses, against the bindings of the oldest and the newest version.

The reading itself is tested in tests/export/engine/test_trt_names.py.
"""

import json
from pathlib import Path

import pytest

from overnet.runtime.backends.trt import loaded_engine as trt_engine
from tests.conftest import SHARED, needs_shared
from tests.export.engine.test_trt_names import BOTH, RTX, TENSORRT, Use, Uses, missing

SOURCE = Path(trt_engine.__file__).read_text()


def test_every_use_can_be_read():
    uses = Uses(SOURCE)
    assert uses.problems == []
    assert {
        Use("Runtime", "deserialize_cuda_engine", BOTH),
        Use("ICudaEngine", "create_execution_context", BOTH),
        Use("IExecutionContext", "execute_async_v3", BOTH),
        Use("IRuntimeConfig", "cuda_graph_strategy", frozenset({RTX})),
    } <= uses.found


@needs_shared
@pytest.mark.parametrize(
    ("version", "library"),
    [("tensorrt 10.3.0", TENSORRT), ("tensorrt 11.4.0", TENSORRT), ("tensorrt_rtx 1.7.1", RTX)],
)
def test_every_version_has_the_names(version, library):
    recorded = json.loads((SHARED / "reference" / "trt-api-names.json").read_text())
    assert missing(Uses(SOURCE), recorded[version], library) == []


def test_the_library_that_is_here_has_the_names():
    trt = pytest.importorskip("tensorrt_rtx")
    names = {name: dir(getattr(trt, name)) for name in dir(trt)}
    assert missing(Uses(SOURCE), names, RTX) == []
