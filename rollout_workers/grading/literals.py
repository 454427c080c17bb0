"""Exact numbers as they are written: integers, decimals, thousands groups, fractions, mixed numbers, powers of ten.

Invariant: a number is read to its exact rational value or not at all. Work is linear in the text, and no text, however long, makes
`int` or a power of ten expensive.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 1000
"""Longer digit strings are not read, nor larger exponents of ten."""

_DIGITS = r"[0-9.,]++(?:[eE][-+]?[0-9]++(?![0-9A-Za-z]|[.,][0-9]))?"
"""A whole run of digits and separators, well-formed or not, so that a part of a malformed one is never taken for a number."""
_ARGUMENT = r"(?:\{{(?P<{0}_group>[^{{}}]*+)\}}|(?P<{0}_digit>[0-9]))"

PHRASE = re.compile(
    rf"(?:(?P<frac_whole>{_DIGITS}) ?)?\\[dtc]?frac ?{_ARGUMENT.format('above')} ?{_ARGUMENT.format('below')}"
    rf"|(?:(?P<slash_whole>{_DIGITS}) )?(?P<above>{_DIGITS}) ?/ ?(?P<below>{_DIGITS})"
    rf"|(?P<decimal>{_DIGITS})"
)
r"""Anything that may be an unsigned number: `\frac{1}{2}`, `3\frac12`, `1/2`, `3 1/2`, `1,234.5`, `1e3`.

White space must come as single spaces."""

_DECIMAL = re.compile(
    r"(?P<sign>[-+]?) ?(?P<whole>[0-9]{1,3}(?:,[0-9]{3})++|[0-9]*+)(?:\.(?P<part>[0-9]*+))?(?:[eE](?P<exponent>[-+]?[0-9]++))?"
)
_SIGN = re.compile(r"[-+]? ?")


def read_decimal(text: str) -> Fraction | None:
    """The value of `text` if it is one decimal number, whole and nothing else: `-1,234.50`, `.5`, `18.`, `1.5e3`."""
    match = _DECIMAL.fullmatch(text.strip())
    if match is None:
        return None
    whole, part, exponent = match["whole"].replace(",", ""), match["part"] or "", match["exponent"] or "0"
    if not 0 < len(whole) + len(part) <= MAX_DIGITS or len(exponent) > len(str(MAX_DIGITS)) + 1:
        return None
    if abs(int(exponent)) > MAX_DIGITS:
        return None
    value = int(whole + part) * Fraction(10) ** (int(exponent) - len(part))
    return -value if match["sign"] == "-" else value


def read_phrase(match: re.Match[str]) -> Fraction | None:
    """The value of a match of `PHRASE`, or None where it is malformed: `1.234.567`, `1,23`, `1/0`, `3 5/2`."""
    if match["decimal"] is not None:
        return read_decimal(_unpunctuated(match["decimal"]))
    if match["above"] is not None:
        above, below = read_decimal(match["above"]), read_decimal(_unpunctuated(match["below"]))
    else:
        above = read_decimal(match["above_group"] or match["above_digit"] or "")
        below = read_decimal(match["below_group"] or match["below_digit"] or "")
    if above is None or not below:
        return None
    whole_text = match["frac_whole"] or match["slash_whole"]
    if whole_text is None:
        return above / below
    whole = read_decimal(whole_text)
    is_mixed = whole is not None and all(each.denominator == 1 for each in (whole, above, below)) and 0 <= above < below
    return whole + above / below if whole is not None and is_mixed else None


def read_number(text: str) -> Fraction | None:
    r"""The value of `text` if it is one number, whole and nothing else, in any notation of `PHRASE` after an optional sign."""
    text = text.strip()
    sign = _SIGN.match(text)
    assert sign is not None
    match = PHRASE.fullmatch(text, sign.end())
    value = None if match is None else read_phrase(match)
    return -value if value is not None and sign[0].startswith("-") else value


def _unpunctuated(run: str) -> str:
    """`run` without what belongs to the sentence: a final full stop or comma, an ellipsis in front."""
    run = run.rstrip(".,")
    return run.lstrip(".") if run.startswith("..") else run
