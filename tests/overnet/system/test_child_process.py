import subprocess
import sys

import psutil
import pytest

from overnet.system.child_process import PythonChild, child_environment, exit_reason, parse_json_line
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("code", "error_output", "expected"),
    [
        (-9, "anything", "it was ended by SIGKILL; memory may have run out"),
        (-11, "", "it was ended by SIGSEGV"),
        (-64, "", "it was ended by SIGRTMAX"),
        (-200, "", "it was ended by signal 200"),
        (1, "Traceback\n  lines\nValueError: wrong\n\n", "ValueError: wrong"),
        (1, "overnet: in its own words\n", "in its own words"),
        (3, " \n", "it ended with code 3 and no error output"),
    ],
)
def test_why_a_process_ended(code, error_output, expected):
    assert exit_reason("it", code, error_output) == expected
    assert len(exit_reason("it", 1, "x" * 10_000)) == 500


@pytest.mark.parametrize(
    ("line", "message"), [('{"a": 1}', {"a": 1}), ("[1]", {}), ('{"a', {}), ("OpenBLAS warning", {})]
)
def test_only_json_objects_are_messages(line, message):
    assert parse_json_line(line) == message


def test_another_python_finds_the_same_modules(tmp_path):
    code = "import overnet.system.child_process as found; print(found.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == sys.modules["overnet.system.child_process"].__file__


ECHO = """
import json, sys
print("a library's own line")
for line in sys.stdin:
    print(json.dumps({"echo": json.loads(line)}), flush=True)
"""


def test_a_child_answers_requests_until_it_is_left():
    with PythonChild(("-c", ECHO), title="it") as child:
        messages = child.messages()
        for request in ({"number": 1}, {"text": "two"}):
            child.send(request)
            assert next(messages) == {"echo": request}
        process = child._process
        assert process.poll() is None
    assert process.returncode is not None


def test_an_exception_ends_a_child():
    with pytest.raises(KeyboardInterrupt), PythonChild(("-c", ECHO), title="it") as child:
        process = child._process
        raise KeyboardInterrupt
    assert process.returncode is not None


def test_a_child_that_fails_says_why(tmp_path):
    code = "import os, sys; sys.exit(f'{os.getcwd()} {os.environ[chr(65)]}')"
    with PythonChild(("-c", code), title="it", folder=tmp_path, environment={"A": "b"}) as child:
        assert list(child.messages()) == []
        assert child.wait() == 1
        child.send("nobody reads this")
        assert child.reason() == f"{tmp_path} b"


def test_a_child_that_takes_too_long_is_ended():
    with PythonChild(("-c", "import time; time.sleep(60)"), title="it", timeout_seconds=0.1) as child:
        assert list(child.messages()) == []
        assert child.reason() == "it took longer than 0.1 s"


PARENT = """
import sys
from overnet.system.child_process import PythonChild
code = "import os, time; from overnet.system.child_process import end_with_parent; end_with_parent();"
code += "print('{\\"pid\\": %d}' % os.getpid(), flush=True); time.sleep(60)"
with PythonChild(("-c", code), title="it") as child:
    print(next(child.messages())["pid"], flush=True)
    sys.stdin.readline()
"""


def test_a_child_ends_with_a_parent_that_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone or child.status() == psutil.STATUS_ZOMBIE
