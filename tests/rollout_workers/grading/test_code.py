"""Verdicts on code: what tests may do with a candidate, whose fault a failure is, and the canonical solutions of real data."""

from __future__ import annotations

import ast
import gzip
import json
import warnings

import pytest

from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.grading.code import CodeCheck, run_check, run_checks
from rollout_workers.grading.sandbox import Sandbox, SandboxLimits, open_sandbox
from tests.fakes.shared_data import shared_data

CORRECT, WRONG = GradeKind.CORRECT, GradeKind.WRONG
TIMED_OUT, ERROR = GradeKind.TIMED_OUT, GradeKind.GRADER_ERROR
ECHO = "def f(x):\n    return x\n"

VECTOR = """
class Vector:
    made = 0
    def __init__(self, x, y): self.x, self.y = x, y; Vector.made += 1
    def __add__(self, other): return Vector(self.x + other.x, self.y + other.y)
    def __mul__(self, k): return Vector(self.x * k, self.y * k)
    def __eq__(self, other): return isinstance(other, Vector) and (self.x, self.y) == (other.x, other.y)
    def __hash__(self): return hash((self.x, self.y))
    def __lt__(self, other): return abs(self) < abs(other)
    def __abs__(self): return (self.x ** 2 + self.y ** 2) ** 0.5
    def __len__(self): return 2
    def __iter__(self): return iter((self.x, self.y))
    def __getitem__(self, i): return (self.x, self.y)[i]
    def __contains__(self, v): return v in (self.x, self.y)
    def __repr__(self): return f"Vector({self.x}, {self.y})"
    def __enter__(self): return self
    def __exit__(self, *a): return False
    @staticmethod
    def zero(): return Vector(0, 0)
class Unit(Vector): pass
"""

PASSES = {
    "scalars": (
        ECHO,
        r"""
for x in (None, True, 7, -2**200, 1.5, -0.0, 2j, 'a\u00e9\U0001f600', 'x\ud800', b'\0\xff', ...):
    y = f(x)
    assert type(y) is type(x) and y == x and repr(y) == repr(x)
assert f(None) is None
""",
    ),
    "not a number": (
        ECHO,
        """
n = f(float('nan'))
assert n != n
assert f(float('-inf')) == float('-inf')
""",
    ),
    "containers": (
        ECHO,
        """
from collections import *
for x in ([1, [2.0, 'a']], (1, (2,)), {1: {2: (3,)}, 'a': None}, {1, 'b'},
  frozenset((1, 2)), deque([1, 2], 3), Counter('aab'), OrderedDict(a=1), bytearray(b'ab'), range(1, 9, 2), slice(1, 2)):
    y = f(x)
    assert type(y) is type(x) and y == x
assert f(defaultdict(list, a=[1])) == {'a': [1]}
""",
    ),
    "lazy types": (
        ECHO,
        """
from decimal import Decimal
from fractions import Fraction
import datetime as d
for x in (Decimal('1.10'), Fraction(1, 3), d.date(2020, 1, 2), d.datetime(2020, 1, 2, 3), d.timedelta(1), d.time(4)):
    assert f(x) == x and type(f(x)) is type(x)
""",
    ),
    "aliases and cycles": (
        """
def f(a, b):
    a.append(9)
    return a is b, a
""",
        """
x = [1]
assert f(x, x) == (True, [1, 9])
assert f(x, x)[1] is x
x.append(x)
same, y = f(x, x)
assert y[3] is y
""",
    ),
    "arguments changed in place": (
        """
def f(xs, d, s, nested):
    xs.sort()
    d['k'] = 1
    s.discard(1)
    nested[0].append({})
    nested[0][-1]['a'] = xs
""",
        """
a, b, c, e = [3, 1], {}, {1, 2}, [[]]
inner = e[0]
assert f(a, b, c, e) is None
assert a == [1, 3] and b == {'k': 1} and c == {2} and e == [[{'a': [1, 3]}]] and e[0] is inner and e[0][0]['a'] is a
""",
    ),
    "keywords and defaults": (
        "def f(a, *r, k=2, **kw): return a, r, k, kw",
        "assert f(1, 2, k=3, z=4) == (1, (2,), 3, {'z': 4})",
    ),
    "generators": (
        """
def f(n):
    yield from range(n)
def g():
    n = 0
    while True:
        yield n
        n += 1
""",
        """
assert list(f(3)) == [0, 1, 2]
it = g()
assert [next(it), next(it)] == [0, 1]
import itertools
assert list(itertools.islice(it, 2)) == [2, 3]
""",
    ),
    "views and iterators": (
        """
def f(d): return d.keys()
def g(xs): return map(str, xs)
def h(xs): return zip(xs, xs)
""",
        """
assert f({1: 2}) == {1}
assert list(g([1])) == ['1']
assert dict(h([1])) == {1: 1}
""",
    ),
    "iterators as arguments": (
        "def f(it): return [next(it), sum(it)]",
        """
assert f(iter([1, 2, 3])) == [1, 5]
assert f(x * x for x in (2, 3)) == [4, 9]
""",
    ),
    "functions as arguments": (
        """
def f(g, xs): return sorted(xs, key=g)
def h(g): return g is len
def later(g): return lambda x: g(x) + 1
""",
        """
assert f(lambda x: -x, [1, 2]) == [2, 1]
assert h(len)
assert f(len, ['aa', 'b']) == ['b', 'aa']
assert later(lambda x: 2 * x)(5) == 11
seen = []
f(seen.append, [3])
assert seen == [3]
""",
    ),
    "types as arguments": (
        """
def f(xs, kind): return [x for x in xs if isinstance(x, kind)]
def g(x): return type(x)
""",
        """
assert f([1, 'a', 2.5], int) == [1]
assert g('a') is str
""",
    ),
    "a function that raises inside": (
        """
def f(g):
    try:
        return g()
    except KeyError as e:
        return e.args[0]
""",
        """
def g(): raise KeyError('k')
assert f(g) == 'k'
class Mine(Exception): pass
def h(): raise Mine('m')
try:
    f(h)
    assert False
except Mine as e:
    assert e.args == ('m',)
""",
    ),
    "built-in exceptions": (
        """
def f(x):
    if x < 0: raise ValueError('negative', x)
    return {}[x]
""",
        """
try:
    f(-1)
    assert False
except ValueError as e:
    assert e.args == ('negative', -1)
try:
    f(1)
    assert False
except LookupError as e:
    assert str(e) == '1' and type(e) is KeyError
""",
    ),
    "the candidate's exceptions": (
        """
class E(ValueError):
    def __init__(self, code): super().__init__(f'code {code}'); self.code = code
def f(): raise E(7)
def g(): return E(8)
""",
        """
try:
    f()
    assert False
except E as e:
    assert e.code == 7 and str(e) == 'code 7'
    assert isinstance(e, ValueError)
assert isinstance(g(), E)
""",
    ),
    "classes": (
        VECTOR,
        """
v = Vector(3, 4) + Vector(1, 1)
assert v == Vector(4, 5) and v != Vector(0, 0) and v.x == 4
assert isinstance(v, Vector) and not isinstance(v, Unit) and isinstance(Unit(1, 2), Vector)
assert abs(Vector(3, 4)) == 5.0 and len(v) == 2 and list(v) == [4, 5] and v[1] == 5 and 4 in v and 9 not in v
assert repr(v) == str(v) == 'Vector(4, 5)' == f'{v}'
v.x = 1
assert v.x == 1 and Vector.zero().x == 0
assert {Vector(1, 2): 'a'}[Vector(1, 2)] == 'a' and len({Vector(1, 2), Vector(1, 2)}) == 1
assert Vector(1, 2) * 2 == Vector(2, 4) and sorted([Vector(2, 0), Vector(1, 0)])[0].x == 1
assert Vector.made > 3 and type(v).__name__ == 'Vector' and hasattr(v, 'y') and not hasattr(v, 'z')
with v as w: assert w is v
""",
    ),
    "handles stay the same": (
        """
class N:
    def __init__(s): s.next = None
def f(): a = N(); a.next = a; return a
""",
        """
a = f()
assert a.next is a
assert a == a
""",
    ),
    "enumerations": (
        """
import enum
class C(enum.Enum):
    A = 1
    B = 2
class I(enum.IntEnum):
    X = 3
def f(x): return C(x)
""",
        """
assert f(1) is C.A and f(2) == C.B != C.A and C.A.value == 1 and C['B'].name == 'B' and len(list(C)) == 2
assert I.X == 3 and I.X.name == 'X' and isinstance(f(1), C)
""",
    ),
    "named tuples": (
        """
from collections import namedtuple
P = namedtuple('P', 'x y')
def f(): return P(1, 2)
""",
        """
p = f()
assert p == (1, 2) and p.x == 1 and p[1] == 2 and isinstance(p, tuple) and str(p) == 'P(x=1, y=2)'
assert P(1, 2) == p
""",
    ),
    "data classes": (
        """
from dataclasses import dataclass, field
@dataclass
class D:
    a: int
    b: list = field(default_factory=list)
def f(): return D(1)
""",
        "assert f() == D(1) and f().b == [] and f() != D(2)",
    ),
    "subclasses of containers": (
        """
class L(list):
    def last(self): return self[-1]
def f(): return L([1, 2])
""",
        """
x = f()
assert x == [1, 2] and [1, 2] == x and x.last() == 2 and len(x) == 2
x.append(3)
assert x == [1, 2, 3]
""",
    ),
    "coroutines": (
        """
import asyncio
async def f(x):
    await asyncio.sleep(0)
    return x + 1
async def g():
    for i in range(3):
        yield i
""",
        """
import asyncio
assert asyncio.run(f(1)) == 2
async def main():
    assert await asyncio.gather(f(1), f(2)) == [2, 3]
    assert [i async for i in g()] == [0, 1, 2]
asyncio.run(main())
async def test_it(): assert await f(3) == 4
""",
    ),
    "threads": (
        """
import threading
def f():
    out = []
    ts = [threading.Thread(target=out.append, args=(i,)) for i in range(4)]
    [t.start() for t in ts]; [t.join() for t in ts]
    return sorted(out)
""",
        "assert f() == [0, 1, 2, 3]",
    ),
    "a scratch folder": (
        """
import tempfile
def f():
    with tempfile.NamedTemporaryFile('w+') as t:
        t.write('x'); t.seek(0); return t.read()
""",
        "assert f() == 'x'",
    ),
    "a deep recursion": ("def f(n): return n and f(n - 1)", "assert f(950) == 0"),
    "printing": ("def f(): print('x' * 100000); return 1", "assert f() == 1"),
    "standard modules of the tests": ("def f(): return 0.1 + 0.2", "assert math.isclose(f(), 0.3)"),
    "main guards do not run": (
        """
def f(): return __name__
if __name__ == '__main__':
    raise SystemExit
""",
        "assert f() == 'solution'",
    ),
    "annotations and imports": (
        """
from __future__ import annotations
from typing import List
import re
def f(x: List[int]) -> int: return len(re.sub('a', '', 'ba'))
""",
        "assert f([]) == 1",
    ),
    "pytest": (
        """
def f(x):
    if x < 0: raise ValueError('negative input')
    return x / 3
""",
        """
import pytest
@pytest.fixture
def three(): return 3
@pytest.mark.parametrize('x, y', [(3, 1), pytest.param(6, 2, id='six')])
def test_a(x, y): assert f(x) == y
def test_b(three):
    assert f(three) == pytest.approx(1)
    assert [f(1)] == pytest.approx([0.3333333])
def test_c():
    with pytest.raises(ValueError, match='negative') as e: f(-1)
    assert 'input' in str(e.value)
class TestD:
    def setup_method(self): self.x = 9
    @pytest.mark.slow
    def test_e(self): assert f(self.x) == 3
@pytest.mark.skip
def test_f(): assert False
test_a()
test_c()
""",
    ),
    "unittest": (
        ECHO,
        """
import unittest
class T(unittest.TestCase):
    def setUp(self): self.x = 1
    def test_a(self):
        self.assertEqual(f(self.x), 1)
        with self.assertRaises(TypeError): f()
""",
    ),
    "attributes alone": ("class A:\n    x = 3", "assert A.x == 3"),
    "printed text": (
        """
def f(x):
    print('x is', x)
""",
        """
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as out: f(3)
assert out.getvalue() == 'x is 3\\n'
def test_a(capsys):
    f(4)
    assert capsys.readouterr().out == 'x is 4\\n' and capsys.readouterr() == ('', '')
""",
    ),
    "imports from solution": (
        ECHO,
        """
from solution import f as g
import solution
def test(): assert g(1) == 1 and solution.f(2) == 2
""",
    ),
}
"""name -> (candidate, tests) that must be CORRECT."""

FAULTS = {
    "a wrong result": (ECHO, "assert f(1) == 2", WRONG, "assertion failed"),
    "a message": (ECHO, "assert f(1) == 2, 'one is not two'", WRONG, "one is not two"),
    "an exception": ("def f(x): return 1 / x", "assert f(0) == 0", WRONG, "the candidate raised ZeroDivisionError"),
    "a syntax error": ("def f(x) return x", "assert f(1) == 1", WRONG, "SyntaxError"),
    "an exception while loading": ("import numpy\n" + ECHO, "assert f(1) == 1", WRONG, "No module named 'numpy'"),
    "an exit while loading": ("raise SystemExit(0)\n" + ECHO, "assert f(1) == 1", WRONG, "SystemExit"),
    "a missing function": ("def g(x): return x", "assert f(1) == 1", WRONG, "does not define 'f'"),
    "nothing at all": ("", "assert f(1) == 1", WRONG, "does not define 'f'"),
    "a missing import": (
        ECHO,
        """
from solution import g
assert g(1) == 1
""",
        WRONG,
        "does not define",
    ),
    "no function but a number": ("f = 3", "assert f(1) == 1", WRONG, "not callable"),
    "no function but an object": ("f = object()", "assert f(1) == 1", WRONG, "not callable"),
    "the wrong number of arguments": ("def f(): return 1", "assert f(1) == 1", WRONG, "TypeError"),
    "a result the tests stumble on": ("def f(x): return None", "assert len(f(1)) == 1", WRONG, "TypeError"),
    "code that the tests evaluate": ("def f(): return '1 +'", "assert eval(f()) == 1", WRONG, "SyntaxError"),
    "names that the tests evaluate": ("def f(): return 'undefined_name'", "assert eval(f()) == 1", WRONG, "NameError"),
    "a wrong exception": (
        "def f(): raise KeyError",
        """
import pytest
def test(): 
 with pytest.raises(ValueError): f()
""",
        WRONG,
        "KeyError",
    ),
    "no exception": (
        "def f(): return 1",
        """
import pytest
def test(): 
 with pytest.raises(ValueError): f()
""",
        WRONG,
        "did not raise",
    ),
    "exceeding approx": (
        "def f(): return 1.1",
        """
import pytest
assert f() == pytest.approx(1.0)
""",
        WRONG,
        "assertion failed",
    ),
    "a failing async test": (
        "def f(): return 1",
        """
async def test_a(): assert f() == 2
test_a()
""",
        WRONG,
        "assertion failed",
    ),
    "a stop that ends a map": ("def f(x): raise StopIteration", "assert all(map(f, [1, 2]))", WRONG, "StopIteration"),
    "numbers that change": (
        """
class N:
    n = 0
    def __float__(s): N.n += 1; return float(N.n)
def f(): return N()
""",
        """
import math
x = f()
assert math.fabs(x) != math.fabs(x)
""",
        WRONG,
        "assertion failed",
    ),
    "contents by its own word": (
        """
class f:
    def __contains__(s, v): return True
    def __iter__(s): return iter([1])
""",
        "assert 1 in f() and 2 in f()",
        WRONG,
        "assertion failed",
    ),
    "differences by its own word": (
        """
class N:
    def __sub__(s, o): return 0
def f(): return N()
""",
        "assert abs(f() - 3.5) < 1e-6",
        WRONG,
        "may not give plain data",
    ),
    "an order by its own word": (
        """
class N:
    def __lt__(s, o): return True
def f(): return N()
""",
        "assert f() < 3",
        WRONG,
        "not supported",
    ),
    "swallowing the tests' assertion": (
        """
class f:
    def __enter__(s): return 1
    def __exit__(s, *a): return True
""",
        "with f() as x: assert x == 2",
        WRONG,
        "assertion failed",
    ),
    "an endless loop": (
        """
def f():
    while True: pass
""",
        "f()",
        TIMED_OUT,
        "killed after 1 s",
    ),
    "an endless load": ("while True: pass", "f()", TIMED_OUT, "killed after 1 s"),
    "broken tests": (ECHO, "assert f(1) ==", ERROR, "SyntaxError"),
    "tests that need a package": (
        ECHO,
        """
import numpy as np
assert f(1) == 1
""",
        ERROR,
        "No module named 'numpy'",
    ),
    "tests with an unknown name": (
        ECHO,
        """
assert f(1) == 1
def g(): return unknown
g = unknown = f
del unknown
unknown
""",
        ERROR,
        "unknown",
    ),
    "tests that fail by themselves": (
        ECHO,
        """
x = {}['a']
assert f(1) == 1
""",
        ERROR,
        "KeyError",
    ),
    "tests that never call": (
        ECHO,
        """
assert 1 + 1 == 2
f
""",
        ERROR,
        "never used",
    ),
    "tests that exit": (
        ECHO,
        """
assert f(1) == 1
import sys
sys.exit(0)
""",
        ERROR,
        "SystemExit",
    ),
    "tests that leave at once": (
        ECHO,
        """
f(1)
import os
os._exit(0)
""",
        ERROR,
        "without a verdict",
    ),
    "tests that never end": (
        ECHO,
        """
f(1)
while True: pass
""",
        TIMED_OUT,
        "killed after 1 s",
    ),
    "objects of the tests": (
        ECHO,
        """
class A: pass
assert f(A())
""",
        ERROR,
        "a A of their own",
    ),
    "a class derived by the tests": (
        VECTOR,
        """
class W(Vector): pass
W(1, 2)
""",
        ERROR,
        "derive class W",
    ),
    "swallowed, yet unsupported": (
        ECHO,
        """
class A: pass
try:
    f(A())
except Exception:
    pass
assert f(1) == 1
""",
        ERROR,
        "of their own",
    ),
    "tests that patch": (
        ECHO,
        "from unittest import mock\nwith mock.patch('solution.f'): f(1)",
        ERROR,
        "unittest.mock",
    ),
    "tests that write verdicts": (
        ECHO,
        "import os\nfor fd in range(3, 4096):\n    try: os.write(fd, b'[1, 2, 3]\\n' * 2)\n    except OSError: pass\nf(1)",
        ERROR,
        "without the nonce",
    ),
    "a null byte": ("def f(): return 1\0", "assert f() == 1", WRONG, "null bytes"),
    "a lone surrogate": ("# \ud800\ndef f(): return 1", "assert f() == 1", WRONG, "surrogates not allowed"),
    "tests with a lone surrogate": (ECHO, "# \ud800\nassert f(1) == 1", ERROR, "surrogates not allowed"),
    "an unknown fixture": (ECHO, "def test(tmp_path): assert f(1) == 1", ERROR, "the fixture 'tmp_path'"),
    "an unknown part of pytest": (
        ECHO,
        """
import pytest
pytest.importorskip('x')
assert f(1) == 1
""",
        ERROR,
        "pytest.importorskip",
    ),
}
"""name -> (candidate, tests, verdict, part of the detail)."""


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return open_sandbox()


@pytest.fixture(scope="module")
def grades(sandbox) -> dict[str, Grade]:
    """All cases of this module, run once, two at a time."""
    checks = {name: CodeCheck(*case, timeout_s=30.0) for name, case in PASSES.items()}
    for name, (candidate, tests, kind, _) in FAULTS.items():
        checks[name] = CodeCheck(candidate, tests, timeout_s=1.0 if kind is TIMED_OUT else 30.0)
    return dict(zip(checks, run_checks(list(checks.values()), sandbox=sandbox), strict=True))


@pytest.mark.parametrize("name", PASSES)
def test_right_candidates_pass(grades, name):
    assert grades[name].kind is CORRECT, grades[name].detail
    assert (grades[name].score, grades[name].answer) == (1.0, PASSES[name][0])


@pytest.mark.parametrize("name", FAULTS)
def test_faults_have_a_verdict_and_a_reason(grades, name):
    grade = grades[name]
    assert grade.kind is FAULTS[name][2], grade.detail
    assert FAULTS[name][3] in grade.detail
    assert grade.score == 0.0
    assert "\n" not in grade.detail


def human_eval_checks(body: str | None = None) -> dict[str, CodeCheck]:
    """The canonical solutions against their tests, or functions of another body."""
    with gzip.open(shared_data("HumanEval.jsonl.gz"), "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {
        row["task_id"]: CodeCheck(
            row["prompt"] + (row["canonical_solution"] if body is None else body),
            f"{row['test']}\ncheck({row['entry_point']})\n",
            context=row["prompt"],
            exports=(row["entry_point"],),
        )
        for row in rows
    }


def mbpp_checks(body: str | None = None) -> dict[str, CodeCheck]:
    """Those of MBPP; its problem 126 asks for a function called `sum`, which only `exports` can tell from the built-in one."""
    with shared_data("mbpp.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {
        f"mbpp/{row['task_id']}": CodeCheck(
            row["code"] if body is None else emptied(row["code"], body),
            "\n".join([row["test_setup_code"], *row["test_list"]]),
            exports=("sum",) if row["task_id"] == 126 else (),
        )
        for row in rows
    }


def emptied(code: str, body: str) -> str:
    """`code` with every function's body replaced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # escapes in the data set's own strings
        tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = ast.parse(body.strip()).body if "return" not in body else [ast.Return(ast.Constant(None))]
    return ast.unparse(ast.fix_missing_locations(tree))


BODIES = {
    "nothing": "    return None\n",
    "an exception": "    raise NotImplementedError\n",
    "no statement": "    pass\n",
}


def assert_all(checks: dict[str, CodeCheck], kind: GradeKind) -> None:
    graded = dict(zip(checks, run_checks(list(checks.values()), sandbox=open_sandbox()), strict=True))
    others = {name: f"{grade.kind}: {grade.detail}" for name, grade in graded.items() if grade.kind is not kind}
    assert not others


def every(step: int, checks: dict[str, CodeCheck]) -> dict[str, CodeCheck]:
    return {name: check for index, (name, check) in enumerate(checks.items()) if index % step == 0}


@pytest.mark.parametrize("checks", [human_eval_checks, mbpp_checks])
def test_a_sample_of_canonical_solutions(checks):
    sample = every(16 if checks is human_eval_checks else 80, checks())
    assert_all(sample, CORRECT)


@pytest.mark.parametrize("checks", [human_eval_checks, mbpp_checks])
def test_a_sample_of_empty_solutions(checks):
    assert_all(every(41 if checks is human_eval_checks else 240, checks(BODIES["nothing"])), WRONG)


def test_the_trusted_context_wins_over_the_candidate_s_helpers():
    """HumanEval/32, /38 and /50 test with helpers that the prompt defines."""
    wanted = {
        name: check for name, check in human_eval_checks().items() if name.rpartition("/")[2] in ("32", "38", "50")
    }
    assert_all(wanted, CORRECT)
    cheat = "def poly(xs, x): return 0\ndef encode_cyclic(s): return s\ndef encode_shift(s): return s\n"
    entry = {"HumanEval/32": "find_zero", "HumanEval/38": "decode_cyclic", "HumanEval/50": "decode_shift"}
    forged = {
        name: CodeCheck(
            f"{cheat}def {entry[name]}(x): return x", check.tests, context=check.context, exports=check.exports
        )
        for name, check in wanted.items()
    }
    assert_all(forged, WRONG)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("checks", [human_eval_checks, mbpp_checks])
def test_all_canonical_solutions(checks):
    assert_all(checks(), CORRECT)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("checks", [human_eval_checks, mbpp_checks])
def test_all_empty_solutions(checks, body):
    assert_all(checks(BODIES[body]), WRONG)


def test_limits_of_one_check():
    sandbox = open_sandbox(limits=SandboxLimits(wall_s=20.0, cpu_s=1))
    burn = "def f():\n    while True: pass"
    grade = run_check(CodeCheck(burn, "f()"), sandbox=sandbox)
    assert (grade.kind, grade.detail) == (TIMED_OUT, "the candidate used up its processor time")
    grade = run_check(CodeCheck(ECHO, "f(1)\nwhile True: pass"), sandbox=sandbox)
    assert (grade.kind, grade.detail) == (TIMED_OUT, "the tests used up their processor time")


def test_a_sandbox_that_does_not_start_is_no_verdict(monkeypatch):
    sandbox = open_sandbox()
    monkeypatch.setattr("rollout_workers.grading.namespaces.find_bwrap", lambda: "/nonexistent/bwrap")
    grade = run_check(CodeCheck(ECHO, "assert f(1) == 1"), sandbox=sandbox)
    assert grade.kind is ERROR
    assert "the sandbox did not start" in grade.detail
