import subprocess
import sys

import pytest

from overnet.system.child_process import child_environment, exit_reason, parse_json_line


@pytest.mark.parametrize(
    ("code", "complaints", "expected"),
    [
        (-9, "anything", "it was ended by SIGKILL; memory may have run out"),
        (-11, "", "it was ended by SIGSEGV"),
        (-64, "", "it was ended by SIGRTMAX"),
        (-200, "", "it was ended by signal 200"),
        (1, "Traceback\n  lines\nValueError: wrong\n\n", "ValueError: wrong"),
        (1, "overnet: in its own words\n", "in its own words"),
        (3, " \n", "it ended with code 3 and without a word"),
    ],
)
def test_why_a_process_ended(code, complaints, expected):
    assert exit_reason("it", code, complaints) == expected
    assert len(exit_reason("it", 1, "x" * 10_000)) == 500


@pytest.mark.parametrize(("line", "said"), [('{"a": 1}', {"a": 1}), ("[1]", {}), ('{"a', {}), ("OpenBLAS warning", {})])
def test_what_a_line_says(line, said):
    assert parse_json_line(line) == said


def test_another_python_finds_the_same_modules(tmp_path):
    code = "import overnet.system.child_process as found; print(found.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == sys.modules["overnet.system.child_process"].__file__
