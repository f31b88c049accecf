"""The queue of `overnet web`, and the process that upscales for it."""

import signal
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest

from overnet.system.child_process import PythonChild
from overnet.web.jobs import Jobs, WebJob
from tests.conftest import ROOT
from tests.support.clips import Clip, images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def jobs():
    with Jobs("the process that upscales") as started:
        yield started


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(ROOT / "samples/harbour.png")), (1500, 1000)))
    return path


def job(source, target, model="realtime", kind="image"):
    return WebJob(source, target, kind, 3600, {"model": model, "scale": 2})


def process_that_upscales():
    """The one that was started last."""
    children = [each for each in psutil.Process().children() if "overnet.web.worker" in each.cmdline()]
    return max(children, key=psutil.Process.create_time)


def finished(jobs, each):
    jobs.add(each)
    assert each.ended.wait(60)
    return each


def test_an_error_of_a_job_is_its_own_and_the_process_and_its_model_stay(jobs, tmp_path):
    good = finished(jobs, job(ROOT / "samples/harbour.png", tmp_path / "a.png"))
    assert good.error is None and good.shown == tmp_path / "a.png" and good.outcome["output_size"] == [480, 320]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    worker = process_that_upscales()
    assert "broken.png" in finished(jobs, job(tmp_path / "broken.png", tmp_path / "b.png")).error
    assert finished(jobs, job(ROOT / "samples/harbour.png", tmp_path / "c.png")).error is None
    assert worker.is_running()


def test_cancelling_in_a_tab_ends_what_it_reads_too(tmp_path):
    """It was taken out of the other queue, where it is not."""
    pytest.importorskip("gradio")
    from overnet.web.files import TemporaryFiles
    from overnet.web.page import Page

    # They are not started, so that jobs wait.
    page = Page(TemporaryFiles(1), Jobs("upscaling"), readings := Jobs("reading"), {}, most_seconds=1)
    for end in (page._cancel_job, page._close):
        request = SimpleNamespace(session_hash="tab")
        page._tab(request).jobs.append(reading := job(tmp_path / "a.png", tmp_path / "b.png", kind="open"))
        readings.add(reading)
        end(request)
        assert reading.is_cancelled and reading.ended.is_set()


def test_a_process_that_ends_says_why_and_the_next_job_gets_another(jobs, large, tmp_path):
    killed = job(large, tmp_path / "a.png", "best")
    jobs.add(killed)
    while killed.doing != "loading the model":
        assert not killed.ended.wait(0.01)
    worker = process_that_upscales()
    worker.kill()
    assert killed.ended.wait(20)
    assert killed.error == "the process that upscales was ended by SIGKILL; memory may have run out"
    assert finished(jobs, job(ROOT / "samples/harbour.png", tmp_path / "b.png")).error is None


def test_jobs_wait_in_their_order_and_one_that_waits_is_cancelled(jobs, large, tmp_path):
    queue = [job(large, tmp_path / f"{number}.png", "best" if not number else "realtime") for number in range(3)]
    for each in queue:
        jobs.add(each)
    while jobs.before(queue[0]):
        assert not queue[0].ended.wait(0.01)
    assert [jobs.before(each) for each in queue] == [0, 1, 2]
    assert set(jobs.used()) == {large, tmp_path}
    jobs.cancel(queue[1])
    assert queue[1].ended.is_set() and [jobs.before(each) for each in queue] == [0, 0, 1]
    jobs.cancel(queue[0])
    assert queue[0].ended.wait(5) and queue[0].error is None and queue[0].outcome is None
    assert queue[2].ended.wait(60) and queue[2].outcome["output_size"] == [3000, 2000]
    assert not (tmp_path / "0.png").exists() and not (tmp_path / "1.png").exists()


def test_a_cancellation_that_comes_after_the_end_spoils_no_other_job(jobs, tmp_path):
    finished(jobs, job(ROOT / "samples/harbour.png", tmp_path / "a.png"))
    worker = process_that_upscales()
    worker.send_signal(signal.SIGINT)
    assert finished(jobs, job(ROOT / "samples/harbour.png", tmp_path / "b.png")).error is None
    assert worker.is_running()


def test_a_process_that_was_killed_while_it_waited_is_replaced(jobs, tmp_path):
    finished(jobs, job(ROOT / "samples/harbour.png", tmp_path / "a.png"))
    process_that_upscales().kill()
    assert finished(jobs, job(ROOT / "samples/harbour.png", tmp_path / "b.png")).error is None


def test_a_process_that_cannot_be_started_fails_its_job_and_no_other(jobs, tmp_path, monkeypatch):
    """As on a full disk, or where there are too many processes."""

    def fail(*_, **__):
        raise OSError(28, "No space left on device", "/tmp")

    with Jobs("the process") as others:
        monkeypatch.setattr("overnet.web.jobs.PythonChild", fail)
        failed = finished(others, job(ROOT / "samples/harbour.png", tmp_path / "a.png"))
        assert failed.error == "/tmp: No space left on device"
        monkeypatch.undo()
        assert finished(others, job(ROOT / "samples/harbour.png", tmp_path / "b.png")).error is None


def reading(source, target, kind="open"):
    return WebJob(source, target / "shown.png", kind, 60)


@pytest.fixture
def bomb(tmp_path):
    """A small file with an image that takes a second to decode."""
    path = tmp_path / "bomb.png"
    cv2.imwrite(str(path), np.zeros((12_000, 12_000, 3), np.uint8))
    assert path.stat().st_size < 1e6
    return path


def test_a_file_is_read_in_the_process_and_one_that_crashes_it_is_one_line(bomb, tmp_path):
    with Jobs("the process that reads files") as readings:
        good = finished(readings, reading(ROOT / "samples/harbour.png", tmp_path))
        assert good.error is None and good.outcome["size"] == [240, 160] and good.outcome["kind"] == "image"
        killed = reading(bomb, tmp_path)
        readings.add(killed)
        assert not killed.ended.wait(0.1)
        process_that_upscales().send_signal(signal.SIGSEGV)
        assert killed.ended.wait(20) and killed.error == "the process that reads files was ended by SIGSEGV"
        assert finished(readings, reading(ROOT / "samples/harbour.png", tmp_path)).error is None


def test_the_reading_of_a_file_has_a_limit_of_time(bomb, tmp_path):
    with Jobs("the process that reads files", limit_seconds=0.2) as readings:
        assert finished(readings, reading(bomb, tmp_path)).error == "bomb.png: it took longer than 0.2 s"


@pytest.mark.skipif(sys.platform != "linux", reason="no such limit")
def test_the_reading_of_a_file_has_a_limit_of_memory(bomb, tmp_path):
    program = "from overnet.web import worker; worker.available_memory_bytes = lambda: 200_000_000; worker.main()"
    request = {"kind": "open", "source": bomb, "target": tmp_path / "shown.png", "most_seconds": 60}
    with PythonChild(["-c", program], title="the process") as child:
        child.send(request)
        assert next(message["error"] for message in child.messages() if "error" in message) == (
            f"{bomb}: out of memory (Unable to allocate 1.07 GiB for an array with shape (12000, 12000, 4) and data "
            "type uint16)"
        )


def test_a_clip_that_is_longer_than_its_packets_state_is_stopped(jobs, tmp_path):
    long = Clip(frames=images(70, 32, 24), rate=1, pts=[n * 30_000 for n in range(70)]).make(tmp_path / "long.mkv")
    stopped = finished(jobs, WebJob(long, tmp_path / "a.mkv", "video", 60, {"model": "realtime", "scale": 2}))
    assert stopped.error.endswith("long.mkv is 1.1 minutes long, and the limit here is 1 (overnet web --max-minutes)")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.mkv"]
