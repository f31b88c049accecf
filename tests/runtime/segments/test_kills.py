"""``overnet-run`` killed at any moment, as by a crash, a power cut or the system for its memory."""

import random
import subprocess
import sys

import pytest

from overnet.runtime.segments.folder import folder_of
from overnet.runtime.segments.status import read_status
from tests.conftest import ROOT
from tests.support.clips import Clip, images, names
from tests.support.commands import environment
from tests.support.segmented import CODE_IN_A_PROCESS, run, segments_of


def killed(source, target, frames_per_segment, seconds):
    """Run in a process that is killed after a time; return whether it was complete before that."""
    command = [sys.executable, "-c", CODE_IN_A_PROCESS, source, target, str(frames_per_segment), "0"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE)
    try:
        _, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    assert process.returncode == 0, stderr.decode()
    return True


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
    source = Clip(frames=images(120, 320, 240), audio=("aac",)).make(tmp_path / "in.mp4")
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    run(source, whole, frames_per_segment=10)
    moments = random.Random(17)
    kills = results = 0
    while kills < 30:
        if killed(source, target, 10, moments.uniform(0.3, 2.5)):
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
    run(source, target, frames_per_segment=10)
    assert target.read_bytes() == whole.read_bytes()
    assert names(tmp_path) == {"in.mp4", "whole.mp4", "out.mp4"}
