"""KodCode: functions to write from a description and a declaration, checked by pytest-style tests (arXiv 2503.02951)."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import ClassVar

from rollout_workers.grading.code import CodeCheck
from rollout_workers.grading.extract_code import extract_code
from rollout_workers.tasks.base import Example
from rollout_workers.tasks.code_task import CodeTask, fenced
from rollout_workers.tasks.data import HubSource, Row, short
from rollout_workers.tasks.dataset import Columns
from rollout_workers.tasks.negation import negate_returns
from rollout_workers.tasks.wording import PAPER_TRAINING

_PROMPT = (
    "You are an expert Python programmer, and here is your task:\n\n{question}\n\n"
    "Implement the function exactly as specified below."
)
_PREFILL = "Here is the completed function:\n```python\n{declaration}\n"


class KodCode(CodeTask):
    """Rows have `question`, `solution`, `test` and `test_info`: a list whose first object has `function_name` and
    `function_declaration`. There is no test part: 1/16 of the rows is held out."""

    name = "kodcode"
    prompts = (PAPER_TRAINING,)
    train_hub = HubSource("KodCode/KodCode-Light-RL-10K", "train")
    columns: ClassVar[Columns] = {"question": str, "solution": str, "test": str, "test_info": list}

    def problem(self, row: Row) -> str:
        return str(row["question"])

    def check_row(self, row: Row) -> None:
        for key in ("question", "test"):
            if not row[key].strip():
                raise ValueError(f"key {key!r} is empty; needed: text")
        info = row["test_info"][0] if row["test_info"] else None
        if not isinstance(info, dict):
            raise ValueError(f"key 'test_info' is {short(row['test_info'])}; needed: a list of one object or more")
        for key in ("function_name", "function_declaration"):
            if not isinstance(info.get(key), str) or not info[key].strip():
                raise ValueError(f"key 'test_info[0].{key}' is {short(info.get(key))}; needed: text")

    def pose(self, example_id: str, row: Row) -> Example:
        info = row["test_info"][0]
        answer = {"solution": row["solution"], "test": row["test"]}
        answer |= {"declaration": info["function_declaration"], "name": info["function_name"]}
        prefill = _PREFILL.format(declaration=info["function_declaration"])
        return Example(example_id, _PROMPT.format(question=row["question"]), json.dumps(answer), prefill=prefill)

    def check(self, example: Example, text: str) -> CodeCheck:
        row = json.loads(example.answer)
        code = extract_code(text, prefix=f"{row['declaration']}\n", entry_point=row["name"])
        return CodeCheck(code, row["test"])

    def canonical(self, example: Example) -> str | None:
        row = json.loads(example.answer)
        return _continuation(row["solution"], row)

    def perturbed(self, example: Example) -> str | None:
        row = json.loads(example.answer)
        wrong = negate_returns(row["solution"], {row["name"]})
        return None if wrong is None else _continuation(wrong, row)


def _continuation(solution: str, row: Mapping[str, str]) -> str | None:
    """What completes the declaration to `solution`: the function's body, then whatever else the solution has.

    A module's functions find each other, and its imports, when they are called and not where they stand.
    """
    lines = solution.split("\n")
    try:
        tree = ast.parse(solution)
    except (SyntaxError, ValueError, RecursionError):
        return None
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    node = next((each for each in tree.body if isinstance(each, definitions) and each.name == row["name"]), None)
    if node is None or node.end_lineno is None:
        return None
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    first = node.body[0].lineno
    body = lines[first - 1 : node.end_lineno]
    if first == node.lineno:
        body = [f"    {ast.unparse(statement)}" for statement in node.body]
    return fenced("\n".join([*body, "", *lines[: start - 1], *lines[node.end_lineno :]]))
