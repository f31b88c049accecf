"""What gets installed: only `overnet`, whole, small, and importable without torch."""

import ast
import functools
import os
import re
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = {"overnet": ROOT / "overnet", "export": ROOT / "export", "runtime": ROOT / "runtime"}
ROOMS["benchmarks"] = ROOT / "benchmarks"


@pytest.fixture
def wheel(distribution):
    return distribution[1]


@pytest.mark.slow
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
    for name in ("realtime", "fast"):
        expected |= {
            f"overnet/weights/{name}/{name}_x{scale}{end}.onnx" for scale in (2, 3, 4) for end in ("", "_int8")
        }
        expected.add(f"overnet/weights/{name}/{name}.safetensors")
    expected |= {"overnet/weights/overnet_multiscale.safetensors", "overnet/weights/MODEL_CARD.md", "overnet/py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        assert expected <= set(archive.namelist())
        assert not any("test" in name or name.endswith("_int8.safetensors") for name in archive.namelist())


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
        ("gradio", "sys.argv[1:] = ['web', '--port', '0']; run_program()", "pip install 'overnet[web]'"),
        ("torch", "sys.argv[1:] = [IMAGE, '-o', 'b.png', '--backend', 'torch']; main_run()", "overnet[torch]"),
        ("onnxruntime", "sys.argv[1:] = [IMAGE, '-o', 'b.png', '--backend', 'onnxruntime']; main_run()", "[ort]"),
        ("openvino", "sys.argv[1:] = [IMAGE, '-o', 'b.png', '--backend', 'openvino']; main_run()", "openvino"),
        ("ray", "sys.argv[1:] = [IMAGE, '-o', 'b.png', '--cluster', 'auto']; main_run()", "'overnet[cluster]'"),
    ],
)
def test_a_missing_library_is_one_line_that_says_what_to_install(tmp_path, missing, code, extra):
    prelude = f"IMAGE = {str(ROOT / 'samples/harbour.png')!r}\nfrom overnet.__main__ import *\nimport sys\n"
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


# Who may import whom. A key is a module or a folder (its own files, not its sub-folders; `.*` adds those), without
# `overnet.` in front; the longest key that fits a module is its row, and modules of one row may import each other.
# Lazy imports, those for type checking, and Python started as a child process count like any other.
BASE = "errors types words _version"
BELOW = f"files imaging.* system weights {BASE}"
LOADED = f"files system {BASE}"  # what a backend stands on
IMPORTS = {
    "__init__": "_version network.model network.checkpoint runtime.upscaler",  # the public names, loaded lazily
    "__main__": "cli files system",
    "_version": "",
    "errors": "",
    "types": "",
    "words": "",
    "weights": "",
    "files": BASE,
    "imaging": f"imaging.formats files {BASE}",
    "imaging.formats": f"files {BASE}",
    "system": f"files {BASE}",
    # Converts models with `python -m overnet export` in a child process.
    "system.converted_model": f"__main__ system files {BASE}",
    "network": f"files weights {BASE}",
    "evaluation": BELOW,
    "training": f"training.data network evaluation {BELOW}",
    "training.data": f"network evaluation {BELOW}",
    "cli": "*",
    "cli.run": "*",
    # Upscales in a child process, `python -m overnet.web.worker`.
    "web": (
        f"runtime.container runtime.pipeline runtime.plan runtime.upscale_file runtime.upscaler runtime.video {BELOW}"
    ),
    "export": f"export.* network evaluation {BELOW}",
    "export.foreign": f"export.options export.graph export.precision export.verify evaluation {BELOW}",
    "export.graph": f"network {BELOW}",
    "export.precision": f"export.graph export.verify network evaluation {BELOW}",
    # An engine is run in the runtime's own slots before it gets its name.
    "export.verify": f"export.engine runtime.backends.trt network evaluation {BELOW}",
    "export.engine": BELOW,
    # Writes a file for Triton's Python backend that imports the model for whole images.
    "export.triton": f"export runtime.triton_model {BELOW}",
    "runtime.pipeline": "system",
    "runtime.tiling": f"files system {BASE}",
    "runtime.container": f"files {BASE}",
    "runtime.video": f"runtime.container files imaging imaging.formats system.scheduling {BASE}",
    "runtime.segments": f"runtime.container runtime.video {BELOW}",
    "runtime.plan": f"runtime.segments runtime.video.formats {BELOW}",
    "runtime.models": f"runtime.backends.base runtime.backends.registry {BELOW}",
    "runtime.inventory": f"runtime.backends.base runtime.backends.registry runtime.backends.ort.providers {BELOW}",
    "runtime.scene": BASE,
    "runtime.tiled_stream": f"runtime.backends.base runtime.backends.stream runtime.scene runtime.tiling {BELOW}",
    "runtime.upscaler": "runtime.backends.base runtime.backends.stream runtime.backends.ort.providers runtime.models"
    f" runtime.tiled_stream runtime.tiling {BELOW}",
    "runtime.paced_upscaler": "runtime.video.encoding_speed"
    f" runtime.backends.stream runtime.models runtime.upscaler {BELOW}",
    "runtime.still_image": f"runtime.upscaler {BELOW}",
    "runtime.triton_model": f"runtime.still_image runtime.upscaler {BELOW}",
    "runtime.upscale_file": "runtime.backends.stream runtime.pipeline runtime.plan runtime.segments"
    f" runtime.still_image runtime.upscaler runtime.video {BELOW}",
    "runtime.cluster": "runtime.pipeline runtime.plan runtime.segments runtime.upscale_file runtime.upscaler"
    f" runtime.container runtime.video {BELOW}",
    "runtime.live": "runtime.backends.stream runtime.upscale_file runtime.upscaler"
    f" runtime.container runtime.video {BELOW}",
    "runtime.backends.stream": BASE,
    "runtime.backends.base": f"runtime.backends.stream runtime.tiling {LOADED}",
    "runtime.backends.registry": "runtime.backends.base runtime.backends.openvino_backend runtime.backends.ort.backend"
    f" runtime.backends.torch_backend runtime.backends.trt.backend {LOADED}",
    "runtime.backends.openvino_backend": f"runtime.backends.base {LOADED}",
    "runtime.backends.torch_backend": f"runtime.backends.base network.checkpoint network.plain {LOADED}",
    "runtime.backends.ort": f"runtime.backends.base runtime.tiling {LOADED}",
    "runtime.backends.trt": "runtime.backends.base runtime.backends.stream runtime.tiling imaging imaging.metrics"
    f" weights {LOADED}",
    # Builds engines with `python -m overnet export` in a child process.
    "runtime.backends.trt.engine_child": f"__main__ {LOADED}",
    "benchmarks": f"benchmarks.* runtime.* export.graph network evaluation {BELOW}",
    "benchmarks.baselines": f"benchmarks benchmarks.cases runtime.* export.graph network evaluation {BELOW}",
    "benchmarks.cases": "benchmarks benchmarks.baselines benchmarks.power runtime.* export.graph network evaluation"
    f" {BELOW}",
    "benchmarks.power": f"benchmarks {BELOW}",
    "benchmarks.report": f"benchmarks benchmarks.cases evaluation {BELOW}",
    "benchmarks.studies": "benchmarks benchmarks.cases runtime.* export.* network training training.data"
    f" evaluation {BELOW}",
}
# The only modules that import these libraries, or `bindings`, which imports TensorRT for them. The first is where they
# are used; others only ask for a version, or load the libraries that come with them.
LIBRARIES = {
    "tensorrt": {
        "runtime.backends.trt.loaded_engine",
        "export.engine.trt_api",
        "system.environment",
        "runtime.backends.ort.providers",
    },
    "pycuda": {"runtime.backends.trt.cuda"},
}
# Imports in a string that is code for a child process, and names of modules that are loaded lazily.
CODE = r"(?:-m |from |import |^)(overnet\.[\w.]+)(?: import (\w+)|$)?"


@functools.cache
def modules() -> dict[str, Path]:
    """Every module by its name without `overnet.` in front; a package is named like its folder."""
    found = {}
    for name, room in ROOMS.items():
        for path in sorted(room.rglob("*.py")):
            parts = [*([] if name == "overnet" else [name]), *path.relative_to(room).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


@functools.cache
def imports_of(path: Path, *, children: bool = True) -> set[str]:
    """The modules that a file imports, and with `children` those that it names in code for a child process or for
    `importlib`. Names in them that are modules themselves stand for these."""
    found = set()
    tree = ast.parse(path.read_text())
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found |= {_module_in(f"{node.module}.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {_module_in(alias.name) for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if ast.unparse(node.func).rpartition(".")[2] in ("require", "import_module", "__import__"):
                found.add(str(node.args[0].value))
        elif isinstance(node, ast.List | ast.Tuple) and children:
            words = [str(word.value) if isinstance(word, ast.Constant) else "" for word in node.elts]
            found |= {_module_in(f"{word}.__main__") for flag, word in pairwise(words) if flag == "-m"}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and children:
            code = "" if id(node) in documentation else re.sub(r"-m overnet\b(?!\.)", "-m overnet.__main__", node.value)
            found |= {_module_in(f"{module}.{name}") for module, name in re.findall(CODE, code)} - {"__init__"}
    return found


def _module_in(dotted: str) -> str:
    """The module that a dotted name of ours begins with, without `overnet.`; other names as they are."""
    package, _, name = dotted.partition(".")
    if package != "overnet":
        return dotted
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name or "__init__"


def _row(module: str) -> str:
    names = [module, *(module[:at] for at, letter in enumerate(module) if letter == ".")]
    return max((name for name in names if name in IMPORTS), key=len, default="")


def _allows(row: str, target: str) -> bool:
    folder = target if modules()[target].name == "__init__.py" else target.rpartition(".")[0]
    if row in (_row(target), folder):
        return True
    for entry in IMPORTS[row].split():
        whole = entry.removesuffix("*").rstrip(".")
        if entry in (target, folder) or (entry.endswith("*") and f"{target}.".startswith(f"{whole}." if whole else "")):
            return True
    return False


def test_modules_import_only_what_the_table_allows():
    wrong = []
    for module, path in modules().items():
        assert _row(module) or path.name == "__init__.py", f"{module} has no row in IMPORTS"
        for target in sorted(imports_of(path) & modules().keys()):
            if not _allows(_row(module), target):
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_the_table_names_only_what_exists():
    named = {*IMPORTS, *(entry for row in IMPORTS.values() for entry in row.split())}
    assert {name.removesuffix("*").rstrip(".") for name in named} - modules().keys() == {""}


def test_few_modules_import_the_libraries_of_gpus():
    wrong = []
    for module, path in modules().items():
        imported = {name.partition(".")[0] for name in imports_of(path)}
        if module != "system.environment" and re.search(r"\bbindings\(", path.read_text()):
            imported.add("tensorrt")
        for library, users in LIBRARIES.items():
            if library in imported and module not in users:
                wrong.append(f"{module} imports {library}")
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    imports = {module: imports_of(path, children=False) & modules().keys() for module, path in modules().items()}
    remaining = dict(imports)
    while True:
        # What imports nothing that remains is in no circle.
        outside = [module for module, targets in remaining.items() if not targets & remaining.keys() - {module}]
        if not outside:
            break
        for module in outside:
            del remaining[module]
    while True:
        inside = set().union(*remaining.values())
        outside = [module for module in remaining if module not in inside]
        if not outside:
            break
        for module in outside:
            del remaining[module]
    assert sorted(remaining) == []


def test_lower_bounds_are_stated_and_upper_ones_are_not():
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    for requirement in requirements:
        if not requirement.startswith("overnet["):
            assert ">=" in requirement, requirement
            version = requirement.partition(";")[0]
            assert "<" not in version.replace(">=", ""), requirement
