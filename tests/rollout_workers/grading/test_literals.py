"""A number is read to its exact value or not at all."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_workers.grading.literals import MAX_DIGITS, PHRASE, read_decimal, read_number

RATIONALS = st.fractions(max_denominator=10**6)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18), ("-18", -18), ("+18", 18), ("- 18", -18), (" 18 ", 18), ("018", 18), ("0", 0), ("-0", 0),
        ("18.00", 18), ("18.", 18), (".5", "1/2"), ("-.5", "-1/2"), ("0.1", "1/10"),
        ("1,234", 1234), ("12,345,678.90", "123456789/10"), ("1e3", 1000), ("1.5E-3", "3/2000"), ("2e+2", 200),
        ("1/2", "1/2"), ("-1/2", "-1/2"), ("1 / 2", "1/2"), ("6/4", "3/2"), ("1,000/3", "1000/3"), ("0.5/2", "1/4"),
        ("3 1/2", "7/2"), ("-3 1/2", "-7/2"),
        (r"\frac{1}{2}", "1/2"), (r"\dfrac{1}{2}", "1/2"), (r"\tfrac12", "1/2"), (r"\frac1{12}", "1/12"),
        (r"\frac{-1}{2}", "-1/2"), (r"-\frac{1}{-2}", "1/2"), (r"\frac {1} {2}", "1/2"), (r"1\frac{4}{5}", "9/5"),
        (r"-137 \frac{1}{2}", "-275/2"),
    ],
)  # fmt: skip
def test_values(text, value):
    assert read_number(text) == Fraction(value)


@pytest.mark.parametrize(
    "text",
    ["", " ", "-", "+", ".", "...", ",", "1.2.3", "1.234.567", "1,23", "1,2345", "1234,567", ",123", "1,,234", "--5", "5-", "5 6",
     "1/0", "1/", "/2", "1/2/3", "3 5/2", "3.5 1/2", "3 -1/2", r"\frac{1}{0}", r"\frac{1}", r"\frac{x}{2}", r"\frac{}{2}", r"\frac",
     "1e", "e5", "1e5.5", "1e1001", "1e-1001", "1e99999999999999", "9" * (MAX_DIGITS + 1), "0x10", "1_000", "٣", "²", "½",
     "inf", "nan", "x", "18 dollars", "10^3"],
)  # fmt: skip
def test_no_values(text):
    assert read_number(text) is None


def test_the_longest_number_is_exact():
    digits = "9" * MAX_DIGITS
    assert read_decimal(digits) == 10**MAX_DIGITS - 1
    assert read_decimal(f"{digits}e1000") == (10**MAX_DIGITS - 1) * Fraction(10) ** 1000
    assert read_number(f"1/{digits}") == Fraction(1, 10**MAX_DIGITS - 1)


@given(RATIONALS)
def test_fractions_are_read_back(value):
    sign, above, below = "-" if value < 0 else "", abs(value.numerator), value.denominator
    whole, rest = divmod(above, below)
    notations = [
        f"{sign}{above}/{below}",
        rf"{sign}\frac{{{above}}}{{{below}}}",
        rf"\dfrac{{{sign}{above}}}{{{below}}}",
    ]
    if whole and rest:
        notations += [f"{sign}{whole} {rest}/{below}", rf"{sign}{whole}\frac{{{rest}}}{{{below}}}"]
    for notation in notations:
        assert read_number(notation) == value, notation


@given(st.integers(-(10**30), 10**30), st.integers(0, 20))
def test_decimals_are_read_back(digits, places):
    value = Fraction(digits, 10**places)
    plain = f"{abs(digits):0{places + 1}d}"
    whole, part = (plain[:-places], plain[-places:]) if places else (plain, "")
    sign = "-" if digits < 0 else ""
    for notation in (f"{sign}{whole}.{part}", f"{sign}{int(whole):,}.{part}00", f"{digits}e-{places}"):
        assert read_number(notation) == value, notation


@given(st.text(alphabet="0123456789.,/-+eE \\{}frac", max_size=40))
def test_any_text_is_read_or_refused(text):
    read_number(text)
    read_decimal(text)


def test_a_phrase_is_never_a_part_of_a_longer_run():
    assert [match[0] for match in PHRASE.finditer("a 1.2.3 b 1,23 c")] == ["1.2.3", "1,23"]
