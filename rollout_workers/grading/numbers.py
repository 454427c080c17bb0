r"""GSM8K answers: the number that a decoded text gives as its answer, read exactly and compared exactly.

The answer is the last box with content (`boxed.last_boxed`), else the content of the last `<answer>...</answer>`; a text with
neither is unparsable, whatever numbers it mentions. Inside it:

- the part after the last `=` counts if it has a digit (`6 + 12 = 18` is 18);
- the last number of that part counts (`18 dollars a day`, `**18**`, `18 eggs in 2 boxes` is 2); exponents and subscripts of units
  and digits glued to a word (`m^2`, `CO2`) are no numbers;
- currency signs, units, text commands and the percent sign are dropped: `50%` is 50, as in GSM8K's references;
- a number is no answer, and the text unparsable, where it is malformed (`1.234.567`, `1,23`), an operand of arithmetic that was
  left undone (`9 * 2`, `2^3`, `3-4`, `18 + x`, `10_2`), or the argument or factor of a command (`\sqrt{16}`, `2\pi`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rollout_workers.grading import parity as reference_release
from rollout_workers.grading.answers import Grade, GradeKind, last_answer
from rollout_workers.grading.boxed import last_boxed
from rollout_workers.grading.literals import PHRASE, read_number, read_phrase

MAX_SOURCE_CHARS = 2_000
"""Of a longer answer only the end is read, where the last number is."""
_WINDOW = 48
"""How much text around a number decides what it is part of."""

_THIN_SPACE = "\u2009"
_SYMBOLS = str.maketrans(
    dict.fromkeys("−‐‑‒–﹣－", "-")
    | dict.fromkeys("$€£¥₹¢%°~", " ")
    | dict.fromkeys("\u00a0\u202f", _THIN_SPACE)
    | dict.fromkeys("×⋅·∙", "*")
    | {"÷": "/", "∶": ":"}
)
_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[A-Za-z])")
_NEGATIVE_SPACE = re.compile(r"\\!\s*+")
_MINUS_CURRENCY = re.compile(r"(?<=-) ?\\?[$€£¥₹]")
_COMMAND = re.compile(r"\\(?:([A-Za-z]+)\*?|(.))", re.DOTALL)
_OPERATORS = {"times": "*", "cdot": "*", "ast": "*", "div": "/", "pm": "±", "mp": "±"}
_NEUTRAL = re.compile(
    "text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt)|[mh]box|emph|underline|operatorname|boldsymbol|bm|boxed|fbox|bf|rm|it"
    "|(?:display|text)style|[lL]arge|LARGE|[hH]uge|small|left|right|[bB]ig[lr]?|q?quad|(?:en)?space|newline"
    "|approx|therefore|implies|(?:Long)?[rR]ightarrow|to|colon|circ|degree|euro|pounds"
)
"""Commands that change how a number looks and not what it is."""

_DEGREES = re.compile(r"\^ ?\{? ?\\(?:circ|degree)(?![A-Za-z]) ?\}?")
_EMPHASIS = re.compile(
    r"(?<![0-9)])\*\*+|\*\*+(?! ?[0-9(])|(?<![0-9A-Za-z)}\]*])\*(?=[^ *])|(?<=[^ *])\*(?!\*| ?[0-9({\\]|[A-Za-z])"
)
"""Asterisks of Markdown, and not of a product or a power."""
_THIN_GROUP = re.compile(rf"(?<=[0-9]){_THIN_SPACE}(?=[0-9]{{3}}(?![0-9]))")
_SPACED_GROUPS = re.compile(r"(?<![0-9A-Za-z.,^_])[0-9]{1,3}(?: [0-9]{3})++(?![0-9])")
_POWER_OF_TEN = re.compile(r"(?<=[0-9]) ?[*x] ?10 ?\^ ?(?:\{ ?([-+]?[0-9]++) ?\}|([-+]?[0-9]++))")
_FRACTION_COMMAND = re.compile(r"\\[dtc]?frac")

_DIGIT = re.compile(r"[0-9]")
_LABEL = re.compile(r"(?:[A-Za-z]|[\^_] ?\{? ?[-+]?)$")
_OPERAND_OF = re.compile(r"(?:[0-9]:|(?:[0-9A-Za-z)}\]] ?[*/+^]{1,2}|±|\\[A-Za-z]+ ?(?:\[[^\]]*\])? ?[{(]?|\}\{) ?)$")
_OPERATED_ON = re.compile(r" ?(?:[*+^_] ?[0-9A-Za-z({\\]|/ ?[0-9({\\]|:[0-9]|\\[A-Za-z])")
_MINUS = re.compile(r"(?P<left>.?)(?P<apart> ?)-(?P<gap> ?)$")


@dataclass(frozen=True, slots=True)
class ExtractedNumber:
    """The answer of one text."""

    value: Fraction | None
    """None: unparsable."""
    source: str
    """What stood in the box or between the tags; empty where there was neither."""


def extract_number(text: str) -> ExtractedNumber:
    """The number that `text` answers with, by the rules at the top of this module."""
    source = last_boxed(text)
    if source is None:
        source = last_answer(text) or ""
    return ExtractedNumber(read_answer(source), source)


def read_answer(source: str) -> Fraction | None:
    """The number that the content of a box or of answer tags gives, or None."""
    text = _plain(source[-MAX_SOURCE_CHARS:])
    tail = text.rpartition("=")[2]
    if not _DIGIT.search(tail):
        tail = text
    phrases = [match for match in PHRASE.finditer(tail) if _DIGIT.search(match[0])]
    if len(_FRACTION_COMMAND.findall(tail)) != sum("frac" in match[0] for match in phrases):
        return None
    for match in reversed(phrases):
        if not _LABEL.search(tail[max(match.start() - _WINDOW, 0) : match.start()]):
            return _signed_value(tail, match)
    return None


def reference_number(reference: str) -> Fraction:
    """The value of a ground truth: `18`, `$1,234.50`, `-3`, `50%`, or a whole solution that ends with `#### 18`.

    Raises:
        ValueError: it is anything else.
    """
    answer = reference.rpartition("####")[2]
    value = read_number(" ".join(answer.replace("$", "").replace("%", "").split()))
    if value is None:
        raise ValueError(f"reference answer {reference!r} is not a number")
    return value


def grade_number(reference: str, text: str, *, parity: bool = False) -> Grade:
    """Whether `text` answers with exactly the number `reference` (as `reference_number` takes it).

    Args:
        parity: the reference release's extraction and comparison, quirks included (`grading/parity.py`).

    Raises:
        ValueError: the reference is malformed.
    """
    if parity:
        return reference_release.grade_number(reference, text)
    expected = reference_number(reference)
    answer = extract_number(text)
    if answer.value is None:
        return Grade(GradeKind.UNPARSABLE, 0.0, answer.source)
    if answer.value == expected:
        return Grade(GradeKind.CORRECT, 1.0, answer.source)
    return Grade(GradeKind.WRONG, 0.0, answer.source)


def _plain(source: str) -> str:
    """`source` with commands, symbols and spacing reduced to what `PHRASE` and the rules about its surroundings read."""
    text = _DOUBLED_BACKSLASH.sub(r"\\", source.replace("{,}", ","))
    text = _MINUS_CURRENCY.sub("", _NEGATIVE_SPACE.sub("", text))
    text = _COMMAND.sub(_plain_command, _DEGREES.sub(" ", text)).translate(_SYMBOLS)
    text = " ".join(_EMPHASIS.sub(" ", _THIN_GROUP.sub("", text)).split())
    text = _POWER_OF_TEN.sub(lambda match: f"e{match[1] or match[2]} ", text)
    return _SPACED_GROUPS.sub(lambda match: match[0].replace(" ", ""), text)


def _plain_command(match: re.Match[str]) -> str:
    name, symbol = match[1], match[2]
    if name is None:
        return _THIN_SPACE if symbol in ",;: " else " "
    if _NEUTRAL.fullmatch(name):
        return " "
    return _OPERATORS.get(name) or match[0]


def _signed_value(text: str, match: re.Match[str]) -> Fraction | None:
    """The value of a number with its sign, or None where it is malformed or only a part of something else."""
    before = text[max(match.start() - _WINDOW, 0) : match.start()]
    value = read_phrase(match)
    if value is None or _OPERATED_ON.match(text, match.end()) or _OPERAND_OF.search(before):
        return None
    minus = _MINUS.search(before)
    if minus is None:
        return value
    left, is_glued, is_apart = minus["left"], not minus["gap"], bool(minus["apart"])
    if (is_glued and is_apart) or not left or not (left.isalnum() or left in ")}]"):
        return -value
    return value if left.isalpha() else None
