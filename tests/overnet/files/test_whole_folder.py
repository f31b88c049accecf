import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from overnet.errors import OutputError
from overnet.files.whole_folder import whole_folder
from tests.conftest import ROOT


def filled(path, text, **options):
    with whole_folder(path, **options) as folder:
        (folder / "inner").mkdir()
        (folder / "inner/file").write_text(text)
        assert not (path / "inner").exists()


def test_a_folder_is_there_when_it_is_complete(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled(Path("new"), "first", overwrite=False)
    assert (tmp_path / "new/inner/file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_folder_is_replaced_only_where_it_may_be(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/other").touch()
    with pytest.raises(OutputError, match="old exists already"):
        filled(tmp_path / "old", "second", overwrite=False)
    assert (tmp_path / "old/other").exists()
    (tmp_path / "link").symlink_to("old")
    filled(tmp_path / "link", "second", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "old"]
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["inner"]


def test_one_that_appears_meanwhile_is_kept(tmp_path):
    with (
        pytest.raises(OutputError, match="new exists already"),
        whole_folder(tmp_path / "new", overwrite=False) as folder,
    ):
        (folder / "file").touch()
        (tmp_path / "new").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["new"] and not any((tmp_path / "new").iterdir())


def test_an_error_leaves_nothing_and_the_old_one(tmp_path):
    filled(tmp_path / "old", "first", overwrite=False)
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "old", overwrite=True) as folder:
        (folder / "file").touch()
        raise ZeroDivisionError
    assert (tmp_path / "old/inner/file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_the_old_one_is_put_back_where_the_rename_fails(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/other").touch()
    rename = Path.rename

    def fail(self, target):
        if Path(target).name == "old" and not self.name.endswith("-older"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="old cannot be written: No space left on device"):
        filled(tmp_path / "old", "second", overwrite=True)
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_files_and_missing_folders_are_refused(tmp_path):
    (tmp_path / "file").touch()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="file is not a folder"):
            filled(tmp_path / "file", "", overwrite=overwrite)
    with pytest.raises(OutputError, match="No such file or directory"):
        filled(tmp_path / "none/new", "", overwrite=True)


KILLED = """
import os, sys
from pathlib import Path
from overnet.files.whole_folder import whole_folder
with whole_folder(Path("killed"), overwrite=False) as folder:
    (folder / "file").touch()
    print("there", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command, pipe = [sys.executable, "-c", KILLED], subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "there\n"
        filled(tmp_path / "first", "", overwrite=False)
        assert len(list(tmp_path.iterdir())) == 3
        process.send_signal(signal.SIGKILL)
        process.wait()
    filled(tmp_path / "second", "", overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
