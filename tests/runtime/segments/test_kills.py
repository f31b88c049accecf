"""``overnet-run`` killed at any moment, as by a crash, a power cut or the system for its memory."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest

from overnet.runtime.segments.folder import folder_of
from overnet.runtime.segments.status import read_status
from tests.conftest import ROOT
from tests.support.clips import Clip, images, names
from tests.support.commands import environment
from tests.support.segmented import CODE_IN_A_PROCESS, run, segments_of

# It forks a process for each line, so that none has to import anything: prints its number, and then how it ended.
FORKING = """
import os, sys
from pathlib import Path
from tests.support.segmented import run
source, target, frames = sys.argv[1:]
for _ in sys.stdin:
    number = os.fork()
    if number == 0:
        code = 1
        try:
            run(Path(source), Path(target), frames_per_segment=int(frames))
            code = 0
        finally:
            os._exit(code)
    print(number, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), flush=True)
"""


class Runs:
    """Runs in processes of their own, each of which can be killed after a time."""

    def __init__(self, source, target, frames_per_segment):
        command = [sys.executable, "-c", FORKING, source, target, str(frames_per_segment)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def run(self, seconds):
        """Run once, killed after `seconds`; return whether it was complete before that."""
        self._process.stdin.write(b"\n")
        number = int(self._process.stdout.readline())
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            os.kill(number, signal.SIGKILL)
        code = int(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL)
        return code == 0

    def close(self):
        self._process.communicate()
        assert self._process.returncode == 0


def killed_at_segment(source, target, frames_per_segment, number):
    """Run in a process that is killed when a segment is whole."""
    command = [sys.executable, "-c", CODE_IN_A_PROCESS, source, target, str(frames_per_segment), "0.02"]
    with subprocess.Popen(command, cwd=ROOT, env=environment()) as process:
        while process.poll() is None and f"{number:06d}.packets" not in segments_of(target):
            pass
        process.kill()


@pytest.mark.timeout(60)
def test_a_process_that_is_killed(tmp_path):
    source = Clip(frames=images(40, 160, 128), audio=("aac",)).make(tmp_path / "in.mp4")
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    run(source, whole, frames_per_segment=5)
    for number in (1, 4):
        killed_at_segment(source, target, 5, number)
        assert not target.exists() and len(segments_of(target)) >= number
    status = read_status(target)
    assert status is not None and not status.is_running
    assert run(source, target, frames_per_segment=5).frames == 40 - status.done_frames
    assert target.read_bytes() == whole.read_bytes()
    assert names(tmp_path) == {"in.mp4", "whole.mp4", "out.mp4"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thirty_kills_at_random_moments(tmp_path):
    """Whatever the moment, also while segments are joined and the folder goes: never a wrong result."""
    source = Clip(frames=images(40, 160, 128), audio=("aac",)).make(tmp_path / "in.mp4")
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    run(source, whole, frames_per_segment=5)
    moments = random.Random(17)
    kills = results = 0
    with closing(Runs(source, target, 5)) as runs:
        began = time.monotonic()
        assert runs.run(seconds=60)
        seconds = time.monotonic() - began
        target.unlink()
        while kills < 30:
            # A run that goes on where another was killed is done sooner.
            if runs.run(moments.uniform(0.1, 0.9) * seconds):
                assert target.read_bytes() == whole.read_bytes()
                assert not folder_of(target).exists()
                target.unlink()
                results += 1
            else:
                kills += 1
                if target.exists():
                    # Killed between the rename and the removal of the folder.
                    assert target.read_bytes() == whole.read_bytes()
                    target.unlink()
    assert results
    run(source, target, frames_per_segment=5)
    assert target.read_bytes() == whole.read_bytes()
    assert names(tmp_path) == {"in.mp4", "whole.mp4", "out.mp4"}
