"""The evaluator equals exact fraction arithmetic, knows nothing but arithmetic, and has limits."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_workers.grading.expressions import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_TOKENS,
    Expression,
    ExpressionError,
    read_expression,
)


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("7", 7, (7,)), ("1+2*3", 7, (1, 2, 3)), ("(1+2)*3", 9, (1, 2, 3)), ("8-3-2", 3, (8, 3, 2)), ("8/4/2", 1, (8, 4, 2)),
        ("8/(4/2)", 4, (8, 4, 2)), ("1/3+1/6", "1/2", (1, 3, 1, 6)), ("-3+5", 2, (3, 5)), ("2*-3", -6, (2, 3)), ("--3", 3, (3,)),
        ("-(1-2)", 1, (1, 2)), ("-2*3", -6, (2, 3)), (" ( 1 +\n2 ) ", 3, (1, 2)), ("007", 7, (7,)), ("((((1))))", 1, (1,)),
        ("3×4", 12, (3, 4)), ("3 · 4", 12, (3, 4)), ("12÷4", 3, (12, 4)), ("5−3", 2, (5, 3)),
        (r"3 \times 4 \cdot 2", 24, (3, 4, 2)),
        (r"12 \div 4", 3, (12, 4)), (r"\left(1+2\right)*3", 9, (1, 2, 3)), (r"\(1+2\)", 3, (1, 2)),
        (r"\frac{1+2}{3}", 1, (1, 2, 3)),
        (r"2*\dfrac{\frac{1}{2}}{4}", "1/4", (2, 1, 2, 4)), ("1/0", None, (1, 0)), ("5+1/(2-2)", None, (5, 1, 2, 2)),
        ("0*(1/0)", None, (0, 1, 0)), (r"\frac{1}{0}", None, (1, 0)), ("0/5", 0, (0, 5)),
    ],
)  # fmt: skip
def test_values(text, value, numbers):
    assert read_expression(text) == Expression(None if value is None else Fraction(value), numbers)


@pytest.mark.parametrize(
    "text",
    ["", " ", "+", "1+", "*1", "1 2", "1(2)", "(1)(2)", "(1", "1)", "()", "1**2", "1//2", "1%2", "1^2", "1.5", "1,000", "1e3",
    "0x10",
     "1_0", "x", "1+x", "a", "1=1", "1+1=2", "{1}", "{1+2}*3", r"\sqrt{4}", r"\frac{1}", r"\frac12", r"\frac(1)(2)", "\\",
     r"1\\2", "٣",
     "²", "1;2", "__import__('os')", "abs(1)", "1if 1else 2", "(lambda:1)()", "[1]", "'1'", "1<2", "~1", "1&1",
     "9" * (MAX_DIGITS + 1),
     "+".join(["1"] * MAX_TOKENS), "(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "(" * 100_000, "-" * 100_000 + "1",
     r"\frac{" * (MAX_DEPTH + 1) + "1"],
)  # fmt: skip
def test_no_expressions(text):
    with pytest.raises(ExpressionError):
        read_expression(text)


def test_the_limits_are_reached():
    assert read_expression("9" * MAX_DIGITS).value == 10**MAX_DIGITS - 1
    assert read_expression("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH).value == 1
    assert read_expression("+".join(["1"] * (MAX_TOKENS // 2))).value == MAX_TOKENS // 2
    largest = "*".join(["9" * MAX_DIGITS] * (MAX_TOKENS // 2))
    assert read_expression(largest).value == (10**MAX_DIGITS - 1) ** (MAX_TOKENS // 2)


def joined(
    left: tuple[str, Fraction | None], operator: str, right: tuple[str, Fraction | None]
) -> tuple[str, Fraction | None]:
    (left_text, left_value), (right_text, right_value) = left, right
    text = f"({left_text} {operator} {right_text})"
    if left_value is None or right_value is None or (operator == "/" and right_value == 0):
        return text, None
    if operator == "/":
        return text, left_value / right_value
    return text, {"+": left_value + right_value, "-": left_value - right_value, "*": left_value * right_value}[operator]


def negated(tree: tuple[str, Fraction | None]) -> tuple[str, Fraction | None]:
    return f"-{tree[0]}", None if tree[1] is None else -tree[1]


TREES = st.recursive(
    st.integers(0, 100).map(lambda number: (str(number), Fraction(number))),
    lambda trees: st.one_of(st.builds(joined, trees, st.sampled_from("+-*/"), trees), trees.map(negated)),
    max_leaves=12,
)


@given(TREES)
def test_evaluation_equals_fraction_arithmetic(tree):
    text, value = tree
    assert read_expression(text).value == value


@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 99)), max_size=12), st.integers(0, 99))
def test_precedence_equals_pythons(terms, first):
    text = str(first) + "".join(f"{operator}{number}" for operator, number in terms)
    assert read_expression(text).value == eval(text)  # noqa: S307


@given(st.one_of(st.text(), st.text(alphabet="0123456789+-*/(){} \\frac", max_size=60)))
def test_any_text_is_read_or_refused(text):
    with suppress(ExpressionError):
        read_expression(text)
