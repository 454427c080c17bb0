r"""Exact integer arithmetic as written: `+ - * /` and parentheses over integers, evaluated in fractions.

Invariant: nothing is executed. A text is read by a tokenizer and a grammar that know nothing else, within fixed limits on tokens,
digits and nesting, so that every text ends in a value or an `ExpressionError` in time linear in its length. Typographic signs are
accepted for the operators: `× · \times \cdot`, `÷ \div`, `−`, and `\left( \right)`, `\frac{a}{b}`.

    sum     = product (("+" | "-") product)*
    product = signed (("*" | "/") signed)*
    signed  = ("+" | "-")* operand
    operand = integer | "(" sum ")" | "\frac" "{" sum "}" "{" sum "}"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_TOKENS = 200
MAX_DIGITS = 20
"""Of one integer."""
MAX_DEPTH = 50

_SIGNS = str.maketrans(dict.fromkeys("−–﹣－", "-") | dict.fromkeys("×·⋅∙", "*") | dict.fromkeys("÷∕", "/"))
_COMMANDS = {r"\times": "*", r"\cdot": "*", r"\ast": "*", r"\div": "/", r"\left": "", r"\right": ""}
_COMMANDS |= dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac")
_COMMANDS |= dict.fromkeys((r"\,", r"\;", r"\:", r"\!", "\\ ", r"\(", r"\)", r"\[", r"\]"), "")
_TOKEN = re.compile(
    r"(?P<integer>[0-9]++)|(?P<sign>[-+*/(){}])|(?P<command>\\(?:[A-Za-z]++|.))|(?P<space>\s++)|(?P<other>.)", re.DOTALL
)


class ExpressionError(ValueError):
    """The text is no expression, or one beyond the limits."""


@dataclass(frozen=True, slots=True)
class Expression:
    """What was read."""

    value: Fraction | None
    """None: somewhere it divides by zero."""
    numbers: tuple[int, ...]
    """The integers written in it, in order."""


def read_expression(text: str) -> Expression:
    """Reads and evaluates the whole of `text`.

    Raises:
        ExpressionError: it is no expression of the grammar above, or larger than the limits allow.
    """
    tokens = _tokens(text)
    reader = _Reader(tokens)
    value: Fraction | None = reader.read_sum(0)
    if reader.peek():
        raise ExpressionError(f"{reader.peek()!r} where the expression should end or go on with an operator")
    if reader.divides_by_zero:
        value = None
    return Expression(value, tuple(int(token) for token in tokens if token.isdecimal()))


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    for match in _TOKEN.finditer(text.translate(_SIGNS)):
        token = match[0]
        if match["space"]:
            continue
        if match["command"]:
            token = _COMMANDS.get(token, token)
            if not token:
                continue
        if match["other"] or (token.startswith("\\") and token != r"\frac"):
            raise ExpressionError(f"{token!r} is neither an integer nor one of + - * / ( )")
        if len(token) > MAX_DIGITS:
            raise ExpressionError(f"an integer of {len(token)} digits; at most {MAX_DIGITS} are read")
        if len(tokens) == MAX_TOKENS:
            raise ExpressionError(f"more than {MAX_TOKENS} numbers and signs")
        tokens.append(token)
    return tokens


class _Reader:
    """Recursive descent over the tokens; each method reads one rule of the grammar and returns its value."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0
        self.divides_by_zero = False
        """Then the values mean nothing; only the grammar is still checked."""

    def peek(self) -> str:
        """The next token, empty at the end."""
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def read_sum(self, depth: int) -> Fraction:
        total = self._read_product(depth)
        while self.peek() in ("+", "-"):
            is_plus = self._take() == "+"
            term = self._read_product(depth)
            total = total + term if is_plus else total - term
        return total

    def _read_product(self, depth: int) -> Fraction:
        product = self._read_signed(depth)
        while self.peek() in ("*", "/"):
            is_times = self._take() == "*"
            factor = self._read_signed(depth)
            product = product * factor if is_times else self._divide(product, factor)
        return product

    def _read_signed(self, depth: int) -> Fraction:
        is_negative = False
        while self.peek() in ("+", "-"):
            is_negative ^= self._take() == "-"
        value = self._read_operand(depth)
        return -value if is_negative else value

    def _read_operand(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"nested more than {MAX_DEPTH} deep")
        token = self._take()
        if token == "(":
            return self._read_group(")", depth)
        if token == r"\frac":
            above = self._read_argument(depth)
            return self._divide(above, self._read_argument(depth))
        if not token.isdecimal():
            raise ExpressionError(
                f"{token!r} where a number should be" if token else "it ends where a number should be"
            )
        return Fraction(int(token))

    def _read_argument(self, depth: int) -> Fraction:
        if self._take() != "{":
            raise ExpressionError(r"\frac without a braced argument")
        return self._read_group("}", depth)

    def _read_group(self, closing: str, depth: int) -> Fraction:
        value = self.read_sum(depth + 1)
        if self._take() != closing:
            raise ExpressionError(f"a {closing!r} is missing")
        return value

    def _divide(self, above: Fraction, below: Fraction) -> Fraction:
        if not below:
            self.divides_by_zero = True
            return Fraction(0)
        return above / below

    def _take(self) -> str:
        token = self.peek()
        self._next += 1
        return token
