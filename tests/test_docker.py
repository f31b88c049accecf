"""The Dockerfiles, and the pages about them and about Jetson: what they copy, name and call exists. Needs no Docker."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import pytest
import typer

from tests.conftest import ROOT
from tests.support.pages import commands_in, options_of
from tests.test_packaging import ROOMS

DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
PAGES = [ROOT / "docs/jetson.md", ROOT / "docker/README.md"]
# Python's minor version, by what the base images are made of; JetPack's packages are for that one alone.
JETPACK_PYTHON = {"jetpack6": "3.10", "jetpack7": "3.12"}
BASE_PYTHON = {"l4t-tensorrt:r10.3.0": "3.10", "ubuntu24.04": "3.12", "ubuntu:24.04": "3.12"}
# TensorRT and OpenCV on a Jetson are JetPack's.
NOT_ON_JETSON = re.compile(r"(tensorrt|opencv|onnxruntime-gpu)", re.IGNORECASE)


@dataclass(frozen=True)
class Instruction:
    keyword: str
    value: str


def parse(text):
    """A Dockerfile's instructions, continuation lines joined and comments left out."""
    instructions, pending = [], ""
    for line in text.splitlines():
        if line.lstrip().startswith("#") or not line.strip():
            continue
        pending += line.strip().removesuffix("\\")
        if not line.endswith("\\"):
            keyword, value = pending.split(None, 1)
            instructions.append(Instruction(keyword.upper(), " ".join(value.split())))
            pending = ""
        else:
            pending += " "
    assert not pending, "the last line goes on"
    return instructions


def instructions_of(path, keyword):
    return [each.value for each in parse(path.read_text()) if each.keyword == keyword]


def stages_of(path):
    """The instructions of each stage, without those before the first."""
    stages = []
    for each in parse(path.read_text()):
        if each.keyword == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(each)
    return stages


def arguments_of(path):
    """The build arguments with their defaults."""
    given = (value.partition("=") for value in instructions_of(path, "ARG"))
    return {name: default for name, equals, default in given if equals}


def filled_in(text, arguments):
    return re.sub(r"\$\{(\w+)\}", lambda name: arguments[name[1]], text)


def copied(stage):
    """What a stage copies from the repository: pairs of sources and target."""
    for each in stage:
        if each.keyword == "COPY" and not each.value.startswith("--from="):
            *sources, target = each.value.split()
            yield sources, target


def pip_installs(path):
    """The words of each `pip install`, build arguments filled in."""
    arguments = arguments_of(path)
    for run in instructions_of(path, "RUN"):
        for command in run.split("&&"):
            words = shlex.split(filled_in(command, arguments))
            if "pip" in words and "install" in words:
                yield words[words.index("install") + 1 :]


def ignored(name, patterns):
    """Whether Docker leaves a path out of what it sends: the last pattern decides that fits it or a folder above it."""
    parts = name.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    result = False
    for line in patterns:
        exception, pattern = line.startswith("!"), line.removeprefix("!").strip("/")
        expression = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        if any(re.fullmatch(expression, each) for each in above):
            result = not exception
    return result


@pytest.fixture(scope="module")
def patterns():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def in_git(*folders):
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *folders], cwd=ROOT, capture_output=True, check=True
    )
    return names.stdout.decode().splitlines()


def by_name(path):
    return path.name


def test_the_parser_joins_lines_and_leaves_comments_out():
    text = "# syntax\nFROM a AS b\nRUN one \\\n    # why\n    && two\n\ncopy x y\n"
    expected = [("FROM", "a AS b"), ("RUN", "one && two"), ("COPY", "x y")]
    assert [(each.keyword, each.value) for each in parse(text)] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("overnet/model.py", False),
        ("overnet/__pycache__/model.pyc", True),
        ("export/a/b.pyc", True),
        ("secret.env", True),
        ("tests/a/b.py", True),
    ],
)
def test_ignoring_as_docker_does(name, expected):
    assert ignored(name, ["*", "!overnet", "!export", "**/__pycache__", "**/*.pyc"]) is expected


def test_there_is_one_for_each_platform():
    assert [path.suffix for path in DOCKERFILES] == [".desktop", ".jetpack6", ".jetpack7"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_what_is_copied_is_there_and_not_ignored(path, patterns):
    sources = [source for stage in stages_of(path) for names, _ in copied(stage) for source in names]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        files = [name for name in in_git(source) if (ROOT / name).is_file()]
        assert files and not [name for name in files if ignored(name, patterns)]


def test_nothing_but_the_package_is_sent_to_docker(patterns):
    sent = {name.split("/")[0] for name in in_git() if not ignored(name, patterns)}
    package = {"overnet", "export", "runtime", "benchmarks"}
    assert sent == package | {"pyproject.toml", "setup.py", "README.md", "LICENSE", "LICENSES.md"}
    assert all(ignored(name, patterns) for name in (".git/config", ".env", "engines/x.engine", ".venv/bin/python"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_every_room_of_the_package_is_in(path):
    rooms = {path.name for path in ROOMS.values()}
    whole = {target: names for stage in stages_of(path) for names, target in copied(stage) if names == [target]}
    assert rooms == set(whole)


def first_layer(path):
    """What a build has of the package when it installs the dependencies: (source, folder) pairs, and empty folders."""
    build = stages_of(path)[0]
    step = next(index for index, each in enumerate(build) if each.keyword == "RUN" and '".[' in each.value)
    files = [(name, target) for names, target in copied(build[:step]) for name in names]
    return files, re.search(r"mkdir -p ([\w/ ]+?) &&", build[step].value)[1].split()


def test_the_package_builds_from_the_few_files_of_the_first_layer(tmp_path):
    """Dependencies are installed before the sources are there, so that a change of ours does not install them anew."""
    files, folders = first_layer(DOCKERFILES[0])
    assert all(first_layer(path) == (files, folders) for path in DOCKERFILES)
    for name, target in files:
        (tmp_path / "src" / target).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "src" / target)
    for folder in folders:
        (tmp_path / "src" / folder).mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, tmp_path / "src"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("overnet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        assert b"Requires-Dist: numpy" in archive.read(metadata)


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_extras_exist_and_requirements_are_those_of_the_project(path, project):
    optional = project["project"]["optional-dependencies"]
    stated = {re.split(r"[<>=; ]", requirement)[0]: requirement for each in optional.values() for requirement in each}
    extras = set()
    for words in pip_installs(path):
        for word in words:
            if word.startswith(".["):
                extras |= set(word[2:-1].split(","))
            elif ">=" in word:
                assert stated[word.partition(">=")[0]] == word
    assert extras and extras <= set(optional)


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_the_image_runs_a_command_of_ours_not_as_root(path, project):
    (entry,) = instructions_of(path, "ENTRYPOINT")
    assert re.fullmatch(r'\["(.+)"\]', entry)[1] in project["project"]["scripts"]
    last = stages_of(path)[-1]
    (user,) = (each.value for each in last if each.keyword == "USER")
    assert int(user) > 0
    after = last[last.index(Instruction("USER", user)) :]
    assert any("overnet --version" in each.value for each in after if each.keyword == "RUN"), "tried out as that user"


@pytest.mark.parametrize("path", DOCKERFILES, ids=by_name)
def test_images_are_pinned_and_no_cache_is_left(path):
    arguments = arguments_of(path)
    for base in instructions_of(path, "FROM"):
        image = filled_in(base.split(" AS ")[0], arguments)
        assert re.search(r":[\w.-]*\d[\w.-]*$", image), image
    for run in instructions_of(path, "RUN"):
        assert run.count("apt-get install") <= 2 * run.count("rm -rf /var/lib/apt/lists/*")
    assert any("PIP_NO_CACHE_DIR=1" in value for value in instructions_of(path, "ENV"))


@pytest.mark.parametrize("name", JETPACK_PYTHON)
def test_both_stages_have_the_python_that_jetpack_is_made_for(name):
    path = ROOT / f"docker/Dockerfile.{name}"
    arguments = arguments_of(path)
    for base in instructions_of(path, "FROM"):
        image = filled_in(base, arguments)
        (python,) = {version for part, version in BASE_PYTHON.items() if part in image}
        assert python == JETPACK_PYTHON[name], image
    assert f", {JETPACK_PYTHON[name]} |" in jetpack_row(name)


def jetpack_row(name):
    """The row about the JetPack of a Dockerfile in the table of docs/jetson.md."""
    release = {"jetpack6": "6.1", "jetpack7": "7.2"}[name]
    (row,) = re.findall(rf"^\| {release}.*$", (ROOT / "docs/jetson.md").read_text(), re.MULTILINE)
    return row


@pytest.mark.parametrize("name", JETPACK_PYTHON)
def test_on_a_jetson_tensorrt_and_opencv_come_from_apt(name, project):
    path = ROOT / f"docker/Dockerfile.{name}"
    optional = project["project"]["optional-dependencies"]
    for words in pip_installs(path):
        required = [word for word in words if not word.startswith(("-", "."))]
        for word in words:
            if word.startswith(".["):
                required += [each for extra in word[2:-1].split(",") for each in optional[extra]]
        assert not [each for each in required if NOT_ON_JETSON.match(each)]
    installed = stages_of(path)[-1]
    packages = " ".join(each.value for each in installed if each.keyword == "RUN").split()
    assert {"python3-libnvinfer", "libopencv-python"} <= set(packages)
    # Where the image is built on no Jetson, pip brings a wheel, which would stand in front of JetPack's.
    build = " ".join(each.value for each in stages_of(path)[-2] if each.keyword == "RUN")
    assert "pip uninstall -y opencv-python" in build


@pytest.mark.parametrize(
    ("machine", "kernel", "expected"),
    [
        ("x86_64", "6.8.0-40-generic", True),
        ("aarch64", "6.8.0-1010-raspi", True),
        ("aarch64", "6.1.0-23-arm64", True),
        ("aarch64", "5.15.148-tegra", False),
        ("aarch64", "6.8.12-1001-tegra", False),
        ("arm64", "23.5.0", True),
    ],
)
def test_opencv_is_left_out_on_a_jetson_alone(project, machine, kernel, expected):
    """On other Arm machines the first command of README ended with "needs OpenCV"."""
    requirements = pytest.importorskip("packaging.requirements")
    (opencv,) = [
        requirements.Requirement(each) for each in project["project"]["dependencies"] if each.startswith("opencv")
    ]
    assert opencv.marker.evaluate({"platform_machine": machine, "platform_release": kernel}) is expected


def test_cuda_bindings_are_those_that_there_are(project):
    """No registry has 12.6: after 11.8 comes 12.8."""
    (wanted,) = [
        each for each in project["project"]["optional-dependencies"]["cuda"] if each.startswith("cuda-bindings")
    ]
    assert wanted == "cuda-bindings>=12.8"
    pins = re.findall(r"cuda-bindings==([\d.*]+)", (ROOT / "docs/jetson.md").read_text())
    assert pins == ["12.*"]


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_options_named_alone_in_the_page_belong_to_someone(path):
    from overnet.cli import app

    commands = typer.main.get_command(app).commands
    ours = {option for command in commands.values() for parameter in command.params for option in options_of(parameter)}
    others = {"--system-site-packages", "--index-url", "--build-arg", "--runtime", "--gpus", "--user"}
    named = set(re.findall(r"`(--[\w-]+)", path.read_text()))
    assert named and named <= ours | others


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_links_lead_to_files(path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    assert links
    for link in links:
        assert "://" in link or (path.parent / link).is_file(), link


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_files_and_build_arguments_in_the_pages_exist(path):
    text = path.read_text()
    for name in re.findall(r"\bdocker/Dockerfile\.\w+|\bdocs/\w+\.md|\btests/\w+\.py", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`(Dockerfile\.\w+)`", text):
        assert (ROOT / "docker" / name).is_file(), name
    for words in commands_in(path):
        if "build" in words and "docker" in words:
            arguments = arguments_of(ROOT / words[words.index("-f") + 1])
            given = [words[index + 1] for index, word in enumerate(words) if word == "--build-arg"]
            assert {each.partition("=")[0] for each in given} <= set(arguments)
