import os

import pytest

from overnet.files.temporary_folder import remove_left_folders, temporary_folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_folder_is_removed_at_the_end_and_those_of_killed_processes_at_the_start(tmp_path, monkeypatch, is_elsewhere):
    parent = tmp_path if is_elsewhere else None
    if is_elsewhere:
        monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    (left := tmp_path / "use-left").mkdir()
    (left / "part").write_bytes(b"1")
    (young := tmp_path / "use-young").mkdir()
    os.utime(left, (0, 0))
    with temporary_folder("use-", parent) as folder:
        assert folder.stat().st_mode & 0o77 == 0 and not left.exists() and young.exists()
        os.utime(folder, (0, 0))
        remove_left_folders("use-", parent)
        assert folder.exists()
    assert list(tmp_path.iterdir()) == [young]
