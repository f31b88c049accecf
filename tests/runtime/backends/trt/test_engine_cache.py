"""Engines built at first use, by the real builder of TensorRT-RTX, which needs no GPU."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

import overnet
from overnet.errors import ArtifactError, BackendError, OutputError
from overnet.files.engine_sidecar import Profile, read_sidecar, sidecar_path
from overnet.runtime.backends.trt import engine_cache, engine_child
from overnet.runtime.backends.trt.engine_cache import cache_folder, cached_engine
from overnet.runtime.backends.trt.engine_child import EngineRequest
from overnet.system.converted_model import refuse_if_others_write
from tests.conftest import ROOT

pytest.importorskip("tensorrt_rtx")

SMALL = Profile((16, 16), (32, 32), (48, 64), 2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


@pytest.fixture
def engine_request(small_models):
    # FP32 as it is: the quickest to build.
    return EngineRequest(small_models / "small_x2.onnx", "tensorrt-rtx", "fp32", SMALL)


@pytest.fixture(scope="module")
def kept(small_models, tmp_path_factory):
    """A cache with the small network's engine in it, really built."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERNET_CACHE", str(folder))
        cached_engine(EngineRequest(small_models / "small_x2.onnx", "tensorrt-rtx", "fp32", SMALL))
    return folder / "engines"


@pytest.fixture
def built(kept, cache):
    """The engine, in the cache already."""
    shutil.copytree(kept, cache)
    return engine_in(cache)


def forbid_building(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an engine is built")

    monkeypatch.setattr(engine_cache, "build_in_child", refuse)


@pytest.fixture
def no_child(monkeypatch):
    forbid_building(monkeypatch)


def engine_in(cache):
    (path,) = cache.glob("*/*.engine")
    return path


def child(monkeypatch, code):
    """Run other code in place of overnet-export."""
    monkeypatch.setattr(engine_child, "_COMMAND", ("-c", code))


def leftovers(cache):
    """What lies in the cache, but for lock files."""
    return sorted(path.name for path in cache.glob("*") if path.name != "locks")


def test_an_engine_is_built_and_found_again(engine_request, cache, monkeypatch):
    seen, notes = [], []
    path = cached_engine(engine_request, on_progress=lambda *said: seen.append(said), on_note=notes.append)
    assert path == engine_in(cache) and path.name == "small_x2.engine"
    sidecar = read_sidecar(path)
    assert (sidecar.profile, sidecar.artifact.precision, sidecar.artifact.scale) == (SMALL, "fp32", 2)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "small_x2.engine",
        "small_x2.engine.json",
        "small_x2.engine.log",
    ]
    assert seen[0] == ("making the graph", 0, 0) and len(seen) > 50
    assert all(done <= total for _, done, total in seen)
    assert notes == [] and leftovers(cache) == [path.parent.name]
    forbid_building(monkeypatch)
    os.utime(path.parent, (1, 1))
    assert cached_engine(engine_request) == path
    assert time.time() - path.parent.stat().st_mtime < 60


@pytest.mark.slow
def test_it_is_converted_to_the_precision_wished_for(engine_request):
    path = cached_engine(replace(engine_request, precision="fp16"))
    assert path.name == "small_x2_fp16.engine" and read_sidecar(path).artifact.precision == "fp16"


def test_the_folder_has_the_usual_place(monkeypatch):
    monkeypatch.delenv("OVERNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    if sys.platform == "linux":
        assert cache_folder() == Path("/somewhere/overnet/engines")
    assert cache_folder().name == "engines"


@pytest.mark.parametrize(
    "part", ["model", "precision", "profile", "batch", "version", "device", "multiprocessors", "overnet", "runtime"]
)
def test_the_key_depends_on(engine_request, small_models, monkeypatch, part):
    environment = engine_cache.current_environment("tensorrt-rtx")
    before = engine_cache._name(engine_request, environment)
    assert engine_cache._name(engine_request, environment) == before
    if part == "overnet":
        monkeypatch.setattr(engine_cache, "__version__", "99")
    engine_request = {
        "model": replace(engine_request, model=small_models / "small_x3.onnx"),
        "precision": replace(engine_request, precision="fp16"),
        "profile": replace(engine_request, profile=replace(SMALL, optimum=(32, 33))),
        "batch": replace(engine_request, profile=replace(SMALL, batch=1)),
    }.get(part, engine_request)
    environment = {
        "version": replace(environment, runtime_version="1.8.0"),
        "device": replace(environment, device_name="Orin", compute_capability="8.7"),
        "multiprocessors": replace(environment, multiprocessors=16),
        "runtime": replace(environment, runtime="tensorrt"),
    }.get(part, environment)
    assert engine_cache._name(engine_request, environment).rpartition("-")[2] != before.rpartition("-")[2]


def test_an_update_of_the_driver_builds_no_engine_again(engine_request):
    """Nor one of JetPack, which changes the driver's figure for the memory too: TensorRT knows what it cannot load."""
    environment = engine_cache.current_environment("tensorrt-rtx")
    updated = replace(environment, driver="999.1", jetpack="9 (L4T 99.1)", memory_bytes=7_900_000_000)
    assert engine_cache._name(engine_request, updated) == engine_cache._name(engine_request, environment)


def test_an_engine_that_the_library_cannot_load_is_built_again(built, engine_request):
    before = read_sidecar(built)
    assert cached_engine(engine_request, unusable_sha256="0" * 64) == built
    assert read_sidecar(built) == before
    changed = built.stat().st_mtime_ns
    assert cached_engine(engine_request, unusable_sha256=before.engine_sha256) == built
    assert built.stat().st_mtime_ns > changed


def test_the_key_depends_on_what_is_in_the_file_alone(engine_request, tmp_path):
    environment = engine_cache.current_environment("tensorrt-rtx")
    copy = tmp_path / "small_x2.onnx"
    shutil.copy(engine_request.model, copy)
    assert engine_cache._name(replace(engine_request, model=copy), environment) == engine_cache._name(
        engine_request, environment
    )
    copy.write_bytes(copy.read_bytes() + b"\0")
    assert engine_cache._name(replace(engine_request, model=copy), environment) != engine_cache._name(
        engine_request, environment
    )


@pytest.mark.parametrize("damage", ["engine", "cut", "sidecar", "no sidecar", "no engine", "foreign"])
def test_what_is_damaged_is_built_again(built, engine_request, damage):
    content = built.read_bytes()
    if damage == "engine":
        built.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        built.write_bytes(content[:1000])
    elif damage == "sidecar":
        sidecar_path(built).write_text("{")
    elif damage == "no sidecar":
        sidecar_path(built).unlink()
    elif damage == "no engine":
        built.unlink()
    else:
        fields = json.loads(sidecar_path(built).read_text())
        fields["environment"]["runtime_version"] = "1.0.0"
        sidecar_path(built).write_text(json.dumps(fields))
    notes = []
    path = cached_engine(engine_request, on_note=notes.append)
    assert path == built and built.stat().st_size == len(content)
    assert read_sidecar(path).environment.runtime_version != "1.0.0"
    (note,) = notes
    assert "is built again" in note and "\n" not in note


WANTS_IT = """
import sys
from pathlib import Path
from overnet.runtime.backends.trt.engine_cache import cached_engine
from overnet.runtime.backends.trt.engine_child import EngineRequest
from overnet.files.engine_sidecar import Profile
engine_request = EngineRequest(Path(sys.argv[1]), "tensorrt-rtx", "fp32", Profile((16, 16), (32, 32), (48, 64), 2))
path = cached_engine(
    engine_request,
    on_progress=lambda doing, done, total: print("building", flush=True),
    on_note=lambda line: print("note", line, flush=True),
)
print("path", path, flush=True)
"""


def process_that_wants(engine_request):
    return subprocess.Popen(
        [sys.executable, "-c", WANTS_IT, engine_request.model],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_of_two_processes_one_builds(engine_request, cache):
    processes = [process_that_wants(engine_request) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    building = [out.splitlines().count("building") for out, _ in said]
    assert min(building) == 0 and max(building) > 0
    waiting = said[building.index(0)][0]
    assert "waiting for it" in waiting
    path = engine_in(cache)
    assert all(out.endswith(f"path {path}\n") for out, _ in said)
    assert leftovers(cache) == [path.parent.name]


def test_of_two_threads_one_builds(engine_request, monkeypatch):
    honest, builds, paths = engine_cache.build_in_child, [], []

    def count(*arguments, **options):
        builds.append(arguments)
        return honest(*arguments, **options)

    monkeypatch.setattr(engine_cache, "build_in_child", count)
    threads = [threading.Thread(target=lambda: paths.append(cached_engine(engine_request))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1 and len(set(paths)) == 1 and len(paths) == 2


def test_ctrl_c_leaves_nothing(engine_request, cache):
    process = process_that_wants(engine_request)
    # Its child is at work.
    assert process.stdout.readline() == "building\n"
    (folder,) = cache.glob("*.partial")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert leftovers(cache) == []
    assert not running_in(folder)
    # And nothing stays locked.
    assert cached_engine(engine_request).is_file()


def running_in(folder):
    """Processes whose working folder it is, or was: as /proc tells."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith(str(folder)):
            found.append(link)
    return found


def test_what_progress_raises_ends_the_child(engine_request, cache, monkeypatch):
    def broken(doing, done, total):
        raise BrokenPipeError("nobody reads")

    child(
        monkeypatch,
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        'print(\'{"doing": "a step that takes long", "done": 0, "total": 1}\', flush=True)\n'
        "time.sleep(60)",
    )
    started = time.monotonic()
    with pytest.raises(BrokenPipeError, match="nobody reads"):
        cached_engine(engine_request, on_progress=broken)
    assert time.monotonic() - started < 30
    assert leftovers(cache) == [] and not running_in(cache)


def test_what_a_killed_process_left_is_in_nobodys_way(built, engine_request, cache):
    folder = built.parent.with_name(f"{built.parent.name}.partial")
    built.parent.rename(folder)
    path = cached_engine(engine_request)
    assert path == built and leftovers(cache) == [path.parent.name]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL; memory may have run out"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("import sys; print('overnet: no room\\n', file=sys.stderr); sys.exit(1)", "cannot be built: no room"),
        ("import sys; sys.exit(7)", "ended with code 7 and no error output"),
        ("print('something')", "ended with code 0 and no error output"),
        ("raise RuntimeError('a defect')", "RuntimeError: a defect"),
    ],
)
def test_a_child_that_fails_is_one_line(engine_request, cache, monkeypatch, code, expected):
    child(monkeypatch, code)
    with pytest.raises(BackendError) as caught:
        cached_engine(engine_request)
    message = str(caught.value)
    assert message.startswith("the engine for small_x2.onnx cannot be built: ") and expected in message
    assert "\n" not in message and leftovers(cache) == []


def test_the_builders_log_is_kept_and_named(engine_request, cache, monkeypatch):
    child(monkeypatch, "import sys; open('a.engine.log', 'w').write('what it said'); sys.exit('overnet: no')")
    with pytest.raises(BackendError, match=r"cannot be built: no \(log: .*\.log\)$") as caught:
        cached_engine(engine_request)
    (name,) = leftovers(cache)
    assert str(cache / name) in str(caught.value) and (cache / name).read_text() == "what it said"


def test_a_precision_that_cannot_be_built(engine_request):
    with pytest.raises(BackendError, match="cannot be converted to INT8"):
        cached_engine(replace(engine_request, precision="int8"))


def test_a_model_that_is_missing(engine_request, tmp_path):
    with pytest.raises(ArtifactError, match=r"none\.onnx: No such file"):
        cached_engine(replace(engine_request, model=tmp_path / "none.onnx"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="root can write everywhere else")
def test_a_folder_that_cannot_be_written(engine_request, monkeypatch, no_child):
    monkeypatch.setenv("OVERNET_CACHE", "/proc")
    with pytest.raises(OutputError, match=r"/proc/engines cannot hold engines: .* \(OVERNET_CACHE names another"):
        cached_engine(engine_request)


def test_a_file_where_the_folder_should_be(engine_request, tmp_path, monkeypatch, no_child):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OVERNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot hold engines"):
        cached_engine(engine_request)


def test_a_full_disk(engine_request, cache, monkeypatch):
    """The child's line says so."""
    child(
        monkeypatch,
        "import errno, os; from overnet.files import atomic as writing; import overnet.__main__\n"
        "def full(*_, **__): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "writing.os.fsync = full\n"
        "overnet.__main__.main_export()",
    )
    with pytest.raises(BackendError, match="No space left on device"):
        cached_engine(engine_request)
    assert not list(cache.glob("*/*.engine"))


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [(None, 0, "0"), (None, 2, "2"), ("3,1", 1, "1"), ("GPU-abc , GPU-def", 0, "GPU-abc"), ("", 0, ""), ("5", 1, "5")],
)
def test_the_child_sees_one_gpu(engine_request, monkeypatch, visible, device, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    child(monkeypatch, "import os, sys; sys.exit('sees ' + repr(os.environ['CUDA_VISIBLE_DEVICES']))")
    with pytest.raises(BackendError, match=f"sees '{expected}'"):
        cached_engine(engine_request, device=device)


def test_the_child_has_the_same_modules(engine_request, tmp_path, monkeypatch):
    """Wherever they are, and whatever lies in the current folder."""
    (tmp_path / "overnet.py").write_text("raise RuntimeError('the wrong overnet')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    child(monkeypatch, "import sys, overnet; sys.exit(overnet.__file__)")
    with pytest.raises(BackendError, match=f"{re.escape(overnet.__file__)}$"):
        cached_engine(engine_request)


def test_the_least_used_engines_are_removed(built, engine_request, cache, monkeypatch):
    monkeypatch.setattr(engine_cache, "MOST_ENGINES", 3)
    for age, name in enumerate(("newest", "used", "older", "oldest", "building.partial", "locked")):
        (cache / name).mkdir()
        os.utime(cache / name, (1000 - age, 1000 - age))
    with filelock.FileLock(engine_cache._lock_file(cache, "locked")):
        entry = engine_cache._Entry(cache, built.parent.name, engine_cache.current_environment("tensorrt-rtx"))
        engine_cache._remove_oldest(entry)
    # Five besides the one just built, of which two may stay; the oldest is locked, and is not removed.
    assert leftovers(cache) == sorted([built.parent.name, "newest", "used", "building.partial", "locked"])


BLOCKED = "import sys; sys.modules['torch'] = sys.modules['safetensors'] = None\n"


def test_it_needs_no_torch(engine_request):
    """Neither this process nor the child."""
    command = ("-c", f"{BLOCKED}from overnet.__main__ import main_export; main_export()")
    in_child = f"from overnet.runtime.backends.trt import engine_child\nengine_child._COMMAND = {command!r}\n"
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED + in_child + WANTS_IT, engine_request.model],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith("small_x2.engine")


@pytest.mark.parametrize("which", ["engines", "the root", "one engine"])
def test_a_cache_that_others_may_write_is_refused(built, engine_request, cache, which):
    {"engines": cache, "the root": cache.parent, "one engine": built.parent}[which].chmod(0o777)
    with pytest.raises(OutputError, match="other users may write there"):
        cached_engine(engine_request)


def test_a_cache_that_another_user_made_in_a_folder_of_all_is_refused(built, engine_request, cache, monkeypatch):
    """As in /tmp, where the first to come owns the folder of that name, and may change it at any time."""
    cache.parent.chmod(0o1777)
    assert cached_engine(engine_request) == built
    if os.geteuid() == 0:
        os.chown(cache, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(OutputError, match="other users may write there"):
        cached_engine(engine_request)


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_folder_of_kernels_that_others_may_write_is_refused(cache, mode):
    (cache.parent / "kernels").mkdir(parents=True)
    (cache.parent / "kernels").chmod(mode)
    with pytest.raises(OutputError, match="kernels: other users may write") if mode == 0o777 else nullcontext():
        refuse_if_others_write(cache.parent / "kernels")
