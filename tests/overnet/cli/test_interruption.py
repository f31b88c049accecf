"""Signals end every command within two seconds, whatever it waits for, with one line."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import typer.core

from tests.conftest import ROOT, write_clip
from tests.support.commands import command_line, environment, run_command
from tests.support.stalled_server import serve

_WITHIN_SECONDS = 2.0


def started(*arguments, program="overnet-run", cwd=None, **options):
    return subprocess.Popen(
        command_line(*arguments, program=program),
        cwd=cwd,
        env=environment(),
        stderr=subprocess.PIPE,
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **options},
    )


def end(process, sent):
    """Send a signal; return the exit code and the messages of a process that ends in time."""
    process.send_signal(sent)
    began = time.monotonic()
    try:
        _, stderr = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    # A busy machine may double the time.
    assert time.monotonic() - began < 2 * _WITHIN_SECONDS
    return process.returncode, stderr.decode()


def wait_until(holds, process):
    while not holds():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("header", [b"", b"YUV4MPEG2 W64 H4", b"\x1aE\xdf\xa3"])
def test_while_a_pipe_is_opened(tmp_path, header, sent):
    """Nothing came, or half a header: four signals were passed over."""
    process = started("-", "-o", "out.mkv", "--model", "realtime", cwd=tmp_path, stdin=subprocess.PIPE)
    process.stdin.write(header)
    process.stdin.flush()
    # The model is loaded, and the reader asks the pipe every tenth of a second, which takes hardly any time.
    times = []

    def is_waiting():
        times.append(sum(psutil.Process(process.pid).cpu_times()[:2]))
        time.sleep(0.1)
        return len(times) > 4 and times[-1] > 0.3 and times[-1] - times[-4] < 0.03

    wait_until(is_waiting, process)
    pipe, process.stdin = process.stdin, None  # stays open
    assert end(process, sent) == (130, "overnet: interrupted\n")
    pipe.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_while_modules_are_imported(tmp_path, sent):
    """From the first line of the program on; before it, Python itself starts."""
    cv2.imwrite(str(tmp_path / "in.png"), np.zeros((600, 800, 3), np.uint8))
    for seconds in (0.0, 0.05, 0.1, 0.2, 0.4, 0.6):
        process = started("in.png", "-o", "out.png", "--model", "best", cwd=tmp_path)
        # Before, Python itself starts, or the module with the handlers is imported.
        wait_until(lambda process=process: _catches(process.pid, sent), process)
        time.sleep(seconds)
        assert end(process, sent) == (130, "overnet: interrupted\n")
        assert {path.name for path in tmp_path.iterdir()} == {"in.png"}


@pytest.mark.parametrize("method", ["make_context", "parse_args", "invoke"])
@pytest.mark.parametrize(("program", "arguments"), [("overnet-run", ["in.png"]), ("overnet", ["info"])])
def test_while_typer_reads_the_command_line(monkeypatch, program, arguments, method):
    """Outside of a command's own function, Typer makes an exit code of it and says nothing."""

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(typer.core.TyperCommand, method, interrupted)
    result = run_command(*arguments, program=program)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "overnet: interrupted\n")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_while_python_unloads_its_modules(sent):
    """All is written by then: the exit code is that of the work, and not that of the signal."""
    code = (
        "import os\n"
        "class Late:\n"
        "    kill, own = os.kill, os.getpid()\n"
        "    def __del__(self):\n"
        f"        self.kill(self.own, {int(sent)})\n"
        "late = Late()\n"
    )
    command = command_line("--version", program="overnet")
    command[2] = code + command[2].replace("; ", "\n")
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.startswith("overnet ")


def _catches(pid, number):
    """Tell whether a process has a handler of its own for a signal; Python's own for SIGINT counts not."""
    with Path(f"/proc/{pid}/status").open() as status:
        caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1) and bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize("kind", ["model", "folder", "video"])
def test_pipes_with_names_are_refused(tmp_path, kind):
    (tmp_path / "models").mkdir()
    for name in ("a.onnx", "models/b_x2.onnx", "a.mkv"):
        os.mkfifo(tmp_path / name)
    write_clip(tmp_path / "in.mp4", frames=2)
    arguments = {
        "model": ("in.mp4", "--model", "a.onnx"),
        "folder": ("in.mp4", "--model", "models"),
        "video": ("a.mkv", "--model", "realtime"),
    }[kind]
    result = run_command(*arguments, "-o", "out.mkv", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "pipe or a device" in result.stderr
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.slow
def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """As in a shell's script with ``&``, and under nohup."""
    write_clip(tmp_path / "in.mp4", frames=300, size=(128, 96))
    code = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", code, *command_line("in.mp4", "-o", "out.mp4", "--model", "realtime")]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    wait_until(lambda: list(tmp_path.glob(".overnet-*")), process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    assert (tmp_path / "out.mp4").exists()


@pytest.mark.timeout(60)
def test_a_run_after_one_that_was_killed_removes_its_file(tmp_path):
    write_clip(tmp_path / "in.mp4", frames=300)
    process = started("in.mp4", "-o", "out.mp4", cwd=tmp_path)
    wait_until(lambda: list(tmp_path.glob(".overnet-*")), process)
    process.kill()
    process.communicate()
    assert list(tmp_path.glob(".overnet-*"))
    result = run_command("in.mp4", "-o", "out.mp4", "--model", "realtime", "--frames", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "out.mp4"}


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_two_runs_into_one_folder_share_the_work(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"in/{number}.png"), np.full((60, 80, 3), 20 * number, np.uint8))
    processes = [started("in", "-o", "out", "--model", "realtime", "--threads", "1", cwd=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(list((tmp_path / "out").iterdir())) == 12


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("step", "sent", "seconds"),
    [
        ("RECORD", signal.SIGINT, 3),
        ("ANNOUNCE", signal.SIGTERM, 3),
        pytest.param("RECORD", None, 20, marks=pytest.mark.slow),
    ],
)
def test_a_server_that_takes_no_data(step, sent, seconds):
    """It was waited for without end, with and without a signal."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.stalled_server", str(listening.getsockname()[1]), "100"],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with serve(listening, step):
            if sent is not None:
                time.sleep(3 if step == "RECORD" else 0)  # until the buffers on the way are filled
                process.send_signal(sent)
            began = time.monotonic()
            _, stderr = process.communicate(timeout=50)
    assert time.monotonic() - began < seconds
    # On a busy machine the buffers may have room still at the signal, which is then a normal end.
    assert re.fullmatch(r"(overnet: .*\n)?" if sent == signal.SIGINT else r"overnet: .*\n", stderr)
    assert "hush" not in stderr
