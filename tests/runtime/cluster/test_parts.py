"""Parts of a run on a cluster that need none."""

import os
from types import SimpleNamespace

import pytest

from overnet.errors import InputError
from overnet.runtime.cluster import connection, worker
from overnet.runtime.cluster.connection import Cluster
from overnet.runtime.cluster.parcel import ChangedError, Parcel
from overnet.runtime.cluster.worker import UpscalerRequest


def head(address, noted=None):
    cluster = Cluster.__new__(Cluster)
    utils = SimpleNamespace(read_ray_address=lambda: noted)
    cluster.ray = SimpleNamespace(_private=SimpleNamespace(utils=utils))
    return cluster._head(address)


@pytest.mark.parametrize("given", ["", "auto"])
def test_auto_joins_no_cluster_but_what_ray_start_has_noted(monkeypatch, given):
    monkeypatch.setenv("RAY_ADDRESS", given)
    assert head("local") is None
    assert head("auto") is None
    assert head("auto", noted="127.0.0.1:9") is None  # which was killed
    monkeypatch.setattr(connection, "_check_address", lambda address: None)
    assert head("auto", noted="127.0.0.1:6379") == "127.0.0.1:6379"


def test_a_dead_address_in_the_environment_is_told_at_once(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9: no Ray cluster answers there: Connection refused"):
        head("auto")


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"2" * 100), os.unlink])
def test_a_file_that_was_changed_is_not_sent(tmp_path, change):
    path = tmp_path / "in.mp4"
    path.write_bytes(b"1" * 100)
    parcel = Parcel(path)
    parcel.check()
    change(path)
    with pytest.raises(ChangedError, match=r"in\.mp4 was changed or removed while the run read it"):
        parcel.send(SimpleNamespace(put=pytest.fail))


def test_a_model_that_is_sent_lies_in_a_folder_of_its_process(tmp_path, monkeypatch):
    """In one that can be guessed, another user could put another model."""
    folders = []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(worker, "_loaded", worker._Loaded())
    monkeypatch.setattr(worker, "Upscaler", lambda model: SimpleNamespace(close=lambda: None))
    for name in ("first", "second"):
        sent = SimpleNamespace(identity=name, is_here=lambda: False)
        worker._upscaler(UpscalerRequest(SimpleNamespace(name=name, parcels=[sent], unpack=folders.append), {}))
    assert not folders[0].exists()
    assert folders[1].stat().st_mode & 0o77 == 0
    worker._upscaler(UpscalerRequest(SimpleNamespace(name="best", parcels=[], unpack=folders.append), {}))
    assert list(tmp_path.iterdir()) == []
