import os
import time
from pathlib import Path

import pytest

from overnet.errors import InputError, OutputError
from overnet.runtime.plan import make_plan


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/deep").mkdir(parents=True)
    for name in ("a.png", "b.JPG", "clip.mp4", "old.wmv", "notes.txt", ".hidden.png", "deep/a.png"):
        (tmp_path / "in" / name).write_bytes(b"x")
    return tmp_path


def targets(inputs, output, folder, **options):
    plan = make_plan([folder / name for name in inputs], folder / output, **{"overwrite": False, **options})
    return {str(job.source.relative_to(folder)): str(job.target.relative_to(folder)) for job in plan.jobs}


def test_one_file_to_one_file(folder):
    assert targets(["in/a.png"], "out.jpg", folder) == {"in/a.png": "out.jpg"}


@pytest.mark.parametrize("output", ["out", "in"])
def test_one_file_to_a_folder(folder, output):
    if output == "in":
        assert targets(["in/a.png"], "in/deep/more", folder) == {"in/a.png": "in/deep/more/a.png"}
    else:
        assert targets(["in/a.png"], output, folder) == {"in/a.png": "out/a.png"}


def test_a_folder_keeps_its_structure(folder):
    assert targets(["in"], "out", folder) == {
        "in/a.png": "out/a.png",
        "in/b.JPG": "out/b.JPG",
        "in/clip.mp4": "out/clip.mp4",
        "in/old.wmv": "out/old.mkv",
        "in/deep/a.png": "out/deep/a.png",
    }


def test_several_inputs_go_to_a_folder_whatever_its_name(folder):
    assert targets(["in/a.png", "in/clip.mp4"], "out.d", folder)["in/clip.mp4"] == "out.d/clip.mp4"


@pytest.mark.parametrize("inputs", [["in/a.png", "in/b.JPG"], ["in"]])
def test_several_inputs_are_not_written_to_the_name_of_a_file(folder, inputs):
    with pytest.raises(OutputError, match=r"several inputs need a folder .*o1\.jpg/ names a folder"):
        targets(inputs, "o1.jpg", folder)
    assert targets(["in/a.png", "in/b.JPG"], "o1.jpg", folder, is_folder=True)["in/b.JPG"] == "o1.jpg/b.JPG"


def test_one_input_into_a_folder_whose_name_ends_like_that_of_a_file(folder):
    assert targets(["in/a.png"], "out.d", folder, is_folder=True) == {"in/a.png": "out.d/a.png"}


def test_results_in_an_output_folder_inside_the_input_are_no_inputs(folder):
    (folder / "in/out").mkdir()
    (folder / "in/out/a.png").write_text("result of an earlier run")
    plan = make_plan([folder / "in"], folder / "in/out", overwrite=False)
    assert plan.kept == [folder / "in/out/a.png"]
    assert {job.source.name for job in plan.jobs} == {"a.png", "b.JPG", "clip.mp4", "old.wmv"}
    assert plan.notes == [f"{folder}/in/out is the output, and is not searched for inputs"]
    assert len(make_plan([folder / "in"], folder / "in/out", overwrite=True).jobs) == 5


@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_a_locked_folder_is_named_and_the_rest_is_planned(folder, monkeypatch, mode):
    locked = folder / "in/deep"
    if os.geteuid() == 0:  # for whom nothing is locked
        scandir, access = os.scandir, os.access

        def refuse(path):
            if Path(path) == locked and mode == 0:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and access(path, mode))
    locked.chmod(mode)
    try:
        plan = make_plan([folder / "in"], folder / "out", overwrite=False)
        with pytest.raises(InputError, match="deep: the folder cannot be read: Permission denied"):
            make_plan([locked], folder / "out", overwrite=False)
    finally:
        locked.chmod(0o700)
    assert len(plan.jobs) == 4
    (path, reason) = plan.unreadable[0]
    assert path == locked
    assert "deep: the folder cannot be read: Permission denied" in str(reason)


def test_planning_takes_time_in_proportion_to_the_number_of_files(folder):
    def seconds(count):
        inputs, output = folder / f"many{count}", folder / f"done{count}"
        for each in (inputs, output):
            each.mkdir()
            for number in range(count):
                (each / f"{number}.png").touch()
        began = time.process_time()
        assert len(make_plan([inputs], output, overwrite=False).kept) == count
        return time.process_time() - began

    seconds(10)
    assert seconds(2000) < 20 * seconds(250)  # a square would be 64 times as long


def test_two_inputs_that_would_write_the_same_file(folder):
    with pytest.raises(InputError, match=r"a\.png and .*deep.*a\.png would both be written"):
        targets(["in/a.png", "in/deep/a.png"], "out", folder)


def test_the_same_input_twice(folder):
    with pytest.raises(InputError, match="both"):
        targets(["in/a.png", "in/a.png"], "out", folder)


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_output_that_is_an_input(folder, overwrite):
    with pytest.raises(OutputError, match="itself an input"):
        targets(["in/a.png"], "in/a.png", folder, overwrite=overwrite)
    with pytest.raises(OutputError, match="itself an input"):
        targets(["in"], "in", folder, overwrite=overwrite)


def test_an_existing_output_of_one_input_is_refused(folder):
    (folder / "out.png").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        targets(["in/a.png"], "out.png", folder)
    assert targets(["in/a.png"], "out.png", folder, overwrite=True) == {"in/a.png": "out.png"}


def test_existing_outputs_of_several_inputs_are_kept_and_the_rest_done(folder):
    (folder / "out").mkdir()
    (folder / "out/a.png").write_text("mine")
    plan = make_plan([folder / "in"], folder / "out", overwrite=False)
    assert plan.kept == [folder / "out/a.png"]
    assert len(plan.jobs) == 4


@pytest.mark.parametrize(
    ("inputs", "output", "error", "expected"),
    [
        (["in/none.png"], "out.png", InputError, "no such file"),
        (["in/a.png"], "out.mp4", OutputError, "is an image"),
        (["in/clip.mp4"], "out.xyz", OutputError, "is not an image"),
        (["in/a.png", "in/b.JPG"], "in/notes.txt", OutputError, "need a folder"),
    ],
)
def test_impossible_plans(folder, inputs, output, error, expected):
    with pytest.raises(error, match=expected):
        targets(inputs, output, folder)


def test_a_folder_with_nothing_in_it(folder):
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="without images or videos"):
        targets(["empty"], "out", folder)
