"""``overnet bench`` and ``overnet-bench``: measure latency, memory, quality and power of backends."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overnet.cli.common import command, converted_model, own_scale, print_error, print_status
from overnet.cli.options import (
    METHOD,
    OUTPUT,
    BackendsOption,
    DeviceOption,
    ModelOption,
    OverwriteOption,
    PrecisionsOption,
    ProviderOption,
    QuietOption,
    SlotsOption,
    ThreadsOption,
    check_range,
    parse_size,
    under,
)
from overnet.cli.progress import ProgressDisplay

if TYPE_CHECKING:
    from overnet.benchmarks.compare_runs import RunComparison
    from overnet.benchmarks.results import BenchmarkRun

_COMPARED = under("Comparison")
_STDOUT = Path("-")
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.1, 3600.0
# The options that have an effect with --results, where nothing is measured.
_REPORTING = ("report", "markdown", "plots", "json_file", "results", "compare", "fail_above", "overwrite", "quiet")


@dataclass(frozen=True)
class OutputOptions:
    """Files to write; they are checked before anything is measured."""

    report: Annotated[Path | None, OUTPUT(metavar="FILE", help="Write the report: one HTML file, usable offline.")] = (
        None
    )
    markdown: Annotated[Path | None, OUTPUT(metavar="FILE", help="Write the tables as Markdown.")] = None
    plots: Annotated[Path | None, OUTPUT(metavar="DIR", help="Write the plots as PNG files.")] = None
    json_file: Annotated[
        Path | None, OUTPUT("--json", metavar="FILE", help="Write all results as JSON; - for standard output.")
    ] = None
    overwrite: OverwriteOption = False

    def check(self) -> None:
        """Refuse now what could not be written at the end.

        Raises:
            OutputError: a file exists already, or its folder does not or is not writable.
            MissingDependency: the library that draws plots is not installed.
        """
        from overnet.errors import OutputError, printable, require
        from overnet.files.atomic import exists_already

        # The folder of the plots is made; which plots there are depends on the results.
        for path in (self.report, self.markdown, self.json_file):
            if path is None or path == _STDOUT:
                continue
            if path.is_dir():
                raise OutputError(f"{printable(path)} is a folder")
            if path.exists() and not self.overwrite:
                raise exists_already(path)
            if not path.absolute().parent.is_dir():
                raise OutputError(f"{printable(path)} cannot be written: there is no such folder")
            if not os.access(path.absolute().parent, os.W_OK):
                raise OutputError(f"{printable(path)} cannot be written: its folder is not writable")
        if self.plots is not None:
            if self.plots.exists() and not self.plots.is_dir():
                raise OutputError(f"{printable(self.plots)} is not a folder")
            require("matplotlib", extra="bench", purpose="drawing plots")

    def write(self, run: BenchmarkRun, comparison: RunComparison | None) -> list[Path]:
        """Write all files, the results first because they cannot be made again; return their paths."""
        from overnet.benchmarks.report.html_report import html_report
        from overnet.benchmarks.report.markdown_report import markdown_report
        from overnet.benchmarks.report.plots import write_plots
        from overnet.benchmarks.results import write_run
        from overnet.files.atomic import atomic_write

        written = []
        if self.json_file == _STDOUT:
            typer.echo(json.dumps(run.to_json(), allow_nan=False))
        elif self.json_file is not None:
            write_run(run, self.json_file, overwrite=self.overwrite)
            written.append(self.json_file)
        for path, text in ((self.report, html_report), (self.markdown, markdown_report)):
            if path is not None:
                with atomic_write(path, overwrite=self.overwrite) as temporary:
                    temporary.write_text(text(run, comparison), encoding="utf-8")
                written.append(path)
        if self.plots is not None:
            written += write_plots(run, self.plots, overwrite=self.overwrite)
        return written


def _own_scale(model: Path | None) -> int:
    """Return the whole scale of a model file, and 2 for models of several scales."""
    own = own_scale(model)
    return int(own) if own is not None and own == int(own) else 2


@command
def bench_command(
    context: typer.Context,
    *,
    backend: BackendsOption = None,
    scale: Annotated[
        list[int] | None,
        METHOD(metavar="N", help="Scale, 1 to 8; repeat for several. Default: the model's, or 2."),
    ] = None,
    size: Annotated[
        list[str] | None,
        METHOD(metavar="WIDTHxHEIGHT", help="Size of the input in pixels; repeat for several. Default: 640x360."),
    ] = None,
    precision: PrecisionsOption = None,
    model: ModelOption = None,
    seconds: Annotated[
        float, METHOD(metavar="SECONDS", help="Time to measure each case for, 0.1 to 3600, and at least ten runs.")
    ] = 10.0,
    batch: Annotated[int, METHOD(metavar="N", help="Images in a batch.")] = 1,
    data: Annotated[
        Path | None,
        METHOD(metavar="DIR", help="Images to measure quality on. Default: photographs in the package."),
    ] = None,
    baselines: Annotated[
        bool, _COMPARED("--baselines", help="Also time, in turns, what is installed of the usual alternatives.")
    ] = False,
    baseline_models: Annotated[
        Path | None, _COMPARED(metavar="DIR", help="With --baselines: models for OpenCV's dnn_superres and for ncnn.")
    ] = None,
    video: Annotated[
        bool, METHOD("--video/--no-video", help="Also upscale a short clip from file to file, timed by stage.")
    ] = True,
    power: Annotated[
        bool, METHOD("--power/--no-power", help="Measure power, clocks and temperatures where they can be read.")
    ] = True,
    sustained: Annotated[
        float,
        METHOD(metavar="SECONDS", help="Also run each case without pause for this time, at most 3600; 0: do not."),
    ] = 0.0,
    memory: Annotated[
        float | None,
        METHOD(
            metavar="GIGABYTES",
            help="Report the largest image that fits in this much memory. Default: the available memory.",
        ),
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = 0,
    provider: ProviderOption = "cpu",
    slots: SlotsOption = 3,
    outputs: OutputOptions,
    results: Annotated[
        Path | None,
        _COMPARED(metavar="FILE", help="Measure nothing: report on, or compare, the JSON of an earlier run."),
    ] = None,
    compare: Annotated[
        Path | None, _COMPARED(metavar="FILE", help="JSON of an earlier run to compare this run with.")
    ] = None,
    fail_above: Annotated[
        float | None,
        _COMPARED(
            metavar="PERCENT",
            help="With --compare: exit with 1 where a case is worse by more than this, and not by chance.",
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Measure latency, throughput, memory, quality and power of backends on this machine.

    Each case runs in a process of its own: a warm-up, then at least ten runs and --seconds. Each speed is reported
    with the distance of its images from the network's exact result.
    """
    from rich.console import Console

    from overnet.benchmarks.benchmark import run_benchmark
    from overnet.benchmarks.compare_runs import compare as compare_runs
    from overnet.benchmarks.options import BenchmarkOptions, ImageSize
    from overnet.benchmarks.report.markdown_report import console_tables
    from overnet.benchmarks.results import read_run
    from overnet.errors import InterruptedRun
    from overnet.weights import model_path

    if fail_above is not None and compare is None:
        raise typer.BadParameter("--fail-above needs --compare")
    if baseline_models is not None and not baselines:
        raise typer.BadParameter("--baseline-models needs --baselines")
    if results is not None:
        _refuse_measuring_options(context)
    check_range("--fail-above", fail_above, 0)
    check_range("--memory", memory, 0)
    check_range("--seconds", seconds, _SHORTEST_SECONDS, _LONGEST_SECONDS)
    check_range("--sustained", sustained, 0, _LONGEST_SECONDS)
    outputs.check()
    # Read before the measurement, so that a broken file is not found after an hour.
    old = None if compare is None else read_run(compare)
    display = ProgressDisplay(quiet=quiet, step_lines=True)
    if results is None:
        model = converted_model(model, display.announce, quiet=quiet)
    options = BenchmarkOptions(
        backends=list(dict.fromkeys(backend or ["auto"])),
        scales=list(dict.fromkeys(scale or [_own_scale(model)])),
        sizes=[ImageSize(*parse_size("--size", text)) for text in dict.fromkeys(size or ["640x360"])],
        precisions=list(dict.fromkeys(precision or [])),
        model=None if model is None else model_path(model),
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
        images=outputs.report is not None or outputs.json_file is not None,
        memory_bytes=None if memory is None else int(memory * 1e9),
    )
    if results is not None:
        run = read_run(results)
    else:
        with display:
            run = run_benchmark(options, command=[Path(sys.argv[0]).name, *sys.argv[1:]], on_progress=display.step)
    comparison = None if old is None else compare_runs(old, run, fail_above_percent=fail_above)
    if outputs.json_file != _STDOUT and not quiet:
        # Printed before files are written: if that fails, as on a full disk, the figures are not lost.
        # For a pipe or a file, which have no width, rich would wrap tables to 80 characters.
        console = Console() if sys.stdout.isatty() else Console(width=160)
        console.print(console_tables(run, comparison))
    for path in outputs.write(run, comparison):
        print_status(str(path), quiet=quiet)
    if run.interrupted and results is None:
        raise InterruptedRun("interrupted; the cases measured before that are kept")
    problems = [f"worse than allowed: {line}" for line in (comparison.regressions if comparison is not None else [])]
    if all(result.error for result in run.results):
        failed = [f"no case could be measured: {result.case.title}: {result.error}" for result in run.results[:1]]
        problems += failed or ["no case was measured"]
    for problem in problems:
        print_error(problem)
    if problems:
        raise typer.Exit(1)


def _refuse_measuring_options(context: typer.Context) -> None:
    """Refuse options that would change what is measured: with --results they have no effect."""
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "")
        if parameter.name not in _REPORTING and given is not None and given.name == "COMMANDLINE":
            raise typer.BadParameter(f"{parameter.opts[0]} changes nothing with --results, which measures nothing")
