from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnet.benchmarks.compare_runs import BLOCKS, compare, compare_times
from overnet.benchmarks.report.comparison_table import comparison_table
from overnet.benchmarks.results import read_run, write_run
from tests.support.example_run import example_run, with_result, with_times

OLD = example_run(seed=0)
SHORT = replace(OLD, results=OLD.results[:6])

times = st.builds(
    lambda seed, median, spread, count: (
        median * np.exp(np.random.default_rng(seed).normal(0, spread, count))
    ).tolist(),
    seed=st.integers(0, 2**32 - 1),
    median=st.floats(0.01, 5000),
    spread=st.floats(0, 0.3),
    count=st.integers(1, 200),
)


@given(times)
def test_a_run_compared_with_itself_never_counts(measured):
    change = compare_times(measured, measured)
    assert change.percent == 0
    assert not change.counts


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.floats(0, 40), st.floats(0, 50))
def test_a_run_compared_with_itself_never_fails(seed, spread, limit):
    run = replace(SHORT, results=example_run(seed=seed, spread_percent=spread, runs=12).results[:6])
    comparison = compare(run, run, fail_above_percent=limit)
    assert not comparison.regressions
    assert comparison.missing == comparison.added == comparison.notes == []


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.floats(0, 8), st.integers(10, 120))
def test_all_times_half_as_long_again_fail(seed, spread, runs):
    old = replace(SHORT, results=example_run(seed=seed, spread_percent=spread, runs=runs).results[:6])
    new = with_times(old, lambda each: [1.5 * time for time in each])
    comparison = compare(old, new, fail_above_percent=10)
    assert comparison.regressions
    backends = [each.case for each in comparison.cases if each.case.kind == "backend"]
    assert len(comparison.regressions) == len(backends) == 4
    assert "50.0% slower" in comparison.regressions[0]
    assert not compare(new, old, fail_above_percent=10).regressions
    assert not compare(old, new, fail_above_percent=None).regressions
    assert not compare(old, new, fail_above_percent=60).regressions


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(0.5, 15), st.integers(20, 200))
def test_noise_of_the_size_of_the_spread_is_no_change(seed, spread, runs):
    random = np.random.default_rng(seed)
    old, new = (100 * np.exp(random.normal(0, spread / 100, runs)) for _ in range(2))
    assert not compare_times(old.tolist(), new.tolist()).is_worse_by(5)


@given(st.floats(0, 2 * np.pi), st.floats(0, 2 * np.pi), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_a_slow_wave_is_no_change_though_thousands_of_times_agree_on_it(first, second, seed):
    # A neighbour comes and goes within each run: single times, drawn as if independent, would swear to a change.
    random = np.random.default_rng(seed)
    at = np.linspace(0, 2 * np.pi, 2000)
    old, new = ((100 + 8 * np.sin(at + phase) + random.normal(0, 0.5, 2000)).tolist() for phase in (first, second))
    assert not compare_times(old, new).counts


def test_a_slow_wave_would_be_a_change_if_times_were_independent():
    """What the test above would not find out: that the blocks are what it passes by."""
    from overnet.benchmarks.timing_stats import change_of_medians

    at = np.linspace(0, 1.2 * np.pi, 2000)
    old, new = (100 + 8 * np.sin(at + phase) for phase in (0.0, 1.0))
    _, low, high = change_of_medians(old.tolist(), new.tolist())
    assert low > 0 or high < 0
    assert not compare_times(old.tolist(), new.tolist()).counts


def test_a_clear_change_counts_however_small_the_runs_noise_makes_it():
    steady = [10.0, 10.01, 9.99] * 20
    assert compare_times(steady, [1.03 * each for each in steady]).counts
    assert not compare_times(steady, [1.005 * each for each in steady]).counts


def test_one_run_more_than_there_are_blocks_is_enough():
    change = compare_times([10.0] * (BLOCKS + 1), [20.0] * (BLOCKS + 1))
    assert (change.percent, change.low, change.high) == (100, 100, 100)
    assert change.is_worse_by(99)


def test_too_few_runs_tell_nothing():
    assert not compare_times([10.0], [30.0]).counts
    assert "not known" in [cell for row in _rows_of_first_case([10.0], [30.0]) for cell in row]


def _rows_of_first_case(before, now):
    old = with_times(replace(SHORT, results=SHORT.results[:1]), lambda _: before)
    new = with_times(old, lambda _: now)
    return comparison_table(compare(old, new, fail_above_percent=10)).rows


def test_no_times_are_an_error():
    with pytest.raises(ValueError, match="no run"):
        compare_times([], [1.0])


def test_a_baseline_that_became_slower_is_a_note_on_the_machine():
    baselines = [result for result in OLD.results if result.case.kind == "baseline"][:1]
    old = replace(OLD, results=baselines)
    new = with_times(old, lambda each: [2 * time for time in each])
    comparison = compare(old, new, fail_above_percent=10)
    assert not comparison.regressions
    assert "baseline's time changed by +100.0%; is the machine as it was?" in comparison.notes[0]


def test_throughput_that_broke_down_while_latency_held_fails():
    halved = with_result(SHORT, 0, images_per_second=SHORT.results[0].images_per_second / 2)
    (line,) = compare(SHORT, halved, fail_above_percent=10).regressions
    assert "50.0% fewer images per second" in line


def test_more_memory_fails_and_less_does_not():
    memory = SHORT.results[0].memory
    more = with_result(SHORT, 0, memory=replace(memory, peak_host_bytes=int(1.3 * memory.peak_host_bytes)))
    (line,) = compare(SHORT, more, fail_above_percent=10).regressions
    assert "30.0% more host memory" in line
    assert not compare(more, SHORT, fail_above_percent=10).regressions
    a_little = with_result(SHORT, 0, memory=replace(memory, device_bytes=int(1.015 * memory.device_bytes)))
    assert not compare(SHORT, a_little, fail_above_percent=0).regressions


def test_gpu_memory_is_compared_by_itself():
    memory = SHORT.results[0].memory
    more = with_result(SHORT, 0, memory=replace(memory, device_bytes=2 * memory.device_bytes))
    (line,) = compare(SHORT, more, fail_above_percent=10).regressions
    assert "100.0% more GPU memory" in line


@pytest.mark.parametrize(
    ("index", "changes", "words"),
    [
        (0, {"reference_psnr_db": 61.25}, "0.15 dB of PSNR lost to the reference"),
        (0, {"ground_truth_psnr_db": 31.4}, "0.22 dB of PSNR lost to the ground truth"),
        (3, {"reference_psnr_db": 80.0, "largest_difference_levels": 1}, "no longer identical to the reference"),
    ],
)
def test_lost_quality_fails(index, changes, words):
    worse = with_result(SHORT, index, quality=replace(SHORT.results[index].quality, **changes))
    (line,) = compare(SHORT, worse, fail_above_percent=10).regressions
    assert words in line
    assert not compare(worse, SHORT, fail_above_percent=10).regressions


def test_a_tenth_of_a_decibel_is_allowed():
    quality = SHORT.results[0].quality
    worse = with_result(SHORT, 0, quality=replace(quality, reference_psnr_db=quality.reference_psnr_db - 0.09))
    assert not compare(SHORT, worse, fail_above_percent=10).regressions


def test_quality_to_other_images_is_not_compared():
    quality = replace(SHORT.results[0].quality, ground_truth="Set5", ground_truth_psnr_db=20.0)
    comparison = compare(SHORT, with_result(SHORT, 0, quality=quality), fail_above_percent=10)
    assert not comparison.regressions
    assert any("ground truth Set14 -> Set5" in note for note in comparison.notes)


def test_what_fails_now_is_a_failure():
    broken = with_result(SHORT, 0, error="out of memory", latency=None, quality=None, memory=None)
    comparison = compare(SHORT, broken, fail_above_percent=10)
    assert comparison.failures == [(SHORT.results[0].case, "out of memory")]
    (line,) = comparison.regressions
    assert "it fails now (out of memory)" in line
    assert not compare(broken, SHORT, fail_above_percent=10).regressions


def test_cases_of_one_run_alone_are_listed():
    fewer = replace(SHORT, results=SHORT.results[1:])
    assert compare(SHORT, fewer, fail_above_percent=10).missing == [SHORT.results[0].case]
    assert compare(fewer, SHORT, fail_above_percent=10).added == [SHORT.results[0].case]
    assert not compare(SHORT, fewer, fail_above_percent=10).regressions


def test_runs_with_nothing_in_common_do_not_pass_for_equal():
    other = replace(OLD, results=OLD.results[6:12])
    (line,) = compare(SHORT, other, fail_above_percent=10).regressions
    assert "no case of the old run could be compared" in line


def test_times_without_quality_are_not_compared():
    slower = with_times(SHORT, lambda each: [3 * time for time in each])
    blind = with_result(slower, 0, quality=None)
    comparison = compare(SHORT, blind, fail_above_percent=10)
    assert comparison.cases[0].latency is None
    assert any("has no PSNR" in note for note in comparison.notes)


def test_what_else_differs_is_named():
    machine = replace(
        OLD.machine, name="another board", gpus=[], versions={**OLD.machine.versions, "tensorrt": "10.7.0"}
    )
    new = replace(with_result(SHORT, 0, device="CPU"), machine=machine, options={**OLD.options, "seconds": "3.0"})
    notes = compare(SHORT, new, fail_above_percent=None).notes
    for words in (
        "machine: NVIDIA Jetson Orin Nano Super 8GB -> another board",
        "driver 540.4 -> none",
        "version of tensorrt: 10.3.0 -> 10.7.0",
        "option seconds: 10.0 -> 3.0",
        "device Orin GPU -> CPU",
    ):
        assert any(words in note for note in notes), words


def test_the_table_shows_every_change():
    new = with_times(SHORT, lambda each: [1.5 * time for time in each])
    made = comparison_table(compare(SHORT, new, fail_above_percent=10))
    assert all(len(row) == len(made.headings) for row in made.rows)
    by_name = {row[0]: dict(zip(made.headings, row, strict=True)) for row in made.rows}
    assert by_name["tensorrt fp16"]["Change"] == "+50.0%"
    assert by_name["tensorrt fp16"]["Verdict"] == "worse"
    assert by_name["bicubic"]["Verdict"] == "slower"
    assert any(note.startswith("Worse than allowed: tensorrt fp16 x2 160x90: 50.0% slower") for note in made.notes)


def test_a_run_from_its_file_is_the_same_run(tmp_path):
    write_run(OLD, tmp_path / "old.json", overwrite=False)
    comparison = compare(read_run(tmp_path / "old.json"), OLD, fail_above_percent=0)
    assert not comparison.regressions
    assert len(comparison.cases) == len(OLD.results) - 1
