import os
import stat
import threading

import pytest

from overnet.errors import OutputError
from overnet.files.atomic import atomic_write


def test_appears_when_whole(tmp_path):
    path = tmp_path / "new.txt"
    with atomic_write(path, overwrite=False) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_vanishes_when_the_block_fails(tmp_path, error):
    with pytest.raises(error), atomic_write(tmp_path / "new.txt", overwrite=True) as temporary:
        temporary.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_kept_unless_asked(tmp_path):
    path = tmp_path / "old.txt"
    path.write_text("old")
    with pytest.raises(OutputError, match="exists already"), atomic_write(path, overwrite=False):
        raise AssertionError("the block must not run")
    with atomic_write(path, overwrite=True) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
    path = tmp_path / "new.txt"
    with pytest.raises(OutputError, match="exists already"), atomic_write(path, overwrite=False) as temporary:
        temporary.write_text("ours")
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    with atomic_write(tmp_path / "whole", overwrite=False) as temporary:
        temporary.write_text("x")
    assert stat.S_IMODE((tmp_path / "whole").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_missing_folder(tmp_path):
    with pytest.raises(OutputError, match="No such file"), atomic_write(tmp_path / "no" / "f", overwrite=False):
        raise AssertionError("the block must not run")


def test_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left"), atomic_write(tmp_path / "f", overwrite=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_writers_at_once_one_wins(tmp_path):
    outcomes = []

    def write(number):
        try:
            with atomic_write(tmp_path / "f", overwrite=False) as temporary:
                temporary.write_text(str(number))
                barrier.wait()
            outcomes.append(number)
        except OutputError:
            pass

    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert (tmp_path / "f").read_text() == str(outcomes[0])
