"""What helps to find an option: the help in two screens of 80 columns, a shell's completion, and the near name."""

import os

import pytest

from tests.support.commands import environment, run_command, run_process

COMMANDS = ("run", "export", "eval", "train", "bench", "web", "info")


def help_of(monkeypatch, *arguments):
    monkeypatch.setenv("COLUMNS", "80")
    result = run_command(*arguments, "--help", program="overnet")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    return lines


@pytest.mark.parametrize("name", COMMANDS)
def test_two_screens_and_headings(monkeypatch, name):
    lines = help_of(monkeypatch, name)
    assert len(lines) <= 100
    assert "General:" in lines and "Options:" not in lines


def test_the_headings_of_run(monkeypatch):
    lines = help_of(monkeypatch, "run")
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    names = ["Arguments", "Output", "Size", "Model", "Speed and memory", "Videos", "Images", "Live video", "Pipes"]
    assert headings == [f"{name}:" for name in (*names, "General")]
    assert lines[lines.index("Size:") + 1].startswith("  --scale FACTOR ")


def test_no_text_of_the_program_is_cut(monkeypatch):
    lines = help_of(monkeypatch)
    assert not any("..." in line for line in lines[1:])
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in COMMANDS)


@pytest.mark.parametrize(
    ("program", "words", "offered"),
    [
        ("overnet", "overnet ex", {"export"}),
        ("overnet", "overnet eval --backend o", {"openvino", "onnxruntime"}),
        ("overnet-run", "overnet-run --heig", {"--height"}),
        ("overnet-run", "overnet-run --model ", {"realtime", "fast", "best"}),
        ("overnet-run", "overnet-run a.png --scale ", {"2", "3", "4"}),
        ("overnet-export", "overnet-export --target t", {"tensorrt", "tensorrt-rtx", "triton"}),
        ("overnet-bench", "overnet-bench --precision f", {"fp32", "fp16"}),
    ],
)
def test_completion_in_bash(program, words, offered):
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    variables = {variable: "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    result = run_process(program=program, env=environment(**variables))
    assert (result.returncode, result.stderr) == (0, "")
    assert set(result.stdout.split()) == offered


@pytest.mark.parametrize("program", ["overnet", "overnet-run", "overnet-export", "overnet-bench"])
def test_the_completion_is_shown_and_installed(program, tmp_path):
    named = environment(HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    shown = run_process("--show-completion", "bash", program=program, env=named)
    assert f"-F _{program.replace('-', '_')}_completion {program}" in shown.stdout, shown.stderr
    installed = run_process("--install-completion", "bash", program=program, env=named)
    assert installed.returncode == 0, installed.stderr
    assert any(f"{program}.sh" in files for _, _, files in os.walk(tmp_path))


@pytest.mark.parametrize(
    ("typed", "near"),
    [(["--scal", "2"], "--scale"), (["-scale", "2"], "--scale"), (["--heigth=300"], "--height"), (["--zzz"], None)],
)
def test_a_mistyped_option(typed, near):
    result = run_command("a.png", *typed)
    assert result.returncode == 2
    hint = f"; did you mean {near}?" if near else ""
    option = typed[0].partition("=")[0]
    assert result.stderr == f"overnet: no such option: {option}{hint} (overnet-run --help shows how)\n"
