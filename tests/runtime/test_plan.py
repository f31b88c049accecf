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
    plan = make_plan([folder / name for name in inputs], folder / output, overwrite=options.pop("overwrite", False))
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
        (["in/clip.mp4"], "out.png", OutputError, "is not an image"),
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
