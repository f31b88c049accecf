"""What gets installed: only `overnet`, whole, small, and importable without torch."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = {"overnet": ROOT / "overnet", "export": ROOT / "export", "runtime": ROOT / "runtime"}
ROOMS["benchmarks"] = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy of what git tracks, so that nothing lying about here gets in or makes up for what is missing.
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in names.stdout.decode().splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, folder / "source"],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    (built,) = folder.glob("*.whl")
    return built


def test_top_level_and_size(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"overnet"}
    assert wheel.stat().st_size < 15_000_000


def test_every_module_and_the_weights_are_in(wheel):
    expected = set()
    for name, room in ROOMS.items():
        prefix = "overnet" if name == "overnet" else f"overnet/{name}"
        expected |= {f"{prefix}/{path.relative_to(room)}" for path in room.rglob("*.py")}
    expected |= {f"overnet/weights/overnet_x{scale}.onnx" for scale in (2, 3, 4)}
    expected |= {"overnet/weights/overnet_multiscale.safetensors", "overnet/weights/MODEL_CARD.md", "overnet/py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        assert expected <= set(archive.namelist())
        assert not any("test" in name for name in archive.namelist())


BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run_without(missing, code, cwd):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(missing=missing) + code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


OPTIONAL = {"torch", "onnx", "onnxruntime", "safetensors", "h5py", "tensorboard", "PIL", "scipy"}
OPTIONAL |= {"tensorrt", "tensorrt_rtx", "pycuda", "cuda"}


def test_upscaling_needs_nothing_optional(tmp_path):
    code = """
import numpy as np, overnet
print(overnet.Upscaler(scale=2)(np.zeros((8, 9, 3), np.uint8)).shape)
import overnet.runtime.upscale_file, overnet.runtime.inventory, overnet.cli
import overnet.imaging.metrics, overnet.evaluation.measure
"""
    result = run_without(OPTIONAL, code, tmp_path)
    assert (result.returncode, result.stdout) == (0, "(16, 18, 3)\n"), result.stderr


@pytest.mark.parametrize(
    ("missing", "code", "extra"),
    [
        ("torch", "main_export()", "overnet[export]"),
        ("onnx", "main_export()", "overnet[export]"),
        ("torch", "sys.argv[1:] = [IMAGE, '-o', 'b.png', '--backend', 'torch']; main_run()", "overnet[torch]"),
        ("onnxruntime", "sys.argv[1:] = [IMAGE, '-o', 'b.png', '--backend', 'onnxruntime']; main_run()", "[ort]"),
        ("openvino", "sys.argv[1:] = [IMAGE, '-o', 'b.png', '--backend', 'openvino']; main_run()", "openvino"),
    ],
)
def test_a_missing_library_is_one_line_that_says_what_to_install(tmp_path, missing, code, extra):
    prelude = f"IMAGE = {str(ROOT / 'samples/harbour.png')!r}\nfrom overnet.cli import *\nimport sys\n"
    prelude += "sys.argv[1:] = ['-o', 'out']\n"
    result = run_without({missing}, prelude + code, tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert extra in result.stderr and "Traceback" not in result.stderr


def test_importing_loads_nothing_heavy(tmp_path):
    code = """
import sys, overnet, overnet.cli
heavy = {"torch", "openvino", "onnxruntime", "cv2", "av", "numpy", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    assert run_without(set(), code, tmp_path).stderr == ""


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_imports_between_rooms_go_one_way():
    forbidden = {
        "overnet": ("overnet.export", "overnet.runtime", "overnet.benchmarks", "overnet.cli"),
        "export": ("overnet.runtime", "overnet.benchmarks", "overnet.cli"),
        "runtime": ("overnet.export", "overnet.benchmarks", "overnet.cli"),
        "benchmarks": ("overnet.cli",),
    }
    # The lazy public names, and the commands, are where the rooms meet.
    meeting_places = {ROOT / "overnet/__init__.py", ROOT / "overnet/__main__.py", *(ROOT / "overnet/cli").glob("*.py")}
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for name, room in ROOMS.items()
        for path in sorted(room.rglob("*.py"))
        if path not in meeting_places
        for module in imports_of(path)
        if module.startswith(forbidden[name])
    ]
    assert wrong == []


def test_lower_bounds_are_stated_and_upper_ones_are_not():
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    for requirement in requirements:
        if not requirement.startswith("overnet["):
            assert ">=" in requirement, requirement
            version = requirement.partition(";")[0]
            assert "<" not in version.replace(">=", ""), requirement
