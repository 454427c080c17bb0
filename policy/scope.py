"""Where on the canvas an unmasker wants predictions."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """At which positions an unmasker wants predictions; the others report a confidence of 1."""

    BLOCK = "block"
    """Masked positions of each row's current block."""
    MASKED = "masked"
    """All masked positions of the canvas."""
    CANVAS = "canvas"
    """Every position, committed ones too (what the reference release of arXiv 2512.09106 feeds its policy)."""
