import stat

import pytest

from overnet.files.temporary_folder import temporary_folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_folder_is_private_and_removed_at_the_end(tmp_path, monkeypatch, is_elsewhere):
    if is_elsewhere:
        monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(ZeroDivisionError), temporary_folder(tmp_path if is_elsewhere else None) as folder:
        assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "part").write_bytes(b"1")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_name_leaves_room_for_the_paths_of_sockets(tmp_path):
    """A socket of Ray, some 64 bytes below such a folder, may have 107 bytes."""
    with temporary_folder(tmp_path) as folder:
        assert len(folder.name) <= 20
