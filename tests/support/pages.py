"""The commands and programs that README and the pages of docs/ show."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

# A block after this comment is not run by a test; the reason is one of `REASONS`.
BLOCK_MARK = re.compile(r"<!-- not run: (.+?) -->\n+$")
# The same for all blocks of a page.
PAGE_MARK = re.compile(r"^<!-- not run on this page: (.+?) -->$", re.MULTILINE)
BY_TRITON = "tests/export/triton/test_server.py does it"
REASONS = (
    "needs an NVIDIA GPU",
    "needs a Jetson",
    "needs a camera, or a server",
    "needs data sets, and hours",
    "takes minutes",
    "needs several machines",
    "serves until Ctrl-C; tests/web does it",
    "needs Triton Inference Server",
    ".ci/run does it",
    BY_TRITON,
)


@dataclass(frozen=True)
class Block:
    """A block of code of a page; `line` is that of its first fence, `reason` why no test runs it."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None


def blocks_of(page):
    """All blocks of a page that have a language."""
    content = page.read_text()
    whole = PAGE_MARK.search(content)
    found = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```", content, re.MULTILINE | re.DOTALL):
        mark = BLOCK_MARK.search(content[: match.start()]) or whole
        line = content[: match.start()].count("\n") + 1
        found.append(Block(page, line, match[1], match[2], mark[1] if mark else None))
    return found


def pages():
    """README, the guide for contributors and all pages about how to do things."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "docker/README.md",
    ]


def lines_of(text):
    """The commands of a block, continuation lines joined."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def commands_in(page):
    """The commands shown in a page's blocks and in its text, as words, without comments; of a pipe, each one."""
    lines = [line for block in blocks_of(page) if block.language == "sh" for line in lines_of(block.text)]
    for line in lines + re.findall(r"`(overnet[^`]+)`", page.read_text()):
        words = shlex.split(line, comments=True)
        while words:
            end = next((index for index, word in enumerate(words) if word in ("|", "&&")), len(words))
            if words[:end]:
                yield words[:end]
            words = words[end + 1 :]


def calls_of_ours(page):
    """Each call of overnet in a page: the subcommand, and the words after it."""
    for words in commands_in(page):
        image = next((index for index, word in enumerate(words) if word.startswith("overnet:")), None)
        in_container = image is not None and words[:2] == ["docker", "run"]
        call = ["overnet", *words[image + 1 :]] if in_container else [words[0].rpartition("/")[2], *words[1:]]
        if call[0] in ("overnet-run", "overnet-export", "overnet-bench"):
            yield call[0].removeprefix("overnet-"), call[1:]
        elif call[0] == "overnet" and len(call) > 1 and not call[1].startswith("-"):
            yield call[1], call[2:]


def options_of(parameter):
    """All spellings of an option; what turns it off, such as --no-zero-copy, is kept apart."""
    return (*parameter.opts, *parameter.secondary_opts)
