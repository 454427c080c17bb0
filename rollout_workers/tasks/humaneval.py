"""HumanEval: functions to complete from their signature and docstring (arXiv 2107.03374)."""

from __future__ import annotations

import json
from typing import ClassVar

from rollout_workers.grading.code import CodeCheck
from rollout_workers.grading.extract_code import extract_code
from rollout_workers.tasks.base import Example
from rollout_workers.tasks.code_task import CodeTask, fenced
from rollout_workers.tasks.data import HubSource, Row, short
from rollout_workers.tasks.dataset import Columns
from rollout_workers.tasks.negation import negate_returns
from rollout_workers.tasks.wording import PAPER_EVALUATION

_PROMPT = (
    "Write a solution to the following problem and make sure that it passes the tests:\n```python\n{prompt}\n```\n"
)
_PREFILL = "Here is the completed function:\n```python\n{prompt}\n"


class HumanEval(CodeTask):
    """Rows have `task_id`, `prompt`, `entry_point`, `canonical_solution` and `test`, which defines `check(candidate)`."""

    name = "humaneval"
    settings = CodeTask.settings - {"train"}
    prompts = (PAPER_EVALUATION,)
    test_hub = HubSource("openai/openai_humaneval", "test", revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544")
    columns: ClassVar[Columns] = {
        "task_id": str,
        "prompt": str,
        "entry_point": str,
        "canonical_solution": str,
        "test": str,
    }

    def problem(self, row: Row) -> str:
        return str(row["prompt"])

    def check_row(self, row: Row) -> None:
        if not row["entry_point"].isidentifier():
            raise ValueError(f"key 'entry_point' is {short(row['entry_point'])}; needed: the name of a function")
        if f"def {row['entry_point']}(" not in row["prompt"]:
            raise ValueError(
                f"key 'prompt' does not define {row['entry_point']!r}; needed: the function of 'entry_point'"
            )
        if "def check(" not in row["test"]:
            raise ValueError(f"key 'test' is {short(row['test'])}; needed: code that defines check(candidate)")

    def pose(self, example_id: str, row: Row) -> Example:
        answer = json.dumps({key: row[key] for key in ("prompt", "entry_point", "test", "canonical_solution")})
        prompt, prefill = (wording.format(prompt=row["prompt"]) for wording in (_PROMPT, _PREFILL))
        return Example(example_id, prompt, answer, prefill=prefill)

    def check(self, example: Example, text: str) -> CodeCheck:
        row = json.loads(example.answer)
        code = extract_code(text, prefix=row["prompt"], entry_point=row["entry_point"])
        tests = f"{row['test']}\ncheck({row['entry_point']})\n"
        return CodeCheck(code, tests, context=row["prompt"], exports=(row["entry_point"],))

    def canonical(self, example: Example) -> str:
        return fenced(json.loads(example.answer)["canonical_solution"])

    def perturbed(self, example: Example) -> str | None:
        """The canonical solution with what it returns negated."""
        row = json.loads(example.answer)
        wrong = negate_returns(row["prompt"] + row["canonical_solution"], {row["entry_point"]})
        return None if wrong is None else fenced(wrong.removeprefix(row["prompt"]))
