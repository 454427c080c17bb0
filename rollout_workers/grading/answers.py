"""Typed verdicts and the extraction of answers from decoded text.

Invariant: a grade says *why* an answer earned nothing. "The grader failed" is never "the answer is wrong".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d{1,100}")


class GradeKind(StrEnum):
    """Why an answer got its score."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    TIMED_OUT = "timed_out"
    GRADER_ERROR = "grader_error"


@dataclass(frozen=True, slots=True)
class Grade:
    """One verdict.

    `score` lies in [0, 1] and is 1 exactly for `CORRECT`; tasks with dense credit give partial scores to `WRONG` answers.
    """

    kind: GradeKind
    score: float
    answer: str
    """What was extracted from the text; empty when nothing could be."""
    detail: str = ""
    """For `TIMED_OUT` and `GRADER_ERROR`: what happened. Graders may say of `WRONG` and `UNPARSABLE` answers why they are."""

    @property
    def is_correct(self) -> bool:
        return self.kind is GradeKind.CORRECT

    @property
    def is_valid(self) -> bool:
        """False when the verdict says nothing about the answer (and must not enter an advantage)."""
        return self.kind is not GradeKind.GRADER_ERROR


def last_answer(text: str) -> str | None:
    """The stripped content of the last `<answer>...</answer>` pair of `text`, or None when there is none."""
    found = _ANSWER.findall(text)
    return found[-1].strip() if found else None


def parse_integer(text: str) -> int | None:
    """The integer that `text` is, whole and nothing else, or None."""
    return int(text) if _INTEGER.fullmatch(text) else None
