r"""MATH answers: what a decoded text answers, and whether that equals the reference.

The answer is the last box with content (`boxed.last_boxed`), else the content of the last `<answer>...</answer>`; a text with
neither is unparsable. Two answers are equal when, after `math_normalisation.normalise`,

- they are the same string, or the same words in another case; or
- they are the same number, exactly (`0.75`, `\frac34`, `3/4`); or
- they are lists, tuples or intervals with the same brackets whose elements are equal in order, or sets with equal elements.

A variable in front (`x = 5`, `x \in [0,1]`, `f(x) = 2x`) is ignored where the other answer has none; different variables are
unequal. An answer that is missing or has no content equals nothing. What is left different may be compared symbolically
(`grading/symbolic.py`), but for two numerals: they are read exactly, and `0.333` is not `\frac13` nor `52_8` the number 52.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from operator import eq

from rollout_workers.grading import parity as reference_release
from rollout_workers.grading.answers import Grade, GradeKind, last_answer
from rollout_workers.grading.boxed import has_boxed, has_content, last_boxed
from rollout_workers.grading.literals import read_number
from rollout_workers.grading.math_normalisation import normalise
from rollout_workers.grading.symbolic import SymbolicChecker, Verdict, shared_math_verify

MAX_ANSWER_CHARS = 2_000
"""A longer answer is wrong without being looked at."""

_NAMED = re.compile(
    r"(?P<name>(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:[A-Za-z0-9]|\{[^{}]*\})|\([A-Za-z]\))?)(?:=|\\in(?![A-Za-z]) ?)(?P<value>[^=]+)"
)
_SEPARATOR = re.compile(r"\\.|[(\[{)\]},]")
_OPENING = frozenset({"(", "[", "{", "\\{"})
_CLOSING = frozenset({")", "]", "}", "\\}"})
_TUPLE = re.compile(r"(?P<opening>[(\[]|\\\{)(?P<body>.*)(?P<closing>[)\]]|\\\})", re.DOTALL)
_NUMERAL_IN_BASE = re.compile(r"[0-9A-Z]+_(?:[0-9]|\{[0-9]+\})")
_WORDS = re.compile(r"[^\W\d_]{3,}")


def extract_math(text: str) -> str | None:
    """The answer that `text` gives, as it is written there, or None."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    tagged = last_answer(text)
    return tagged if tagged is not None and has_content(tagged) else None


def reference_math(reference: str) -> str:
    """The ground truth in `reference`: a final answer, or a whole solution whose last box holds it.

    Raises:
        ValueError: it has no content, or a box that is never closed.
    """
    answer = last_boxed(reference) if has_boxed(reference) else reference.strip()
    if answer is None or len(answer) > MAX_ANSWER_CHARS or not normalise(answer):
        raise ValueError(f"reference answer {reference!r} has no content that could be compared")
    return answer


def equivalent(first: str | None, second: str | None) -> bool:
    """Whether two answers are equal by the rules at the top of this module; symmetric, and false where one is missing."""
    return first is not None and second is not None and _equal(normalise(first), normalise(second))


def grade_math(
    reference: str,
    text: str,
    *,
    symbolic: bool = False,
    deadline_s: float = 10.0,
    parity: bool = False,
    checker: SymbolicChecker | None = None,
) -> Grade:
    """Whether `text` answers what `reference` (as `reference_math` takes it) says.

    Args:
        symbolic: compare what is left different symbolically.
        deadline_s: for the symbolic comparison alone; the rest takes milliseconds.
        parity: the reference release's extraction and equality, quirks included (`grading/parity.py`); never symbolic.
        checker: who compares symbolically; the math-verify processes that this process shares unless given.

    Raises:
        ValueError: the reference is malformed.
    """
    if parity:
        return reference_release.grade_math(reference, text)
    expected, answer = reference_math(reference), extract_math(text)
    if answer is not None and len(answer) > MAX_ANSWER_CHARS:
        detail = f"an answer of {len(answer)} characters; at most {MAX_ANSWER_CHARS} are compared"
        return Grade(GradeKind.WRONG, 0.0, answer, detail=detail)
    left, right = normalise(expected), normalise(answer or "")
    if answer is None or not right:
        return Grade(GradeKind.UNPARSABLE, 0.0, answer or "")
    if _equal(left, right):
        return Grade(GradeKind.CORRECT, 1.0, answer)
    if not symbolic or (_is_numeral(left) and _is_numeral(right)):
        return Grade(GradeKind.WRONG, 0.0, answer)
    checker = checker or shared_math_verify()
    comparison = checker.compare(expected, answer, deadline_s=deadline_s)
    kind = {
        Verdict.EQUAL: GradeKind.CORRECT,
        Verdict.DIFFERENT: GradeKind.WRONG,
        Verdict.TIMED_OUT: GradeKind.TIMED_OUT,
        Verdict.FAILED: GradeKind.GRADER_ERROR,
    }[comparison.verdict]
    return Grade(kind, float(kind is GradeKind.CORRECT), answer, detail=comparison.detail)


def _equal(left: str, right: str) -> bool:
    """Equality of two normal forms."""
    if not left or not right:
        return False
    left_name, left_value = _named(left)
    right_name, right_value = _named(right)
    if left_name and right_name and left_name != right_name:
        return False
    return _key(left_value) == _key(right_value) or _same_elements(_elements(left_value), _elements(right_value))


def _is_numeral(normal: str) -> bool:
    value = _named(normal)[1]
    return read_number(value) is not None or _NUMERAL_IN_BASE.fullmatch(value) is not None


def _named(normal: str) -> tuple[str, str]:
    """(variable, value) of `x=5` and `x\\in[0,1]`; the variable is empty where there is none."""
    match = _NAMED.fullmatch(normal)
    return (match["name"], match["value"]) if match else ("", normal)


def _same_elements(left: list[str], right: list[str]) -> bool:
    if left[0] == right[0] == "\\{":
        return set(map(_key, left)) == set(map(_key, right))
    return len(left) == len(right) and all(map(eq, map(_key, left), map(_key, right)))


def _key(element: str) -> Fraction | str:
    """Equal for equal numbers and for words that differ in case only."""
    value = None if "," in element else read_number(element)
    if value is not None:
        return value
    return element.casefold() if _WORDS.fullmatch(element) else element


def _elements(normal: str) -> list[str]:
    """The opening bracket, the elements between commas outside further brackets, and the closing bracket."""
    opening, body, closing = "", normal, ""
    brackets = _TUPLE.fullmatch(normal)
    if brackets and _closes_last(normal):
        opening, body, closing = brackets["opening"], brackets["body"], brackets["closing"]
    depth, cuts = 0, [-1]
    for token in _SEPARATOR.finditer(body):
        if token[0] == "," and depth == 0:
            cuts.append(token.start())
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
    return [opening, *(body[start + 1 : end] for start, end in pairwise([*cuts, len(body)])), closing]


def _closes_last(normal: str) -> bool:
    """Whether the bracket that opens `normal` is closed by its last character, as in `(1,2]` and unlike `(1,2)(3,4)`."""
    depth = 0
    for token in _SEPARATOR.finditer(normal):
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
        if depth == 0:
            return token.end() == len(normal)
    return False
