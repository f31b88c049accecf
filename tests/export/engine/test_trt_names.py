"""Every name of TensorRT's bindings that is used, against the bindings of the oldest and the newest version.

The names are read from the source: objects of the bindings are annotated there with the name of their class. A use
that cannot be read that way is a failure, so that none escapes.
"""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from overnet.export.engine import trt_api
from overnet.system import tensorrt_logger
from tests.conftest import SHARED, needs_shared

FOLDER = Path(trt_api.__file__).parents[1]
# Every file that asks for the bindings, or for objects of theirs.
SOURCES = {
    f"{path.parent.name}/{path.name}": path.read_text()
    for path in (*sorted(FOLDER.rglob("*.py")), Path(tensorrt_logger.__file__))
    if re.search(r"\bbindings\(|: (Builder|ICudaEngine|Module|Runtime)\b", path.read_text())
}
TENSORRT, RTX = "tensorrt", "tensorrt-rtx"
# Before 10.12, where networks can be weakly typed.
WEAK = "tensorrt with weak typing"
BOTH = frozenset({TENSORRT, RTX})
UNREADABLE = "cannot be read: annotate it with its class"


@dataclass(frozen=True)
class Use:
    """One name: the class that has it (the module for a class itself), and the libraries that the code runs with."""

    owner: str
    name: str
    libraries: frozenset[str] = BOTH


class Uses(ast.NodeVisitor):
    """Collects the uses in one file, and the places that cannot be read."""

    def __init__(self, source):
        tree = ast.parse(source)
        self.aliases = {
            ast.unparse(node.target)
            for node in tree.body
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias"
        } | {
            name.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module == trt_api.__name__
            for name in node.names
            if getattr(trt_api, name.name) is Any
        }
        self.found, self.problems = set(), []
        self._libraries = BOTH
        self._classes = {}  # of expressions, such as "self._config"; None where it is something of unknown class
        self.visit(tree)

    def visit_ClassDef(self, node):
        outer = self._classes
        self._classes = dict(outer)
        # What a class's methods assign to self, whichever comes first in the source.
        for inner in ast.walk(node):
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Attribute):
                self._annotate(inner.target, inner.annotation)
        for base in node.bases:
            self.visit(base)
            owner = self._class_of_module(base)
            if owner:
                methods = [member.name for member in node.body if isinstance(member, ast.FunctionDef)]
                self.found |= {Use(owner, name, self._libraries) for name in methods if not name.startswith("__")}
        for member in node.body:
            self.visit(member)
        self._classes = outer

    def visit_FunctionDef(self, node):
        outer = self._classes
        self._classes = dict(outer)
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            if argument.annotation is not None:
                self._annotate(ast.Name(argument.arg), argument.annotation)
        for member in node.body:
            self.visit(member)
        self._classes = outer

    def visit_If(self, node):
        test = ast.unparse(node.test)
        only = {"self.is_rtx": RTX, "not self.is_rtx": TENSORRT, "self.is_weak": WEAK}.get(test)
        if only is None:
            self.generic_visit(node)
            return
        outer = self._libraries
        for libraries, body in ((frozenset({only}), node.body), (outer - {only}, node.orelse)):
            self._libraries = libraries if only == WEAK else outer & libraries
            for member in body:
                self.visit(member)
        self._libraries = outer

    def visit_AnnAssign(self, node):
        foreign = node.value is not None and not self._is_of_bindings(node.value)
        if not (foreign and ast.unparse(node.annotation) == "Any"):
            self._annotate(node.target, node.annotation)
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node):
        self.generic_visit(node)
        if self._is_of_bindings(node.value):
            for target in node.targets:
                self._classes[ast.unparse(target)] = None

    def visit_Attribute(self, node):
        names = []
        base = node
        while isinstance(base, ast.Attribute) and ast.unparse(base) not in self._classes:
            names.insert(0, base.attr)
            base = base.value
        text = ast.unparse(base)
        if text in self._classes:
            self._use(self._classes[text], names, node)
        elif self._is_of_bindings(base):
            self.problems.append(f"{ast.unparse(node)} in line {node.lineno} {UNREADABLE}")
        if not isinstance(base, ast.Name | ast.Attribute):
            self.visit(base)

    def _use(self, owner, names, node):
        public = [name for name in names if not name.startswith("__")]
        if owner == "Module" and public:
            self.found.add(Use("Module", public[0], self._libraries))
            owner, public = public[0], public[1:]
        if not public:
            return
        if owner is None or len(public) > 1:
            self.problems.append(f"{ast.unparse(node)} in line {node.lineno} {UNREADABLE}")
        else:
            self.found.add(Use(owner, public[0], self._libraries))

    def _annotate(self, target, annotation):
        name = ast.unparse(annotation)
        if name in self.aliases:
            self._classes[ast.unparse(target)] = name
        elif name == "Any":
            self._classes[ast.unparse(target)] = None

    def _is_of_bindings(self, node):
        """Whether an expression is made from an object of the bindings, of which the class is not known."""
        while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
            if ast.unparse(node) in self._classes or ast.unparse(node).startswith("bindings("):
                return True
            node = node.func if isinstance(node, ast.Call) else node.value
        return ast.unparse(node) in self._classes

    def _class_of_module(self, node):
        is_class = isinstance(node, ast.Attribute) and self._classes.get(ast.unparse(node.value)) == "Module"
        return node.attr if is_class else None


def missing(uses, names, library):
    """The uses that a version lacks; `names` has each class's."""
    applicable = [use for use in uses.found if library in use.libraries]
    return sorted(
        f"{use.owner}.{use.name}"
        for use in applicable
        if use.name not in (names if use.owner == "Module" else names.get(use.owner, ()))
    )


@pytest.fixture(scope="module")
def recorded():
    return json.loads((SHARED / "reference" / "trt-api-names.json").read_text())


def test_all_is_read():
    assert {"engine/trt_api.py", "system/tensorrt_logger.py"} <= set(SOURCES)
    found = {use for source in SOURCES.values() for use in Uses(source).found}
    # What a build cannot do without, by each of the ways in which a name can be used.
    assert {
        Use("Module", "Builder"),
        Use("Builder", "build_serialized_network"),
        Use("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        Use("IBuilderConfig", "progress_monitor"),
        Use("IProgressMonitor", "step_complete"),
        Use("ILogger", "log"),
        Use("ICudaEngine", "get_device_memory_size_for_profile_v2"),
        Use("IBuilderConfig", "set_compute_capability", frozenset({RTX})),
        Use("BuilderFlag", "FP16", frozenset({WEAK})),
    } <= found
    assert len(found) >= 45


@pytest.mark.parametrize("file", SOURCES)
def test_every_use_can_be_read(file):
    assert Uses(SOURCES[file]).problems == []


@needs_shared
@pytest.mark.parametrize("file", SOURCES)
@pytest.mark.parametrize(
    ("version", "library"),
    [
        ("tensorrt 10.3.0", TENSORRT),
        ("tensorrt 10.3.0", WEAK),
        ("tensorrt 11.4.0", TENSORRT),
        ("tensorrt_rtx 1.7.1", RTX),
    ],
)
def test_every_version_has_the_names(recorded, file, version, library):
    assert missing(Uses(SOURCES[file]), recorded[version], library) == []


@pytest.mark.parametrize("file", SOURCES)
def test_the_library_that_is_here_has_the_names(file):
    trt = pytest.importorskip("tensorrt_rtx")
    names = {name: dir(getattr(trt, name)) for name in dir(trt)}
    assert missing(Uses(SOURCES[file]), names, RTX) == []


def test_the_bindings_are_imported_in_one_way():
    for path in sorted(FOLDER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in imported if name.partition(".")[0] in ("tensorrt", "tensorrt_rtx")], path


# How the reading itself is checked: small sources with one thing in each that is to be found.
HEADER = """
from typing import Any, TypeAlias
Module: TypeAlias = Any
IBuilderConfig: TypeAlias = Any
"""


@needs_shared
@pytest.mark.parametrize(
    ("body", "gone_from"),
    [
        ("def f(trt: Module): return trt.BuilderFlag.FP16", {"tensorrt 11.4.0", "tensorrt_rtx 1.7.1"}),
        ("def f(trt: Module): return trt.IInt8EntropyCalibrator2", {"tensorrt 11.4.0", "tensorrt_rtx 1.7.1"}),
        ("def f(config: IBuilderConfig): config.int8_calibrator = 1", {"tensorrt 11.4.0", "tensorrt_rtx 1.7.1"}),
        ("def f(config: IBuilderConfig): config.l2_limit_for_tiling = 1", {"tensorrt 10.3.0"}),
        ("def f(config: IBuilderConfig): config.num_compute_capabilities = 1", {"tensorrt 10.3.0", "tensorrt 11.4.0"}),
        ("def f(self, c: IBuilderConfig):\n if self.is_rtx: c.num_compute_capabilities = 1", set()),
        (
            "def f(self, c: IBuilderConfig):\n if not self.is_rtx: c.num_compute_capabilities = 1",
            {"tensorrt 10.3.0", "tensorrt 11.4.0"},
        ),
        ("def f(self, c: IBuilderConfig):\n if not self.is_rtx: pass\n else: c.num_compute_capabilities = 1", set()),
        (
            "def f(self, c: IBuilderConfig):\n if self.is_rtx: pass\n else: c.num_compute_capabilities = 1",
            {"tensorrt 10.3.0", "tensorrt 11.4.0"},
        ),
        ("def f(self, trt: Module):\n if self.is_weak: trt.BuilderFlag.FP16", set()),
        (
            "def f(self, trt: Module):\n if self.is_weak: pass\n else: trt.BuilderFlag.FP16",
            {"tensorrt 11.4.0", "tensorrt_rtx 1.7.1"},
        ),
        ("class A:\n def f(self): self._c.bogus()\n def __init__(self, c): self._c: IBuilderConfig = c", {"all"}),
        ("def f(trt: Module):\n class M(trt.IProgressMonitor):\n  def step_complete(self): pass", set()),
        ("def f(trt: Module):\n class M(trt.IProgressMonitor):\n  def step_completed(self): pass", {"all"}),
    ],
)
def test_a_name_that_is_gone_is_found(recorded, body, gone_from):
    uses = Uses(HEADER + body)
    assert uses.problems == []
    found = {version for version in recorded if missing(uses, recorded[version], RTX if "rtx" in version else TENSORRT)}
    assert found == (set(recorded) if gone_from == {"all"} else gone_from)


@pytest.mark.parametrize(
    "body",
    [
        "def f(trt: Module): trt.Builder(1).create_network()",
        "def f(trt: Module):\n builder = trt.Builder(1)\n builder.create_network()",
        "def f(config: IBuilderConfig): config.get_timing_cache().serialize()",
        "def f(config: IBuilderConfig): config.some.deeper",
        "def f(config: Any): config.anything",
        "def f(): bindings('tensorrt').Builder",
        "def f():\n trt: Any = bindings('tensorrt')\n trt.Builder",
        "def f():\n trt = bindings('tensorrt')\n trt.Builder",
        "def f(trt: Module):\n members = trt.ComputeCapability.__members__\n members['SM75'].value",
    ],
)
def test_a_use_that_cannot_be_read_is_a_problem(body):
    assert Uses(HEADER + body).problems
