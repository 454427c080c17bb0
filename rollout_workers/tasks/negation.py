"""A wrong program that looks like a right one: what some of its functions return is negated.

Invariant: `not (x)` never equals `x`, for numbers, texts and containers alike, so whatever value a test looks at has changed. The
program is only read and edited as text, never run.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def negate_returns(source: str, names: Collection[str]) -> str | None:
    """`source` with `return x` as `return not (x)` in every function called one of `names`; None where that changes nothing.

    Functions inside those functions are left alone. A source that is no Python is None too.
    """
    # The parser counts these as line ends too; others that `splitlines` knows it does not.
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    functions = [node for node in ast.walk(tree) if isinstance(node, _Function) and node.name in names]
    values = [value for function in functions for value in _returned(function)]
    if not values:
        return None
    starts = [0]
    for line in source.split("\n"):
        starts.append(starts[-1] + len(line.encode()) + 1)
    text = source.encode()
    for value in sorted(values, key=lambda value: (value.lineno, value.col_offset), reverse=True):
        assert value.end_lineno is not None
        assert value.end_col_offset is not None
        start = starts[value.lineno - 1] + value.col_offset
        end = starts[value.end_lineno - 1] + value.end_col_offset
        text = text[:start] + b"not (" + text[start:end] + b")" + text[end:]
    return text.decode()


def _returned(function: _Function) -> Iterator[ast.expr]:
    """The values that `function` itself returns."""
    open_nodes: list[ast.AST] = list(function.body)
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, ast.Return) and node.value is not None:
            yield node.value
        elif not isinstance(node, _Function | ast.ClassDef | ast.Lambda):
            open_nodes.extend(ast.iter_child_nodes(node))
