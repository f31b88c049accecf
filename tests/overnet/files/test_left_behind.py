"""What killed processes left is removed, and nothing of a living one is, whatever is killed or runs at which step."""

import errno
import fcntl
import gc
import itertools
import os
import shutil
import signal
import sys
import traceback
from contextlib import closing
from pathlib import Path

import pytest

from overnet.errors import OutputError
from overnet.files import atomic
from overnet.files.atomic import TemporaryFile, atomic_write, remove_left_behind
from overnet.files.temporary_folder import temporary_folder
from overnet.files.whole_folder import whole_folder

# Python reports each of these before it is done.
STEPS = {"open", "fcntl.flock", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree"}
HEX = "0123456789abcdef"


def fill(folder):
    (folder / "inner").mkdir()
    (folder / "inner/file").write_text("new")


def make_file(folder, *, overwrite=True):
    with atomic_write(folder / "target", overwrite=overwrite) as temporary:
        temporary.write_text("new")


def make_new_file(folder):
    make_file(folder, overwrite=False)


def make_folder(folder):
    with whole_folder(folder / "target", overwrite=True) as temporary:
        fill(temporary)


def make_temporary_folder(folder):
    with temporary_folder(folder) as temporary:
        fill(temporary)
        assert (temporary / "inner/file").read_text() == "new"


def make_named_folder(folder):
    file = atomic.temporary_name(folder / f"any{atomic.FOLDER_SUFFIX}")
    with temporary_folder(file=file) as temporary:
        fill(temporary)
        assert temporary == atomic.folder_of(file) and (temporary / "inner/file").read_text() == "new"


def content(path):
    """Return the text of a file, or of the one in a folder; None where there is none, or not all of it."""
    path = path / "inner/file" if path.is_dir() else path
    return path.read_text() if path.exists() else None


def in_a_process(function, *arguments):
    """Call a function in a process of its own, and return its exit code: 0, 1 after an error, or that of a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        gc.disable()  # what libraries with threads have made must not end here
        try:
            atomic._calls_to_skip.clear()  # a process that has not looked yet
            function(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stopped_before(number, action, use, folder):
    """Use a folder, and call `action` before step `number` of that, and before later ones; exit with 3 if none is left.

    Later locks are let through: a file that is removed before its lock is made again for ever.
    """
    steps = itertools.count()

    own = os.getpid()

    def hook(event, arguments):
        if event not in STEPS or os.getpid() != own:
            return
        step = next(steps)
        if step == number or (step > number and event != "fcntl.flock"):
            action()

    sys.addaudithook(hook)
    use(folder)
    if next(steps) <= number:
        os._exit(3)


TEMPORARY = (make_temporary_folder, make_named_folder)
USES = [make_file, make_new_file, make_folder, *TEMPORARY]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_run_after_one_that_was_killed_at_any_step_leaves_the_result_alone(tmp_path, use, is_replaced):
    if is_replaced and use in (make_new_file, *TEMPORARY):
        pytest.skip("it replaces nothing")
    killed = 0
    for number in itertools.count():
        (folder := tmp_path / str(number)).mkdir()
        if is_replaced:
            use(folder)
            (folder / "target/inner/file" if use is make_folder else folder / "target").write_text("old")
        code = in_a_process(stopped_before, number, lambda: os.kill(os.getpid(), signal.SIGKILL), use, folder)
        if code != -signal.SIGKILL:
            break
        killed += 1
        older = list(folder.glob("*-older"))
        found = {content(path) for path in (folder / "target", *older)}
        assert (found & {"old", "new"}) if is_replaced else found <= {None, "new"}, number
        if "old" in {content(path) for path in older}:
            assert not (folder / "target").exists() or content(folder / "target") == "new"
        if use is make_new_file and (folder / "target").exists():
            assert in_a_process(remove_left_behind, folder) == 0
        else:
            assert in_a_process(use, folder) == 0
        names = {path.name for path in folder.iterdir()} - {path.name for path in older}
        assert names == (set() if use in TEMPORARY else {"target"}), number
        assert use in TEMPORARY or content(folder / "target") == "new"
    assert code == 3 and killed > 4


@pytest.mark.parametrize("use", USES)
def test_another_process_that_cleans_up_at_any_step_takes_nothing(tmp_path, use):
    """Also between the making of a file and its lock."""
    for number in itertools.count():
        (folder := tmp_path / str(number)).mkdir()
        code = in_a_process(stopped_before, number, lambda at=folder: in_a_process(remove_left_behind, at), use, folder)
        if code == 3:
            break
        assert code == 0, number
        assert [path.name for path in folder.iterdir()] == ([] if use in TEMPORARY else ["target"])
    assert number > 4


def test_processes_that_make_files_and_clean_up_at_once_do_not_disturb_each_other(tmp_path):
    def work(number):
        (own := tmp_path / f"own{number}").mkdir()
        for _ in range(40):
            atomic._calls_to_skip.clear()
            with atomic_write(tmp_path / f"file{number}", overwrite=True) as file, temporary_folder(tmp_path) as folder:
                fill(folder)
                file.write_text("whole")
                with whole_folder(tmp_path / f"folder{number}", overwrite=True) as other:
                    fill(other)
                assert content(folder) == content(tmp_path / f"folder{number}") == "new"
            assert (tmp_path / f"file{number}").read_text() == "whole"
        own.rmdir()

    children = []
    for number in range(4):
        if not (child := os.fork()):
            os._exit(in_a_process(work, number))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert {path.name[:-1] for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_file_that_another_process_is_about_to_remove_is_made_again(tmp_path, monkeypatch):
    held = []

    def held_once(file, kind, flock=fcntl.flock):
        if not held:
            (path,) = tmp_path.iterdir()
            held.append(path.open("rb"))
            flock(held[0], fcntl.LOCK_SH)
        flock(file, kind)

    monkeypatch.setattr(fcntl, "flock", held_once)
    with temporary_folder(tmp_path) as folder:
        # This is what the other process goes on with.
        atomic._remove(Path(held[0].name))
        assert folder.exists()
    assert list(tmp_path.iterdir()) == []
    held[0].close()


def left(folder):
    """Leave a file and its folder in another folder, as a killed process does; return both."""
    file = folder / f".overnet-{HEX}.folder"
    file.touch()
    fill_of = folder / f".ov-{HEX}"
    fill_of.mkdir()
    fill(fill_of)
    return file, fill_of


def test_without_locks_everything_works_and_nothing_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    kept = {path.name for path in left(tmp_path)}
    with temporary_folder(tmp_path) as folder, closing(TemporaryFile(tmp_path / "a.png")) as file:
        fill(folder)
        atomic._calls_to_skip.clear()
        make_file(tmp_path)
        assert file.path.exists() and content(folder) == "new"
    make_temporary_folder(tmp_path)
    (tmp_path / "target").unlink()
    make_folder(tmp_path)
    assert content(tmp_path / "target") == "new"
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "target"}


@pytest.mark.parametrize("refused", ["unlink", "rmdir", "scandir"])
def test_what_cannot_be_removed_is_removed_by_a_later_run(tmp_path, monkeypatch, refused):
    """As in a folder that is read-only, or while another program holds a file."""

    def fail(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    file, folder = left(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, refused, fail)
        remove_left_behind(tmp_path)
        assert file.exists() and folder.exists()
    with temporary_folder(tmp_path) as other, monkeypatch.context() as patch:
        assert not file.exists() and not folder.exists()
        fill(other)
        patch.setattr(shutil, "rmtree", fail if refused == "scandir" else lambda *_, **__: None)
    assert not other.exists()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        make_temporary_folder(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
    make_file(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_similar_names_of_others_are_left_alone(tmp_path):
    (tmp_path / "other").write_text("other")
    for name in (
        ".overnet-notes",
        f".overnet-{HEX}0",
        f".overnet-{HEX.upper()}.png",
        f"overnet-{HEX}",
        f".ov-{HEX}.txt",
    ):
        (tmp_path / name).write_text("other")
    for name in (f".ov-{HEX}", f".overnet-{HEX}.png", "overnet-images-originals"):
        fill_of = tmp_path / name
        fill_of.mkdir()
        fill(fill_of)
        os.utime(fill_of, (0, 0))
    (tmp_path / f".overnet-{HEX}.folder").symlink_to("other")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for use in (make_file, make_temporary_folder):
        atomic._calls_to_skip.clear()
        use(tmp_path)
    (tmp_path / "target").unlink()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert {content(path) for path in before} == {"other", "new"}


def test_links_in_the_place_of_a_folder_and_in_it_are_not_followed(tmp_path):
    """Another user may have put them there."""
    (tmp_path / "precious").mkdir()
    fill(tmp_path / "precious")
    _, folder = left(tmp_path)
    (folder / "link").symlink_to("../precious")
    (tmp_path / f".overnet-{HEX[::-1]}.folder").touch()
    (tmp_path / f".ov-{HEX[::-1]}").symlink_to("precious")
    make_temporary_folder(tmp_path)
    assert not folder.exists() and (tmp_path / f".ov-{HEX[::-1]}").is_symlink()
    assert content(tmp_path / "precious") == "new"


@pytest.mark.parametrize("name", [f"a.{'b' * 253}", f"{'a' * 251}.png", f"a.{'ü' * 126}b", "a.b\nc"])
def test_names_may_have_255_bytes_and_leftovers_of_them_are_known(tmp_path, name):
    with atomic_write(tmp_path / name, overwrite=False) as temporary:
        temporary.write_text("x")
        assert len(os.fsencode(temporary.name)) <= 255 and temporary.suffix in ("", Path(name).suffix)
        assert atomic._TEMPORARY_NAME.fullmatch(temporary.name)
    with whole_folder(tmp_path / name[::-1], overwrite=False) as folder:
        fill(folder)
    assert {path.name for path in tmp_path.iterdir()} == {name, name[::-1]}
    with (
        pytest.raises(OutputError, match="File name too long"),
        atomic_write(tmp_path / f"{name}{'c' * 256}", overwrite=True),
    ):
        pass
