import pytest

from overnet.errors import InputError
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.torch_backend import TorchBackend

torch = pytest.importorskip("torch")


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, to which networks can be sent as far as torch says; where each was sent to."""
    sent = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    moved = torch.nn.Module.to

    def to(network, *arguments, **options):
        if arguments:
            sent.append(arguments[0])
            return network
        return moved(network, **options)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    return sent


@pytest.mark.parametrize("number", [0, 1])
def test_the_gpu_that_was_asked_for(small_checkpoint, gpus, number):
    assert TorchBackend(small_checkpoint, 2, BackendOptions(device=number)).device == f"GPU {number}"
    assert gpus == [torch.device("cuda", number)]


def test_a_gpu_that_is_not_there(small_checkpoint, gpus):
    with pytest.raises(InputError, match="device is 2; the GPUs that torch sees are GPU 0, GPU 1"):
        TorchBackend(small_checkpoint, 2, BackendOptions(device=2))
    assert gpus == []
