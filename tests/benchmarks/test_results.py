"""Runs go into a file and come out as they were; what is no run is refused by the field that is wrong."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnet.benchmarks.report.contents import quality_words
from overnet.benchmarks.results import (
    FORMAT,
    BenchmarkRun,
    Case,
    CaseResult,
    Latency,
    Machine,
    Memory,
    Power,
    QualityFigures,
    VideoStages,
    read_run,
    write_run,
)
from overnet.benchmarks.timing_stats import spread
from overnet.errors import InputError, OutputError
from overnet.files.checked_json import from_json
from tests.conftest import SHARED, needs_shared

CASE = Case("openvino", "backend", "fp32", 2, 160, 90)


# Words of an earlier version in the damaged files of the shared material, with those of today; as they are, the files
# are refused for the first of them.
RENAMED = {
    '"pictures"': '"images"',
    '"pictures_per_second"': '"images_per_second"',
    '"joules_per_picture"': '"joules_per_image"',
    '"truth_psnr_db"': '"ground_truth_psnr_db"',
    '"truth_ssim"': '"ground_truth_ssim"',
    '"truth"': '"ground_truth"',
    '"rival"': '"baseline"',
}


@pytest.fixture
def run():
    samples = [10.0, 11.0, 12.5]
    result = CaseResult(
        CASE,
        "a CPU",
        "overnet_x2.onnx",
        Latency(spread(samples), samples),
        90.0,
        memory=Memory(300, 100, 0.5),
        quality=QualityFigures("PyTorch", 70.0, 1),
        power=Power("RAPL", "CPU packages", 10, 20.0, 25.0, 0.5, clocks_mhz={"cpu": 2500.0}, throttled=["hot"]),
    )
    machine = Machine("a machine", "Linux", "a processor", 2, 1 << 30, [], {"python": "3.11"}, {})
    return BenchmarkRun("2026-11-25T00:00:00+00:00", ["overnet-bench"], 3.0, machine, {"seconds": "3"}, [result])


def test_a_run_comes_back_as_it_was(run, tmp_path):
    write_run(run, tmp_path / "run.json", overwrite=False)
    assert read_run(tmp_path / "run.json") == run
    with pytest.raises(OutputError, match="exists already"):
        write_run(run, tmp_path / "run.json", overwrite=False)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda run: run.pop("machine"), "machine is missing"),
        (lambda run: run.update(more=1), "more is unknown"),
        (lambda run: run["results"][0].update({"a\nb": 1}), r"results\[0\].a\?b is unknown"),
        (lambda run: run["machine"]["versions"].update({"a\nb": 1}), r"machine.versions.a\?b is not"),
        (lambda run: run["results"][0].pop("device"), r"results\[0\].device is missing"),
        (lambda run: run["results"][0]["case"].update(scale="2"), r"results\[0\].case.scale is not"),
        (lambda run: run["results"][0]["case"].update(scale=True), r"results\[0\].case.scale is not"),
        (lambda run: run["results"][0]["case"].update(kind="other"), r"results\[0\].case.kind is not"),
        (lambda run: run["results"][0]["latency"].update(samples_ms=[1, None]), r"samples_ms\[1\] is not"),
        (lambda run: run["results"][0].update(latency=[]), r"results\[0\].latency is not an object"),
        (lambda run: run["results"][0]["power"].update(clocks_mhz={"cpu": "x"}), "clocks_mhz.cpu is not"),
        (lambda run: run.update(seconds=float("inf")), "seconds is not"),
        (lambda run: run.update(format="overnet benchmark 99"), "of another version"),
    ],
)
def test_what_is_no_run_is_refused(run, tmp_path, change, expected):
    content = run.to_json()
    change(content)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected):
        read_run(path)


@needs_shared
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fuzz_json_0", r"results\[0\]\.quality\.ground_truth_ssim is out of range"),
        ("fuzz_json_1", "bicubic x2 32x24: no run was timed"),
        ("fuzz_json_4", r"results\[3\]\.memory\.peak_host_bytes is out of range"),
    ],
)
def test_damaged_runs_are_refused_for_their_damage(tmp_path, name, expected):
    content = (SHARED / "cases" / "hostile" / f"{name}.json").read_text()
    for earlier, today in RENAMED.items():
        content = content.replace(earlier, today)
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=expected):
        read_run(tmp_path / "run.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"format": 1}'])
def test_a_file_that_is_not_json_is_refused(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json: not"):
        read_run(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_run(tmp_path / "none.json")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(_JSON, st.sampled_from(["case", "latency", "memory", "quality", "power", "warnings", "device"]))
def test_whatever_stands_in_a_field_is_taken_or_refused_in_one_line(value, field):
    case = {"method": "a", "kind": "baseline", "precision": "fp32", "scale": 2, "width": 1, "height": 1}
    content = {"case": case, "device": "here", field: value}
    try:
        made = from_json(CaseResult, content, name="file")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(made, CaseResult)


def test_names_for_people():
    assert CASE.title == "openvino fp32 x2 160x90"
    assert replace(CASE, method="bicubic", kind="baseline", batch=4).title == "bicubic x2 160x90, batch 4"
    assert quality_words(QualityFigures("PyTorch", None, 0)) == "identical to the reference"
    assert quality_words(QualityFigures("PyTorch", 71.26, 1)) == "71.26 dB to the reference"
    real = QualityFigures("PyTorch", None, None, ground_truth_psnr_db=33.128)
    assert quality_words(real) == "33.13 dB to the ground truth"
    assert not QualityFigures("PyTorch", None, 3).is_known
    assert quality_words(QualityFigures("PyTorch", None, None)) == "no PSNR"
    assert VideoStages("openvino", "fp32", 2, 1, 1, 9, 300, 20, 25, 19, "h264").slowest_stage == "upscale"


def test_the_format_is_in_the_file(run):
    assert run.to_json()["format"] == FORMAT
