"""Countdown: each given number once, exactly the target, and a reason for everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_workers.grading.answers import GradeKind
from rollout_workers.grading.countdown import extract_expression, grade_countdown

CORRECT, WRONG, UNPARSABLE = GradeKind.CORRECT, GradeKind.WRONG, GradeKind.UNPARSABLE
NUMBERS, TARGET = (30, 100, 93), 23


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("<answer>30+93-100</answer>", "30+93-100"), ("<answer> 1 </answer> <answer> 2 </answer>", "2"),
        (r"\boxed{1} \boxed{2}", "2"),
        (r"<answer>\boxed{2}</answer>", "2"), (r"<answer>1</answer> \boxed{2}", "1"), ("<answer>$1+2$</answer>", "1+2"),
        ("<answer>1+2.</answer>", "1+2"), ("1+2", None), ("<answer>1", None), ("", None), ("<answer></answer>", ""),
    ],
)  # fmt: skip
def test_extraction(text, expression):
    assert extract_expression(text) == expression


@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        ("30 + 93 - 100", CORRECT, ""), ("93-(100-30)", CORRECT, ""), ("30 + 93 - 100 = 23", CORRECT, ""),
        ("30+93−100=23", CORRECT, ""),
        (r"(30 + 93) - 100 = 23", CORRECT, ""), (r"\left(30+93\right)-100", CORRECT, ""),
        ("30 + 93", WRONG, "uses [30, 93], given are [30, 93, 100]"), ("30+93-100+30-30", WRONG, "uses [30, 30, 30, 93, 100]"),
        ("23", WRONG, "uses [23]"), ("30 - 93 + 100", WRONG, "equals 37, not 23"), ("30*93/100", WRONG, "equals 279/10, not 23"),
        ("30+93-100=24", WRONG, "states 24, not 23"), ("30 - 93 + 100 = 23", WRONG, "equals 37"),
        ("30+93", WRONG, "uses"), ("100/(93-93)+30", WRONG, "uses [30, 93, 93, 100]"),
        ("", UNPARSABLE, "ends where a number"), ("thirty", UNPARSABLE, "'t' is neither"), ("30 93 100", UNPARSABLE, "'93' where"),
        ("30 + 93 - 100 = x", UNPARSABLE, "'x' after the equals sign"), ("30+93-100=", UNPARSABLE, "'' after the equals sign"),
        ("30+93=123, 123-100=23", UNPARSABLE, "after the equals sign"), ("23 = 30+93-100", UNPARSABLE, "after the equals sign"),
        ("(" * 1000, UNPARSABLE, "more than"), ("30**93", UNPARSABLE, "'*' where"),
    ],
)  # fmt: skip
def test_grades(answer, kind, detail):
    grade = grade_countdown(NUMBERS, TARGET, f"<answer>{answer}</answer>", format_score=0.1)
    assert (grade.kind, grade.answer) == (kind, answer)
    assert grade.score == {CORRECT: 1.0, WRONG: 0.1, UNPARSABLE: 0.0}[kind]
    assert detail in grade.detail
    assert bool(grade.detail) is (kind is not CORRECT)


def test_a_wrong_expression_is_worth_nothing_unless_told_otherwise():
    assert grade_countdown(NUMBERS, TARGET, "<answer>30+93</answer>").score == 0.0


def test_division_is_exact_and_by_zero_wrong():
    assert grade_countdown((1, 3, 3), 1, "<answer>1/3*3</answer>").kind is CORRECT
    assert grade_countdown((1, 0), 1, "<answer>1/0</answer>").detail == "divides by zero"


def test_a_number_given_twice_is_used_twice():
    assert grade_countdown((3, 3), 6, "<answer>3+3</answer>").kind is CORRECT
    assert grade_countdown((3, 3), 3, "<answer>3</answer>").kind is WRONG


def test_no_answer_is_unparsable():
    grade = grade_countdown(NUMBERS, TARGET, "30 + 93 - 100", format_score=0.1)
    assert (grade.kind, grade.score, grade.answer) == (UNPARSABLE, 0.0, "")


@pytest.mark.parametrize("format_score", [-0.1, 1.0, float("nan")])
def test_a_format_score_is_below_one(format_score):
    with pytest.raises(ValueError, match=f"got {format_score}"):
        grade_countdown(NUMBERS, TARGET, "", format_score=format_score)


@pytest.mark.parametrize("numbers", [(), (-1, 2)])
def test_malformed_numbers_are_quoted(numbers):
    with pytest.raises(ValueError, match="countdown problem needs numbers") as caught:
        grade_countdown(numbers, TARGET, "")
    assert str(list(numbers)) in str(caught.value)


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=5),
    st.permutations(range(5)),
    st.lists(st.sampled_from("+-*"), min_size=4, max_size=4),
)
def test_any_order_of_the_numbers_reaches_its_own_value(numbers, order, operators):
    used = [numbers[i] for i in order if i < len(numbers)]
    text = str(used[0]) + "".join(
        f" {operator} {number}" for operator, number in zip(operators, used[1:], strict=False)
    )
    target = eval(text)  # noqa: S307
    assert grade_countdown(numbers, target, f"<answer>{text} = {target}</answer>").kind is CORRECT
    assert grade_countdown(numbers, target + 1, f"<answer>{text}</answer>").kind is WRONG
    assert grade_countdown([*numbers, 1], target, f"<answer>{text}</answer>").kind is WRONG
