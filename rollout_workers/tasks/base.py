"""What a task is: it owns data, prompt and grade, for pretraining, training and evaluation alike.

Invariant: `example(split, index)` is a pure function of its arguments, and no example of one split occurs in another.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from rollout_workers.grading.answers import Grade

MASK = "<mask>"
"""How a masked cell is written in a template; the tokenizer maps it to the model's mask id."""

_SPLIT_BUCKETS = 16


class Split(StrEnum):
    """Which part of a task's examples; the parts are disjoint by construction."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Example:
    """One problem."""

    id: str
    """Unique over all tasks and splits, for instance `arithmetic/test/17`."""
    prompt: str
    answer: str
    """The reference answer, in the form that the task's `grade` compares with."""
    template: str | None = None
    """A canvas with given tokens (`<mask>` where the model writes); None means a canvas that is all masks."""
    prefill: str = ""
    """How the answer begins, after the chat template: the model goes on from here, and `grade` sees only what it wrote."""


class Task(Protocol):
    """Data, prompt and grade of one kind of problem."""

    name: str
    canvas_length: int
    """Canvas length L, in tokens, that the task is posed with unless the user says otherwise."""
    num_graders: int
    """How many grades may run at a time; above 1 for graders that wait for another process."""

    def prepare(self) -> None:
        """Makes sure that this machine can grade the task (a sandbox works, say), or raises a UserError; run before any work."""
        ...

    def size(self, split: Split) -> int | None:
        """Number of examples of `split`; None where examples are made up without end."""
        ...

    def example(self, split: Split, index: int) -> Example:
        """The `index`-th example of `split`, the same for ever; `index` is below `size`, or any non-negative integer."""
        ...

    def grade(self, example: Example, text: str) -> Grade:
        """The verdict on the decoded canvas `text` (special tokens removed, cut at the first end of text)."""
        ...

    def canonical(self, example: Example) -> str | None:
        """A canvas text that is right, from the data set's own answer; None where the data set has none."""
        ...

    def perturbed(self, example: Example) -> str | None:
        """A canvas text that is wrong, as close to the canonical one as possible; None where there is none of that."""
        ...


def split_of(key: str) -> Split:
    """The split that owns the problem called `key`: 1/16 test, 1/16 validation, the rest training.

    The key names the problem itself (its numbers, not its wording), so rewording never leaks a test problem into training.
    """
    bucket = hashlib.blake2b(key.encode(), digest_size=8).digest()[0] % _SPLIT_BUCKETS
    if bucket == 0:
        return Split.TEST
    return Split.VALIDATION if bucket == 1 else Split.TRAIN


def example_random(task: str, split: Split, index: int) -> random.Random:
    """The random source of one example, keyed by its name alone."""
    if index < 0:
        raise ValueError(f"example index must be >= 0, got {index}")
    return random.Random(f"{task}/{split}/{index}")
