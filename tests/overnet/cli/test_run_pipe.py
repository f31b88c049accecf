"""Videos through standard input and output, between real processes."""

import contextlib
import io
import json
import signal
import subprocess
import threading
import time

import av
import numpy as np
import pytest

from overnet import Upscaler
from overnet.runtime.video.color import RgbEncoder
from overnet.runtime.video.reader import VideoReader
from tests.conftest import write_clip
from tests.overnet.cli.test_run import assert_refused
from tests.runtime.video.test_raw import y4m
from tests.support.commands import command_line, environment, run_command, run_process


def pipe(data, *arguments, cwd):
    return run_process(*arguments, cwd=cwd, input=data, text=False, timeout=120)


@pytest.mark.parametrize("size", [(64, 48), (33, 25)], ids=str)
def test_y4m_through_a_pipe_is_exact(tmp_path, small_models, size):
    """Each plane is the very one that upscaling the decoded frame and converting it gives."""
    data = y4m(6, size)
    (tmp_path / "in.y4m").write_bytes(data)
    result = pipe(data, "-", "-o", "-", "--model", small_models, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert b"-: " in result.stderr and b"6 frames" in result.stderr
    with VideoReader(tmp_path / "in.y4m") as reader, Upscaler(2, model=small_models) as upscaler:
        encode = RgbEncoder(reader.info.color, pixel_format="yuv420p")
        expected = [encode(upscaler(frame.rgb)) for frame in reader]
    with av.open(io.BytesIO(result.stdout)) as video:
        assert video.format.name == "yuv4mpegpipe"
        frames = list(video.decode(video=0))
    assert len(frames) == len(expected) == 6
    for frame, wanted in zip(frames, expected, strict=True):
        assert (frame.width, frame.height) == (size[0] * 2, size[1] * 2)
        assert (frame.to_ndarray() == wanted.to_ndarray()).all()


def test_raw_video_both_ways(tmp_path, small_models):
    frames = np.random.default_rng(1).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)
    arguments = ("-", "-o", "-", "--raw", "32x24", "--output-format", "raw", "--model", small_models, "--json")
    result = pipe(frames.tobytes(), *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with Upscaler(2, model=small_models) as upscaler:
        assert result.stdout == b"".join(upscaler(frame).tobytes() for frame in frames)
    report = json.loads(result.stderr.splitlines()[-1])
    assert (report["frames"], report["output"]) == (3, "-")


def test_a_file_out_and_a_file_in(tmp_path, small_models):
    """A file to a pipe, through another program, and into a file again: with its times."""
    write_clip(tmp_path / "clip.mp4", frames=10)
    first = subprocess.Popen(
        command_line("clip.mp4", "-o", "-", "--output-format", "matroska", "--model", small_models, "-q"),
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    )
    second = subprocess.run(
        command_line("-", "-o", "out.mp4", "--model", small_models, "--json", "-q"),
        stdin=first.stdout,
        capture_output=True,
        cwd=tmp_path,
        env=environment(),
        timeout=120,
        check=False,
    )
    first.stdout.close()
    assert (first.wait(), second.returncode, second.stderr) == (0, 0, b"")
    assert json.loads(second.stdout)["frames"] == 10
    with av.open(str(tmp_path / "out.mp4")) as video:
        frames = list(video.decode(video=0))
    assert [frame.time for frame in frames] == [n / 25 for n in range(10)]
    assert (frames[0].width, frames[0].height) == (256, 192)


@pytest.mark.slow
def test_every_frame_waits_for_a_slow_reader(tmp_path, small_models):
    """Back-pressure, and nothing dropped."""
    write_clip(tmp_path / "clip.mp4", frames=60)
    process = subprocess.Popen(
        command_line("clip.mp4", "-o", "-", "--model", small_models, "-q"),
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    )
    came = process.stdout.read(1000)
    time.sleep(1)
    assert process.poll() is None, "it waits"
    came += process.stdout.read()
    assert process.wait() == 0
    with av.open(io.BytesIO(came)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 60


def test_a_reader_that_goes(tmp_path, small_models):
    write_clip(tmp_path / "clip.mp4", frames=200)
    with subprocess.Popen(
        command_line("clip.mp4", "-o", "-", "--model", small_models),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    ) as process:
        assert process.stdout.read(100).startswith(b"YUV4MPEG2 ")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


@pytest.mark.slow
@pytest.mark.parametrize("reads", [True, False])
def test_ctrl_c_in_the_middle(tmp_path, small_models, reads):
    """The writer of the pipe has stalled; and its reader takes what comes, or does not."""
    process = subprocess.Popen(
        command_line("-", "-o", "-", "--model", small_models),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    )

    def feed():
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(y4m(200 if not reads else 10))
            process.stdin.flush()

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert process.stdout.read(100)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    if not reads:
        assert process.wait(20) in (1, 130)
    stdout, stderr = process.stdout.read(), process.stderr.read()
    assert process.wait(30) == 130 or not reads
    feeder.join()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    assert b"Traceback" not in stderr
    assert (b"interrupted: -" in stderr) == reads and len(stdout) > 10_000


def test_an_interrupted_pipe_leaves_a_playable_part(tmp_path, small_models):
    process = subprocess.Popen(
        command_line("-", "-o", "out.mp4", "--model", small_models, "--json", "-q"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    )
    process.stdin.write(y4m(30))
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob("out.partial*")):
        assert time.monotonic() < deadline, "no recording has begun"
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    report = json.loads(stdout)
    assert report["partial"] and report["output"] == "out.partial.mp4"
    with av.open(str(tmp_path / "out.partial.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == report["frames"] > 10


def test_a_pipe_that_is_cut_off(tmp_path, small_models):
    result = pipe(y4m(5)[:-10], "-", "-o", "out.mp4", "--model", small_models, cwd=tmp_path)
    assert result.returncode == 0
    assert b"note: the last frame was cut off after 4604 of 4608 bytes: left out" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-", "-o", "out.mp4"], "standard input is empty"),
        (["-", "-o", "out.mp4", "--raw", "64x48"], "gave 0 bytes"),
        (["-", "-o", "out.mp4", "--raw", "64by48"], "--raw is '64by48'"),
        (["-", "-o", "out.mp4", "--raw", "64x48", "--pixel-format", "no"], "no pixel format is named 'no'"),
        (["-", "-o", "out.mp4", "--raw", "64x48", "--rate", "0"], "--rate is '0'"),
        (["-", "-o", "out.xyz"], "cannot write '.xyz' video"),
        (["-", "-o", "."], "is a folder"),
        (["-", "-o", "rtsp://h/x"], "only live sources can be sent there"),
        (["in.png", "-o", "-"], "only a video can go to standard output"),
        (["missing.mp4", "-o", "-"], "missing.mp4"),
        (["-", "a.mp4", "-o", "out"], "several inputs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_pipes(tmp_path, arguments, expected):
    result = run_command(*arguments, cwd=tmp_path)
    assert_refused(result, tmp_path, expected)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-"],
        ["-", "-o", "out.mp4", "--show"],
        ["-", "-o", "out.mp4", "--rate", "25"],
        ["-", "-o", "out.mp4", "--pixel-format", "rgb24"],
        ["-", "-o", "-", "--codec", "h264"],
        ["in.mp4", "-o", "-", "--raw", "64x48"],
    ],
    ids=" ".join,
)
def test_wrong_usage(tmp_path, arguments):
    write_clip(tmp_path / "in.mp4", frames=2)
    result = run_command(*arguments, cwd=tmp_path)
    assert_refused(result, tmp_path, "overnet-run --help", code=2)


def test_an_unknown_output_format(tmp_path):
    result = run_command("-", "-o", "-", "--output-format", "avi", cwd=tmp_path)
    assert_refused(result, tmp_path, "it can be y4m, raw or matroska", "overnet-run --help", code=2)
