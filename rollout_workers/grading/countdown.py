"""Countdown answers: an expression that reaches the target with each given number used exactly once.

The answer is the content of the last `<answer>...</answer>`, or of the last box inside it, else the last box of the text. It may
end with `= target`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rollout_workers.grading.answers import Grade, GradeKind, last_answer
from rollout_workers.grading.boxed import last_boxed
from rollout_workers.grading.expressions import ExpressionError, read_expression

_INTEGER = re.compile(r"[-+]?[0-9]{1,50}")


def extract_expression(text: str) -> str | None:
    """The expression that `text` answers with, as it is written there, or None."""
    tagged = last_answer(text)
    source = text if tagged is None else tagged
    boxed = last_boxed(source)
    answer = tagged if boxed is None else boxed
    return None if answer is None else answer.rstrip(" .").strip("$ ")


def grade_countdown(numbers: Sequence[int], target: int, text: str, *, format_score: float = 0.0) -> Grade:
    """Whether `text` answers with an expression over exactly `numbers` that equals `target`.

    Args:
        numbers: the given numbers; one that is given twice must be used twice.
        format_score: of an expression that is wrong; 0.1 in d1 (dllm-reasoning/d1).

    Raises:
        ValueError: no numbers, a negative one, or a `format_score` outside [0, 1).
    """
    if not numbers or min(numbers) < 0:
        raise ValueError(f"a countdown problem needs numbers >= 0, got {list(numbers)!r}")
    if not 0.0 <= format_score < 1.0:
        raise ValueError(f"format_score must be in [0, 1), got {format_score}")
    answer = extract_expression(text)
    if answer is None:
        return Grade(GradeKind.UNPARSABLE, 0.0, "")
    left, equals, right = answer.partition("=")
    stated = right.strip().replace("−", "-")
    try:
        expression = read_expression(left)
    except ExpressionError as error:
        return Grade(GradeKind.UNPARSABLE, 0.0, answer, detail=str(error))
    if equals and not _INTEGER.fullmatch(stated):
        return Grade(GradeKind.UNPARSABLE, 0.0, answer, detail=f"{stated!r} after the equals sign is no integer")
    if Counter(expression.numbers) != Counter(numbers):
        detail = f"uses {sorted(expression.numbers)}, given are {sorted(numbers)}"
    elif expression.value != target:
        detail = "divides by zero" if expression.value is None else f"equals {expression.value}, not {target}"
    elif equals and int(stated) != target:
        detail = f"states {stated}, not {target}"
    else:
        return Grade(GradeKind.CORRECT, 1.0, answer)
    return Grade(GradeKind.WRONG, format_score, answer, detail=detail)
