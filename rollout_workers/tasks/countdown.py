"""Countdown with three numbers: an expression that uses each of them once and equals the target (d1, arXiv 2504.12216)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import ClassVar

from rollout_workers.grading.answers import Grade
from rollout_workers.grading.countdown import grade_countdown
from rollout_workers.tasks.base import Example
from rollout_workers.tasks.data import HubSource, Row, short
from rollout_workers.tasks.dataset import Columns, DatasetTask

NUM_NUMBERS = 3
FORMAT_SCORE = 0.1
"""What d1 gives an expression that is wrong (with `parity`)."""

_NUMBER = re.compile(r"\s*\d{1,9}\s*")
_PROMPT = (
    "Use each of the numbers {numbers} exactly once to write an arithmetic expression that equals {target}. "
    "You may use the operations +, -, * and / and parentheses.\n\nRespond in the following format:\n"
    "<reasoning>\n...\n</reasoning>\n<answer>\n(the expression)\n</answer>\n"
)


class Countdown(DatasetTask):
    """Rows have `nums` (a list) and `target`, or `input` (the numbers as text with commas) and `output`."""

    name = "countdown"
    settings = frozenset({"train", "test", "revision", "parity"})
    prompts = ("plain",)
    train_hub = HubSource(
        "Jiayi-Pan/Countdown-Tasks-3to4", "train", revision="408f70d177020686d34a56bba5952feb45aaaee4"
    )
    columns: ClassVar[Columns] = {}
    needed = "nums and target, or input and output"

    def problem(self, row: Row) -> str:
        numbers, target = _read(row)
        return f"{sorted(numbers)} {target}"

    def check_row(self, row: Row) -> None:
        _read(row)

    def leaves_out(self, row: Row) -> str | None:
        return None if len(_read(row)[0]) == NUM_NUMBERS else f"not {NUM_NUMBERS} numbers"

    def pose(self, example_id: str, row: Row) -> Example:
        numbers, target = _read(row)
        prompt = _PROMPT.format(numbers=", ".join(map(str, numbers)), target=target)
        return Example(example_id, prompt, json.dumps({"numbers": numbers, "target": target}))

    def grade(self, example: Example, text: str) -> Grade:
        numbers, target = _stated(example)
        return grade_countdown(numbers, target, text, format_score=FORMAT_SCORE if self.config.parity else 0.0)

    def canonical(self, example: Example) -> str | None:
        """The first expression found; None for numbers that do not give the target in any way."""
        numbers, target = _stated(example)
        return next((_word_answer(text) for value, text in expressions(numbers) if value == target), None)

    def perturbed(self, example: Example) -> str | None:
        """An expression over the same numbers whose value is as near to the target as possible without being it."""
        numbers, target = _stated(example)
        others = [(value, text) for value, text in expressions(numbers) if value != target]
        if not others:
            return None
        _, nearest = min(others, key=lambda each: abs(each[0] - target))
        return _word_answer(nearest)


def expressions(numbers: Sequence[int]) -> Iterator[tuple[Fraction, str]]:
    """The value and text of every expression that uses each of `numbers` once, by way of any order and any parentheses."""
    return _combine([(Fraction(number), str(number)) for number in numbers])


def _combine(parts: Sequence[tuple[Fraction, str]]) -> Iterator[tuple[Fraction, str]]:
    if len(parts) == 1:
        value, text = parts[0]
        yield value, text[1:-1] if text.startswith("(") else text
        return
    for i, (left, left_text) in enumerate(parts):
        for j, (right, right_text) in enumerate(parts):
            if i == j:
                continue
            rest = [part for k, part in enumerate(parts) if k not in (i, j)]
            results = [(left - right, "-")]
            if i < j:
                results += [(left + right, "+"), (left * right, "*")]
            if right:
                results.append((left / right, "/"))
            for value, sign in results:
                yield from _combine([*rest, (value, f"({left_text} {sign} {right_text})")])


def _read(row: Row) -> tuple[list[int], int]:
    """(numbers, target) of a row in either form; ValueError says which key is wrong."""
    if "nums" in row or "target" in row:
        for key in ("nums", "target"):
            if row.get(key) is None:
                raise ValueError(f"key {key!r} is missing; needed: {Countdown.needed}")
        numbers, target = row["nums"], row["target"]
        if not isinstance(numbers, list) or len(numbers) < 2 or not all(map(_is_count, numbers)):
            raise ValueError(f"key 'nums' is {short(numbers)}; needed: a list of two whole numbers >= 0 or more")
        if not _is_count(target):
            raise ValueError(f"key 'target' is {short(target)}; needed: a whole number >= 0")
        return numbers, target
    for key in ("input", "output"):
        if row.get(key) is None:
            raise ValueError(f"key {key!r} is missing; needed: {Countdown.needed}")
    texts = row["input"].split(",") if isinstance(row["input"], str) else []
    if len(texts) < 2 or not all(map(_NUMBER.fullmatch, texts)):
        raise ValueError(f"key 'input' is {short(row['input'])}; needed: text like '30,100,93'")
    output = str(row["output"]) if _is_count(row["output"]) else row["output"]
    if not isinstance(output, str) or not _NUMBER.fullmatch(output):
        raise ValueError(f"key 'output' is {short(row['output'])}; needed: a whole number >= 0")
    return [int(text) for text in texts], int(output)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _stated(example: Example) -> tuple[list[int], int]:
    stated = json.loads(example.answer)
    return stated["numbers"], stated["target"]


def _word_answer(expression: str) -> str:
    return f"<reasoning>\n...\n</reasoning>\n<answer>\n{expression}\n</answer>"
