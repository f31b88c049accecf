import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from overnet.errors import OutputError
from overnet.files import atomic
from overnet.files.atomic import ExistsAlreadyError, TemporaryFile, atomic_write, open_regular, with_added_stem
from tests.support.commands import environment


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


KILLED = """
import os, signal, sys
from pathlib import Path
from overnet.files.atomic import TemporaryFile
file = TemporaryFile(Path(sys.argv[1]))
print(file.path.name, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path / "a.mkv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for _ in range(2)
    ]
    names = [process.stdout.readline().strip() for process in processes]
    (tmp_path / ".overnet-notes").write_text("not ours")
    processes[0].communicate("end\n")
    assert processes[0].returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {*names, ".overnet-notes"}
    with atomic_write(tmp_path / "b.txt", overwrite=False) as temporary:
        temporary.write_text("b")
    assert {path.name for path in tmp_path.iterdir()} == {names[1], ".overnet-notes", "b.txt"}
    processes[1].communicate("end\n")
    # This process has looked before, and has nothing to write now.
    with pytest.raises(ExistsAlreadyError), atomic_write(tmp_path / "b.txt", overwrite=False):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {".overnet-notes", "b.txt"}


def test_a_large_folder_is_not_searched_for_each_file(tmp_path, monkeypatch):
    for number in range(320):
        (tmp_path / f"{number}.png").touch()
    searched = []
    listed = Path.iterdir

    def noted(folder):
        searched.append(folder)
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", noted)
    for number in range(22):
        with atomic_write(tmp_path / f"b{number}.txt", overwrite=False):
            pass
    assert searched == [tmp_path] * 2


def test_a_temporary_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Another process, which cleans the folder up, may take a new file for one that was left behind."""
    locked = atomic._lock

    def removed(file, path):
        if first:
            first.pop().append(path)
            path.unlink()
        return locked(file, path)

    taken = []
    first = [taken]
    monkeypatch.setattr(atomic, "_lock", removed)
    with atomic_write(tmp_path / "b.txt", overwrite=False) as temporary:
        assert taken and temporary.exists() and temporary not in taken
    assert not TemporaryFile.open_paths


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(OSError, match="it is a pipe or a device"):
        open_regular(tmp_path / "pipe.onnx")
    with pytest.raises(OSError, match="Is a directory"):
        open_regular(tmp_path)


@pytest.mark.parametrize(
    ("name", "added", "result"),
    [
        ("a.mp4", ".partial", "a.partial.mp4"),
        (f"{'a' * 251}.mp4", ".partial", f"{'a' * 243}.partial.mp4"),
        (f"{'ü' * 125}.mp4", " (2)", f"{'ü' * 123} (2).mp4"),
    ],
)
def test_long_names_are_cut(tmp_path, name, added, result):
    longer = with_added_stem(tmp_path / name, added)
    assert longer.name == result
    longer.touch()


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OutputError, match="exists already"), atomic_write(tmp_path / "link", overwrite=False):
        pass
    with atomic_write(tmp_path / "link", overwrite=True) as temporary:
        temporary.write_text("x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "x"
    (tmp_path / "loop").symlink_to("loop")
    with (
        pytest.raises(OutputError, match="it is a link that leads back to itself"),
        atomic_write(tmp_path / "loop", overwrite=True),
    ):
        pass
    assert (tmp_path / "loop").is_symlink()
