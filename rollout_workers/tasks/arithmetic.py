"""Worded multi-step arithmetic with a chain of thought: GSM8K's format in small.

Every step is one look-up (value, operation) -> value in 0..19, so step i cannot be known before step i-1, while the copied
operands, the frame and the padding are known at once. Each step also opens with a connective that may be any of six words: a
token that no model can be sure of, and that no answer depends on. Both occur in natural text; together they separate "the
model is unsure" from "it is too early to commit".
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rollout_workers.grading.answers import Grade, GradeKind, last_answer, parse_integer
from rollout_workers.tasks.base import Example, Split, example_random, split_of

LIMIT = 20
"""Values lie in 0..LIMIT-1; each is one token."""
MAX_OPERAND = 9

NAMES = (
    ("Ann", "she"),
    ("Ben", "he"),
    ("Eva", "she"),
    ("Tom", "he"),
    ("Mia", "she"),
    ("Max", "he"),
    ("Zoe", "she"),
    ("Leo", "he"),
)
OBJECTS = ("pens", "coins", "cards", "shells", "stamps", "beads", "books", "plums")
MORE = ("finds", "buys", "gets", "wins")
FEWER = ("loses", "sells", "drops", "gives")
CONNECTIVES = ("so", "then", "now", "thus", "next", "hence")
OPERATIONS = ("plus", "minus", "times", "over")
MAX_STEPS = 8

WORDS = (
    *(word for pair in NAMES for word in pair),
    *OBJECTS, *MORE, *FEWER, *CONNECTIVES, *OPERATIONS,
    "has", "more", "away", "doubles", "halves", "them", "how", "many", "now", ".", "?", "=",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on the running value."""

    operation: str
    operand: int

    def apply(self, value: int) -> int | None:
        """The next value, or None where the operation leaves 0..LIMIT-1 or does not come out even."""
        if self.operation == "plus":
            result = value + self.operand
        elif self.operation == "minus":
            result = value - self.operand
        elif self.operation == "times":
            result = value * self.operand
        else:
            if value % self.operand:
                return None
            result = value // self.operand
        return result if 0 <= result < LIMIT else None


@dataclass(frozen=True, slots=True)
class Problem:
    """A start value and the steps that follow."""

    start: int
    steps: tuple[Step, ...]

    @property
    def key(self) -> str:
        """The problem without its wording; decides the split."""
        return " ".join([str(self.start), *(f"{step.operation}{step.operand}" for step in self.steps)])

    def values(self) -> list[int]:
        """The running value after each step."""
        values, value = [], self.start
        for step in self.steps:
            result = step.apply(value)
            assert result is not None, f"an impossible step {step} at {value}"
            value = result
            values.append(value)
        return values


class Arithmetic:
    """Chains of `min_steps` to `max_steps` worded operations, answered as `<reasoning>...</reasoning> <answer>v</answer>`."""

    name = "arithmetic"

    def __init__(self, *, min_steps: int = 4, max_steps: int = MAX_STEPS) -> None:
        if not 1 <= min_steps <= max_steps <= MAX_STEPS:
            raise ValueError(f"need 1 <= min_steps <= max_steps <= {MAX_STEPS}, got {min_steps} and {max_steps}")
        self.min_steps = min_steps
        self.max_steps = max_steps
        self.num_graders = 1
        self.canvas_length = 48

    def prepare(self) -> None:
        """Nothing: the grade is a comparison of integers."""

    def size(self, split: Split) -> int | None:
        return None

    def example(self, split: Split, index: int) -> Example:
        rng = example_random(self.name, split, index)
        problem = draw_problem(rng, split, num_steps=rng.randint(self.min_steps, self.max_steps))
        return Example(
            id=f"{self.name}/{split}/{index}", prompt=word_problem(problem, rng), answer=str(problem.values()[-1])
        )

    def grade(self, example: Example, text: str) -> Grade:
        answer = last_answer(text)
        if answer is None:
            return Grade(GradeKind.UNPARSABLE, 0.0, "")
        value = parse_integer(answer)
        if value is None:
            return Grade(GradeKind.UNPARSABLE, 0.0, answer)
        if value == int(example.answer):
            return Grade(GradeKind.CORRECT, 1.0, answer)
        return Grade(GradeKind.WRONG, 0.0, answer)

    def canonical(self, example: Example) -> str:
        return f"<reasoning> </reasoning> <answer> {example.answer} </answer>"

    def perturbed(self, example: Example) -> str:
        """The next value."""
        return f"<reasoning> </reasoning> <answer> {(int(example.answer) + 1) % LIMIT} </answer>"


def draw_problem(rng: random.Random, split: Split, *, num_steps: int) -> Problem:
    """A problem of `num_steps` steps that belongs to `split`."""
    while True:
        start = value = rng.randrange(1, LIMIT)
        steps: list[Step] = []
        while len(steps) < num_steps:
            step = _draw_step(rng, value)
            result = step.apply(value)
            if result is not None:
                steps.append(step)
                value = result
        problem = Problem(start, tuple(steps))
        if split_of(problem.key) is split:
            return problem


def _draw_step(rng: random.Random, value: int) -> Step:
    kind = rng.random()
    if kind < 0.15 and value:
        return Step("times", 2)
    if kind < 0.30 and value:
        return Step("over", 2)
    return Step("plus" if kind < 0.65 else "minus", rng.randint(1, MAX_OPERAND))


def word_problem(problem: Problem, rng: random.Random) -> str:
    """The problem in sentences of 5 words; shorter chains are followed by remarks about other people's things.

    All prompts have one length and step i stands at one distance from its place on the canvas. That keeps the task learnable for a
    tiny network, which would otherwise spend its training on finding the sentence instead of on the arithmetic.
    """
    (name, pronoun), *others = rng.sample(NAMES, 1 + MAX_STEPS - len(problem.steps))
    thing = rng.choice(OBJECTS)
    sentences = [f"{name} has {problem.start} {thing} ."]
    for step in problem.steps:
        if step.operation == "plus":
            sentences.append(f"{pronoun} {rng.choice(MORE)} {step.operand} more .")
        elif step.operation == "minus":
            sentences.append(f"{pronoun} {rng.choice(FEWER)} {step.operand} away .")
        else:
            verb = "doubles" if step.operation == "times" else "halves"
            sentences.append(f"{pronoun} then {verb} them .")
    for other, _ in others:
        sentences.append(f"{other} has {rng.randint(1, MAX_OPERAND)} {rng.choice(OBJECTS)} .")
    sentences.append(f"how many {thing} now ?")
    return " ".join(sentences)


def word_solution(problem: Problem, rng: random.Random) -> str:
    """A chain of thought for `problem`, with a random connective in front of each step."""
    parts = ["<reasoning>"]
    for step, value in zip(problem.steps, problem.values(), strict=True):
        parts.append(f"{rng.choice(CONNECTIVES)} {step.operation} {step.operand} = {value}")
    parts.append(f"</reasoning> <answer> {problem.values()[-1]} </answer>")
    return " ".join(parts)
