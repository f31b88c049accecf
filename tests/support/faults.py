"""Failures of other libraries, injected into a command at any of the calls that this project's code makes."""

import errno
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

_OURS = tuple(f"{ROOT / folder}/" for folder in ("overnet", "runtime", "export", "benchmarks"))
# Functions of the operating system, and of files, that report errors; others of these modules only compute.
_SYSTEM_CALLS = frozenset({
    *("stat", "lstat", "exists", "is_file", "is_dir", "samefile", "absolute", "cwd", "getcwd", "access", "statvfs"),
    *("open", "read", "readline", "read_bytes", "read_text", "seek", "tell", "iterdir", "glob", "rglob", "walk"),
    *("scandir", "listdir", "write", "write_bytes", "write_text", "flush", "fsync", "close", "touch"),
    *("mkdir", "unlink", "rename", "replace", "link"),
})  # fmt: skip
_SYSTEM = {"builtins", "io", "_io", "os", "posix", "pathlib", "shutil", "tempfile", "mmap"}
# Calls that cannot fail, or are not of interest.
_NEVER = {"set_level", "setLogLevel", "getLogLevel", "setNumThreads", "set_num_threads", "device", "no_grad"}


def _errors():
    """Return by library what its calls may raise."""
    import av
    import cv2

    errors = {
        "system": [
            *(OSError(number, "injected") for number in (errno.ENOSPC, errno.EACCES, errno.EIO, errno.EMFILE)),
            FileNotFoundError(errno.ENOENT, "injected"),
            MemoryError(),
        ],
        "av": [
            av.error.InvalidDataError(errno.EINVAL, "injected"),
            av.error.ExternalError(1, "injected"),
            av.error.OSError(errno.EIO, "injected"),
            av.error.ArgumentError(errno.EINVAL, "injected"),
            av.error.MemoryError(errno.ENOMEM, "injected"),
        ],
        "cv2": [cv2.error("OpenCV(4) injected"), MemoryError()],
        "numpy": [MemoryError("injected")],
        "openvino": [RuntimeError("injected\nin OpenVINO"), MemoryError()],
        "onnxruntime": [RuntimeError("injected")],
        "onnx": [RuntimeError("injected")],
        "psutil": [OSError(errno.EIO, "injected")],
    }
    if "onnxruntime" in sys.modules:
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph

        errors["onnxruntime"] += [Fail("injected"), InvalidGraph("injected")]
    if "onnx" in sys.modules:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        errors["onnx"] += [DecodeError("injected"), onnx.checker.ValidationError("injected")]
    if "torch" in sys.modules:
        import pickle

        import torch

        errors["torch"] = [RuntimeError("injected"), torch.cuda.OutOfMemoryError("injected"), MemoryError()]
        errors["torch.load"] = [pickle.UnpicklingError("injected"), EOFError(), RuntimeError("injected")]
    if "safetensors" in sys.modules:
        import safetensors

        errors["safetensors"] = [safetensors.SafetensorError("injected"), OSError(errno.EIO, "injected")]
    return errors


@cache
def _is_ours(file):
    return file.startswith(_OURS)


def _library(frame, event, arg):
    """Return the library and the name of a function that is called from this project's code; None for others."""
    # This runs at each call of any library: what rules out most of them comes first.
    caller = frame if event == "c_call" else frame.f_back if event == "call" else None
    if caller is None or not _is_ours(caller.f_code.co_filename):
        return None
    if event == "c_call":
        name, module = arg.__name__, arg.__module__ or type(getattr(arg, "__self__", None)).__module__
    else:
        name, module = frame.f_code.co_name, frame.f_globals.get("__name__", "")
    if name in _NEVER or name.startswith(("__", "<module>")):
        return None
    package = module.partition(".")[0]
    if package in _SYSTEM:
        return ("system", name) if name in _SYSTEM_CALLS else None
    return ("torch.load" if (package, name) == ("torch", "load") else package), name


class Faults:
    """Counts the calls of this project's code into other libraries, and lets one of them fail.

    Args:
        site: where: the library, the function's name, and the file and line that call it; None to count only.
        number: which call from there, counted from 1.
        error: what it raises.

    Attributes:
        calls: the number of calls by site.
        happened: whether the call was reached.
    """

    def __init__(self, site=None, number=0, error=None):
        self.calls = Counter()
        self.happened = False
        self._site, self._number, self._error = site, number, error
        self._known = set(_errors())

    def _note(self, frame, event, arg):
        called = _library(frame, event, arg)
        if called is None or called[0] not in self._known:
            return
        caller = frame if event == "c_call" else frame.f_back
        site = (*called, str(Path(caller.f_code.co_filename).relative_to(ROOT)), caller.f_lineno)
        self.calls[site] += 1
        if site == self._site and self.calls[site] == self._number:
            self.happened = True
            path = frame.f_locals.get("self") if event == "call" else None
            if isinstance(self._error, OSError) and isinstance(path, Path):
                self._error.filename = str(path)  # as the operating system's errors have it
            raise self._error

    @contextmanager
    def active(self):
        """Watch this thread and those that start meanwhile."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        try:
            yield self
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def errors_of(library):
    """Return what the calls of a library may raise: one of each kind."""
    return _errors()[library]
