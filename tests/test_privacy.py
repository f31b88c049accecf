"""Nothing that the commands run sends anything over a network or leaves an identity on the disk."""

import ast
import os
import re
import shutil
import subprocess
import sys

import psutil
import pytest

from tests.conftest import ROOT
from tests.test_packaging import ROOMS

FOLDERS = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "OVERNET_CACHE")

RUN = ["overnet-run", ROOT / "samples/harbour.png", "-o", "large.png"]
BENCH = ["overnet-bench", "--size", "32x24", "--seconds", "0.1", "--no-power", "--no-video", "--json", "bench.json"]


@pytest.fixture
def traced(tmp_path):
    """Run a command with an empty home folder; return its network calls and the files in that home."""
    if shutil.which("strace") is None:
        if os.environ.get("OVERNET_REQUIRE_LIVE") == "1":
            pytest.fail("OVERNET_REQUIRE_LIVE is set, and strace is not installed")
        pytest.skip("strace is not installed")
    home, log = tmp_path / "home", tmp_path / "calls"
    home.mkdir()

    def run(program, *arguments):
        environment = {name: value for name, value in os.environ.items() if name not in (*FOLDERS, "CI")}
        code = f"from overnet.cli import main; import sys; sys.exit(main(sys.argv[1:], {program!r}))"
        tracing = ["strace", "--seccomp-bpf", "-f", "-qq", "-o", log, "-e", "trace=connect,sendto,sendmsg"]
        subprocess.run(
            [*tracing, sys.executable, "-c", code, *map(str, arguments)],
            check=True,
            cwd=tmp_path,
            env={**environment, "HOME": str(home), "PYTHONPATH": str(ROOT)},
            timeout=300,
        )
        calls = [line for line in log.read_text().splitlines() if re.search(r"AF_INET", line)]
        return calls, sorted(str(path.relative_to(home)) for path in home.rglob("*"))

    return run


def test_a_run_sends_nothing_and_leaves_nothing(traced):
    assert traced(*RUN) == ([], [])


@pytest.mark.slow
def test_a_cluster_of_this_machine_sends_nothing_elsewhere(traced):
    pytest.importorskip("ray")
    calls, left = traced(*RUN, "--model", "realtime", "--cluster", "local")
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    elsewhere = [
        call
        for call in calls
        if not any(f'"{prefix}{address}"' in call for address in own for prefix in ("", "::ffff:"))
    ]
    # By this connection, of UDP and without a packet, Ray asks the system for the machine's own address.
    assert [call for call in elsewhere if not re.search(r'connect\(.*"8\.8\.8\.8"', call)] == []
    assert left == []


@pytest.mark.slow
def test_a_benchmark_sends_nothing_and_leaves_nothing(traced):
    assert traced(*BENCH) == ([], [])


@pytest.mark.slow
def test_an_export_sends_nothing_and_leaves_nothing(traced, small_checkpoint, tmp_path):
    assert traced("overnet-export", small_checkpoint, "--scale", 2, "--precision", "fp16", "-o", tmp_path / "out") == (
        [],
        [],
    )


def test_the_tracing_sees_what_is_sent(traced, tmp_path, monkeypatch):
    """A test of the tests: a name that is looked up, and a file in the home folder, are both found."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import socket, pathlib\n"
        "pathlib.Path.home().joinpath('identity').write_text('me')\n"
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(b'x', ('127.0.0.1', 9))\n"
    )
    monkeypatch.setattr("tests.test_privacy.ROOT", f"{hook}{os.pathsep}{ROOT}")
    calls, files = traced("overnet", "--version")
    assert calls and files == ["identity"]


def test_openvino_is_imported_without_its_telemetry():
    code = (
        "import sys, overnet.errors\novernet.errors.import_library('openvino')\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry') and sys.modules[name]])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.stdout == "[]\n"


def test_openvino_is_imported_in_one_place_only():
    """`overnet.errors.import_library` switches its telemetry off first; an import statement would not."""
    direct = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for room in ROOMS.values()
        for path in room.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == "openvino" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "openvino")
    ]
    assert direct == []
