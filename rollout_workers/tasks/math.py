"""MATH and MATH-500: problems of mathematics competitions, answered by a formula (arXiv 2103.03874, 2305.20050)."""

from __future__ import annotations

import re
from typing import ClassVar

from rollout_workers.config import TaskConfig
from rollout_workers.grading.answers import Grade
from rollout_workers.grading.boxed import has_boxed
from rollout_workers.grading.math_equivalence import grade_math, reference_math
from rollout_workers.tasks.base import Example
from rollout_workers.tasks.data import HubSource, Row, short
from rollout_workers.tasks.dataset import Columns, DatasetTask
from rollout_workers.tasks.wording import (
    BOXED_FORMAT,
    MATH_EXPERT,
    PAPER_EVALUATION,
    PAPER_TRAINING,
    REASONING_FORMAT,
    Wording,
    Worked,
)

_STRAY_QUOTE = '"\n'
"""Ends the system text of the reference release's evaluation."""
_TEST = HubSource("HuggingFaceH4/MATH-500", "test", revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be")
_DIGIT = re.compile(r"(?<![\^_])(?<![\^_]\{)\d")
"""A digit of a number, and not the only one of an exponent or a base."""
_NUM_PROCESSES = 2
"""How many symbolic comparisons run at a time."""


def _wordings(parity: bool) -> dict[str, Wording]:
    quote = _STRAY_QUOTE if parity else ""
    return {
        PAPER_TRAINING: Wording(f"{REASONING_FORMAT}\n\n{MATH_EXPERT} ", is_boxed=True),
        PAPER_EVALUATION: Wording(BOXED_FORMAT + quote, is_boxed=True, prefill="<reasoning>"),
    }


class Math(DatasetTask):
    r"""Rows have `problem`, and `answer` or a `solution` whose last `\boxed{}` is the answer."""

    name = "math"
    settings = frozenset({"train", "test", "revision", "prompt", "few_shot", "symbolic", "parity", "grade_deadline_s"})
    prompts = (PAPER_TRAINING, PAPER_EVALUATION)
    train_hub: ClassVar[HubSource | None] = HubSource(
        "DigitalLearningGmbH/MATH-lighteval", "train", revision="0530c78699ea5e8eb5530600900e1f328b48acad"
    )
    test_hub = _TEST
    columns: ClassVar[Columns] = {"problem": str}
    needed = "problem and answer (or a solution with a \\boxed answer)"

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.num_graders = _NUM_PROCESSES if config.symbolic and not config.parity else 1
        self._wording = _wordings(config.parity)[self.prompt]

    def problem(self, row: Row) -> str:
        return str(row["problem"])

    def check_row(self, row: Row) -> None:
        if not row["problem"].strip():
            raise ValueError("key 'problem' is empty; needed: text")
        key = "answer" if row.get("answer") is not None else "solution"
        if row.get(key) is None:
            raise ValueError(f"key 'answer' is missing; needed: {self.needed}")
        if not isinstance(row[key], str):
            raise ValueError(f"key {key!r} is {short(row[key])}; needed: text")
        try:
            if key == "solution" and not has_boxed(row[key]):
                raise ValueError("no box")
            reference_math(row[key])
        except ValueError as error:
            wanted = "a formula" if key == "answer" else "text with its answer in a closed \\boxed{}"
            raise ValueError(f"key {key!r} is {short(row[key])}; needed: {wanted}") from error

    def pose(self, example_id: str, row: Row) -> Example:
        shown = [
            Worked(each["problem"], str(each.get("solution") or "..."), _answer(each))
            for each in self.demonstrations(row, self.config.few_shot or 0)
        ]
        prompt = self._wording.prompt(row["problem"], shown)
        return Example(example_id, prompt, _answer(row), prefill=self._wording.prefill)

    def grade(self, example: Example, text: str) -> Grade:
        config = self.config
        return grade_math(
            example.answer, text, symbolic=config.symbolic, deadline_s=config.grade_deadline_s, parity=config.parity
        )

    def canonical(self, example: Example) -> str:
        return self._wording.continuation(Worked("", "...", example.answer))

    def perturbed(self, example: Example) -> str:
        """The answer with another last digit, or with 1 added where it has none."""
        right, digits = example.answer, list(_DIGIT.finditer(example.answer))
        wrong = f"{right} + 1"
        if digits:
            start, end = digits[-1].span()
            wrong = f"{right[:start]}{(int(digits[-1][0]) + 1) % 10}{right[end:]}"
        return self._wording.continuation(Worked("", "...", wrong))


class Math500(Math):
    """The 500 test problems alone."""

    name = "math500"
    settings = Math.settings - {"train", "few_shot"}
    train_hub = None


def _answer(row: Row) -> str:
    return reference_math(row["answer"] if row.get("answer") is not None else row["solution"])
