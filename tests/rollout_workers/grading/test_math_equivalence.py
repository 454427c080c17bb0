"""MATH answers: extraction, equality, and what the symbolic checker's verdicts become."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rollout_workers.grading.answers import GradeKind
from rollout_workers.grading.math_equivalence import (
    MAX_ANSWER_CHARS,
    equivalent,
    extract_math,
    grade_math,
    reference_math,
)
from rollout_workers.grading.math_normalisation import normalise
from rollout_workers.grading.symbolic import Verdict
from tests.fakes.symbolic import FakeChecker

CORRECT, WRONG, UNPARSABLE = GradeKind.CORRECT, GradeKind.WRONG, GradeKind.UNPARSABLE


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed{5}$", "5"), (r"\boxed{4} \boxed{5}", "5"), (r"\boxed{4} \fbox{5}", "5"), (r"$\boxed 5$", "5"),
        (r"\boxed{\left(\frac{1}{2}, 1\right)}", r"\left(\frac{1}{2}, 1\right)"), ("<answer> 5 </answer>", "5"),
        (r"<answer>4</answer> \boxed{5}", "5"), (r"\boxed{5} <answer>4</answer>", "5"),
        ("<answer>4</answer><answer>5</answer>", "5"),
        ("5", None), ("the answer is 5", None), ("", None), (r"\boxed{5", None), ("<answer>...</answer>", None),
        ("<answer>5", None),
    ],
)  # fmt: skip
def test_extraction(text, answer):
    assert extract_math(text) == answer


EQUAL = [
    ("0.75", r"\frac34"), ("3/4", "0.750"), ("1e3", "1,000"), (r"1\frac{4}{5}", "9/5"), (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    ("x=5", "5"), ("x = 5", "x=5.0"), (r"x \in [-2,7]", "[-2, 7]"), (r"\theta = \frac{\pi}{6}", r"\frac\pi6"), ("f(x) = 2x", "2x"),
    ("x_1 = 5", "5"), ("y = 2x + 3", "2x+3"), ("(0.5, 1)", r"\left( \frac12, 1 \right)"), ("[0.5,1)", r"[\frac{1}{2}, 1)"),
    ("1, 0.5", r"1,\frac12"), (r"\{1, 2\}", r"\{2,1\}"), (r"\{0.5, 1\}", r"\left\{1, \frac12\right\}"),
    ("Evelyn", r"\text{evelyn}"),
    (r"\text{(C)}", "C"), (r"5\text{ cm}", "5"), (r"90^\circ", "90"), ("((1,0.5),2)", "((1,0.5),2)"),
]  # fmt: skip
UNEQUAL = [
    ("5", "6"), ("5", ""), ("", ""), ("5", "$"), (None, None), (None, "5"), ("0.333333", r"\frac13"), ("x=5", "y=5"),
    ("f(x)=2", "g(x)=2"),
    ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("(1,2)", "1,2"), ("(1,2)", "(1,2,3)"), ("1,2", "2,1"), ("100, 200", "100200"),
    ("1 2", "12"),
    ("52_8", "52"), ("52_8", "52_9"), ("x", "X"), ("ab", "AB"), ("a", "b"), (r"\text{even}", r"\text{odd}"), ("2e", "2"),
    ("x=1=1", "1"),
    (r"\{1,2\}", "(1,2)"), ("(1,2)(3,4)", "(1,2)(3,5)"), (r"\sqrt{2}", "1.4142135"), ("50%", "0.5"), ("9" * 1001, "9" * 1000 + "8"),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), EQUAL)
def test_equal(first, second):
    assert equivalent(first, second)
    assert equivalent(second, first)
    grade = grade_math(first, rf"\boxed{{{second}}}")
    assert (grade.kind, grade.score, grade.answer) == (CORRECT, 1.0, second)


@pytest.mark.parametrize(("first", "second"), UNEQUAL)
def test_unequal(first, second):
    assert not equivalent(first, second)
    assert not equivalent(second, first)


ATOMS = st.one_of(
    st.integers(-50, 50).map(str),
    st.fractions(max_denominator=9).map(str),
    st.sampled_from(
        [
            "x",
            r"\pi",
            r"\frac12",
            "0.5",
            r"\sqrt3",
            r"x^{2}",
            "1,234",
            r"\text{yes}",
            "YES",
            "x=2",
            r"5\text{ cm}",
            "",
            "$",
        ]
    ),
)
ANSWERS = st.one_of(
    ATOMS,
    st.text(max_size=20),
    st.builds(
        "{}{}{}".format,
        st.sampled_from("(["),
        st.lists(ATOMS, min_size=1, max_size=3).map(", ".join),
        st.sampled_from(")]"),
    ),
    st.lists(ATOMS, min_size=1, max_size=3).map(lambda atoms: rf"\{{{','.join(atoms)}\}}"),
)


@given(ANSWERS)
def test_equality_is_reflexive(answer):
    assert equivalent(answer, answer) is bool(normalise(answer))


@given(ANSWERS, ANSWERS)
def test_equality_is_symmetric(first, second):
    assert equivalent(first, second) is equivalent(second, first)


@given(st.fractions(max_denominator=50), st.fractions(max_denominator=50))
def test_numbers_are_compared_exactly(first, second):
    def notations(value: Fraction) -> list[str]:
        sign = "-" if value < 0 else ""
        frac = rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
        return [
            str(value),
            frac,
            rf"\dfrac{{{value.numerator * 3}}}{{{value.denominator * 3}}}",
            f"x = {value}",
            f"${frac}$",
        ]

    for left in notations(first):
        for right in notations(second):
            assert equivalent(left, right) is (first == second), (left, right)


@pytest.mark.parametrize(
    ("reference", "answer"), [("5", "5"), (r"so \boxed{5}", "5"), (r" \frac12 ", r"\frac12"), (r"$\boxed 5$", "5")]
)
def test_references(reference, answer):
    assert reference_math(reference) == answer


@pytest.mark.parametrize(
    "reference", ["", "  ", "$", r"\text{}", r"\boxed{", r"\boxed{5", r"\boxed{}", "..", "9" * (MAX_ANSWER_CHARS + 1)]
)
def test_a_malformed_reference_is_quoted(reference):
    with pytest.raises(ValueError, match="reference answer") as caught:
        grade_math(reference, r"\boxed{5}")
    assert repr(reference) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["5", "", r"\boxed{5", r"\boxed{$}", r"\boxed{\text{}}", "<answer></answer>", "<answer>.</answer>"]
)
def test_an_answer_without_content_is_unparsable(text):
    checker = FakeChecker()
    grade = grade_math("5", text, symbolic=True, checker=checker)
    assert (grade.kind, grade.score) == (UNPARSABLE, 0.0)
    assert not checker.asked


def test_an_endless_answer_is_wrong_without_being_compared():
    checker = FakeChecker()
    grade = grade_math("5", rf"\boxed{{{'5' * (MAX_ANSWER_CHARS + 1)}}}", symbolic=True, checker=checker)
    assert grade.kind is WRONG
    assert str(MAX_ANSWER_CHARS + 1) in grade.detail
    assert not checker.asked


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [(Verdict.EQUAL, CORRECT), (Verdict.DIFFERENT, WRONG), (Verdict.TIMED_OUT, GradeKind.TIMED_OUT),
    (Verdict.FAILED, GradeKind.GRADER_ERROR)],
)  # fmt: skip
def test_what_is_left_different_is_compared_symbolically(verdict, kind):
    checker = FakeChecker(verdict, "why")
    grade = grade_math("2x+2", r"\boxed{2(x+1)}", symbolic=True, deadline_s=3.5, checker=checker)
    assert (grade.kind, grade.score, grade.answer, grade.detail) == (kind, float(kind is CORRECT), "2(x+1)", "why")
    assert checker.asked == [("2x+2", "2(x+1)", 3.5)]


@pytest.mark.parametrize(
    ("reference", "answer", "kind"),
    [("2x+2", "2x+2", CORRECT), ("5", "6", WRONG), ("x=5", "6", WRONG), ("1/3", "0.333333", WRONG), ("10_2", "10_3", WRONG),
    ("52_8", "52", WRONG)],
)  # fmt: skip
def test_what_is_decided_is_not(reference, answer, kind):
    checker = FakeChecker()
    assert grade_math(reference, rf"\boxed{{{answer}}}", symbolic=True, checker=checker).kind is kind
    assert not checker.asked


def test_nothing_is_compared_symbolically_unless_asked():
    checker = FakeChecker()
    assert grade_math("2x+2", r"\boxed{2(x+1)}", checker=checker).kind is WRONG
    assert grade_math("2x+2", r"\boxed{2(x+1)}", symbolic=True, parity=True, checker=checker).kind is WRONG
    assert not checker.asked


@given(st.text(max_size=60))
def test_any_text_is_graded(text):
    assume("\\" not in text)
    for wrapped in (text, rf"\boxed{{{text}}}", f"<answer>{text}</answer>"):
        grade = grade_math("5", wrapped, symbolic=True, checker=FakeChecker(Verdict.DIFFERENT))
        assert grade.kind in (CORRECT, WRONG, UNPARSABLE)
        assert grade.score == float(grade.kind is CORRECT)
