"""Make the pages of the site that are no files in docs/: parts of README, files beside it, and the commands' options.

MkDocs calls `on_config`, `on_files` and `on_page_markdown`; mkdocs.yml names this file.
"""

from __future__ import annotations

import atexit
import html
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).parent.parent

# Pages that are other files of the repository.
OTHER_FILES = {
    "docker/README.md": "docker.md",
    "overnet/weights/MODEL_CARD.md": "model-card.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "LICENSES.md": "licences.md",
}
# Pages made of README: the title, and sections, each from the line that begins with a text (None: from its heading).
README_PAGES: dict[str, tuple[str, list[tuple[str, str | None]]]] = {
    "files.md": ("Images and videos", [("## Upscale images and videos", None)]),
    "program.md": ("In a program", [("## In a program", None)]),
    "backends.md": ("Backends and GPUs", [("## Backends", None)]),
    "export.md": ("Export", [("## Export", None)]),
    "training.md": ("Evaluate and train", [("## Evaluate and train", None)]),
    "results.md": (
        "Measured results",
        [
            ("## Results", ""),
            ("## Export", "The graph is an exact rewriting"),
            ("## Benchmark", "On 2 cores of a server"),
            ("## Evaluate and train", "On the trunk of `realtime`"),
        ],
    ),
}
# Titles of the parts of a page that has several.
RESULT_TITLES = ("Quality", "The forms of the exported graph", "Speed on a CPU", "The paper's head on a small trunk")
PROGRAMS = {"run": "overnet-run", "export": "overnet-export", "bench": "overnet-bench"}


def sections(text: str) -> dict[str, str]:
    """Return the parts of a page by their second-level headings; what is before the first is under an empty one."""
    found, heading, fenced = {"": ""}, "", False
    for line in text.splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if line.startswith("## ") and not fenced:
            heading = line.strip()
            found[heading] = ""
        else:
            found[heading] += line
    return found


def readme_part(heading: str, start: str | None) -> str:
    """Return the section of README whose heading begins with `heading`, from the line that begins with `start` on.

    Raises:
        LookupError: there is no such section or line, so README has changed and this file has to follow.
    """
    for title, body in sections((ROOT / "README.md").read_text()).items():
        if title.startswith(heading):
            at = re.search(f"^{re.escape(start or '')}", body, re.MULTILINE)
            if at is not None:
                return body[at.start() :]
    raise LookupError(f"README.md has no section {heading!r} with a line that begins with {start!r}")


def readme_page(name: str) -> str:
    """Return the Markdown of a page of `README_PAGES`, with one heading level less than in README."""
    title, parts = README_PAGES[name]
    texts = [readme_part(*part) for part in parts]
    if len(parts) > 1:
        texts = [f"## {part_title}\n\n{text}" for part_title, text in zip(RESULT_TITLES, texts, strict=True)]
    else:
        texts = [re.sub(r"^###", "##", text, flags=re.MULTILINE) for text in texts]
    return f"# {title}\n\n" + "\n\n".join(texts)


def start_page() -> str:
    """Return the Markdown of the first page: README's beginning, and where to go on."""
    beginning = sections((ROOT / "README.md").read_text())[""]
    return f"{beginning}\n## Where to go on\n\n" + "\n".join(
        [
            "- [Upscale images and videos](files.md), on [a page in the browser](web.md), or [live video](live.md)",
            "- [Call it in a program](program.md)",
            "- [Choose a backend](backends.md), or set up a [Jetson](jetson.md)",
            "- [Measured results](results.md): quality and speed",
            "- [How it works](how-it-works.md)",
        ]
    )


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command of the program `overnet` with its full name, those of groups included."""
    import typer

    from overnet.cli import app

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for inner, each in command.commands.items():
                yield from walk(f"{name} {inner}", each)
        elif not command.hidden:
            yield name, command

    yield from walk("overnet", typer.main.get_command(app))


def commands_page() -> str:
    """Return the Markdown of the reference of all commands, made from the commands themselves."""
    lines = ["# Commands", "", "`overnet --version` prints the version. The texts below are those of `--help`.", ""]
    for name, command in commands():
        context = command.make_context(name, [], resilient_parsing=True)
        lines += [f"## {name}", ""]
        program = PROGRAMS.get(name.removeprefix("overnet "))
        if program:
            lines += [f"`{program}` is the same command.", ""]
        lines += ["```text", command.get_usage(context), "```", "", command.help or "", ""]
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None:
                # An argument's own record has its type in Python.
                argument = parameter.param_type_name == "argument"
                shown = (parameter.metavar or parameter.name.upper()) if argument else record[0]
                panel = getattr(parameter, "rich_help_panel", None) or ("" if argument else "General")
                panels.setdefault(panel, []).append((shown, record[1]))
        general = panels.pop("General", [])
        for panel, records in {**panels, "General": general}.items():
            lines += [*([f"### {panel}", ""] if panel else []), "| option | meaning |", "|---|---|"]
            for record in records:
                option, meaning = (html.escape(" ".join(text.split()), quote=False) for text in record)
                row = f"| <code>{option.replace('|', '&#124;')}</code> | {meaning.replace('|', '&#124;')} |"
                lines.append(row.replace("*", "&#42;"))
            lines.append("")
    return "\n".join(lines)


def generated_pages() -> dict[str, str]:
    """Return the Markdown of all pages that are no files in docs/, by their paths in the site's sources."""
    pages = {"index.md": start_page(), "commands.md": commands_page()}
    pages |= {name: readme_page(name) for name in README_PAGES}
    return pages | {target: (ROOT / source).read_text() for source, target in OTHER_FILES.items()}


def with_links_of_the_site(markdown: str, page: str) -> str:
    """Return a page with its links between files of the repository turned into links between pages of the site.

    Links to files that have no page become their text alone.
    """
    sources = {target: source for source, target in OTHER_FILES.items()}
    generated = page in README_PAGES or page in ("index.md", "commands.md")
    folder = posixpath.dirname(sources.get(page, "README.md" if generated else f"docs/{page}"))

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        of_the_site = target in generated_names() or ("/" not in target and (ROOT / "docs" / target).is_file())
        if "://" in target or of_the_site:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path in OTHER_FILES:
            return f"[{text}]({OTHER_FILES[path]}{anchor})"
        if path.startswith("docs/"):
            return f"[{text}]({path.removeprefix('docs/')}{anchor})"
        return text

    return re.sub(r"\[(?P<text>[^\]\[]*)\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)", link, markdown)


def generated_names() -> set[str]:
    """Return the paths of all pages that are no files in docs/."""
    return {"index.md", "commands.md", *README_PAGES, *OTHER_FILES.values()}


@event_priority(100)  # before mkdocstrings reads its settings
def on_config(config: Any) -> Any:
    """Show mkdocstrings the package as it is once installed: in a checkout its folders lie side by side."""
    folder = Path(tempfile.mkdtemp(prefix="overnet-docs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "overnet").mkdir()
    for source in [*(ROOT / "overnet").iterdir(), *(ROOT / name for name in ("benchmarks", "export", "runtime"))]:
        (folder / "overnet" / source.name).symlink_to(source)
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [str(folder)]
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for name, text in generated_pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn the links of a page into those of the site, and its lists into Python-Markdown's.

    What belongs to an item of a numbered list is indented by three spaces, as the text of the item is; Python-Markdown
    wants four, and an empty line before the next item.
    """
    markdown = re.sub(r"^ {3}(?=\S)", " " * 4, with_links_of_the_site(markdown, page.file.src_uri), flags=re.MULTILINE)
    return re.sub(r"^( {4}\S.*\n)(?=\d+\. )", r"\1\n", markdown, flags=re.MULTILINE)
