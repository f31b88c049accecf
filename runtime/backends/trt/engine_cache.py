"""The cache of engines: each is built at first use, and used again for the same model, sizes and machine.

Each engine has a folder, whose name contains a hash of everything that the engine depends on. The folder gets its name
when it is complete.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from overnet._version import __version__
from overnet.errors import ArtifactError, BackendError, OutputError, file_errors, printable
from overnet.files.engine_sidecar import FORMAT_VERSION, Environment, load_engine
from overnet.runtime.backends.trt.engine_child import EngineRequest, build_in_child
from overnet.system.converted_model import CACHE_VARIABLE, cache_root, refuse_if_others_write, take_lock
from overnet.system.environment import current_environment
from overnet.types import Progress

# Beyond this number, the least recently used are removed.
MOST_ENGINES = 20

_LOCKS = "locks"
_BEING_BUILT = ".partial"
_TIMINGS = "timing.cache"
# Fields of an environment that an engine's folder is not named after.
_MAY_CHANGE = ("driver", "jetpack", "memory_bytes")


def cache_folder() -> Path:
    """Return the folder of the engines, which may not exist yet."""
    return cache_root() / "engines"


def cached_engine(
    request: EngineRequest,
    *,
    device: int = 0,
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] = lambda line: None,
    unusable_sha256: str = "",
) -> Path:
    """Find an engine, or build it. Of several processes that need the same one, one builds and the others wait.

    Args:
        request: the engine.
        device: the GPU, counted from 0 among those that ``CUDA_VISIBLE_DEVICES`` leaves.
        on_progress: called with the builder's progress reports.
        on_note: called with remarks for the user, one line each.
        unusable_sha256: hash of the engine that the library could not load, which is built again.

    Returns:
        The engine, with its sidecar beside it. Where the device's memory is short, it is for smaller images than
        requested; the sidecar says which.

    Raises:
        MissingDependency: the library is not installed.
        ArtifactError: the ONNX file cannot be read.
        BackendError: the engine cannot be built; the message names the builder's log.
        OutputError: the folder cannot be written.
        KeyboardInterrupt: the user stopped it; no incomplete engine is left behind.
    """
    environment = current_environment(request.runtime, device)
    entry = _Entry(cache_folder(), _name(request, environment), environment, unusable_sha256)
    for each in (entry.cache, entry.folder):
        refuse_if_others_write(each)
    path = entry.find(lambda line: None)
    if path is None:
        with _locked(entry, on_note):
            # Another process may have built it meanwhile.
            path = entry.find(on_note)
            if path is None:
                path = _built(entry, request, device, on_progress, on_note)
                _remove_oldest(entry)
    with suppress(OSError):
        # The time stamp says when it was last used; a read-only cache works without.
        os.utime(path.parent)
    return path


@dataclass(frozen=True)
class _Entry:
    """The place of one engine in the cache."""

    cache: Path
    name: str
    environment: Environment
    unusable_sha256: str = ""

    @property
    def folder(self) -> Path:
        return self.cache / self.name

    def find(self, note: Callable[[str], None]) -> Path | None:
        """Return the engine if it is there and usable; call `note` if it is there and unusable."""
        if not self.folder.is_dir():
            return None
        path = next(iter(sorted(self.folder.glob("*.engine"))), None)
        try:
            if path is None:
                raise ArtifactError(f"{printable(self.folder)}: no engine in it")
            _, sidecar = load_engine(path, self.environment)
        except ArtifactError as error:
            note(f"an engine in the cache is not used, and is built again: {error}")
            return None
        return None if sidecar.engine_sha256 == self.unusable_sha256 else path


def _built(
    entry: _Entry, request: EngineRequest, device: int, on_progress: Progress | None, note: Callable[[str], None]
) -> Path:
    """Build an engine in a folder beside its place, and rename the folder when it is complete."""
    folder = entry.cache / f"{entry.name}{_BEING_BUILT}"
    # The builder's timings of this machine speed up later builds on it.
    tied_to = hashlib.sha256(json.dumps(vars(entry.environment), sort_keys=True).encode()).hexdigest()
    timings = entry.cache / f"{tied_to[:16]}.{_TIMINGS}"
    try:
        with _writing(entry.cache):
            # A killed process may have left it behind.
            _remove(folder)
            folder.mkdir()
            if timings.exists():
                shutil.copyfile(timings, folder / _TIMINGS)
        try:
            notes = build_in_child(request, folder, device=device, on_progress=on_progress)
        except BackendError as error:
            raise BackendError(f"{error}{_kept_log(entry, folder)}") from error
        built = next(folder.glob("*.engine"))
        # The same check as at each later start: an engine that fails it would be built again every time.
        load_engine(built, entry.environment)
        with _writing(entry.cache):
            if (folder / _TIMINGS).exists():
                (folder / _TIMINGS).replace(timings)
            # The cache needs the engine only, not the builder's copy of the ONNX file.
            for path in folder.glob("*.onnx"):
                path.unlink()
            _remove(entry.folder)
            folder.rename(entry.folder)
    except BaseException:
        with suppress(OSError):
            _remove(folder)
        raise
    for line in notes:
        note(line)
    return entry.folder / built.name


def _kept_log(entry: _Entry, folder: Path) -> str:
    """Move the builder's log out of the temporary folder; return its name as the end of a message."""
    for log in folder.glob("*.engine.log"):
        kept = entry.cache / f"{entry.name}.log"
        with suppress(OSError):
            log.replace(kept)
            return f" (log: {printable(kept)})"
    return ""


def _name(request: EngineRequest, environment: Environment) -> str:
    """Return the name of an engine's folder: model, precision, and a hash of everything that the engine depends on."""
    with file_errors(ArtifactError, request.model):
        onnx_sha256 = hashlib.sha256(request.model.read_bytes()).hexdigest()
    # With another driver or JetPack an engine may run as before; the library finds out when it loads it. The driver's
    # figure for the memory differs a little between versions of JetPack; `load_engine` compares it.
    tied_to = {key: value for key, value in vars(environment).items() if key not in _MAY_CHANGE}
    depends_on = {
        "onnx_sha256": onnx_sha256,
        "precision": request.precision,
        "profile": vars(request.profile),
        "environment": tied_to,
        "overnet": __version__,
        "format": FORMAT_VERSION,
    }
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    stem = re.sub(r"[^0-9A-Za-z._-]", "_", request.model.stem)[:60]
    return f"{stem}-{request.precision}-{key[:16]}"


def _lock_file(cache: Path, name: str) -> Path:
    return cache / _LOCKS / f"{name}.lock"


@contextmanager
def _locked(entry: _Entry, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of an engine, waiting for the process that holds it."""
    with _writing(entry.cache):
        waiting = f"another process is building the engine {entry.name}: waiting for it"
        lock = take_lock(_lock_file(entry.cache, entry.name), lambda: note(waiting))
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writing(cache: Path) -> Iterator[None]:
    """Raise the operating system's errors as OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{printable(cache)} cannot hold engines: {error.strerror or error} ({CACHE_VARIABLE} names another folder)"
        ) from error


def _remove_oldest(used: _Entry) -> None:
    """Remove the least recently used engines beyond `MOST_ENGINES`, except those in use by another process."""
    folders = [path for path in used.cache.iterdir() if path.is_dir() and path.name not in (_LOCKS, used.name)]
    kept = [path for path in folders if not path.name.endswith(_BEING_BUILT)]
    kept.sort(key=lambda path: path.stat().st_mtime)
    for path in kept[: max(0, len(kept) + 1 - MOST_ENGINES)]:
        with suppress(filelock.Timeout, OSError), filelock.FileLock(_lock_file(used.cache, path.name), timeout=0):
            _remove(path)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
