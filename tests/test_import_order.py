"""The shape of the code base: who may import whom, what imports without torch or Ray, and what pyproject must declare.

`cluster` and `policy` (neither imports the other) < `rollout_workers` < `evaluation` < `learner` < `deploy`.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "cluster": set(),
    "policy": set(),
    "rollout_workers": {"cluster", "policy"},
    "evaluation": {"cluster", "policy", "rollout_workers"},
    "learner": {"cluster", "policy", "rollout_workers", "evaluation"},
    "deploy": {"cluster", "policy", "rollout_workers", "evaluation", "learner"},
}
PACKAGES = tuple(MAY_IMPORT)
LIGHT_MODULES = (
    *(f"{package}.config" for package in PACKAGES if package != "deploy"),
    "rollout_workers.grader",
    "rollout_workers.lease",
)
"""Read by command lines and graders, which must start at once and stay small."""

DISTRIBUTION_OF_OPTIONAL = {"lm_eval": "lm-eval", "pynvml": "nvidia-ml-py", "vllm": "vllm"}
"""Import names of the extras, which need not be installed."""

OUTSIDE = "../" + "shared"
"""A folder beside the checkout: nothing that is shipped may point there."""

TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".html", ".json", ".txt", ".sh", ""}

IMPORT_WITHOUT = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "ray"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
importlib.import_module(sys.argv[1])
"""


@dataclass(frozen=True)
class Import:
    """One imported name."""

    name: str
    """Absolute path of a module, or of an attribute of one."""
    line: int
    at_import: bool
    """Whether it runs when the module is imported: not inside a function, not for type checkers only."""

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_names(node: ast.Import | ast.ImportFrom, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = path.relative_to(ROOT).parts[: -node.level]
        base = ".".join([*package, *filter(None, [node.module])])
    yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    found: list[Import] = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.extend(Import(name, node.lineno, at_import) for name in imported_names(node, path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, False)
            for child in node.orelse:
                visit(child, at_import)
            return
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, at_import and not deferred)

    visit(parse(path), True)
    return tuple(found)


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def declared(*extras: str) -> set[str]:
    """Canonical names of the declared dependencies, with those of `extras`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {canonical(re.match(r"[\w.-]+", line)[0]) for line in lines}


@cache
def distributions_by_import() -> dict[str, set[str]]:
    return {name: set(map(canonical, found)) for name, found in packages_distributions().items()}


def distributions_of(top: str) -> set[str]:
    if top in DISTRIBUTION_OF_OPTIONAL:
        return {DISTRIBUTION_OF_OPTIONAL[top]}
    return distributions_by_import().get(top, {canonical(top)})


def third_party(files: list[Path]) -> dict[str, str]:
    """Top-level names that are neither ours nor the standard library's, each with the first place that imports it."""
    known = {*PACKAGES, "tests", "__future__"} | sys.stdlib_module_names
    found: dict[str, str] = {}
    for path in files:
        for item in imports_of(path):
            if item.top not in known:
                found.setdefault(item.top, place(path, item.line))
    return found


PACKAGE_FILES = [path for package in PACKAGES for path in python_files(package)]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down_the_order(package):
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        f"{place(path, item.line)} imports {item.name}"
        for path in python_files(package)
        for item in imports_of(path)
        if item.top in {*PACKAGES, "tests"} - allowed
    ]
    assert not wrong, f"{package} may import {sorted(MAY_IMPORT[package])} of this project only:\n" + "\n".join(wrong)


def test_no_import_cycle():
    modules = {module_name(path): path for path in PACKAGE_FILES}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = [item.name for item in imports_of(path) if item.at_import]
        targets = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = targets & modules.keys() - {module}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("import cycle (each is imported by the next): " + " -> ".join(error.args[1]))


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_light_modules_import_neither_torch_nor_ray(module):
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"there is no {module}"
    command = [sys.executable, "-c", IMPORT_WITHOUT, module]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_packages_import_only_what_pyproject_declares():
    allowed = declared("gpu", "lm-eval", "vllm")
    found = third_party(PACKAGE_FILES)
    undeclared = [f"{where} imports {top}" for top, where in found.items() if not distributions_of(top) & allowed]
    assert not undeclared, "not among the dependencies or the extras gpu, lm-eval and vllm:\n" + "\n".join(undeclared)


def test_tests_import_only_what_pyproject_declares():
    allowed = declared("test", "gpu", "lm-eval", "vllm")
    found = third_party(python_files("tests"))
    undeclared = [f"{where} imports {top}" for top, where in found.items() if not distributions_of(top) & allowed]
    assert not undeclared, "not among the dependencies or the extra test:\n" + "\n".join(undeclared)


def test_each_dependency_is_imported():
    used = set().union(*(distributions_of(top) for top in third_party(PACKAGE_FILES)))
    assert not declared() - used, f"declared but imported nowhere: {sorted(declared() - used)}"


def test_each_folder_of_modules_is_a_package():
    folders = {path.parent for path in PACKAGE_FILES}
    missing = sorted(str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file())
    assert not missing, f"no __init__.py, so missing from the wheel: {missing}"


def test_no_broad_except():
    broad = [
        place(path, node.lineno)
        for path in PACKAGE_FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node.type)
    ]
    assert not broad, "except clauses must name what they expect:\n" + "\n".join(broad)


def catches_everything(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(catches_everything(element) for element in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"})


def test_nothing_points_outside_the_checkout():
    files = [path for folder in (*PACKAGES, "docs") for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*.md"))
    guilty = [
        str(path.relative_to(ROOT))
        for path in files
        if path.is_file() and path.suffix in TEXT_SUFFIXES and OUTSIDE in path.read_text(encoding="utf-8")
    ]
    assert not guilty, f"{OUTSIDE} is named in {guilty}"
