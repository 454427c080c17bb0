"""Countdown: rows in both forms, the solver, and grades."""

from __future__ import annotations

from itertools import permutations, product

import pytest

from rollout_workers.config import TaskConfig
from rollout_workers.grading.answers import GradeKind
from rollout_workers.grading.expressions import read_expression
from rollout_workers.tasks import Split, make_task
from rollout_workers.tasks.countdown import expressions
from tests.fakes.rows import task_over
from tests.fakes.shared_data import shared_data


def reachable(numbers) -> set:
    """Values of all expressions over three numbers, written out as texts in both shapes and evaluated as such."""
    texts = [
        text
        for a, b, c in permutations(numbers)
        for s, t in product("+-*/", repeat=2)
        for text in (f"({a} {s} {b}) {t} {c}", f"{a} {s} ({b} {t} {c})")
    ]
    return {read_expression(text).value for text in texts} - {None}


@pytest.mark.parametrize("numbers", [(3, 7, 2), (30, 100, 93), (5, 5, 5), (0, 4, 9), (1, 1, 1), (0, 0, 2)])
def test_every_value_is_found_with_a_text_that_has_it(numbers):
    found = list(expressions(numbers))
    assert {value for value, _ in found} == reachable(numbers)
    for value, text in found:
        expression = read_expression(text)
        assert expression.value == value
        assert sorted(expression.numbers) == sorted(numbers)


def test_both_forms_of_a_row_are_one_problem(tmp_path):
    rows = [{"nums": [30, 100, 93], "target": 23}, {"input": "30,100,93", "output": "23"}]
    task = task_over("countdown", tmp_path, test=rows)
    one, other = task.example(Split.TEST, 0), task.example(Split.TEST, 1)
    assert (one.prompt, one.answer) == (other.prompt, other.answer)
    assert "numbers 30, 100, 93" in one.prompt
    assert "equals 23" in one.prompt


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("93 - (100 - 30)", GradeKind.CORRECT),
        ("30 + 93 - 100 = 23", GradeKind.CORRECT),
        ("30 + 93 + 100", GradeKind.WRONG),
        ("23", GradeKind.WRONG),
        ("30 + 93 - 100 + 0", GradeKind.WRONG),
        ("__import__('os')", GradeKind.UNPARSABLE),
        ("", GradeKind.UNPARSABLE),
    ],
)
@pytest.mark.parametrize("parity", [False, True])
def test_grades(tmp_path, answer, kind, parity):
    task = task_over("countdown", tmp_path, test=[{"nums": [30, 100, 93], "target": 23}], parity=parity)
    grade = task.grade(task.example(Split.TEST, 0), f"<answer>\n{answer}\n</answer>")
    assert grade.kind is kind
    assert grade.score == (1.0 if kind is GradeKind.CORRECT else 0.1 if parity and kind is GradeKind.WRONG else 0.0)


def test_a_row_without_a_solution_has_no_canonical_text(tmp_path):
    task = task_over("countdown", tmp_path, test=[{"nums": [1, 1, 1], "target": 999}, {"nums": [1, 2, 3], "target": 7}])
    first, second = (task.example(Split.TEST, index) for index in (0, 1))
    assert task.canonical(first) is None
    assert task.grade(second, task.canonical(second)).is_correct
    for example in (first, second):
        assert task.grade(example, task.perturbed(example)).kind is GradeKind.WRONG


def test_the_perturbed_text_is_the_nearest_miss(tmp_path):
    task = task_over("countdown", tmp_path, test=[{"nums": [1, 2, 3], "target": 7}])
    assert task.grade(task.example(Split.TEST, 0), task.perturbed(task.example(Split.TEST, 0))).detail in (
        "equals 6, not 7", "equals 8, not 7", "equals 13/2, not 7", "equals 15/2, not 7",
    )  # fmt: skip


def test_problems_of_others_all_have_a_solution():
    task = make_task("countdown", TaskConfig(test=str(shared_data("countdown_cd3_test.jsonl"))))
    assert task.size(Split.TEST) == 256
    for index in range(256):
        example = task.example(Split.TEST, index)
        assert task.grade(example, task.canonical(example)).is_correct
        assert task.grade(example, task.perturbed(example)).kind is GradeKind.WRONG
