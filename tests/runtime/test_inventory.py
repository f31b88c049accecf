import json

from overnet.runtime import inventory
from overnet.runtime.inventory import take_inventory
from overnet.system.cuda_device import CudaDevice


def test_gpus(monkeypatch):
    """By number: of a Jetson's kind, with memory of its own, and one that says nothing."""
    devices = [CudaDevice("Orin", "8.7", shares_memory=True), CudaDevice("RTX", "8.9", shares_memory=False), None]
    monkeypatch.setattr(inventory, "cuda_device_count", lambda: len(devices))
    monkeypatch.setattr(inventory, "cuda_device", lambda number: devices[number])
    monkeypatch.setattr(inventory, "free_device_memory_bytes", lambda number: [5_000_000_000, None, None][number])
    monkeypatch.setattr(inventory, "known_providers", lambda: ["cpu", "tensorrt-rtx"])
    monkeypatch.setattr(inventory, "BACKENDS", {})
    taken = take_inventory()
    assert taken["gpus"][0] == {
        "name": "Orin",
        "compute_capability": "8.7",
        "shares_memory": True,
        "free_memory_bytes": 5_000_000_000,
    }
    assert json.loads(json.dumps(taken)) == taken
