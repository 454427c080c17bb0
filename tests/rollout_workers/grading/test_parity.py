r"""Where the reference release and the exact graders differ, case by case, and that both are what they are."""

from __future__ import annotations

import math

import pytest

from rollout_workers.grading import parity
from rollout_workers.grading.answers import GradeKind
from rollout_workers.grading.math_equivalence import equivalent, extract_math, grade_math
from rollout_workers.grading.numbers import extract_number, grade_number

CORRECT, WRONG, UNPARSABLE = GradeKind.CORRECT, GradeKind.WRONG, GradeKind.UNPARSABLE


@pytest.mark.parametrize(
    ("text", "of_release", "exact"),
    [
        (r"\boxed{18}", 18, 18), (r"<answer>18</answer>", 18, 18), ("18", None, None),
        (r"\boxed{1,234}", 1, 1234), (r"\boxed{\$18}", 18, 18), (r"\boxed{\frac{1}{2}}", 1, 0.5), (r"\boxed{1/2}", 1, 0.5),
        (r"\boxed{\text{18}}", 18, 18), (r"\boxed{-.5}", -0.5, -0.5), (r"\boxed{x = 18}", 18, 18), (r"\boxed{6 + 12 = 18}", 6, 18),
        (r"\boxed{17} \boxed{18}", 17, 18), (r"\boxed{} \boxed{18}", 18, 18), (r"\boxed{...} \boxed{18}", 18, 18),
        (r"\boxed{18} \boxed{none}", 18, None), (r"\boxed{none} \boxed{18}", 18, 18),
        (r"\boxed{none} <answer>18</answer>", 18, None),
        ("\\boxed{\n18}", None, 18), (r"\boxed {18}", None, 18), (r"\fbox{18}", None, 18), (r"\boxed{18", None, None),
        ("<answer>1,234</answer>", 234, 1234), ("<answer>17</answer><answer>18</answer>", 17, 18),
        ("<answer>9 * 2</answer>", 2, None),
        ("<answer>18 in 5 days</answer>", 5, 5), ("<answer></answer>", None, None), ("<answer>-3</answer>", -3, -3),
        ("<answer>−3</answer>", 3, -3), ("<answer>5-3</answer>", -3, None), ("<answer>1e3</answer>", 1000, 1000),
        (r"\boxed{1.5e3 m}", 1.5, 1500), (r"\boxed{1_000}", 1000, None), (r"\boxed{inf}", math.inf, None), ("#### 18", None, None),
    ],
)  # fmt: skip
def test_numbers(text, of_release, exact):
    assert parity.extract_number(text) == of_release
    assert extract_number(text).value == exact


def test_nan_is_read_and_equals_nothing():
    assert math.isnan(parity.extract_number(r"\boxed{nan}"))
    assert grade_number("18", r"\boxed{nan}", parity=True).kind is WRONG


@pytest.mark.parametrize(
    ("reference", "text", "of_release", "exact"),
    [
        ("1234", r"\boxed{1,234}", WRONG, CORRECT), ("18", r"\boxed{\$18}", CORRECT, CORRECT),
        ("1", r"\boxed{\frac{1}{2}}", CORRECT, WRONG),
        ("18", r"\boxed{18.0000001}", CORRECT, WRONG), ("18", r"\boxed{18.00001}", WRONG, WRONG),
        ("#### 18", "none", UNPARSABLE, UNPARSABLE),
        ("10 000", r"\boxed{10000}", CORRECT, None), ("so\n#### 1,234", "<answer>1234</answer>", CORRECT, CORRECT),
    ],
)  # fmt: skip
def test_number_grades(reference, text, of_release, exact):
    assert grade_number(reference, text, parity=True).kind is of_release
    if exact is not None:
        assert grade_number(reference, text).kind is exact


def test_the_evaluation_of_the_release_compares_without_tolerance():
    assert parity.grade_number("18", r"\boxed{18.0000001}").kind is CORRECT
    assert parity.grade_number("18", r"\boxed{18.0000001}", tolerance=0).kind is WRONG
    assert parity.grade_number("18", r"\boxed{18.0}", tolerance=0).kind is CORRECT


@pytest.mark.parametrize("reference", ["", "####", "#### eighteen", "$18"])
def test_a_malformed_reference_number_is_quoted(reference):
    with pytest.raises(ValueError, match="reference answer") as caught:
        grade_number(reference, r"\boxed{18}", parity=True)
    assert repr(reference) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "of_release", "exact"),
    [
        (r"\boxed{5}", "5", "5"), (r"\boxed{4} \boxed{5}", "5", "5"), (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", r"\frac{1}{2}"),
        ("5", "5", None), ("so it is 5", "so it is 5", None), ("<answer>5</answer>", "<answer>5</answer>", "5"), ("", "", None),
        (r"\boxed{5", None, None), (r"\boxed{4} \boxed{5", None, "4"), (r"\boxed", None, None), (r"\boxed{}", "", None),
        (r"\fbox{5}", r"\fbox{5}", "5"), (r"\boxed{4} \fbox{5}", "4", "5"), (r"\boxed 5$ is", "5", "5"),
        (r"\boxed 5 is", "5 is", "5"),
        (r"\boxed 4$ \boxed{5}", "4", "5"), (r"\boxed {5}", "{5}", "5"), (r"\boxed{ 5 }", " 5 ", "5"),
        (r"\boxed{[0,1\}}", "[0,1\\", r"[0,1\}"),
    ],
)  # fmt: skip
def test_math_extraction(text, of_release, exact):
    assert parity.extract_math(text) == of_release
    assert extract_math(text) == exact


def test_the_evaluation_of_the_release_falls_back_to_answer_tags():
    text = r"<answer>4</answer> <answer>5</answer> \boxed{}"
    assert parity.extract_math(text) == ""
    assert parity.extract_math(text, answer_tags=True) == "4"
    assert parity.extract_math(r"\boxed{5", answer_tags=True) is None


@pytest.mark.parametrize(
    ("first", "second", "of_release", "exact"),
    [
        (None, None, True, False), (None, "5", False, False), ("", "", True, False), ("5", "5", True, True),
        (r"\dfrac12", r"\frac{1}{2}", True, True), ("1/2", r"\frac{1}{2}", True, True), ("0.5", r"\frac{1}{2}", True, True),
        ("0.25", r"\frac{1}{4}", False, True), (".5", "0.5", True, True), ("2/4", "1/2", False, True), ("x=5", "5", True, True),
        ("xy=5", "5", True, False), ("x=5", "y=5", True, False), (r"\sqrt3", r"\sqrt{3}", True, True),
        (r"\sqrt\pi", r"\sqrt{\pi}", False, True),
        (r"5\text{ cm}", "5", True, True), (r"5\text{cm}", "5", False, True), (r"5\mbox{ cm}^2", "5", False, True),
        (r"\text{even}", "even", False, True), (r"\text{ even}", "", True, False), (r"90^\circ", "90", True, True),
        (r"\$5", "5", True, True), ("$5$", "5", False, True), (r"50\%", "50", True, True), ("50%", "50", False, True),
        (r"10,\!080", "10,080", True, True), ("10,080", "10080", False, True), ("1 2", "12", True, False),
        (r"\left(1,2\right)", "(1,2)", True, True), (r"a\leftarrow b", r"aarrow b", True, False), ("x/2", "x / 2", False, True),
        (r"\frac", r"\frac ", False, True), (r"-\frac{1}{2}", r"\frac{-1}{2}", False, True), ("5.", "5", False, True),
    ],
)  # fmt: skip
def test_math_equality(first, second, of_release, exact):
    assert parity.equivalent(first, second) is parity.equivalent(second, first) is of_release
    assert equivalent(first, second) is equivalent(second, first) is exact


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.5, "0.5000001", True),
        ("0.5", 0.5, True),
        (0.5, "1/2", False),
        (None, 0.5, False),
        (0.5, None, False),
        (0.5, 0.6, False),
    ],
)
def test_floats_are_compared_with_a_tolerance(first, second, expected):
    assert parity.equivalent(first, second) is expected


@pytest.mark.parametrize(
    ("reference", "text", "of_release", "exact"),
    [
        ("5", "5", CORRECT, UNPARSABLE), ("5", r"\boxed{5", UNPARSABLE, UNPARSABLE), ("5", r"\boxed{5}", CORRECT, CORRECT),
        ("5", "<answer>5</answer>", WRONG, CORRECT), (r"so \boxed{5}", r"\boxed{5}", CORRECT, CORRECT),
        (r"\frac{1}{4}", r"\boxed{0.25}", WRONG, CORRECT), ("5", r"\fbox{5}", WRONG, CORRECT), ("5", "", WRONG, UNPARSABLE),
    ],
)  # fmt: skip
def test_math_grades(reference, text, of_release, exact):
    assert grade_math(reference, text, parity=True).kind is of_release
    assert grade_math(reference, text).kind is exact


def test_a_reference_whose_box_is_never_closed_is_quoted():
    with pytest.raises(ValueError, match="unclosed") as caught:
        grade_math(r"\boxed{5", r"\boxed{5}", parity=True)
    assert repr(r"\boxed{5") in str(caught.value)
