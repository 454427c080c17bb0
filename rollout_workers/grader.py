"""Grades decoded texts; a grader that fails is reported as such and never becomes a wrong answer.

This module imports neither torch nor Ray, so that graders in processes of their own are small.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cluster.metrics import TimeStates
from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.lease import LeaseSummary
from rollout_workers.rewards import RewardFunction
from rollout_workers.tasks.base import Example, Task

GRADING = "grading"
"""An exclusive time state of whoever grades."""

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
    return [grade for grade, _ in grade_timed(tasks, examples, texts)]


def grade_timed(tasks: Sequence[Task], examples: Sequence[Example], texts: Sequence[str]) -> list[tuple[Grade, float]]:
    """As `grade_all`, with the seconds that each verdict took."""
    num_threads = max((task.num_graders for task in tasks), default=1)
    if num_threads == 1:
        return [_timed(*each) for each in zip(tasks, examples, texts, strict=True)]
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(_timed, tasks, examples, texts))


def _timed(task: Task, example: Example, text: str) -> tuple[Grade, float]:
    started = time.perf_counter()
    grade = grade_text(task, example, text)
    return grade, time.perf_counter() - started


class LeaseGrader:
    """Grades and rewards decoded leases."""

    def __init__(
        self, reward: RewardFunction, *, canvas_length: int, tasks: Mapping[str, Task], clock: TimeStates
    ) -> None:
        self._reward = reward
        self._canvas_length = canvas_length
        self._tasks = tasks
        self._clock = clock

    def grade(self, summary: LeaseSummary) -> LeaseSummary:
        """The summary with grades and rewards."""
        lease = summary.lease
        with self._clock.state(GRADING):
            tasks: list[Task] = []
            examples: list[Example] = []
            for group in lease.groups:
                task = self._tasks[group.task]
                tasks += [task] * group.num_samples
                examples += [task.example(group.split, group.index)] * group.num_samples
            timed = grade_timed(tasks, examples, summary.texts)
        grades = tuple(grade for grade, _ in timed)
        length = lease.canvas_length or self._canvas_length
        rewards = [
            self._reward(grade, row.nfe, length, alpha=lease.alpha)
            for grade, row in zip(grades, summary.rows, strict=True)
        ]
        return replace(
            summary,
            grades=grades,
            grade_seconds=tuple(seconds for _, seconds in timed),
            rewards=tuple(reward.total for reward in rewards),
            reward_terms=tuple(reward.terms for reward in rewards),
        )
