"""Parameters of samplers: their names, defaults and limits. This module imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Value = float | int | str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a sampler."""

    name: str
    default: Value
    parse: Callable[[object], Value]
    """Raises a ValueError that quotes the value and says what is allowed."""
    help: str


def integer(name: str, default: int, help: str, *, minimum: int = 1) -> Parameter:
    """An integer of at least `minimum`."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"is {value!r}; allowed: an integer >= {minimum}")
        return value

    return Parameter(name, default, parse, help)


def probability(name: str, default: float, help: str) -> Parameter:
    """A number from 0 to 1."""

    def parse(value: object) -> float:
        if not _is_number(value) or not 0 <= float(value) <= 1:  # type: ignore[arg-type]
            raise ValueError(f"is {value!r}; allowed: a number in [0, 1]")
        return float(value)  # type: ignore[arg-type]

    return Parameter(name, default, parse, help)


def number(name: str, default: float, help: str, *, zero: bool = False) -> Parameter:
    """A finite number above 0, or from 0 on."""

    def parse(value: object) -> float:
        if not _is_number(value) or not (0 < float(value) < math.inf or (zero and value == 0)):  # type: ignore[arg-type]
            raise ValueError(f"is {value!r}; allowed: a number {'>=' if zero else '>'} 0")
        return float(value)  # type: ignore[arg-type]

    return Parameter(name, default, parse, help)


def text(name: str, default: str, help: str) -> Parameter:
    """Any text."""

    def parse(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"is {value!r}; allowed: text")
        return value

    return Parameter(name, default, parse, help)


def choice(name: str, options: tuple[str, ...], help: str) -> Parameter:
    """One of `options`, the first being the default."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            raise ValueError(f"is {value!r}; allowed: {', '.join(options)}")
        return value

    return Parameter(name, options[0], parse, help)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
