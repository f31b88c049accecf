"""What the commands show while they work: rows on a terminal, lines elsewhere, nothing with --quiet."""

import io
import itertools
import re
import sys
import time
from types import SimpleNamespace

import pytest

from overnet.cli.progress import ProgressDisplay


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """Run a function with a display, and return what standard error gets."""

    def show(work, *, on_terminal, quiet=False, columns=100, **options):
        stderr = Terminal() if on_terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        display = ProgressDisplay(quiet=quiet, **options)
        with display:
            work(display)
        return stderr.getvalue()

    return show


def steps(display):
    for done in range(2):
        display.step("set x2", done, 2)


def frames(display):
    on_frame = display.frames("[red]clip.mp4")
    for done in range(1, 4):
        on_frame(SimpleNamespace(wall_seconds=done / 2), 30)


def files(display):
    for done in range(2):
        display.file("photo.jpg", done, 40)


def waiting(display):
    display.step("set x2", 0, 2)
    display.announce("waiting", 0, 0)
    for done in (1, 2):
        display.announce("choosing kernels", done, 3)


def live(display):
    display.live()(SimpleNamespace(frames=1, line=lambda: "23.4 fps, latency 12 ms, 3 dropped"))


@pytest.mark.parametrize(
    ("work", "figures"),
    [
        (steps, ["set x2", "0:00:00", "1/2"]),
        (frames, ["[red]clip.mp4", "3/30 frames, 2.0 fps, 0:00:13 left"]),
        (files, ["photo.jpg", "0/40 files", "1/40 files, ", " files/s, ", " left"]),
        (waiting, ["set x2", "0/2", "choosing kernels", "2/3"]),
        (live, ["23.4 fps, latency 12 ms, 3 dropped"]),
    ],
)
def test_rows_on_a_terminal(shown, work, figures):
    for columns in (100, 90):
        output = shown(work, on_terminal=True, columns=columns)
        assert all(text in output for text in figures)
        # The cursor is shown again, and the rows are erased.
        assert "\x1b[?25h" in output and output.endswith("\x1b[2K")
    assert shown(work, on_terminal=True, quiet=True) == ""


@pytest.mark.parametrize(
    ("work", "options", "lines"),
    [
        (steps, {}, []),
        (steps, {"step_lines": True}, ["[1/2] set x2", "[2/2] set x2"]),
        (frames, {}, []),
        (waiting, {}, ["waiting", "choosing kernels"]),
        (live, {}, []),
    ],
)
def test_lines_elsewhere(shown, work, options, lines):
    assert shown(work, on_terminal=False, **options).splitlines() == lines
    assert shown(work, on_terminal=False, quiet=True, **options) == ""


def test_lines_printed_while_rows_are_shown_stay_whole(shown, capsys):
    def work(display):
        display.step("working", 1, 3)
        print("a note", file=sys.stderr)
        print("a result")

    assert "a note\n" in shown(work, on_terminal=True)
    assert capsys.readouterr().out == "a result\n"


def test_waiting_before_there_are_rows_is_a_line(monkeypatch):
    """As where an engine is built while a model is loaded."""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    ProgressDisplay(quiet=False).announce("choosing kernels", 1, 3)
    assert stderr.getvalue() == "choosing kernels\n"


def test_a_line_a_minute_where_there_are_no_rows(shown, monkeypatch):
    clock = itertools.count(step=25.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))

    def work(display):
        on_frame = display.frames("film.mkv")
        for done in range(1, 11):
            on_frame(SimpleNamespace(wall_seconds=done / 2), 3000)

    lines = shown(work, on_terminal=False).splitlines()
    assert 3 <= len(lines) <= 5
    assert re.fullmatch(r"film.mkv: \d+/3000 frames, 2.0 fps, 0:24:\d+ left", lines[0])
    assert shown(work, on_terminal=False, quiet=True) == ""


def test_a_long_name_leaves_the_figures_at_80_columns(shown):
    name = "holiday in the mountains, the second week, with all of the family 2021-08-14.mkv"

    def work(display):
        on_frame = display.frames(name)
        for done in range(1, 4):
            on_frame(SimpleNamespace(wall_seconds=done / 2), 123456)

    output = shown(work, on_terminal=True, columns=80)
    assert "3/123456 frames, 2.0 fps, " in output and " left" in output
    assert "…" in output and ".mkv" in output and name not in output
