"""Negated programs: what a tested function returns is no longer what it was, and nothing else has changed."""

from __future__ import annotations

import pytest

from rollout_workers.tasks.negation import negate_returns


@pytest.mark.parametrize(
    ("source", "negated"),
    [
        ("def f(x):\n    return x + 1\n", "def f(x):\n    return not (x + 1)\n"),
        ("def f(x):\n    return x, 1\n", "def f(x):\n    return not (x, 1)\n"),
        ("def f(x):\n    return (x +\n            1)\n", "def f(x):\n    return (not (x +\n            1))\n"),
        ("def f(x):\n    return [\n        x\n    ]\n", "def f(x):\n    return not ([\n        x\n    ])\n"),
        ("def f(x): return x", "def f(x): return not (x)"),
        ("async def f(x):\n    return await x", "async def f(x):\n    return not (await x)"),
        ("def f(x):\n    if x: return 'é'; return 'ü'\n    return '\u2028'\n",
         "def f(x):\n    if x: return not ('é'); return not ('ü')\n    return not ('\u2028')\n"),
        ("def f(x):\r\n    return x\r\n", "def f(x):\n    return not (x)\n"),
        ("def f(x):\n    def g(y):\n        return y\n    h = lambda z: z\n    return g(x)\n",
         "def f(x):\n    def g(y):\n        return y\n    h = lambda z: z\n    return not (g(x))\n"),
        ("def g(x):\n    return x\ndef f(x):\n    return g(x)\n",
         "def g(x):\n    return x\ndef f(x):\n    return not (g(x))\n"),
        ("class A:\n    def f(self):\n        return 1\n", "class A:\n    def f(self):\n        return not (1)\n"),
    ],
)  # fmt: skip
def test_returns_of_named_functions_are_negated(source, negated):
    assert negate_returns(source, {"f"}) == negated
    compile(negated, "negated", "exec")


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x = 1",
        "def f(x):\n    print(x)",
        "def f(x):\n    return",
        "def g(x):\n    return x",
        "def f(x:",
        "def f():\n    return '\0'",
    ],
)
def test_where_nothing_would_change_there_is_none(source):
    assert negate_returns(source, {"f"}) is None


@pytest.mark.parametrize(
    "value", [0, 1, -2, 0.5, 1e-9, "", "a", (), (1,), [], [0], {}, {1: 2}, set(), None, True, False]
)
def test_no_value_equals_its_negation(value):
    program = negate_returns(f"def f():\n    return {value!r}\n", {"f"})
    assert program == f"def f():\n    return not ({value!r})\n"
    assert (not value) != value
