"""GSM8K answers: where the answer stands, which number it gives, and exact comparison."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_workers.grading.answers import GradeKind
from rollout_workers.grading.numbers import ExtractedNumber, extract_number, grade_number, read_answer, reference_number


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("18", 18), ("-3", -3), ("−3", -3), ("–3", -3), ("+7", 7), ("18.00", 18), ("18.", 18), (".5", "1/2"), ("0018", 18),
        ("1,234", 1234), ("1,000,000.50", "2000001/2"), (r"1{,}234", 1234), (r"11,\! 111,\! 100", 11111100), (r"10\,080", 10080),
        ("10 000", 10000), ("18 000 dollars", 18000), ("10\u202f080", 10080),
        (r"\$18", 18), ("$18", 18), ("-$5", -5), ("$-5", -5), (r"-\$5", -5), ("we lost -$5", -5), ("€5", 5), ("US$18", 18),
        ("50%", 50), (r"18\%", 18), ("18 percent", 18),
        ("18 dollars", 18), ("18 dollars/day", 18), (r"18\text{ dollars}", 18), (r"\text{18}", 18), (r"\text{\$}18", 18),
        (r"\textbf{18}", 18), (r"\boldsymbol{18}", 18), (r"\large 18", 18), (r"18\ \text{eggs}", 18),
        (r"18\;\mathrm{km/h}", 18), (r"18^\circ", 18), (r"18^{\circ}", 18),
        ("**18**", 18), ("**18** dollars", 18), ("it is *18*.", 18), ("18!", 18), ("(18)", 18), (r"\(18\)", 18), (r"\[18\]", 18),
        ("$$18$$", 18), ("18 m^2", 18), (r"18\text{ cm}^2", 18), ("18 m2", 18), ("18 g of CO2", 18), ("Step 2: 18", 18),
        ("The answer is 18.", 18), ("18 (eighteen)", 18), ("word-3", 3), ("total - 18", 18), ("18,", 18),
        ("x = 18", 18), ("x=-3", -3), ("x = -$3", -3), ("18 = x", 18), ("6 + 12 = 18", 18), ("$18 = 6 + 12$, so $x = 18$", 18),
        (r"x \approx 18", 18),
        (r"\frac{1}{2}", "1/2"), (r"\dfrac{36}{2}", 18), (r"-\frac{1}{2}", "-1/2"), (r"\\frac{1}{2}", "1/2"), ("1/2", "1/2"),
        ("3 1/2", "7/2"), (r"3\frac{1}{2}", "7/2"), (r"7\tfrac12", "15/2"), ("3/4 of it", "3/4"),
        ("1.5e3", 1500), (r"1.5 \times 10^3", 1500), (r"1.5\times10^{-3}", "3/2000"), ("1.5 × 10^3 m", 1500), ("1.5 x 10^3", 1500),
        ("18 dollars in 5 days", 5), ("3, 5", 5), ("from 3 to 5", 5),
    ],
)  # fmt: skip
def test_the_number_of_an_answer(source, value):
    assert read_answer(source) == Fraction(value)
    assert extract_number(rf"\boxed{{{source}}}").value == Fraction(value)
    assert extract_number(f"<answer>\n{source}\n</answer>").value == Fraction(value)


@pytest.mark.parametrize(
    "source",
    ["", ".", "...", "eighteen", "x", "½", "٣", "1.234.567", "1,23", "3,5", "1e999999999", "9" * 5000, "1" + "0" * 100_000, "1/0",
     r"\frac{1}{0}", r"\frac{x}{2}", r"\frac{\sqrt{3}}{2}", "9*2", "9 * 2", r"9 \times 2", "9 × 2", "2**3", "2^3", "2^{10}", "5-3",
     "5 - 3", "16-3-4", "18 + x", "5/3/2024", "2:1", "18:30", r"2\pi", r"\sqrt{16}", r"\sqrt[3]{27}", r"\log 5", r"\pm 3", "± 3",
     "USD18", "x_1", "10^6"],
)  # fmt: skip
def test_no_number(source):
    assert read_answer(source) is None
    grade = grade_number("18", f"<answer>{source}</answer>")
    assert (grade.kind, grade.score, grade.answer) == (GradeKind.UNPARSABLE, 0.0, source)


@pytest.mark.parametrize(
    ("text", "value", "source"),
    [
        ("18", None, ""), ("#### 18", None, ""), ("The answer is 18.", None, ""), ("", None, ""), ("<answer>18", None, ""),
        (r"\boxed{18", None, ""), (r"\boxed{}", None, ""), ("<answer></answer>", None, ""),
        (r"\boxed{17} \boxed{18}", 18, "18"), (r"<answer>17</answer> <answer>18</answer>", 18, "18"),
        (r"\boxed{18} <answer>17</answer>", 18, "18"), (r"\boxed{...} <answer>17</answer>", 17, "17"),
        (r"<answer>\boxed{18}</answer>", 18, "18"), (r"\boxed{18} \boxed{none}", None, "none"),
    ],
)  # fmt: skip
def test_where_the_answer_stands(text, value, source):
    assert extract_number(text) == ExtractedNumber(None if value is None else Fraction(value), source)


@pytest.mark.parametrize(
    ("reference", "value"),
    [("18", 18), ("She earns $18.\n#### 18", 18), ("#### $1,234.50", "2469/2"), ("#### -10", -10), ("####18", 18), ("#### 50%", 50),
     ("#### 2.5", "5/2"), ("1/2", "1/2")],
)  # fmt: skip
def test_references(reference, value):
    assert reference_number(reference) == Fraction(value)


@pytest.mark.parametrize("reference", ["", "####", "#### ", "#### eighteen", "18 apples", "#### 1,23", "1 2"])
def test_a_malformed_reference_is_quoted(reference):
    with pytest.raises(ValueError, match="reference answer") as caught:
        grade_number(reference, r"\boxed{18}")
    assert repr(reference) in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "answer", "kind"),
    [
        ("18", "18.000", GradeKind.CORRECT), ("18", "36/2", GradeKind.CORRECT), ("0.1", "1/10", GradeKind.CORRECT),
        ("18", "18.0000001", GradeKind.WRONG), ("18", "-18", GradeKind.WRONG), ("0.3333", "1/3", GradeKind.WRONG),
        ("9007199254740993", "9007199254740992", GradeKind.WRONG), ("0.5", "50%", GradeKind.WRONG),
    ],
)  # fmt: skip
def test_comparison_is_exact(reference, answer, kind):
    grade = grade_number(reference, f"<answer>{answer}</answer>")
    assert (grade.kind, grade.score, grade.answer) == (kind, float(kind is GradeKind.CORRECT), answer)


NOTATIONS = (
    "{}",
    " {} ",
    "${}$",
    r"\({}\)",
    "{}.",
    "x = {}",
    "it is {} dollars",
    "**{}**",
    r"{}\%",
    r"\text{{{}}}",
    "({})",
)


@given(st.fractions(max_denominator=1000), st.sampled_from(NOTATIONS))
def test_every_notation_of_a_fraction_is_read_back(value, frame):
    sign, above, below = "-" if value < 0 else "", abs(value.numerator), value.denominator
    for number in (f"{value}", rf"{sign}\frac{{{above}}}{{{below}}}", rf"{sign}\tfrac{{{above}}}{{{below}}}"):
        assert read_answer(frame.format(number)) == value, frame.format(number)


@given(st.integers(-(10**12), 10**12), st.sampled_from(NOTATIONS))
def test_every_notation_of_an_integer_is_read_back(value, frame):
    for number in (
        f"{value}",
        f"{value:,}",
        f"{value:,}".replace(",", "{,}"),
        f"{value}.00",
        f"{value}".replace("-", "−"),
        rf"\${value}",
    ):
        assert read_answer(frame.format(number)) == value, frame.format(number)
