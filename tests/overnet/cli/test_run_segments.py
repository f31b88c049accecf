"""What ``overnet-run`` says about long videos."""

import functools
import json
from pathlib import Path

import pytest

from overnet.cli.run.segments import show_estimate
from overnet.errors import BackendError
from overnet.runtime.segments import writer
from overnet.runtime.segments.estimate import Estimate
from overnet.runtime.segments.folder import SegmentFolder, folder_of
from tests.conftest import write_clip
from tests.support.clips import Clip, images
from tests.support.commands import run_command
from tests.support.segmented import run


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        (None, "; --model fast or realtime is faster"),
        (Path("fast"), "; --model realtime is faster"),
        (Path("realtime"), ""),
        (Path("own.onnx"), "; --model realtime is faster"),
    ],
)
def test_the_estimate_is_one_line(capsys, model, hint):
    estimate = Estimate(3 * 3600 + 1230, 12.34, 4.25e9, 80_000_000_000)
    show_estimate(estimate, model=model, names_model=True, quiet=False)
    line = "about 3 h 20 min at 12 frames/s; about 4.2 GB of disk are needed and 80.0 GB are free"
    assert capsys.readouterr().err == f"{line}{hint}\n"


def test_the_estimate_of_a_short_job_and_of_a_full_disk(capsys):
    show_estimate(Estimate(599, 1, 1, 1), model=None, names_model=True, quiet=False)
    show_estimate(Estimate(6000, 1, 1, 1), model=None, names_model=True, quiet=True)
    assert capsys.readouterr().err == ""
    show_estimate(Estimate(6000, 1, 2e9, 999_000_000), model=None, names_model=False, quiet=False)
    assert capsys.readouterr().err.endswith("about 2.0 GB of disk are needed and 999 MB are free (too little)\n")


def test_the_status(tmp_path):
    source = Clip(frames=images(20)).make(tmp_path / "in.mp4")

    def status():
        return run_command("--status", "out.mp4", cwd=tmp_path)

    result = status()
    assert (result.returncode, result.stderr.count("\n")) == (1, 1) and "there is no result" in result.stderr
    run(source, tmp_path / "out.mp4", crash_after=12)
    result = status()
    assert result.returncode == 0
    assert "out.mp4: 10 of about 20 frames (50%) in 2 segments, " in result.stdout
    assert "left; no run is at work on it: the same command goes on\n" in result.stdout
    run(source, tmp_path / "out.mp4")
    assert status().stdout == "out.mp4 is complete\n"
    folder_of(tmp_path / "out.mp4").mkdir()
    assert status().stdout.startswith("out.mp4 is complete; out.mp4.overnet is left of a run that was killed")


def test_a_folder_of_videos(tmp_path, small_models, monkeypatch):
    """A repeated run keeps what is there, and goes on with the rest."""
    monkeypatch.setattr(writer, "Cutting", functools.partial(writer.Cutting, frames=4))
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        write_clip(tmp_path / f"set/{name}.mp4", frames=10)
    arguments = ("set", "-o", "out", "--model", small_models, "--json")
    real = SegmentFolder.add

    def fail(folder, number, segment):
        real(folder, number, segment)
        if folder.path.name == "b.mp4.overnet" and number == 1:
            raise BackendError("the driver crashed")

    with monkeypatch.context() as patched:
        patched.setattr(SegmentFolder, "add", fail)
        result = run_command(*arguments, cwd=tmp_path)
    assert result.returncode == 1 and "overnet: the driver crashed\n" in result.stderr
    assert (tmp_path / "out/b.mp4.overnet").is_dir() and not (tmp_path / "out/a.mp4.overnet").exists()
    result = run_command(*arguments, cwd=tmp_path)
    assert result.returncode == 0
    report = json.loads(result.stdout)
    assert report["kept"] == ["out/a.mp4"]
    assert [(file["frames"], file["earlier_frames"]) for file in report["files"]] == [(10, 8)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.mp4", "b.mp4"}


def test_an_option_that_has_changed(tmp_path, small_models):
    """It is named; --no-resume and --overwrite do what they say."""
    write_clip(tmp_path / "in.mp4", frames=4)
    run(tmp_path / "in.mp4", tmp_path / "out.mp4", frames_per_segment=2, crash_after=3)
    arguments = ("in.mp4", "-o", "out.mp4", "--model", small_models)
    result = run_command(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "--codec is libx264 and was not set" in result.stderr and "the model is small_x2.onnx" in result.stderr
    assert run_command(*arguments, "--no-resume", cwd=tmp_path).returncode == 0
    assert folder_of(tmp_path / "out.mp4").exists()
    assert run_command(*arguments, "--overwrite", cwd=tmp_path).returncode == 0
    assert not folder_of(tmp_path / "out.mp4").exists()
