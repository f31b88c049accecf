"""``overnet bench``, which is ``overnet-bench``: latency, memory, quality and power of backends, in one report."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overnet.cli.common import interruptible, print_error, print_status
from overnet.cli.progress import ProgressDisplay

if TYPE_CHECKING:
    from overnet.benchmarks.compare_runs import RunComparison
    from overnet.benchmarks.results import BenchmarkRun

# Standard output, where a file is asked for.
_STDOUT = Path("-")
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.1, 3600.0
# What is still of use where nothing is measured.
_REPORTING = ("report", "markdown", "plots", "json_file", "results", "compare", "fail_above", "overwrite", "quiet")


@interruptible
def bench_command(
    context: typer.Context,
    *,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="auto, openvino, onnxruntime, torch, tensorrt or tensorrt-rtx; repeat for more. Default: auto."
        ),
    ] = None,
    scale: Annotated[list[int] | None, typer.Option(help="A scale; repeat for more. Default: 2.")] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Of the input; repeat for more. Default: 640x360."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32, fp16, bf16 or int8; repeat for more. Default: the backend's usual one."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="ONNX file, engine, folder of them, or checkpoint. Default: the bundled one.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long each case is timed, and at least ten runs.")] = 10.0,
    batch: Annotated[int, typer.Option(help="Images given at once.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Real images to judge results on. Default: photographs that come along."),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Time, in turns, what one would pick instead; as far as it is installed."),
    ] = False,
    baseline_models: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Models for OpenCV's dnn_superres and for ncnn.")
    ] = None,
    video: Annotated[
        bool, typer.Option("--video/--no-video", help="Also upscale a short clip from file to file, by stage.")
    ] = True,
    power: Annotated[
        bool, typer.Option("--power/--no-power", help="Measure power, clocks and temperatures where they can be read.")
    ] = True,
    sustained: Annotated[
        float, typer.Option(metavar="SECONDS", help="Also run each case without pause, to see whether speed holds.")
    ] = 0.0,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIGABYTES", help="Tell for how large an image so much is enough. Default: what there is."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads to compute with. Default: one a core.")] = None,
    device: Annotated[int, typer.Option(metavar="N", help="Which GPU, counted from 0.")] = 0,
    provider: Annotated[
        str, typer.Option(help="With --backend onnxruntime: cpu, cuda, tensorrt or tensorrt-rtx.")
    ] = "cpu",
    slots: Annotated[int, typer.Option(help="Frames that are on their way on a GPU at once, 1 to 16.")] = 3,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report: one HTML file that needs no network.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tables for a README.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the plots as PNG files.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all results; - for standard output.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure nothing: report on, or compare, an earlier run's JSON."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An earlier run's JSON to compare this run with.")
    ] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT", help="With --compare: exit code 1 where a case is worse by more, and not by chance."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no tables.")] = False,
) -> None:
    """Measure latency, throughput, memory, quality and power of backends on this machine.

    Each case runs in a process of its own: a warm-up, then at least ten runs and so many seconds. Beside every speed
    stands how near its images are to the network's exact result.
    """
    from overnet.benchmarks.baselines.race import ImageSize
    from overnet.benchmarks.benchmark import run_benchmark
    from overnet.benchmarks.compare_runs import compare as compare_runs
    from overnet.benchmarks.options import BenchmarkOptions
    from overnet.benchmarks.results import read_run
    from overnet.errors import InterruptedRun

    if fail_above is not None and compare is None:
        raise typer.BadParameter("--fail-above is for --compare")
    if baseline_models is not None and not baselines:
        raise typer.BadParameter("--baseline-models is for --baselines")
    if results is not None:
        _check_nothing_to_measure(context)
    _check_ranges({"--fail-above": fail_above, "--memory": memory}, low=0.0, high=math.inf)
    _check_ranges({"--seconds": seconds}, low=_SHORTEST_SECONDS, high=_LONGEST_SECONDS)
    _check_ranges({"--sustained": sustained}, low=0.0, high=_LONGEST_SECONDS)
    outputs = _Outputs(report, markdown, plots, json_file, overwrite=overwrite)
    outputs.check()
    # Before an hour is spent on what is then to be compared with it.
    old = None if compare is None else read_run(compare)
    options = BenchmarkOptions(
        backends=list(dict.fromkeys(backend or ["auto"])),
        scales=list(dict.fromkeys(scale or [2])),
        sizes=[ImageSize(*_parse_size(text)) for text in dict.fromkeys(size or ["640x360"])],
        precisions=list(dict.fromkeys(precision or [])),
        model=model,
        seconds=seconds,
        batch=batch,
        data=data,
        baselines=baselines,
        baseline_models=baseline_models,
        video=video,
        power=power,
        sustained_seconds=sustained,
        threads=threads,
        device=device,
        provider=provider,
        slots=slots,
        images=report is not None or json_file is not None,
        memory_bytes=None if memory is None else int(memory * 1e9),
    )
    if results is not None:
        run = read_run(results)
    else:
        with ProgressDisplay(quiet=quiet, step_lines=True) as display:
            run = run_benchmark(options, command=_command(), on_progress=display.step)
    comparison = None if old is None else compare_runs(old, run, fail_above_percent=fail_above)
    if json_file != _STDOUT and not quiet:
        # Before files are written: where that fails, as on a full disk, these are what is left.
        _print_tables(run, comparison)
    outputs.write(run, comparison)
    for path in outputs.written:
        print_status(f"{path}", quiet=quiet)
    if run.interrupted and results is None:
        raise InterruptedRun("interrupted; what was measured until then is kept")
    problems = [f"worse than allowed: {line}" for line in (comparison.regressions if comparison is not None else [])]
    if all(result.error for result in run.results):
        problems += [f"no case could be measured: {result.case.title}: {result.error}" for result in run.results[:1]]
    for problem in problems:
        print_error(problem)
    if problems or not run.results:
        raise typer.Exit(1)


def _check_nothing_to_measure(context: typer.Context) -> None:
    """Refuse, beside --results, options that would change what is measured: they would be of no effect."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in _REPORTING and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"{parameter.opts[0]} changes nothing with --results: nothing is measured then")


def _check_ranges(values: dict[str, float | None], *, low: float, high: float) -> None:
    for name, value in values.items():
        if value is not None and not (low <= value <= high and value < math.inf):  # also true for NaN
            most = "" if high == math.inf else f" to {high:g}"
            raise typer.BadParameter(f"{name} is {value:g}; it must be from {low:g}{most}")


def _command() -> list[str]:
    """What was typed, without the folder that the program lies in."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _parse_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    if not found or not int(found[1]) or not int(found[2]):
        raise typer.BadParameter(f"--size is {text[:40]!r}; it must be like 640x360, width and height in pixels")
    return int(found[1]), int(found[2])


class _Outputs:
    """The files to write; all of them are refused before anything is measured, not after."""

    def __init__(
        self, report: Path | None, markdown: Path | None, plots: Path | None, json_file: Path | None, *, overwrite: bool
    ) -> None:
        self._report, self._markdown, self._plots, self._json = report, markdown, plots, json_file
        self._overwrite = overwrite
        self.written: list[Path] = []

    def check(self) -> None:
        """Refuse what would be refused at the end.

        Raises:
            OutputError: a file is there already, or its folder is not.
            MissingDependency: what draws plots is not installed.
        """
        from overnet.errors import OutputError, printable, require
        from overnet.files.atomic import exists_already

        # Of plots the folder is made, and which there are depends on the results.
        for path in (self._report, self._markdown, self._json):
            if path is None or path == _STDOUT:
                continue
            if path.is_dir():
                raise OutputError(f"{printable(path)} is a folder")
            if path.exists() and not self._overwrite:
                raise exists_already(path)
            if not path.absolute().parent.is_dir():
                raise OutputError(f"{printable(path)} cannot be written: there is no such folder")
            if not os.access(path.absolute().parent, os.W_OK):
                raise OutputError(f"{printable(path)} cannot be written: its folder is not writable")
        if self._plots is not None:
            if self._plots.exists() and not self._plots.is_dir():
                raise OutputError(f"{printable(self._plots)} is no folder")
            require("matplotlib", extra="bench", purpose="drawing plots")

    def write(self, run: BenchmarkRun, comparison: RunComparison | None) -> None:
        """Write all of them, the results first: they cannot be had again."""
        from overnet.benchmarks.results import write_run
        from overnet.files.atomic import atomic_write

        if self._json == _STDOUT:
            typer.echo(json.dumps(run.to_json(), allow_nan=False))
        elif self._json is not None:
            write_run(run, self._json, overwrite=self._overwrite)
            self.written.append(self._json)
        if self._report is not None:
            from overnet.benchmarks.report.html_report import html_report

            with atomic_write(self._report, overwrite=self._overwrite) as temporary:
                temporary.write_text(html_report(run, comparison), encoding="utf-8")
            self.written.append(self._report)
        if self._markdown is not None:
            from overnet.benchmarks.report.markdown_report import markdown_report

            with atomic_write(self._markdown, overwrite=self._overwrite) as temporary:
                temporary.write_text(markdown_report(run, comparison), encoding="utf-8")
            self.written.append(self._markdown)
        if self._plots is not None:
            from overnet.benchmarks.report.plots import write_plots

            self.written += write_plots(run, self._plots, overwrite=self._overwrite)


def _print_tables(run: BenchmarkRun, comparison: RunComparison | None) -> None:
    from rich.console import Console

    from overnet.benchmarks.report.markdown_report import console_tables

    # A pipe or a file has no width; rich would fold tables to 80 characters.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(console_tables(run, comparison))
