import os

import pytest

from overnet.files.temporary_folder import remove_left_folders, temporary_folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_folder_is_removed_at_the_end_and_those_of_killed_processes_at_the_start(tmp_path):
    (left := tmp_path / "use-left").mkdir()
    (left / "part").write_bytes(b"1")
    (young := tmp_path / "use-young").mkdir()
    os.utime(left, (0, 0))
    with temporary_folder("use-") as folder:
        assert folder.stat().st_mode & 0o77 == 0 and not left.exists() and young.exists()
        os.utime(folder, (0, 0))
        remove_left_folders("use-")
        assert folder.exists()
    assert list(tmp_path.iterdir()) == [young]
