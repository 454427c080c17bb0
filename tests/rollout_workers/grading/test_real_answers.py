"""The reference answers of GSM8K, MATH-500 and Countdown are read, equal themselves however they are written, and nothing else."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction
from itertools import combinations, permutations, product

import pytest

from rollout_workers.grading.answers import GradeKind
from rollout_workers.grading.countdown import grade_countdown
from rollout_workers.grading.math_equivalence import equivalent, grade_math
from rollout_workers.grading.numbers import grade_number, reference_number
from rollout_workers.grading.symbolic import Verdict, shared_math_verify
from tests.fakes.shared_data import shared_data

CORRECT, WRONG, UNPARSABLE = GradeKind.CORRECT, GradeKind.WRONG, GradeKind.UNPARSABLE


def rows(name: str) -> list[dict[str, str]]:
    path = shared_data(name)
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(("name", "num_rows"), [("gsm8k_test.jsonl", 1319), ("gsm8k_train.jsonl.gz", 7473)])
def test_gsm8k(name, num_rows):
    solutions = [row["answer"] for row in rows(name)]
    assert len(solutions) == num_rows
    values: dict[str, Fraction] = {}
    for solution in solutions:
        answer = solution.rpartition("####")[2].strip()
        values[answer] = reference_number(solution)
        assert values[answer] == int(answer.replace(",", ""))
        assert grade_number(solution, f"<answer>{answer}</answer>").kind is CORRECT, answer
        assert grade_number(solution, rf"\boxed{{{answer}}}").kind is CORRECT, answer
    assert grade_number(solutions[0], solutions[0]).kind is UNPARSABLE
    for answer, value in values.items():
        for text in (rf"it is $\boxed{{\${value}.00}}$", f"<answer>x = {int(value):,}</answer>"):
            assert grade_number(answer, text).kind is CORRECT, (answer, text)
        for wrong in (value + 1, -value - 1, value * 10 + 1, f"{value}.5"):
            assert grade_number(answer, f"<answer>{wrong}</answer>").kind is WRONG, (answer, wrong)


def test_gsm8k_with_the_quirks_of_the_release():
    for row in rows("gsm8k_test.jsonl"):
        answer = row["answer"].rpartition("####")[2].strip()
        kind = grade_number(row["answer"], rf"\boxed{{{answer}}}", parity=True).kind
        assert kind is (WRONG if "," in answer else CORRECT)


def math_answers() -> list[str]:
    answers = [row["answer"] for row in rows("math500.jsonl")]
    assert len(answers) == 500
    return answers


def notations(answer: str) -> list[str]:
    """The same answer in other notations; `\\cot x` must keep its space."""
    return [
        answer,
        f"${answer}$",
        f" {answer} .",
        rf"\({answer}\)",
        rf"\displaystyle {answer}",
        answer.replace(" ", "") if answer != r"\cot x" else answer,
        answer.replace("(", "( ").replace(")", " )"),
        answer.replace(r"\frac", r"\dfrac"),
        answer.replace(r"\dfrac", r"\tfrac"),
        answer.replace(r"\frac", r"\\frac"),
        answer.replace(r"\left", "").replace(r"\right", ""),
        answer.replace("(", r"\left(").replace(")", r"\right)") if r"\left" not in answer else answer,
        answer.replace("^2", "^{2}"),
    ]


def test_math_answers_equal_themselves_however_they_are_written():
    for answer in math_answers():
        for notation in notations(answer):
            assert grade_math(answer, rf"so $\boxed{{{notation}}}$.").kind is CORRECT, (answer, notation)


def test_math_answers_differ_from_the_next():
    answers = math_answers()
    equal = {(a, b) for a, b in zip(answers, answers[1:] + answers[:1], strict=True) if equivalent(a, b)}
    assert equal == {("5", "x=5"), ("7", "7"), ("3", "3")}


@pytest.mark.slow
def test_math_answers_differ_from_every_other():
    distinct = sorted(set(math_answers()))
    assert [(a, b) for a, b in combinations(distinct, 2) if equivalent(a, b)] == [
        (r"10,\!080", "10080"), ("120", r"120^\circ"), ("15", r"15\mbox{ cm}^2"), (r"2 \sqrt{5}", r"2\sqrt{5}"),
        ("30", r"30^\circ"),
        ("36", r"36^\circ"), ("36", r"\$36"), (r"36^\circ", r"\$36"), ("5", "x=5"), ("90", r"90^\circ"),
        (r"\frac14", r"\frac{1}{4}"),
    ]  # fmt: skip


@pytest.mark.slow
def test_math_answers_symbolically():
    answers = math_answers()
    for answer, other in zip(answers, answers[1:] + answers[:1], strict=True):
        grade = grade_math(answer, rf"\boxed{{{other}}}", symbolic=True, deadline_s=60.0)
        assert grade.kind is (CORRECT if equivalent(answer, other) else WRONG), (answer, other)
        comparison = shared_math_verify().compare(answer, answer, deadline_s=60.0)
        assert comparison.verdict is Verdict.EQUAL, (answer, comparison)


def test_countdown_solutions():
    for row in rows("countdown_cd3_test.jsonl")[:64]:
        numbers, target = [int(number) for number in row["input"].split(",")], int(row["output"])
        solutions = [
            text
            for a, b, c in permutations(numbers)
            for first, second in product("+-*/", repeat=2)
            for text in (f"({a}{first}{b}){second}{c}", f"{a}{first}({b}{second}{c})")
            if grade_countdown(numbers, target, f"<answer>{text}</answer>").kind is CORRECT
        ]
        assert solutions, row
        for text in solutions:
            assert grade_countdown(numbers, target + 1, f"<answer>{text}</answer>").kind is WRONG
