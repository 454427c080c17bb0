"""No text makes a grader raise, and none takes long."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.grading.countdown import grade_countdown
from rollout_workers.grading.math_equivalence import grade_math
from rollout_workers.grading.numbers import grade_number

GRADERS: dict[str, Callable[[str], Grade]] = {
    "number": lambda text: grade_number("18", text),
    "number, parity": lambda text: grade_number("18", text, parity=True),
    "math": lambda text: grade_math("18", text),
    "math, parity": lambda text: grade_math("18", text, parity=True),
    "countdown": lambda text: grade_countdown((9, 2), 18, text),
}
LENGTH = 100_000
LIMIT_S = 1.0
"""Of processor time: far above the tens of milliseconds that it takes, far below what quadratic time would."""

PIECES = [
    r"\boxed{", r"\boxed ", r"\fbox{", "<answer>", "</answer>", "{", "}", r"\{", r"\}", "\\", "$", "%", "18", "1,234", "-", "−",
    ".", ",", "/",
    "=", "x", " ", "\n", r"\frac", r"\frac{", "}{", r"\sqrt", r"\text{", r"\left(", ")", "^", "_", "*", "+", "e5", "½", "٣",
    "\u2009", r"\!",
    r"\,", r"\times 10^", r"\begin{pmatrix}", r"\\", "and", r"\circ",
]  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.characters()), max_size=16).map("".join))


@given(TEXTS, st.sampled_from(["{}", r"\boxed{{{}}}", "<answer>{}</answer>", r"so \boxed{{ {} }}."]))
def test_any_text_is_graded(text, frame):
    for name, grade in GRADERS.items():
        verdict = grade(frame.format(text))
        assert verdict.kind in (GradeKind.CORRECT, GradeKind.WRONG, GradeKind.UNPARSABLE), name
        assert verdict.score == float(verdict.kind is GradeKind.CORRECT), name


@pytest.mark.parametrize("name", GRADERS)
def test_time_is_linear_in_the_text(name):
    slow = []
    for piece in [
        *PIECES,
        r"\boxed{}",
        r"\boxed{.}",
        r"\boxed .. ",
        "1 1/2 ",
        "1 ",
        "1/",
        "m^2 ",
        "{,}",
        r"\text{a}",
        "(1,",
        "**",
        "* 1",
    ]:
        body = (piece * (LENGTH // len(piece) + 1))[:LENGTH]
        for text in (rf"\boxed{{{body}}}", f"<answer>{body}</answer>"):
            start = time.thread_time()
            GRADERS[name](text)
            seconds = time.thread_time() - start
            if seconds > LIMIT_S:
                slow.append((piece, text[:10], seconds))
    assert not slow
