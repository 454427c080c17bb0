"""Grades decoded texts; a grader that fails is reported as such and never becomes a wrong answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.tasks.base import Example, Task

EXPECTED_FAILURES = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError)
"""What an answer may provoke in a grader. Anything else (memory, interrupts) is not about the answer and is not caught."""


def grade_text(task: Task, example: Example, text: str) -> Grade:
    """The task's verdict on `text`, or a `GRADER_ERROR` that says what went wrong."""
    try:
        return task.grade(example, text)
    except EXPECTED_FAILURES as error:
        return Grade(GradeKind.GRADER_ERROR, 0.0, "", detail=f"{type(error).__name__}: {error}")


def grade_all(tasks: Sequence[Task], examples: Sequence[Example], texts: Sequence[str]) -> list[Grade]:
    """One verdict per text, in order; graders that wait for other processes run `num_graders` at a time."""
    num_threads = max((task.num_graders for task in tasks), default=1)
    if num_threads == 1:
        return [grade_text(*each) for each in zip(tasks, examples, texts, strict=True)]
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(grade_text, tasks, examples, texts))
