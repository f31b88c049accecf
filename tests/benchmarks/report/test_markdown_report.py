import io
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from overnet.benchmarks.compare_runs import compare
from overnet.benchmarks.report.contents import latency_table, summary_table
from overnet.benchmarks.report.markdown_report import console_tables, escape_markdown, markdown_report
from tests.support.example_run import example_run, with_result, with_times

RUN = example_run(runs=20)


def as_html(text):
    return MarkdownIt("commonmark").enable("table").render(text)


def on_console(shown, width=160):
    written = io.StringIO()
    Console(file=written, width=width).print(shown)
    return written.getvalue()


def test_the_tables_are_tables_with_as_many_cells_a_row_as_columns():
    html = as_html(markdown_report(RUN))
    assert html.count("<table>") == 4
    for table in html.split("<table>")[1:]:
        rows = table.split("</table>")[0].split("<tr>")[1:]
        assert len({row.count("<td") + row.count("<th") for row in rows}) == 1
    assert '<td style="text-align:left">tensorrt fp16</td>' in html


def test_it_says_how_to_repeat_it_and_on_what():
    report = markdown_report(RUN)
    assert "\n    overnet-bench --scale 2 --scale 4 --baselines --report 'my report.html'\n" in report
    assert "NVIDIA Jetson Orin Nano Super 8GB" in report
    assert "tensorrt 10.3.0" in report
    assert "no INT8 model is here" in report
    assert "Latency is doubtful" in report


def test_hostile_text_stays_text():
    hostile = "a|b <script>alert(1)</script> `x` [y](z) ![p](q) *s* _t_ ~u~ \\ & # @who\n\n# title\x1b[31m"
    html = as_html(escape_markdown(hostile))
    assert html.count("<") == 2  # one paragraph's beginning and end
    assert "&lt;script&gt;" in html
    assert "![p](q) *s* _t_ ~u~ \\ &amp; # @who" in html
    run = replace(RUN, machine=replace(RUN.machine, name=hostile), notes=[hostile])
    report = markdown_report(replace(run, results=[replace(RUN.results[0], device=hostile)]))
    assert "<script" not in report
    assert "\x1b" not in report
    html = as_html(report)
    rows = html.split("<table>")[1].split("</table>")[0].split("<tr>")[1:]
    assert len({row.count("<td") + row.count("<th") for row in rows}) == 1


def test_a_speed_without_its_quality_is_not_printed():
    result = RUN.results[0]
    median = f"{result.latency.host.p50_ms:.3g}"
    alone = replace(RUN, results=[result], ratios=[], growth=[], videos=RUN.videos)
    for shown in (markdown_report(alone), on_console(console_tables(alone))):
        assert median in shown
        assert "288" in shown  # the video's
    blind = with_result(alone, 0, quality=None)
    for shown in (markdown_report(blind), on_console(console_tables(blind))):
        for secret in (median, f"{result.latency.host.minimum_ms:.3g}", f"{result.images_per_second:,.0f}", "288"):
            assert secret not in shown
        assert "not shown" in shown


def test_a_quality_without_any_figure_is_none():
    quality = replace(RUN.results[4].quality, ground_truth_psnr_db=None)
    blind = with_result(replace(RUN, videos=[]), 4, quality=quality)
    row = next(line for line in markdown_report(blind).splitlines() if line.startswith("| bicubic | x2 | 160x90"))
    assert row.count("not shown") == 3
    ratios = [line for line in markdown_report(blind).splitlines() if "160x90 | bicubic | not shown" in line]
    assert len(ratios) == 4


def test_the_terminal_shows_every_part():
    shown = on_console(console_tables(RUN))
    for title in (
        "Summary",
        "Compared with baselines",
        "Latency and throughput",
        "GPU time",
        "Start-up",
        "Quality",
        "Memory",
        "Memory by image size",
        "Share of the machine's measured peak",
        "Power and temperature",
        "Sustained throughput",
        "Video",
        "failed: openvino int8 x2 640x360: no INT8 model is here",
        "warning: openvino fp32 x2 160x90 and 1 other case: Latency is doubtful",
    ):
        assert title in shown, title


def test_a_terminal_takes_nothing_for_markup_or_commands():
    run = with_result(RUN, 0, device="[red]CPU[/red] [/oops] \x1b]0;title\x07")
    shown = on_console(console_tables(run), width=400)
    assert "[red]CPU[/red] [/oops] ?]0;title?" in shown
    assert "\x1b" not in shown


def test_a_comparison_is_shown_with_both():
    new = with_times(RUN, lambda each: [1.5 * time for time in each])
    comparison = compare(RUN, new, fail_above_percent=10)
    for shown in (markdown_report(new, comparison), on_console(console_tables(new, comparison), width=300)):
        assert "Compared with the earlier run" in shown
        assert "50.0% slower" in shown.replace("\\", "")


def test_a_run_of_nothing_can_be_shown():
    nothing = replace(
        RUN, results=[], ratios=[], growth=[], videos=[], peaks=[], images=[], notes=[], load_average=None
    )
    assert "overnet-bench" in markdown_report(nothing)
    assert on_console(console_tables(nothing)).strip() == ""


@pytest.mark.parametrize("width", [80, 100])
def test_no_number_is_broken_on_a_narrow_terminal(width):
    """Every line fits, the columns that do not are in further tables, and all cells are there whole."""
    lines = on_console(console_tables(RUN), width=width).splitlines()
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    for table in (summary_table(RUN), latency_table(RUN)):
        for row in table.rows:
            assert {word for cell in row for word in cell.split()} <= words
    rows = [line.split() for line in lines if line.startswith("  bicubic ")]
    assert all(row[1:3] == ["x2", "160x90"] for row in rows[:1])
    assert all(row[1] in ("x2", "x4") for row in rows)
