"""MBPP: short functions from a sentence and three tests, posed with worked examples (arXiv 2108.07732).

Which row belongs to which split is part of the data set: task ids 1 to 10 are for prompts, 11 to 510 for tests, 511 to 600 for
validation and 601 to 974 for training. A file holds any of them; one file is enough for all.
"""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import ClassVar

from cluster.errors import UserError
from rollout_workers.grading.code import CodeCheck
from rollout_workers.grading.extract_code import extract_code
from rollout_workers.tasks.base import Example, Split
from rollout_workers.tasks.code_task import CodeTask, fenced
from rollout_workers.tasks.data import HubSource, Row, short
from rollout_workers.tasks.dataset import Columns
from rollout_workers.tasks.negation import negate_returns
from rollout_workers.tasks.wording import PAPER_EVALUATION

NUM_SHOTS = 3
_DEMONSTRATIONS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 1)
"""Task ids in the order in which they are used; the first three are those of published results."""
_IDS = MappingProxyType({Split.TEST: range(11, 511), Split.VALIDATION: range(511, 601), Split.TRAIN: range(601, 975)})
_LAST_ID = 974

_TASK = (
    "You are an expert Python programmer, and here is your task:\n{text}\nYour code should pass these tests:\n{tests}"
)
_CODE = "\n```python\n{code}\n```"
_PREFILL = "\n```python\n"
_NAME = re.compile(r"[^\W\d]\w*")
_DEFINED = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)


class Mbpp(CodeTask):
    """Rows have `task_id`, `text`, `code`, `test_list` and `test_setup_code`."""

    name = "mbpp"
    settings = CodeTask.settings | {"few_shot"}
    prompts = (PAPER_EVALUATION,)
    train_hub = test_hub = HubSource(
        "google-research-datasets/mbpp",
        "prompt+test+validation+train",
        "full",
        "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
    )
    columns: ClassVar[Columns] = {
        "task_id": int,
        "text": str,
        "code": str,
        "test_list": list,
        "test_setup_code": str,
    }

    def file(self, part: str) -> str | None:
        """The file for `part`, or the only one that is given."""
        return super().file(part) or self.config.train or self.config.test

    def belongs(self, row: Row, split: Split) -> bool:
        return row["task_id"] in _IDS[split]

    def problem(self, row: Row) -> str:
        return str(row["task_id"])

    def check_row(self, row: Row) -> None:
        if not 1 <= row["task_id"] <= _LAST_ID:
            raise ValueError(f"key 'task_id' is {row['task_id']}; needed: 1 to {_LAST_ID}, which say the split")
        if not row["test_list"] or not all(isinstance(test, str) for test in row["test_list"]):
            raise ValueError(f"key 'test_list' is {short(row['test_list'])}; needed: a list of assertions, as text")
        if not row["code"].strip():
            raise ValueError("key 'code' is empty; needed: text")

    def pose(self, example_id: str, row: Row) -> Example:
        num = NUM_SHOTS if self.config.few_shot is None else self.config.few_shot
        shown = [_word(each) + _CODE.format(code=_lines(each["code"])) for each in self.demonstrations(row, num)]
        answer = json.dumps({key: row[key] for key in ("code", "test_list", "test_setup_code")})
        return Example(example_id, "\n\n".join([*shown, _word(row)]), answer, prefill=_PREFILL)

    def demonstrations(self, row: Row, num: int) -> list[Row]:
        """The first `num` rows for prompts."""
        if num == 0:
            return []
        key = self.config_key("few_shot")
        if num > len(_DEMONSTRATIONS):
            raise UserError(f"config key '{key}' is {num}; allowed: 0 to {len(_DEMONSTRATIONS)}")
        source = self._source(Split.TRAIN)
        rows = {each["task_id"]: each for each in source.rows if each["task_id"] in _DEMONSTRATIONS}
        for task_id in _DEMONSTRATIONS[:num]:
            if task_id not in rows:
                raise UserError(
                    f"config key '{key}' is {num}: {source.source} has no row with 'task_id' {task_id} to show; "
                    "allowed: 0, or a file with the rows 1 to 10"
                )
        return [rows[task_id] for task_id in _DEMONSTRATIONS[:num]]

    def check(self, example: Example, text: str) -> CodeCheck:
        row = json.loads(example.answer)
        tested = _tested(row)
        tests = "\n".join([_lines(row["test_setup_code"]), *row["test_list"]])
        return CodeCheck(extract_code(text, entry_point=tested[0] if tested else ""), tests, exports=tested)

    def canonical(self, example: Example) -> str:
        return fenced(_lines(json.loads(example.answer)["code"]))

    def perturbed(self, example: Example) -> str | None:
        """The canonical program with what its tested functions return negated."""
        row = json.loads(example.answer)
        wrong = negate_returns(_lines(row["code"]), _tested(row))
        return None if wrong is None else fenced(wrong)


def _word(row: Row) -> str:
    return _TASK.format(text=row["text"], tests="\n".join(row["test_list"]))


def _tested(row: Row) -> tuple[str, ...]:
    """What the tests take from the program, in their order; named because one such function is called `sum`."""
    defined = set(_DEFINED.findall(_lines(row["code"])))
    names = _NAME.findall("\n".join([*row["test_list"], row["test_setup_code"]]))
    return tuple(dict.fromkeys(name for name in names if name in defined))


def _lines(code: str) -> str:
    """Code with plain line ends: the published file has others."""
    return code.replace("\r\n", "\n")
