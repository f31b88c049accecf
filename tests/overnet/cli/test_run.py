"""``overnet-run`` as a user runs it: in this process, and in one of its own where that is what is tested."""

import contextlib
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import psutil
import pytest

from overnet import Upscaler
from overnet.runtime.plan import make_plan
from overnet.runtime.upscale_file import VideoOptions, upscale_video
from overnet.runtime.video.reader import VideoReader
from tests.conftest import ROOT, SHARED, needs_shared, write_clip
from tests.support.commands import command_line, environment, run_command, run_process


@pytest.fixture
def folder(tmp_path, image):
    cv2.imwrite(str(tmp_path / "in.png"), image[..., ::-1])
    return tmp_path


def assert_refused(result, folder, *expected, code=1):
    """One line on stderr, nothing on stdout, a non-zero exit, and no output file."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    for text in expected:
        assert text in result.stderr
    assert not any(path.name.startswith(("out", ".overnet")) for path in folder.iterdir())


def test_an_image(folder):
    result = run_process("in.png", "-o", "out.png", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert cv2.imread(str(folder / "out.png")).shape == (100, 132, 3)
    assert result.stdout == ""
    assert "out.png: 132x100" in result.stderr


def test_the_json_line(folder, small_models):
    write_clip(folder / "clip.mp4")
    result = run_command("clip.mp4", "-o", "out.mp4", "--model", small_models, "--json", "--quiet", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["frames"] == 12
    assert report["scale"] == 2
    assert report["backend"] == "openvino"
    assert (report["input_size"], report["output_size"]) == ([64, 48], [128, 96])
    assert report["output"] == "out.mp4"
    assert set(report["seconds"]) == {"decode", "upscale", "encode", "total"}
    assert report["fps"] == pytest.approx(12 / report["seconds"]["total"], rel=0.01)
    assert all(spent > 0 for spent in report["seconds"].values())


def test_a_model_file_brings_its_own_scale(folder, small_models):
    run_command("in.png", "-o", "out.png", "--model", small_models / "small_x3.onnx", cwd=folder)
    assert cv2.imread(str(folder / "out.png")).shape == (150, 198, 3)


def test_a_folder_with_a_broken_file(folder, small_models):
    """The whole files are done, the broken one is told, and the exit says that not all went well."""
    (folder / "set").mkdir()
    (folder / "in.png").rename(folder / "set/good.png")
    (folder / "set/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (folder / "set/notes.txt").write_text("not for us")
    result = run_command("set", "-o", "out", "--model", small_models, "--json", "--quiet", cwd=folder)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "broken.png" in result.stderr
    report = json.loads(result.stdout)
    assert [file["output"] for file in report["files"]] == ["out/good.png"]
    assert [failed["input"] for failed in report["failed"]] == ["set/broken.png"]
    again = run_command("set", "-o", "out", "--model", small_models, "--json", cwd=folder)
    assert json.loads(again.stdout)["kept"] == ["out/good.png"]


def test_alpha_grey_and_sixteen_bits(folder, small_models, image):
    deep = np.concatenate([image, image[..., :1]], axis=2).astype(np.uint16) * 257
    cv2.imwrite(str(folder / "deep.png"), deep)
    cv2.imwrite(str(folder / "grey.png"), image[..., 0])
    result = run_command("deep.png", "grey.png", "-o", "out", "--model", small_models, cwd=folder)
    assert result.returncode == 0, result.stderr
    deep_out = cv2.imread(str(folder / "out/deep.png"), cv2.IMREAD_UNCHANGED)
    assert (deep_out.dtype, deep_out.shape) == (np.uint16, (100, 132, 4))
    assert cv2.imread(str(folder / "out/grey.png"), cv2.IMREAD_UNCHANGED).shape == (100, 132)


def broken(name):
    """Broken inputs: the arguments after the files have been made."""

    def make(folder):
        whole = (folder / "in.png").read_bytes()
        write_clip(folder / "clip.mp4")
        clip = (folder / "clip.mp4").read_bytes()
        contents = {
            "empty.png": b"",
            "text.png": b"just some words",
            "cut.png": whole[: len(whole) // 2],
            "empty.mp4": b"",
            "text.mp4": b"just some words",
            "cut.mp4": clip[: len(clip) // 2],
            "sound.mp4": None,
        }
        if name in contents and contents[name] is not None:
            (folder / name).write_bytes(contents[name])
        if name == "bomb.png":
            bomb = bytearray(whole)
            bomb[16:24] = (60000).to_bytes(4, "big") * 2
            (folder / name).write_bytes(bomb)
        if name == "sound.mp4":
            with av.open(str(folder / name), "w") as output:
                stream = output.add_stream("aac", rate=48000)
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate = 48000
                output.mux(stream.encode(frame))
                output.mux(stream.encode(None))
        return [name, "-o", "out.mp4" if name.endswith("mp4") else "out.png"]

    return pytest.param(make, name, id=name)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        broken("missing.png"),
        broken("empty.png"),
        broken("text.png"),
        broken("cut.png"),
        broken("bomb.png"),
        broken("missing.mp4"),
        broken("empty.mp4"),
        broken("text.mp4"),
        broken("cut.mp4"),
        broken("sound.mp4"),
        pytest.param(lambda folder: ["in.png", "-o", "out.xyz"], "out.xyz", id="suffix"),
        pytest.param(lambda folder: ["in.png", "-o", "out.mp4"], "is an image", id="kind"),
        pytest.param(lambda folder: ["in.png", "-o", "in.png"], "is itself an input", id="same file"),
        pytest.param(lambda folder: ["in.png", "-o", "out.png", "--scale", "0.5"], "scale", id="scale"),
        pytest.param(lambda folder: ["in.png", "-o", "out.png", "--scale", "99"], "scale is 9", id="large scale"),
        pytest.param(lambda folder: ["in.png", "-o", "out.png", "--model", "in.png"], "ONNX", id="model"),
        pytest.param(lambda folder: ["in.png", "-o", "out.png", "--backend", "x"], "backend", id="backend"),
        pytest.param(lambda folder: ["in.png", "-o", "out.png", "--tile", "3"], "tile", id="tile"),
    ],
)
def test_refused_files_and_options(folder, make, expected):
    assert_refused(run_command(*make(folder), cwd=folder), folder, expected)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "out.png"],
        ["in.png", "in.png"],
        ["in.png", "-o", "out.png", "--scale", "two"],
        ["in.png", "-o", "out.png", "--no-such-option"],
        ["in.png", "-o", "out.png", "--scale", "2", "--height", "100"],
        ["in.png", "-o", "out.png", "--frames", "5"],
    ],
    ids=" ".join,
)
def test_wrong_usage(folder, arguments):
    assert_refused(run_command(*arguments, cwd=folder), folder, "overnet-run --help", code=2)


@pytest.mark.parametrize("name", ["cut.png", "missing.mp4"])
def test_a_process_that_is_refused(folder, name):
    """Its exit code, and no word of OpenCV's or FFmpeg's."""
    (folder / "cut.png").write_bytes((folder / "in.png").read_bytes()[:400])
    assert_refused(run_process(name, "-o", f"out{name[-4:]}", cwd=folder), folder, name)


def test_an_unwritable_folder(folder):
    (folder / "file").write_text("no folder")
    assert_refused(run_command("in.png", "-o", "file/out.png", cwd=folder), folder, "file")
    assert (folder / "file").read_text() == "no folder"


def test_no_memory_for_the_image_itself(folder, monkeypatch):
    """What cannot be allocated is one line, whoever asked for it."""

    def refuse(*_, **__):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr("overnet.runtime.upscale_file.read_image", refuse)
    result = run_command("in.png", "-o", "out.png", cwd=folder)
    assert_refused(result, folder, "out of memory (Unable to allocate 9 GiB)")


@pytest.mark.parametrize("name", ["in.png", "clip.mp4"])
def test_an_existing_output_is_kept_unless_asked(folder, small_models, name):
    write_clip(folder / "clip.mp4", frames=2)
    output = folder / f"kept{name[-4:]}"
    output.write_bytes(b"precious")
    result = run_command(name, "-o", output.name, "--model", small_models, cwd=folder)
    assert_refused(result, folder, "exists already")
    assert output.read_bytes() == b"precious"
    result = run_command(name, "-o", output.name, "--model", small_models, "--overwrite", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert output.read_bytes() != b"precious"


@pytest.mark.parametrize("name", ["in.png", "clip.mp4"])
def test_a_full_disk(folder, small_models, name):
    """A file system of 64 kB, filled by what is written: one line, and nothing left on it."""
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        random = np.random.default_rng(0)
        cv2.imwrite(str(folder / "in.png"), random.integers(0, 256, (200, 200, 3), dtype=np.uint8))
        with av.open(str(folder / "clip.mp4"), "w") as output:
            stream = output.add_stream("libx264", rate=25, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
            for _ in range(20):
                noise = random.integers(0, 256, (96, 96, 3), dtype=np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
            output.mux(stream.encode(None))
        result = (
            run_command(name, "-o", f"small/out{name[-4:]}", "--model", small_models, "--crf", "1", cwd=folder)
            if name.endswith("mp4")
            else run_command(name, "-o", "small/out.png", "--model", small_models, cwd=folder)
        )
        assert_refused(result, folder, "space")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def start_on_terminal(*arguments, folder):
    """Start a run whose stderr is a terminal; return the process, and an iterator over the text it prints there."""
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        command_line(*arguments),
        cwd=folder,
        env=environment(TERM="xterm", COLUMNS="120"),
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    )
    os.close(terminal)

    def printed():
        with contextlib.suppress(OSError):  # the process has ended
            while text := os.read(master, 4096):
                yield text.decode(errors="replace")
        os.close(master)

    return process, printed()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "sent", [signal.SIGINT, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGTERM, signal.SIGHUP))]
)
def test_interruption_leaves_a_playable_part(folder, sent):
    write_clip(folder / "clip.mp4", frames=400)
    process, printed = start_on_terminal("clip.mp4", "-o", "out.mp4", "--json", "--threads", "1", folder=folder)
    stderr, interrupted = "", False
    try:
        for text in printed:
            stderr += text
            # A frame takes a tenth of a second.
            if not interrupted and re.search(r"[1-9]\d*/400 frames", stderr):
                process.send_signal(sent)
                interrupted = True
    except BaseException:  # the test's time is over
        process.kill()
        raise
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    report = json.loads(stdout)
    assert report["partial"] and report["output"] == "out.partial.mp4"
    assert "Traceback" not in stderr
    with av.open(str(folder / "out.partial.mp4")) as video:
        assert "partial" in video.metadata["comment"]
        assert sum(1 for _ in video.decode(video=0)) == report["frames"]
    assert 0 < report["frames"] < 400
    assert {path.name for path in folder.iterdir()} == {"in.png", "clip.mp4", "out.partial.mp4"}


@pytest.mark.slow
def test_interruption_before_the_first_frame_leaves_nothing(folder):
    cv2.imwrite(str(folder / "in.png"), np.zeros((800, 800, 3), np.uint8))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command_line("in.png", "-o", "out.png"), cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    # By processor time, which a busy machine does not make shorter: loading takes 1 s, the image 10 s.
    while psutil.Process(process.pid).cpu_times().user < 2.5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert used.ru_utime - before.ru_utime < 6, "the image was computed to its end"
    assert stderr == "overnet: interrupted\n"
    assert {path.name for path in folder.iterdir()} == {"in.png"}


def test_progress_on_a_terminal(folder, small_models):
    write_clip(folder / "clip.mp4", frames=30)
    process, printed = start_on_terminal("clip.mp4", "-o", "out.mp4", "--model", small_models, folder=folder)
    text = "".join(printed)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert "/30" in text and "fps" in text and "left" in text


def test_info():
    result = run_process("info", "--json", program="overnet")
    assert result.returncode == 0, result.stderr
    inventory = json.loads(result.stdout)
    assert {backend["name"]: backend["works"] for backend in inventory["backends"]}["openvino"]
    found = [(model["model"], model["scale"]) for model in inventory["models"]]
    assert dict.fromkeys(found) == dict.fromkeys(
        (name, scale) for name in ("realtime", "fast", "best") for scale in (2, 3, 4)
    )
    text = run_command("info", program="overnet").stdout
    assert "openvino" in text and "overnet_x2.onnx" in text


def test_help_and_version():
    assert "Upscale images" in run_process("--help").stdout
    assert run_command("--version", program="overnet").stdout.startswith("overnet ")


def test_the_package_runs_as_a_program(folder):
    """As ``torchrun -m overnet train`` starts it; a wrong command ends it with a code as the program itself."""
    for arguments, code, output in (
        (["--version"], 0, "overnet "),
        (["train", "--help"], 0, "-m overnet train"),
        (["up"], 2, ""),
    ):
        result = subprocess.run(
            [sys.executable, "-m", "overnet", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert result.returncode == code and output in result.stdout
    assert "run" in run_command(program="overnet").stdout
    same = run_command("run", "--help", program="overnet").stdout
    assert same.replace("overnet run", "overnet-run") == run_command("--help").stdout


@needs_shared
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_clip(tmp_path):
    """Some frames of the real clip at x2: times, colour tags and images."""
    clip = SHARED / "clips/bbb_320x180.mp4"
    result = run_command(clip, "-o", "out.mp4", "--model", "fast", "--frames", 6, "--json", cwd=tmp_path)
    report = json.loads(result.stdout)
    assert (report["frames"], report["output_size"]) == (6, [640, 360])
    with av.open(str(clip)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        tagged = after.streams.video[0].codec_context
        assert (int(tagged.colorspace), int(tagged.color_primaries), int(tagged.color_trc)) == (1, 1, 1)
        for source, result in zip(before.decode(video=0), after.decode(video=0), strict=False):
            assert source.pts * source.time_base == result.pts * result.time_base
            luma = source.to_ndarray()[:180].astype(float)
            reduced = cv2.resize(result.to_ndarray()[:360].astype(np.float32), (320, 180), interpolation=cv2.INTER_AREA)
            assert 10 * np.log10(255**2 / np.mean((luma - reduced) ** 2)) >= 35


@needs_shared
@pytest.mark.weekly
@pytest.mark.timing
@pytest.mark.timeout(1800)
def test_what_the_pipeline_costs(tmp_path):
    """End to end at least 0.9 of the bare backend's frames a second: the median of rounds run one beside the other.

    One long run against one other says more about who else was using the machine than about the pipeline.
    """
    clip = SHARED / "clips/bbb_320x180.mp4"
    upscaler = Upscaler(2)
    bare = upscaler.backend_for(2)
    frames_a_round, ratios = 3, []
    with VideoReader(clip, max_frames=frames_a_round) as reader:
        frames = [frame.rgb[None] for frame in reader]
    options = VideoOptions(max_frames=frames_a_round)

    def bare_seconds():
        began = time.perf_counter()
        for frame in frames:
            bare.upscale(frame)
        return time.perf_counter() - began

    bare.upscale(frames[0])
    before = bare_seconds()
    for index in range(3):
        (job,) = make_plan([clip], tmp_path / f"{index}.mp4", overwrite=False).jobs
        outcome = upscale_video(job, upscaler, options, overwrite=False)
        after = bare_seconds()
        ratios.append((before + after) / 2 / outcome.seconds.total)
        before = after
    assert np.median(ratios) >= 0.9, ratios
