"""What the text of the tests says: which names they take from elsewhere, and which of their functions are tests.

Only the tests are read here, never the candidate, so the model cannot change which names mean its own objects.
"""

from __future__ import annotations

import _symtable  # type: ignore[import-not-found]
import builtins
import sys
from _ast import (
    AST,
    AsyncFunctionDef,
    Attribute,
    Call,
    ClassDef,
    Expr,
    FunctionDef,
    Import,
    ImportFrom,
    Name,
    PyCF_ONLY_AST,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any

_DEFINED = _symtable.DEF_LOCAL | _symtable.DEF_IMPORT
_GLOBAL = (_symtable.GLOBAL_IMPLICIT, _symtable.GLOBAL_EXPLICIT)


class TestSource:
    """The tests (or the context), parsed. Raises SyntaxError, ValueError, RecursionError or MemoryError."""

    __test__ = False

    def __init__(self, source: str, name: str) -> None:
        self._name = name
        self._tree: Any = compile(source, name, "exec", PyCF_ONLY_AST, dont_inherit=True)
        self.lines = source.splitlines()
        self.defined, used = _global_names(_symtable.symtable(source, name, "exec"))
        self.needed = {name for name in used - self.defined if not hasattr(builtins, name)}
        """Names that the tests use and neither define nor find among the built-in ones."""
        self.used = used

    def compile(self) -> CodeType:
        """The code, without the plain calls of test functions at its end: whoever runs the tests calls those."""
        tests = set(self.test_names())
        self._tree.body = [statement for statement in self._tree.body if not _calls_one_of(statement, tests)]
        return compile(self._tree, self._name, "exec", dont_inherit=True)

    def test_names(self) -> list[str]:
        """Test functions and classes of the module, in order."""
        found = []
        for statement in self._tree.body:
            is_function = isinstance(statement, FunctionDef | AsyncFunctionDef) and statement.name.startswith("test")
            if is_function or (isinstance(statement, ClassDef) and _holds_tests(statement)):
                found.append(statement.name)
        return found

    def imports(self, module: str) -> bool:
        """Whether `module` is imported anywhere."""
        return any(
            (
                isinstance(node, ImportFrom)
                and module in [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            )
            or (isinstance(node, Import) and any(alias.name == module for alias in node.names))
            for node in _walk(self._tree)
        )

    def standard_modules(self) -> dict[str, Any]:
        """Needed names that can only be modules of the standard library: `math` in `math.isclose`."""
        attributes: dict[str, set[str]] = {}
        for node in _walk(self._tree):
            if isinstance(node, Attribute) and isinstance(node.value, Name):
                attributes.setdefault(node.value.id, set()).add(node.attr)
        found = {}
        for name in self.needed & attributes.keys() & sys.stdlib_module_names:
            module = __import__(name)
            if all(hasattr(module, attribute) for attribute in attributes[name]):
                found[name] = module
        return found


def _global_names(table: Any) -> tuple[set[str], set[str]]:
    """Names that the module defines, and names that any of its scopes looks up in the module."""
    defined = {name for name, flags in table.symbols.items() if flags & _DEFINED}
    used = {name for name, flags in table.symbols.items() if flags & _symtable.USE}
    pending = list(table.children)
    while pending:
        scope = pending.pop()
        pending.extend(scope.children)
        for name, flags in scope.symbols.items():
            if (flags >> _symtable.SCOPE_OFF) & _symtable.SCOPE_MASK in _GLOBAL:
                used.add(name)
                if flags & _DEFINED:
                    defined.add(name)
    return defined, used


def _walk(tree: AST) -> Iterator[AST]:
    pending: list[Any] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, AST):
            yield node
            pending.extend(getattr(node, field, None) for field in node._fields)


def _calls_one_of(statement: AST, names: set[str]) -> bool:
    if not isinstance(statement, Expr) or not isinstance(statement.value, Call):
        return False
    call = statement.value
    return isinstance(call.func, Name) and call.func.id in names and not call.args and not call.keywords


def _holds_tests(statement: ClassDef) -> bool:
    functions = [inner.name for inner in statement.body if isinstance(inner, FunctionDef | AsyncFunctionDef)]
    bases = [ast_name(base) for base in statement.bases]
    named = statement.name.startswith("Test") or "TestCase" in bases
    return named and any(name.startswith("test") for name in functions)


def ast_name(node: AST) -> str:
    """The last name of a dotted expression."""
    if isinstance(node, Attribute):
        return node.attr
    return node.id if isinstance(node, Name) else ""
