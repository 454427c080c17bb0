"""A grader that fails is reported as such, and what is not about the answer is not caught."""

from __future__ import annotations

import json

import pytest

from rollout_workers.grader import grade_text
from rollout_workers.grading.answers import Grade, GradeKind, last_answer, parse_integer
from rollout_workers.tasks import Example, Split

EXAMPLE = Example("fake/test/0", "", "7")


class Grading:
    """A task whose grader does what it is told."""

    name, canvas_length = "fake", 4

    def __init__(self, outcome: Grade | BaseException) -> None:
        self._outcome = outcome

    def example(self, split: Split, index: int) -> Example:
        return EXAMPLE

    def grade(self, example: Example, text: str) -> Grade:
        if isinstance(self._outcome, Grade):
            return self._outcome
        raise self._outcome


def test_verdicts_pass_through():
    verdict = Grade(GradeKind.WRONG, 0.25, "8")
    assert grade_text(Grading(verdict), EXAMPLE, "8") is verdict


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no number"), ZeroDivisionError("division by zero"), OverflowError("too large"), KeyError("cell"),
        IndexError("out of range"), TypeError("None"), AttributeError("group"), RecursionError("deep"),
        json.JSONDecodeError("bad", "x", 0), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_failing_grader_is_a_grader_error_with_detail(error):
    grade = grade_text(Grading(error), EXAMPLE, "8")
    assert (grade.kind, grade.score, grade.answer) == (GradeKind.GRADER_ERROR, 0.0, "")
    assert grade.detail == f"{type(error).__name__}: {error}"
    assert not grade.is_valid
    assert not grade.is_correct


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit, AssertionError, OSError, RuntimeError])
def test_what_is_not_about_the_answer_propagates(error):
    with pytest.raises(error):
        grade_text(Grading(error("not the answer's fault")), EXAMPLE, "8")


def test_only_grader_errors_are_invalid():
    assert {kind for kind in GradeKind if not Grade(kind, 0.0, "").is_valid} == {GradeKind.GRADER_ERROR}
    assert {kind for kind in GradeKind if Grade(kind, 0.0, "").is_correct} == {GradeKind.CORRECT}


@pytest.mark.parametrize(
    ("text", "answer"),
    [("<answer>a</answer>", "a"), ("<answer> a\nb </answer>", "a\nb"), ("<answer>a</answer><answer>b</answer>c", "b"),
     ("<answer></answer>", ""), ("<answer>a", None), ("a</answer>", None), ("", None)],
)  # fmt: skip
def test_the_last_answer(text, answer):
    assert last_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("-7", -7), ("+07", 7), ("7 ", None), ("7.0", None), ("", None), ("--7", None)]
)
def test_integers(text, value):
    assert parse_integer(text) == value
