"""The conversion of another program's ONNX file at its first use, kept in the user's cache folder as engines are.

A child process converts it with ``overnet export``: whatever the file does there, it ends in one clear error here.
"""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import filelock
import platformdirs

from overnet._version import __version__
from overnet.errors import ArtifactError, OutputError, file_errors, printable
from overnet.files.onnx_metadata import is_foreign, read_artifact
from overnet.system.child_process import PythonChild
from overnet.types import Progress

# The environment variable that sets another folder than the user's cache folder.
CACHE_VARIABLE = "OVERNET_CACHE"
# Beyond this number, the least recently used are removed.
MOST_MODELS = 20
# The largest networks take a few minutes.
_LONGEST_SECONDS = 3600.0
_PARTIAL = ".partial"
# Files beside the model whose names it may hold, as the places of its weights.
_MOST_SIBLINGS = 1000


def cache_root() -> Path:
    """Return the folder that everything is kept in, which may not exist yet."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("overnet")


def refuse_if_others_write(folder: Path, risk: str = "loading an engine runs its code") -> None:
    """Check that no other user can have put a file into a folder of the cache, whose content is trusted.

    Args:
        folder: in the cache; it may not exist yet.
        risk: what another user's file there could do, for the message.

    Raises:
        OutputError: any user may write into the folder or the root of the cache, or another user has made the folder
            in a root where any user may do so, such as ``/tmp``.
    """
    with file_errors(OutputError, folder):
        root, own = (each.stat() if each.is_dir() else None for each in (cache_root(), folder))
    if os.name != "posix" or root is None:
        return
    is_root_open = bool(root.st_mode & stat.S_IWOTH)
    if is_root_open and not root.st_mode & stat.S_ISVTX:
        refused = cache_root()
    elif own and (own.st_mode & stat.S_IWOTH or (is_root_open and own.st_uid not in (0, os.geteuid()))):
        refused = folder
    else:
        return
    raise OutputError(
        f"{printable(refused)}: other users may write there, and {risk}: chmod o-w it, or name another folder by "
        f"{CACHE_VARIABLE}"
    )


def take_lock(path: Path, on_wait: Callable[[], None]) -> filelock.BaseFileLock:
    """Return the lock of a file in the cache, held; `on_wait` is called where another process holds it first.

    Lock files are never removed: if one were while another process waits for it, two processes could hold the lock.

    Raises:
        OSError: the file or its folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        on_wait()
        lock.acquire(poll_interval=0.1)
    return lock


def own_model(
    model: Path, *, on_progress: Progress | None = None, on_note: Callable[[str], None] = lambda line: None
) -> Path:
    """Return a model that this program runs: the same, or the conversion of another program's ONNX file.

    Args:
        model: any model; only a file that ends in ``.onnx`` and was not exported by this program is converted.
        on_progress: called with the steps of the conversion.
        on_note: called with each line on what was found in the file.

    Raises:
        ArtifactError: it cannot be converted; the message names the node and the reason.
        OutputError: the cache folder cannot be written, or other users may write there.
    """
    if model.suffix.lower() != ".onnx" or not model.is_file() or not is_foreign(model):
        return model
    cache = cache_root() / "models"
    folder = cache / _name(model)
    for each in (cache, folder):
        refuse_if_others_write(each, "a conversion found there is used as the model")
    if not (found := _found(folder)):
        try:
            # Of several processes that need the same model, one converts it and the others wait.
            waiting = f"another process is converting {printable(model.name)}: waiting for it"
            lock = take_lock(cache / "locks" / f"{folder.name}.lock", lambda: on_note(waiting))
            try:
                found = _found(folder) or _converted(model, folder, on_progress, on_note)
            finally:
                lock.release()
        except OSError as error:
            raise OutputError(
                f"{printable(cache)} cannot hold a converted model: {error.strerror or error} ({CACHE_VARIABLE} names "
                "another folder)"
            ) from error
    with suppress(OSError):
        os.utime(folder)
    return found


def _name(model: Path) -> str:
    """Return the name of a conversion's folder: the model's, and a hash of all that the conversion depends on."""
    with file_errors(ArtifactError, model):
        content = model.read_bytes()
        siblings = sorted(model.parent.iterdir())[:_MOST_SIBLINGS]
        # Weights may lie in other files, which the model names.
        named = [path for path in siblings if path != model and os.fsencode(path.name) in content and path.is_file()]
        weights = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in named]
    depends_on = [hashlib.sha256(content).hexdigest(), model.name, weights, __version__]
    key = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()
    stem = re.sub(r"[^0-9A-Za-z._-]", "_", model.stem)[:60]
    return f"{stem}-{key[:16]}"


def _found(folder: Path) -> Path | None:
    path = next(iter(sorted(folder.glob("*.onnx"))), None)
    with suppress(ArtifactError):
        if path is not None and read_artifact(path).foreign is not None:
            return path
    return None


def _converted(model: Path, folder: Path, on_progress: Progress | None, on_note: Callable[[str], None]) -> Path:
    """Convert a model in a folder beside its place, and rename the folder when it is complete."""
    partial = folder.with_name(folder.name + _PARTIAL)
    for left in (partial, folder):
        if left.exists():
            shutil.rmtree(left)
    partial.mkdir()
    arguments = ["-m", "overnet", "export", str(model.resolve()), "--precision", "fp32", "--target", "onnx"]
    arguments += ["-o", ".", "--progress-lines", "--quiet"]
    report = None
    try:
        with PythonChild(
            arguments, title="the process that converts it", folder=partial, timeout_seconds=_LONGEST_SECONDS
        ) as child:
            for message in child.messages():
                if "files" in message:
                    report = message
                elif "doing" in message and on_progress is not None:
                    doing = f"converting {printable(model.name)}: {message['doing']}"
                    on_progress(doing, message["done"], message["total"])
            if child.wait() or report is None:
                raise ArtifactError(child.reason())
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for file in report["files"]:
        for note in file["notes"]:
            on_note(str(note))
    _remove_oldest(folder)
    found = _found(folder)
    assert found is not None
    return found


def _remove_oldest(used: Path) -> None:
    """Remove the least recently used conversions beyond `MOST_MODELS`."""
    kept = [path for path in used.parent.iterdir() if path.is_dir() and path.name not in ("locks", used.name)]
    kept = [path for path in kept if not path.name.endswith(_PARTIAL)]
    kept.sort(key=lambda path: path.stat().st_mtime)
    for path in kept[: max(0, len(kept) + 1 - MOST_MODELS)]:
        shutil.rmtree(path, ignore_errors=True)
