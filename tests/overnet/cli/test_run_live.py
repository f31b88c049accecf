"""Live sources, as a user runs them, each in a process of its own."""

import json
import signal
import subprocess
import threading
import time

import av
import numpy as np
import pytest

from tests.overnet.cli.test_run import assert_refused
from tests.support.commands import command_line, environment, run_command
from tests.support.needs_live import RtspCamera, VirtualDisplay, free_port


def start(*arguments, cwd, **variables):
    return subprocess.Popen(
        command_line(*arguments),
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="module")
def camera():
    with RtspCamera() as running:
        yield running


@pytest.mark.timing
@pytest.mark.timeout(300)
def test_a_camera_is_recorded(camera, tmp_path, small_models):
    result = run_command(
        camera.url(), "-o", "live/out.mkv", "--duration", 2, "--model", small_models, "--json", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["kind"], report["output"], report["partial"]) == ("live", "live/out.mkv", False)
    assert (report["input_size"], report["output_size"], report["scale"]) == ([64, 48], [128, 96], 2)
    assert report["captured"] == report["frames"] + report["dropped"] > 30
    assert set(report["latency_ms"]) == {"p50", "p95", "max"}
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p95"] <= report["latency_ms"]["max"] * 1.001
    assert "128x96" in result.stderr and "latency" in result.stderr
    with av.open(str(tmp_path / "live/out.mkv")) as video:
        frames = list(video.decode(video=0))
    assert len(frames) == report["frames"]
    assert 1.2 < frames[-1].time < 2.5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_push_is_reported_by_the_servers_address(camera, small_models):
    """Its name was "-", that of standard output."""
    url = f"rtsp://127.0.0.1:{free_port()}/live"
    seen = []

    def receive():
        with av.open(url, options={"rtsp_flags": "listen", "listen_timeout": "60"}) as received:
            seen.extend(frame.width for frame in received.decode(video=0))

    server = threading.Thread(target=receive)
    server.start()
    result = run_command(camera.url(), "-o", url, "--duration", 1, "--model", small_models, "--json")
    server.join(30)
    assert result.returncode == 0, result.stderr
    assert seen and set(seen) == {128}
    assert json.loads(result.stdout)["output"] == url
    assert result.stderr.startswith(f"{url}: 128x96, ")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_is_the_normal_end(camera, tmp_path, small_models, sent):
    process = start(camera.url(), "-o", "out.mp4", "--model", small_models, "--json", "--quiet", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size for file in tmp_path.glob("out.partial*.mp4")):
        assert time.monotonic() < deadline, "no recording has begun"
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, b"")
    with av.open(str(tmp_path / "out.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == json.loads(stdout)["frames"] > 5
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.timeout(300)
def test_ctrl_c_before_anything_came(tmp_path, small_models):
    process = start("rtsp://127.0.0.1:9/x", "-o", "out.mp4", "--model", small_models, cwd=tmp_path)
    assert b"trying again" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == b"overnet: interrupted before the first frame"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "output_format", ["y4m", *(pytest.param(name, marks=pytest.mark.slow) for name in ("raw", "matroska"))]
)
def test_live_into_a_pipe(camera, tmp_path, small_models, output_format):
    process = start(
        camera.url(), "-o", "-", "--frames", 20, "--output-format", output_format, "--model", small_models, "--json",
        cwd=tmp_path,
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    report = json.loads(stderr.splitlines()[-1])
    assert (report["frames"], report["output"]) == (20, "-")
    if output_format == "raw":
        assert len(stdout) % (128 * 96 * 3) == 0 and len(stdout) >= 20 * 128 * 96 * 3 * 0.8
        return
    (tmp_path / "came").write_bytes(stdout)
    with av.open(str(tmp_path / "came")) as video:
        levels = [float(frame.to_ndarray(format="gray").mean()) for frame in video.decode(video=0)]
    assert len(levels) >= 15 and np.std(levels) > 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_window(camera, tmp_path, small_models):
    with VirtualDisplay() as display:
        process = start(
            camera.url(), "--show", "--frames", 15, "--model", small_models, "--json", "--quiet",
            cwd=tmp_path, DISPLAY=display.name,
        )  # fmt: skip
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, b"")
    report = json.loads(stdout)
    assert report["frames"] == report["shown"] == 15
    assert report["output"] is None
    assert report["latency_ms"]["max"] < 2000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["camera:87", "-o", "out.mp4"], "camera:87: there is no /dev/video87"),
        (["camera:front", "-o", "out.mp4"], "camera: needs a number or a device"),
        (["rtsp://joe:hush@127.0.0.1:9/x", "-o", "out.mp4", "--reconnect-attempts", "0"], "x: Connection refused"),
        (["gst:videotestsrc", "-o", "out.mp4"], "needs GStreamer, which this OpenCV"),
        (["csi:0", "-o", "out.mp4"], "needs GStreamer"),
        (["rtsp://h/x", "-o", "gst:fakesink"], "gst: as an output needs GStreamer"),
        (["rtsp://h/x", "-o", "out.xyz"], "cannot write '.xyz' video"),
        (["rtsp://h/x", "-o", "."], "is a folder"),
        (["rtsp://h/x", "-o", "udp://h:1"], "results can be sent to rtsp://"),
        (["rtsp://h/x", "-o", "camera:0"], "nothing can be written to it"),
        (["rtsp://h/x", "in.png", "-o", "out"], "several inputs at once must be files"),
        (["rtsp://h/x", "--show"], "no window can be opened"),
        (["rtsp://h/x", "-o", "out.mp4", "--hardware", "on"], "no decoder here"),
        (["rtsp://h/x", "-o", "out.mp4", "--hardware", "yes"], "it can be auto, on or off"),
        (["rtsp://h/x", "-o", "out.mp4", "--duration", "0"], "--duration is 0; it must be at least 0.001"),
        (["rtsp://h/x", "-o", "out.mp4", "--reconnect-attempts", "-1"], "it must be at least 0"),
        (["camera:0", "-o", "out.mp4", "--camera-size", "big"], "--camera-size is 'big'"),
        (["camera:0", "-o", "out.mp4", "--camera-rate", "fast"], "--camera-rate is 'fast'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_live_runs(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.delenv("DISPLAY", raising=False)
    result = run_command(*arguments, cwd=tmp_path)
    assert_refused(
        result, tmp_path, expected, code=2 if "it must be at least" in expected or "it can" in expected else 1
    )
    assert "hush" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["rtsp://h/x"],
        ["rtsp://h/x", "-o", "out.mp4", "--raw", "64x48"],
        ["rtsp://h/x", "-o", "out.mp4", "--output-format", "raw"],
        ["rtsp://h/x", "-o", "out.mp4", "--start", "5"],
        ["in.png", "-o", "out.png", "--show"],
        ["in.mp4", "-o", "out.mp4", "--camera-size", "64x48", "--duration", "5"],
    ],
    ids=" ".join,
)
def test_wrong_usage(tmp_path, arguments):
    assert_refused(run_command(*arguments, cwd=tmp_path), tmp_path, "overnet-run --help", code=2)


def test_an_existing_recording_is_kept(tmp_path):
    (tmp_path / "kept.mp4").write_bytes(b"precious")
    result = run_command("rtsp://h/x", "-o", "kept.mp4", cwd=tmp_path)
    assert_refused(result, tmp_path, "exists already")
