"""A run as one self-contained HTML file, which loads nothing from elsewhere.

All text from the results is escaped, because they may come from an untrusted file. A Content-Security-Policy forbids
the page to load anything, and to run any script but its own.
"""

import base64
import hashlib
import shlex
from collections.abc import Sequence
from importlib.resources import files
from string import Template

from overnet.benchmarks.compare_runs import RunComparison
from overnet.benchmarks.report.comparison_table import comparison_table
from overnet.benchmarks.report.contents import all_tables, errors_of, quality_words, warnings_of
from overnet.benchmarks.report.plots import plots_as_svg
from overnet.benchmarks.report.slider import escaped, slider
from overnet.benchmarks.report.table import NOTHING, WORDS, Table, figure, memory_text, size_text
from overnet.benchmarks.results import BenchmarkRun
from overnet.errors import MissingDependency
from overnet.words import duration

# Longer cells, in characters, may be broken into lines.
_WIDE_CELL = 32

_COMMON_COLUMNS = ("Scale", "Input", "Batch")
_REPEAT_NOTE = (
    '<p class="muted">Add <code>--json before.json</code> to keep the results, and later '
    "<code>--compare before.json --fail-above 5</code> to report what became worse.</p>"
)


def html_report(run: BenchmarkRun, comparison: RunComparison | None = None) -> str:
    """Make the report.

    Args:
        run: the run. Without matplotlib, the report says so in place of its plots.
        comparison: with an older run; shown in the first table.

    Returns:
        An HTML document, to be written as UTF-8.
    """
    template = files("overnet.benchmarks.report") / "template"
    style, script, page = (
        (template / name).read_text(encoding="utf-8") for name in ("report.css", "report.js", "report.html")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return Template(page).substitute(
        title=escaped(f"OverNet benchmark: {run.machine.name}"),
        style=style,
        script=script,
        script_hash=f"sha256-{digest}",
        body=_body(run, comparison),
    )


def _body(run: BenchmarkRun, comparison: RunComparison | None) -> str:
    lines = (
        ("Failed", "failures", errors_of(run)),
        ("Warnings and notes", "warnings", [*run.notes, *warnings_of(run)]),
    )
    sections = [(title, kind, _list(each)) for title, kind, each in lines if each]
    compared = [] if comparison is None else [comparison_table(comparison)]
    tables = [(each.title, "", html_table(each)) for each in (*compared, *all_tables(run))]
    sections += tables[: len(compared) + 1]
    if run.images:
        sections.append(("Before and after", "", "".join(slider(each, run) for each in run.images)))
    sections += [
        ("Plots", "", _plots(run)),
        *tables[len(compared) + 1 :],
        ("Machine", "", _machine(run)),
        ("Repeat this run", "", f"<pre><code>{escaped(shlex.join(run.command))}</code></pre>{_REPEAT_NOTE}"),
    ]
    links = "".join(f'<a href="#part-{index}">{escaped(title)}</a>' for index, (title, _, _) in enumerate(sections))
    shown = "".join(
        f'<section id="part-{index}" class="{kind}"><h2>{escaped(title)}</h2>{content}</section>\n'
        for index, (title, kind, content) in enumerate(sections)
    )
    return f"{_header(run)}<nav><div>{links}</div></nav>\n<main>{_cards(run)}\n{shown}</main>"


def _header(run: BenchmarkRun) -> str:
    machine = run.machine
    hardware = ", ".join(
        [machine.processor, f"{machine.cores} cores", memory_text(machine.memory_bytes), *machine.gpus]
    )
    return (
        f'<header><p class="kicker">OverNet benchmark</p><h1>{escaped(machine.name)}</h1>'
        f'<p class="muted">{escaped(hardware)}; {escaped(machine.system)}</p>'
        f'<p class="muted">{escaped(run.started)}, {duration(run.seconds)}</p>'
        f"<pre><code>{escaped(shlex.join(run.command))}</code></pre></header>\n"
    )


def _cards(run: BenchmarkRun) -> str:
    """Return a card for the fastest backend of each scale, at the largest size that was timed."""
    timed = [result for result in run.results if result.speed_is_shown and result.case.kind == "backend"]
    cards = []
    for scale in sorted({result.case.scale for result in timed}):
        of_scale = [result for result in timed if result.case.scale == scale]
        largest = max(of_scale, key=lambda result: result.case.pixels).case
        times = {
            result.latency.host.p50_ms: result
            for result in of_scale
            if result.latency is not None and (result.case.pixels, result.case.batch) == (largest.pixels, largest.batch)
        }
        best = times[min(times)]
        words = [best.case.name, f"on {best.device}"]
        if best.images_per_second is not None:
            words.append(f"{figure(best.images_per_second)} images/s")
        words.append(quality_words(best.quality))
        batch = f", batch {largest.batch}" if largest.batch > 1 else ""
        label = f"Fastest at x{scale}, {size_text(largest.width, largest.height)}{batch}"
        cards.append(
            f'<div class="card"><p class="muted">{escaped(label)}</p>'
            f'<p class="figure">{figure(min(times))} ms</p><p class="muted">{escaped(", ".join(words))}</p></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _list(lines: Sequence[str], attributes: str = "") -> str:
    return f"<ul{attributes}>{''.join(f'<li>{escaped(line)}</li>' for line in lines)}</ul>"


def html_table(shown: Table) -> str:
    """Return a table as HTML, without its title, with its notes below; a heading row for each scale, size and batch."""
    listed = _list(shown.notes, ' class="notes"') if shown.notes else ""
    if not shown.rows:
        return listed
    common = [index for index, heading in enumerate(shown.headings) if heading in _COMMON_COLUMNS]
    titles = [", ".join(row[index] for index in common if row[index] != NOTHING) for row in shown.rows]
    if len(set(titles)) == len(titles):  # every group would be a single row
        common, titles = [], [""] * len(titles)
    own = [index for index in range(len(shown.headings)) if index not in common]
    heads = ""
    for heading in (shown.headings[index] for index in own):
        name, _, unit = heading.partition(", ")
        small = f"<small>{escaped(unit)}</small>" if unit else ""
        heads += f'<th scope="col" class="{_kind(heading)}">{escaped(name)}{small}</th>'
    rows = []
    for index, (title, row) in enumerate(zip(titles, shown.rows, strict=True)):
        if title and (index == 0 or titles[index - 1] != title):
            line = f'<th scope="rowgroup"><span>{escaped(title)}</span></th><td colspan="{len(own) - 1}"></td>'
            rows.append(f'<tr class="group">{line}</tr>')
        rows.append(f"<tr>{''.join(_cell(shown.headings[each], row[each], first=each == 0) for each in own)}</tr>")
    return (
        f'<div class="scroll table" tabindex="0" role="region" aria-label="{escaped(shown.title)}"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{listed}"
    )


def _kind(heading: str) -> str:
    return "words" if heading in WORDS else "number"


def _cell(heading: str, cell: str, *, first: bool) -> str:
    if first:
        return f'<th scope="row">{escaped(cell)}</th>'
    kind = _kind(heading)
    if cell == NOTHING:
        kind += " absent"
    if len(cell) > _WIDE_CELL:
        kind += " wide"
    return f'<td class="{kind}">{escaped(cell)}</td>'


def _plots(run: BenchmarkRun) -> str:
    try:
        plots = plots_as_svg(run)
    except MissingDependency as error:
        return f'<p class="muted">{escaped(str(error))}</p>'
    if not plots:
        return '<p class="muted">There is nothing to plot.</p>'
    shown = "".join(
        f'<figure class="plot"><h3>{escaped(title)}</h3>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escaped(title)}">{svg}</div></figure>'
        for title, svg in plots.items()
    )
    return f'<div class="plots">{shown}</div>'


def _machine(run: BenchmarkRun) -> str:
    machine = run.machine
    facts = {
        "Name": machine.name,
        "System": machine.system,
        "Processor": f"{machine.processor}, {machine.cores} cores",
        "Memory": memory_text(machine.memory_bytes),
        **{f"GPU {index}": gpu for index, gpu in enumerate(machine.gpus)},
    }
    if run.load_average is not None:
        facts["Load before"] = f"{figure(run.load_average, digits=2)} of each processor"
    parts = {"Hardware and settings": facts | machine.settings, "Versions": machine.versions, "Options": run.options}
    shown = ""
    for title, facts in parts.items():
        items = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in facts.items())
        shown += f"<div><h3>{title}</h3><dl>{items}</dl></div>" if facts else ""
    return f'<div class="columns">{shown}</div>'
