"""`overnet info`: tables of 80 columns, from which a path can be copied."""

import re

import pytest

from overnet.runtime import inventory
from overnet.system.cuda_device import CudaDevice
from overnet.weights import bundled_folder
from tests.support.commands import run_command


@pytest.fixture
def shown(monkeypatch):
    """A function of the names and devices of GPUs: the lines of the command, without spaces at their ends."""
    monkeypatch.setenv("COLUMNS", "80")

    def show(*devices, providers=("cpu",), backends=inventory.BACKENDS):
        monkeypatch.setattr(inventory, "cuda_device_count", lambda: len(devices))
        monkeypatch.setattr(inventory, "cuda_device", lambda number: devices[number])
        monkeypatch.setattr(inventory, "free_device_memory_bytes", lambda number: [5_000_000_000, None, None][number])
        monkeypatch.setattr(inventory, "known_providers", lambda: list(providers))
        monkeypatch.setattr(inventory, "BACKENDS", backends)
        result = run_command("info", program="overnet")
        assert result.returncode == 0, result.stderr
        return [line.rstrip() for line in result.stdout.splitlines()]

    return show


def test_the_tables(shown, monkeypatch):
    """GPUs by number: of a Jetson's kind, with memory of its own, and one that says nothing."""
    kinds = {name: inventory.BACKENDS[name] for name in ("tensorrt", "onnxruntime")}
    monkeypatch.setattr(inventory, "installed_version", lambda kind: "1.2" if kind.name == "onnxruntime" else None)
    lines = shown(
        CudaDevice("Orin", "8.7", shares_memory=True),
        CudaDevice("RTX", "8.9", shares_memory=False),
        None,
        providers=("cpu", "tensorrt-rtx"),
        backends=kinds,
    )
    assert "onnxruntime  yes    1.2      CPU; providers: cpu, tensorrt-rtx" in lines
    assert "tensorrt     no     -        not installed: pip install 'overnet[gpu]'" in lines
    assert "0       Orin            8.7                 5.0 GB, shared with the CPU" in lines
    assert "1       RTX             8.9                 unknown" in lines
    assert "2       unknown device  -                   unknown" in lines
    assert "realtime  all    weights  realtime/realtime.safetensors" in lines
    assert "          x2     int8     fast/fast_x2_int8.onnx" in lines
    assert "best      all    weights  overnet_multiscale.safetensors" in lines
    folder = f"Bundled models in {bundled_folder()}"
    assert folder in lines
    assert all(len(line) <= 80 for line in lines if line != folder)


def test_no_gpu_and_no_onnxruntime(shown):
    lines = shown(providers=(), backends={})
    assert lines[lines.index("NVIDIA GPUs") + 1] == "none, or no driver"
    assert not any("providers" in line for line in lines)


def test_no_colour_where_it_is_not_wanted(shown, monkeypatch):
    colour = re.compile(r"\x1b\[[\d;]*3\dm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert colour.search("".join(shown()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colour.search("".join(shown()))
