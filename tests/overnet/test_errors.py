import pickle
import re

import av
import cv2
import pytest

from overnet.errors import OverNetError, line_for, naming_failures, require
from tests.support.commands import run_command


def test_ctrl_c_while_a_compiled_module_is_loaded(tmp_path, monkeypatch):
    """Such a module reports it as an ImportError, which is not to be taken for a missing library."""
    (tmp_path / "half_loaded.py").write_text(
        "try:\n    raise KeyboardInterrupt\n"
        "except KeyboardInterrupt as error:\n    raise ImportError('initialization failed') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        require("half_loaded", extra="", purpose="testing")


def failing(error):
    try:
        raise error
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(5, "Input/output error", "a\nb.png"), r"a\?b.png: Input/output error"),
        (OSError(28, "No space left on device"), "cannot read or write: No space left on device"),
        (OSError(2, "No such file or directory", "c.png"), "c.png: No such file or directory"),
        (MemoryError(), "out of memory"),
        (MemoryError("9 GiB\n"), r"out of memory \(9 GiB\)"),
        (av.error.ExternalError(1, "no\nluck"), r"FFmpeg failed: \[Errno 1\] no luck"),
        (cv2.error("OpenCV: -215"), "OpenCV failed: OpenCV: -215"),
        (pickle.UnpicklingError("bad"), "unpickling failed: bad"),
        (EOFError(), "tests failed: EOFError"),  # the caller's module, which in a run is a library
    ],
)
def test_errors_of_libraries_become_a_line(error, line):
    assert re.fullmatch(line, line_for(failing(error)))
    expected = line if line.startswith("c.png: ") else f"c.png: {line}"
    with pytest.raises(OverNetError, match=f"^{expected}$"), naming_failures("c.png"):
        raise error


@pytest.mark.parametrize("error", [TypeError("x"), AssertionError(), KeyError(1), ValueError("y"), BrokenPipeError()])
def test_defects_and_readers_that_are_gone_stay_as_they_are(error):
    with pytest.raises(type(error)), naming_failures("c.png"):
        raise error


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("photo.png", "--model", "realtme"), "realtme: no such file; did you mean realtime?"),
        (("photo.png", "--backend", "opnvino"), "tensorrt-rtx, openvino, onnxruntime, torch; did you mean openvino?"),
        (("foto.png",), "foto.png: no such file; did you mean photo.png?"),
        (("quite-another.png",), "quite-another.png: no such file"),
        (("in/photo.png",), "in/photo.png: no such file"),
    ],
)
def test_a_slip_is_answered_by_the_near_name(tmp_path, image, arguments, asked):
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    result = run_command(*arguments, "-o", "out.png", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"overnet: {asked}\n" or result.stderr.endswith(f", {asked}\n")
