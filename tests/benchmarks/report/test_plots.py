import re
import sys
from dataclasses import replace
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from overnet.benchmarks.report.plots import (
    LATENCY_BY_SIZE,
    MEMORY_BY_SIZE,
    PLOTS,
    QUALITY_BY_LATENCY,
    SPEEDUPS,
    plots_as_svg,
    write_plots,
)
from overnet.errors import MissingDependency, OutputError
from tests.support.example_run import example_run, with_result

RUN = example_run(runs=20)


@pytest.fixture(scope="module")
def svgs():
    return plots_as_svg(RUN)


def words(svg):
    return " ".join(
        "".join(each.itertext()) for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("text")
    )


@pytest.mark.parametrize(
    ("plot", "unit"),
    list(zip(PLOTS, ("latency, ms", "PSNR to the ground truth, dB", "memory, MB", "times as fast"), strict=True)),
)
def test_a_plot_names_its_methods_and_units(svgs, plot, unit):
    shown = words(svgs[plot.title])
    for method in ("tensorrt fp16", "tensorrt int8", "onnxruntime fp32", "openvino fp32", "x2", "x4"):
        assert method in shown
    assert unit in shown


@pytest.mark.parametrize("plot", PLOTS)
def test_the_same_run_gives_the_same_bytes(svgs, plot):
    assert plot.svg(RUN) == svgs[plot.title]


def test_plots_take_their_ink_from_the_page_and_nothing_from_elsewhere(svgs):
    assert len(svgs) == 4
    for svg in svgs.values():
        assert "currentColor" in svg
        assert "<metadata" not in svg
        assert not re.search(r'(?:src|href)="(?!#)', svg)
    ids = [found for svg in svgs.values() for found in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    for svg in svgs.values():
        used = {*re.findall(r"url\(#([^)]+)\)", svg), *re.findall(r'href="#([^"]+)"', svg)}
        assert used
        assert used <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_hostile_names_are_no_formula_and_no_markup():
    case = replace(RUN.results[0].case, method="$\\frac{</text><script>alert(1)</script>\x00\n_")
    svg = LATENCY_BY_SIZE.svg(with_result(RUN, 0, case=case))
    assert "<script" not in svg
    assert "$\\frac{</text>" in words(svg)


def test_a_speed_without_its_quality_is_in_no_plot():
    hidden = [replace(each, quality=None) if each.case.method == "tensorrt" else each for each in RUN.results]
    run = replace(RUN, results=hidden)
    for plot in (LATENCY_BY_SIZE, QUALITY_BY_LATENCY, SPEEDUPS):
        assert "tensorrt" not in words(plot.svg(run))
    assert "tensorrt" in words(MEMORY_BY_SIZE.svg(run))  # no speed


def test_without_a_ground_truth_quality_is_to_the_reference():
    blind = [
        replace(each, quality=replace(each.quality, ground_truth_psnr_db=None)) if each.quality else each
        for each in RUN.results
    ]
    svg = QUALITY_BY_LATENCY.svg(replace(RUN, results=blind))
    assert "PSNR to the reference" in words(svg)
    assert "bicubic" not in words(svg)


def test_where_there_is_nothing_there_is_no_plot(tmp_path):
    empty = replace(RUN, results=[], ratios=[])
    assert plots_as_svg(empty) == {}
    assert write_plots(empty, tmp_path, overwrite=False) == []


@pytest.mark.parametrize("count", [1, 12])
def test_one_case_alone_and_many_methods_can_be_plotted(count):
    cases = [replace(RUN.results[0], case=replace(RUN.results[0].case, method=f"method{n}")) for n in range(count)]
    run = replace(RUN, results=cases, ratios=[])
    for svg in plots_as_svg(run).values():
        assert all(f"method{n}" in words(svg) for n in range(count))


def test_names_in_the_legend_do_not_touch():
    # Twelve lines that end in one point.
    cases = [replace(RUN.results[0], case=replace(RUN.results[0].case, method=f"method{n}")) for n in range(12)]
    svg = LATENCY_BY_SIZE.svg(replace(RUN, results=cases, ratios=[]))
    texts = [each for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("text")]
    heights = [float(each.get("y")) for each in texts if each.text.startswith("method")]
    assert len(heights) == 12
    assert np.diff(np.sort(heights)).min() > 9  # points, as high as the letters are


def test_png_files_are_images_with_something_on_white(tmp_path):
    paths = write_plots(RUN, tmp_path / "plots", overwrite=False)
    assert sorted(path.name for path in paths) == [
        "latency_by_size.png",
        "memory_by_size.png",
        "quality_by_latency.png",
        "times_as_fast.png",
    ]
    for path in paths:
        image = cv2.imread(str(path))
        assert image[0, 0].tolist() == [255, 255, 255]
        assert image.std() > 10
    with pytest.raises(OutputError, match="exists already"):
        write_plots(RUN, tmp_path / "plots", overwrite=False)


def test_a_users_own_settings_are_left_alone_and_change_nothing(svgs):
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert LATENCY_BY_SIZE.svg(RUN) == svgs[LATENCY_BY_SIZE.title]
        assert matplotlib.rcParams["font.size"] == 30


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=r"overnet\[bench\]"):
        LATENCY_BY_SIZE.svg(RUN)
