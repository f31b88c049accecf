"""The site of the documentation: it builds strictly, loads nothing from other hosts, and follows the code."""

import html
import importlib.util
import os
import re
import subprocess
import sys

import pytest
import typer

import overnet
from tests.conftest import ROOT


def script(name):
    """A Python file of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs")
    return script("hooks")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    for library in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def text_of(page):
    """The visible text of a page, its white space as single spaces."""
    body = page.read_text().partition("<article")[2].partition("</article>")[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", body)).split())


def test_the_reference_has_every_option_of_every_command_with_its_help(hooks):
    from overnet.cli import app

    page = " ".join(html.unescape(hooks.commands_page()).split())
    for name, command in typer.main.get_command(app).commands.items():
        part = page.partition(f"## overnet {name} ")[2].partition(" ## ")[0]
        assert " ".join((command.help or "").split()) in part
        shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
        assert shown
        for parameter in shown:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert option in part
            assert " ".join((parameter.help or "").split()) in part


def test_the_reference_has_the_headings_of_the_help(hooks):
    part = hooks.commands_page().partition("## overnet run\n")[2].partition("\n## ")[0]
    headings = [line.removeprefix("### ") for line in part.splitlines() if line.startswith("### ")]
    assert headings[:4] == ["Output", "Size", "Model", "Speed and memory"] and headings[-1] == "General"
    assert "--quiet" in part.partition("### General")[2] and "--scale" in part.partition("### Size")[2]


def test_parts_of_readme_are_found_and_no_section_is_left_out(hooks):
    used = [part for _, parts in hooks.README_PAGES.values() for part in parts]
    text = "".join(hooks.readme_page(name) for name in hooks.README_PAGES)
    for marks in ("results", "forms"):
        table = re.search(
            f"<!-- {marks}: begin -->(.*)<!-- {marks}: end -->", (ROOT / "README.md").read_text(), re.DOTALL
        )
        assert table[1] in text
    headings = {heading for heading in hooks.sections((ROOT / "README.md").read_text()) if heading}
    left = {heading for heading in headings if not any(heading.startswith(start) for start, _ in used)}
    assert left == {"## How the project is laid out"}  # of interest in the repository only


def test_a_section_that_readme_no_longer_has_is_an_error(hooks):
    with pytest.raises(LookupError, match=r"README\.md has no section '## Gone'"):
        hooks.readme_part("## Gone", None)


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("files.md", "[live](docs/live.md)", "[live](live.md)"),
        ("files.md", "[card](overnet/weights/MODEL_CARD.md)", "[card](model-card.md)"),
        ("jetson.md", "[images](../docker/README.md#run)", "[images](docker.md#run)"),
        ("docker.md", "[Jetson](../docs/jetson.md)", "[Jetson](jetson.md)"),
        ("licences.md", "[LICENSE](LICENSE)", "LICENSE"),
        ("results.md", "![plot](docs/benchmark_latency.png)", "![plot](benchmark_latency.png)"),
        ("live.md", "[jetson](jetson.md#5)", "[jetson](jetson.md#5)"),
        ("live.md", "[there](https://example.org/a)", "[there](https://example.org/a)"),
    ],
)
def test_links_between_files_become_links_between_pages(hooks, page, link, expected):
    assert hooks.with_links_of_the_site(link, page) == expected


def test_the_figure_is_what_its_script_draws():
    assert (ROOT / "docs/tail.svg").read_text() == script("tail_figure").figure()


@pytest.mark.slow
def test_the_site_loads_nothing_from_other_hosts(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    loaded = re.compile(
        r"""(?:<script[^>]*\ssrc|<img[^>]*\ssrc|<link[^>]*\shref|<iframe[^>]*\ssrc)=["']?((?:https?:)?//[^"' >]+)"""
    )
    for page in pages:
        assert loaded.findall(page.read_text()) == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text()), style


@pytest.mark.slow
def test_the_site_describes_the_public_names_and_every_command(site):
    names = set(overnet.__all__) - {"__version__"}
    anchors = re.findall(r'id="overnet\.[\w.]*?(\w+)"', (site / "api/index.html").read_text())
    assert names <= set(anchors)
    assert "factor from input to output height and width" in text_of(site / "api/index.html")
    assert "--overwrite" in text_of(site / "commands/index.html")


@pytest.mark.slow
def test_pages_show_tables_and_no_raw_markdown(site):
    text = text_of(site / "results/index.html")
    assert "Set14" in text and "lean-memory" in text and "|---" not in text
    for page in site.rglob("index.html"):
        text = text_of(page)
        assert "```" not in text, page
        # An item of a numbered list that has become text of the one before.
        assert not re.search(r"<p>[^<]*\.\s\d\. <strong>", page.read_text()), page
