"""The queue of `overnet web`, and the process that upscales for it."""

import signal

import cv2
import psutil
import pytest

from overnet.web.jobs import Jobs, WebJob
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def jobs():
    with Jobs() as started:
        yield started


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large.png"
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(ROOT / "samples/harbour.png")), (1500, 1000)))
    return path


def job(source, target, model="realtime", kind="image"):
    return WebJob(source, target, kind, {"model": model, "scale": 2})


def process_that_upscales():
    (found,) = [each for each in psutil.Process().children() if "overnet.web.worker" in each.cmdline()]
    return found


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
