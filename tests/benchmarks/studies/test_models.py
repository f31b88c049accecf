import pytest

from overnet.benchmarks.studies.models import Model, ModelFigures, Setting, compare_models, table
from overnet.weights import model_path


def test_the_table_leaves_out_what_a_method_has_not():
    lines = table({"bicubic": ModelFigures(1.25), "fast": ModelFigures(10.0, 200_000_000, 12.34, 0.857)})
    assert lines[2:] == ["| bicubic | 1.2 |  |  |  |", "| fast | 10.0 | 200 | 12.3 | 86% |"]


@pytest.mark.slow
def test_a_model_is_measured_from_file_to_file():
    models = [Model("realtime", model_path("realtime"), "int8")]
    figures = compare_models(models, Setting(width=64, height=48, rounds=1, video_frames=8))
    bicubic, realtime = figures.values()
    assert bicubic.fps is None
    assert 0 < bicubic.latency_ms < realtime.latency_ms
    assert realtime.fps is not None and realtime.fps > 0
    assert realtime.cores_share is not None and 0 < realtime.cores_share < 1.2
    assert realtime.peak_memory_bytes is not None and realtime.peak_memory_bytes > 1 << 26
