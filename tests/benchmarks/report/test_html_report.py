import base64
import re
import sys
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser

import pytest

from overnet.benchmarks.compare_runs import compare
from overnet.benchmarks.report.contents import in_order
from overnet.benchmarks.report.html_report import html_report
from overnet.benchmarks.report.slider import png_size
from overnet.benchmarks.results import Case
from tests.support.example_run import example_run, sample_images, with_result, with_times

RUN = example_run(runs=20)
HOSTILE = "</script></style></svg>--><script>alert(1)</script><img src=x onerror=alert(1)>\"'`&\x00"


class Reader(HTMLParser):
    """Notes all elements, and that they are closed in the order they were opened."""

    VOID = frozenset({"meta", "link", "img", "input"})

    def __init__(self, page):
        super().__init__()
        self.elements, self._open, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)


def with_text(value, text):
    """The same results with every text replaced, wherever it stands, but for what is one of a few words."""
    if isinstance(value, str):
        return text
    if isinstance(value, list):
        return [with_text(each, text) for each in value]
    if isinstance(value, dict):
        return {text if isinstance(each, str) else key: with_text(each, text) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        kept = ("kind",) if isinstance(value, Case) else ()
        return replace(
            value,
            **{
                each.name: with_text(getattr(value, each.name), text) for each in fields(value) if each.name not in kept
            },
        )
    return value


@pytest.fixture(scope="module")
def report():
    return html_report(RUN)


def test_it_is_well_formed_and_holds_every_part(report):
    read = Reader(report)
    for words in (
        "NVIDIA Jetson Orin Nano Super 8GB",
        "overnet-bench --scale 2 --scale 4 --baselines --report 'my report.html'",
        "Summary",
        "Compared with baselines",
        "95% interval",
        "Latency and throughput",
        "Memory by image size",
        "Power and temperature",
        "Share of the machine's measured peak",
        "no INT8 model is here",
        "Latency is doubtful",
        "INA3221 covers the whole module (VDD_IN).",
        "10.3.0",
    ):
        assert words in read.text, words
    assert [tag for tag, _ in read.elements].count("svg") == 4
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for tag, attributes in read.elements if tag == "a"}
    assert links
    assert links <= {f"#{each}" for each in ids}


def test_it_loads_nothing_from_anywhere(report):
    for tag, attributes in Reader(report).elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            if attributes.get(name):
                assert attributes[name].startswith(("data:", "#")), (tag, attributes[name][:80])
    assert "@import" not in report
    assert not re.search(r"url\((?!#)", report)
    assert "default-src 'none'" in report


def test_every_text_may_be_hostile():
    run = with_text(RUN, HOSTILE)
    run = replace(run, images=[replace(sample_images(), name=HOSTILE, after={HOSTILE: RUN.images[0].before})])
    page = html_report(run, compare(run, run, fail_above_percent=10))
    read = Reader(page)
    assert [tag for tag, _ in read.elements].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert {attributes["src"][:22] for tag, attributes in read.elements if tag == "img"} == {"data:image/png;base64,"}
    assert "\x00" not in page
    assert HOSTILE[:-1] in read.text


@pytest.fixture
def without_plots(monkeypatch):
    """As on a board without matplotlib, and faster."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.mark.usefixtures("without_plots")
def test_a_speed_without_its_quality_is_not_printed():
    result = RUN.results[0]
    alone = replace(RUN, results=[result], ratios=[], images=RUN.images)
    speeds = [f"{result.latency.host.p50_ms:.3g}", f"{result.latency.compute.p50_ms:.3g}", "288", "820"]
    shown = Reader(html_report(alone)).text
    assert all(speed in shown for speed in speeds)
    hidden = Reader(html_report(with_result(alone, 0, quality=None))).text
    assert not any(re.search(rf"(?<![\d.]){re.escape(speed)}(?![\d.])", hidden) for speed in speeds)
    assert "A speed is shown only beside its quality" in hidden


@pytest.mark.usefixtures("without_plots")
def test_images_that_are_none_are_left_out_and_named():
    images = sample_images()
    script = base64.b64encode(b"<svg onload='alert(1)'>").decode()
    broken = replace(images, after={**images.after, "evil fp32": script, "worse fp16": '"><script>'})
    page = html_report(replace(RUN, images=[broken]))
    assert script not in page
    assert "Left out because they are no PNG image of the same size: evil fp32, worse fp16." in page
    assert page.count("<img ") == 6
    nothing = html_report(replace(RUN, images=[replace(images, before=script, after={}, ground_truth=None)]))
    assert "There are fewer than two images to compare." in nothing
    assert "<img " not in nothing


@pytest.mark.parametrize(
    "text",
    ["", "not base64!", "QUJD", base64.b64encode(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR").decode(), "é", "QUJD\n"],
)
def test_what_is_no_png_has_no_size(text):
    assert png_size(text) is None


def test_a_png_has_its_size():
    assert png_size(sample_images().before) == (360, 240)


@pytest.mark.usefixtures("without_plots")
def test_without_matplotlib_the_rest_is_there():
    page = html_report(RUN)
    assert "overnet[bench]" in page
    assert "<svg" not in page
    assert "Summary" in page


@pytest.mark.usefixtures("without_plots")
def test_a_comparison_comes_first():
    new = with_times(RUN, lambda each: [1.5 * time for time in each])
    text = Reader(html_report(new, compare(RUN, new, fail_above_percent=10))).text
    assert "50.0% slower" in text
    assert text.index("Compared with the earlier run") < text.index("Summary")


def test_a_run_of_nothing_has_a_report():
    nothing = replace(
        RUN, results=[], ratios=[], growth=[], videos=[], peaks=[], images=[], notes=[], load_average=None
    )
    assert "There is nothing to plot." in Reader(html_report(nothing)).text


@pytest.mark.usefixtures("without_plots")
def test_a_warning_of_many_cases_is_one_line():
    same = "Latency is doubtful: another program took the processor."
    run = replace(RUN, results=[replace(result, warnings=[same]) for result in RUN.results])
    text = Reader(html_report(run)).text
    assert text.count(same) == 1
    assert f"{in_order(run.results)[0].case.title} and {len(run.results) - 1} other cases: {same}" in text


def test_no_group_of_a_table_is_hidden(report):
    """A table has no height of its own, behind whose end its last groups would have to be scrolled to."""
    assert "max-height" not in report.partition("<body")[0]
