"""GSM8K: word problems of primary school, answered by a number (arXiv 2110.14168)."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import ClassVar

from rollout_workers.grading.answers import Grade
from rollout_workers.grading.numbers import grade_number, reference_number
from rollout_workers.tasks.base import Example
from rollout_workers.tasks.data import HubSource, Row, short
from rollout_workers.tasks.dataset import Columns, DatasetTask
from rollout_workers.tasks.wording import (
    BOXED_FORMAT,
    PAPER_EVALUATION,
    PAPER_TRAINING,
    REASONING_FORMAT,
    Wording,
    Worked,
)

_REPOSITORY, _REVISION = "openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866"
_WORDINGS = {
    PAPER_TRAINING: Wording(REASONING_FORMAT, is_boxed=False),
    PAPER_EVALUATION: Wording(BOXED_FORMAT, is_boxed=True, prefill="<reasoning>"),
}
_CALCULATION = re.compile(r"<<[^<>]*>>")
_MARK = "####"


class Gsm8k(DatasetTask):
    """Rows have `question` and `answer`, a worked solution whose last line is `#### number`."""

    name = "gsm8k"
    settings = frozenset({"train", "test", "revision", "prompt", "few_shot", "parity"})
    prompts = tuple(_WORDINGS)
    train_hub = HubSource(_REPOSITORY, "train", "main", _REVISION)
    test_hub = HubSource(_REPOSITORY, "test", "main", _REVISION)
    columns: ClassVar[Columns] = {"question": str, "answer": str}

    def problem(self, row: Row) -> str:
        return str(row["question"])

    def check_row(self, row: Row) -> None:
        if not row["question"].strip():
            raise ValueError("key 'question' is empty; needed: text")
        reasoning, mark, _ = row["answer"].rpartition(_MARK)
        try:
            if not mark or _MARK in reasoning:
                raise ValueError("the mark occurs once")
            reference_number(row["answer"])
        except ValueError as error:
            raise ValueError(
                f"key 'answer' ends in {short(row['answer'][-40:])}; needed: text that ends in '{_MARK} number'"
            ) from error

    def pose(self, example_id: str, row: Row) -> Example:
        wording = _WORDINGS[self.prompt]
        shown = [
            _worked(each["question"], each["answer"]) for each in self.demonstrations(row, self.config.few_shot or 0)
        ]
        return Example(example_id, wording.prompt(row["question"], shown), row["answer"], prefill=wording.prefill)

    def grade(self, example: Example, text: str) -> Grade:
        return grade_number(example.answer, text, parity=self.config.parity)

    def canonical(self, example: Example) -> str:
        return _WORDINGS[self.prompt].continuation(_worked("", example.answer))

    def perturbed(self, example: Example) -> str:
        """The same chain of thought, followed by the number above the right one."""
        worked = _worked("", example.answer)
        number = _decimal(reference_number(example.answer) + 1)
        return _WORDINGS[self.prompt].continuation(Worked("", worked.reasoning, number))


def _worked(question: str, answer: str) -> Worked:
    """The published solution without its calculator annotations, and its number as it is written."""
    reasoning, _, number = answer.rpartition(_MARK)
    return Worked(question, _CALCULATION.sub("", reasoning).strip(), number.strip())


def _decimal(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else repr(float(value))
