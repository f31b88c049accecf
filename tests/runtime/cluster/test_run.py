"""Runs on a real cluster: two machines that are processes here."""

import json
import signal
import subprocess
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from overnet.errors import InputError, OverNetError
from overnet.runtime.cluster import parcel, videos
from overnet.runtime.cluster.connection import NO_REPORTS
from overnet.runtime.cluster.run import ClusterRun
from overnet.runtime.plan import Job
from overnet.runtime.segments.cuts import decoded_cuts, stated_cuts
from overnet.runtime.segments.folder import folder_of
from overnet.runtime.segments.status import read_status
from overnet.runtime.segments.writer import Cutting
from overnet.runtime.upscale_file import VideoOptions, upscale_video
from overnet.runtime.upscaler import Upscaler
from overnet.weights import bundled_folder
from tests.conftest import ROOT
from tests.support.clips import Clip, images
from tests.support.commands import command_line, environment, run_command
from tests.support.failing_segment import NUMBER, make_all_but_one

LENGTH = 10
OPTIONS = VideoOptions(cutting=Cutting(frames=LENGTH))
UPSCALING = {"model": "realtime", "scale": 2}
# A path that means another file in each process.
WORKING_FOLDER = Path("/proc/self/cwd")


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in NO_REPORTS.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT))
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": 100_000_000}
        started = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        started.add_node(**node)
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A video of 8 segments, with noise: without, x264 may give other bytes each time."""
    random = np.random.default_rng(5)
    frames = [np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8) for image in images(75)]
    return Clip(frames=frames, audio=("aac",)).make(tmp_path_factory.mktemp("video") / "in.mp4")


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
    """What a run on one machine makes of it."""
    target = tmp_path_factory.mktemp("local") / "out.mp4"
    with Upscaler(**UPSCALING) as upscaler:
        upscale_video(Job(source, target, "video"), upscaler, OPTIONS, overwrite=False)
    return target.read_bytes()


def run_on(cluster, source, target, **hooks):
    job = Job(source, target, "video")
    with ClusterRun(cluster.address, UPSCALING, [job], OPTIONS, overwrite=False) as run:
        return run.video(job, **hooks)


@pytest.mark.slow
def test_a_machine_that_is_lost_costs_its_segments_only(cluster, source, local, tmp_path, capfd):
    lost = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    shown = []

    def on_frame(report, expected):
        if not shown:
            cluster.remove_node(lost, allow_graceful=False)
        shown.append((report.frames, expected))

    outcome = run_on(cluster, source, tmp_path / "out.mp4", on_frame=on_frame)
    assert (tmp_path / "out.mp4").read_bytes() == local
    assert (outcome.frames, outcome.backend, outcome.partial) == (75, "openvino", False)
    assert capfd.readouterr() == ("", "")
    assert len(shown) == 75 and shown[-1] == (75, 75)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.slow
def test_without_a_shared_folder_all_goes_through_the_object_store(cluster, source, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.mp4").write_bytes(source.read_bytes())
    monkeypatch.setattr(parcel, "_BLOCK_BYTES", 7000)
    sent, send = [], parcel.Parcel.send

    def noted(self, ray):
        sent.append(self.path)
        send(self, ray)

    monkeypatch.setattr(parcel.Parcel, "send", noted)
    run_on(cluster, WORKING_FOLDER / "in.mp4", WORKING_FOLDER / "out.mp4")
    assert set(sent) == {WORKING_FOLDER / "in.mp4"}
    assert (tmp_path / "out.mp4").read_bytes() == local


def damage(source, target):
    content = bytearray(source.read_bytes())
    for at in range(len(content) // 3, len(content) // 3 + 900):
        content[at] ^= 0x5A
    target.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("is_damaged", [False, True])
def test_avi_of_frames_that_are_moved(cluster, tmp_path, is_damaged):
    """All segments are made at once, but where one begins in AVI's constant rate depends on the frames before it."""
    times = [index // 2 * 6007 + index % 2 * 300 for index in range(75)]
    path = Clip(frames=images(75), time_base=Fraction(1, 90000), pts=times).make(tmp_path / "in.mp4")
    if is_damaged:
        damage(path, path)
    options = replace(OPTIONS, codec="mpeg4")
    with Upscaler(**UPSCALING) as upscaler:
        made = upscale_video(Job(path, tmp_path / "local.avi", "video"), upscaler, options, overwrite=False)
    job = Job(path, tmp_path / "out.avi", "video")
    with ClusterRun(cluster.address, UPSCALING, [job], options, overwrite=False) as run:
        outcome = run.video(job)
    assert (tmp_path / "out.avi").read_bytes() == (tmp_path / "local.avi").read_bytes()
    assert outcome.notes == made.notes and "moved to keep them apart" in " ".join(made.notes)


@pytest.mark.slow
def test_damage_that_packets_do_not_show_gives_the_frames_of_a_local_run(cluster, source, tmp_path):
    damaged = tmp_path / "in.mp4"
    damage(source, damaged)
    with Upscaler(**UPSCALING) as upscaler:
        made = upscale_video(Job(damaged, tmp_path / "local.mp4", "video"), upscaler, OPTIONS, overwrite=False)
    outcome = run_on(cluster, damaged, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "local.mp4").read_bytes()
    assert outcome.frames == made.frames
    assert [note for note in outcome.notes if "damaged" in note] == [note for note in made.notes if "damaged" in note]


@pytest.mark.slow
def test_a_model_that_the_machines_do_not_see_is_sent(cluster, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_x2.onnx").write_bytes((bundled_folder("realtime") / "realtime_x2.onnx").read_bytes())
    cv2.imwrite(str(tmp_path / "in.png"), image)
    for model in ("own_x2.onnx", ""):
        arguments = [tmp_path / "in.png", "--model", WORKING_FOLDER / model]
        assert run_command(*arguments, "-o", tmp_path / "local.png", "--overwrite").returncode == 0
        result = run_command(*arguments, "-o", tmp_path / "out.png", "--overwrite", "--cluster", cluster.address)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "out.png").read_bytes() == (tmp_path / "local.png").read_bytes()


@pytest.mark.slow
def test_a_segment_that_fails_three_times_names_its_frames(cluster, source, local, tmp_path, monkeypatch):
    (tmp_path / "in.mp4").write_bytes(source.read_bytes())
    monkeypatch.setattr(videos, "make_segment", make_all_but_one)
    with pytest.raises(OverNetError) as error:
        run_on(cluster, tmp_path / "in.mp4", tmp_path / "out.mp4")
    reason = "failed 3 times on the cluster, the last time with: the GPU is on fire"
    assert str(error.value) == f"{tmp_path / 'in.mp4'}: frames {NUMBER * LENGTH} to {NUMBER * LENGTH + 9}: {reason}"
    assert (tmp_path / "tries").read_text() == "xxx"
    assert folder_of(tmp_path / "out.mp4").is_dir()
    monkeypatch.undo()
    outcome = run_on(cluster, tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert outcome.earlier_frames >= LENGTH
    assert (tmp_path / "out.mp4").read_bytes() == local


@pytest.mark.slow
@pytest.mark.parametrize("is_shared", [True, False])
def test_a_folder_of_images(cluster, image, tmp_path, monkeypatch, is_shared):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "sub/c.png"):
        cv2.imwrite(str(tmp_path / "in" / name), image)
    (tmp_path / "in/broken.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:200])
    here = tmp_path if is_shared else WORKING_FOLDER
    options = ["--model", "realtime", "--json"]
    expected = run_command(here / "in", "-o", tmp_path / "local", *options)
    result = run_command(here / "in", "-o", here / "out", *options, "--cluster", cluster.address)
    assert result.returncode == expected.returncode == 1, result.stderr
    for name in ("a.png", "b.jpg", "sub/c.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.jpg", "sub"]
    report, local_report = json.loads(result.stdout), json.loads(expected.stdout)
    assert report["failed"] == local_report["failed"] and len(report["failed"]) == 1
    assert [file["input"] for file in report["files"]] == [file["input"] for file in local_report["files"]]
    assert report["backend"] == "openvino"


@pytest.mark.slow
def test_a_source_that_is_changed_meanwhile_ends_the_run(cluster, source, tmp_path):
    """Segments of two files do not belong together."""
    changed, content = tmp_path / "in.mp4", source.read_bytes()
    changed.write_bytes(content)

    def on_frame(report, expected):
        changed.write_bytes(content[:-1] + b"x")

    with pytest.raises(InputError, match=r"in\.mp4 was changed or removed while the run read it"):
        run_on(cluster, changed, tmp_path / "out.mp4", on_frame=on_frame)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.slow
def test_images_for_which_there_is_no_task(cluster, image, tmp_path):
    cv2.imwrite(str(tmp_path / "in.png"), image)
    (tmp_path / "out.png").write_bytes(b"mine")
    jobs = [Job(tmp_path / name, tmp_path / "out.png", "image") for name in ("in.png", "gone.png")]
    with ClusterRun(cluster.address, UPSCALING, jobs, OPTIONS, overwrite=False) as run:
        with pytest.raises(OverNetError, match=r"out\.png exists already"):
            run.image(jobs[0])
        with pytest.raises(OverNetError, match=r"out\.png exists already"):
            run.image(jobs[1])
    assert (tmp_path / "out.png").read_bytes() == b"mine"


@pytest.mark.slow
@pytest.mark.timing
def test_ctrl_c_leaves_a_folder_from_which_the_same_command_goes_on(cluster, source, tmp_path):
    target = tmp_path / "out.mp4"
    command = command_line(source, "-o", target, "--model", "realtime", "--cluster", cluster.address)
    code = (
        "import functools, overnet.runtime.segments.writer as w; w.Cutting = functools.partial(w.Cutting, frames=5); "
    )
    code += command[2]
    with subprocess.Popen([command[0], "-c", code, *command[3:]], env=environment(), stderr=subprocess.PIPE) as process:
        while process.poll() is None and not ((status := read_status(target)) and status.segments):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        stderr = process.communicate(timeout=30)[1].decode()
        assert time.monotonic() - began < 2, stderr
    assert process.returncode == 130, stderr
    assert "goes on after" in stderr and (tmp_path / "out.partial.mp4").exists()
    command[-1] = "auto"
    environ = environment(RAY_ADDRESS=cluster.address)
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0 and "of 75 frames, which are kept" in result.stderr, result.stderr
    assert not folder_of(target).exists()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:9", "no Ray cluster answers there: Connection refused"),
        ("somewhere", "HOST:PORT"),
        ("nowhere.invalid:6379", "no Ray cluster answers there: "),
    ],
)
def test_a_wrong_address_is_told_at_once(tmp_path, address, reason):
    pytest.importorskip("ray")
    began = time.monotonic()
    result = run_command(ROOT / "samples/harbour.png", "-o", tmp_path / "out.png", "--cluster", address)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and reason in result.stderr
    assert time.monotonic() - began < 10


def test_what_is_no_cluster_is_told_at_once(tmp_path):
    import socket
    import threading

    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match="what answers there is no Ray cluster"):
            ClusterRun(address, UPSCALING, [], OPTIONS, overwrite=False)
        thread.join()


@pytest.mark.parametrize("start_seconds", [0, 1.3])
@pytest.mark.parametrize("max_frames", [None, 25])
@pytest.mark.parametrize("options", [{"bf": "3", "g": "12"}, {"bf": "0"}])
def test_packets_state_the_segments_that_decoding_finds(tmp_path, start_seconds, max_frames, options):
    from overnet.runtime.video.reader import VideoReader

    path = Clip(frames=images(75), options=options).make(tmp_path / "in.mp4")
    with VideoReader(path, start_seconds=start_seconds, max_frames=max_frames) as reader:
        info = reader.info
        stated = list(stated_cuts(path, 10, first_pts=reader.first_pts, most=info.max_frames, rate=info.rate))
        decoded = list(decoded_cuts(reader, 10, None))
    assert [(cut.number, cut.after, cut.is_last) for cut in stated] == [
        (cut.number, cut.after, cut.is_last) for cut in decoded
    ]
