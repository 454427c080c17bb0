r"""Final answers in `\boxed{...}` or `\fbox{...}`: brace-matched, the last one that holds anything.

Invariant: time is linear in the text. Escaped braces (`\{`, `\}`) are content and neither open nor close a group.
"""

from __future__ import annotations

import re

MAX_BOXES = 100
"""How many boxes, from the end, are searched for one with content."""
MAX_BARE_CHARS = 500
"""How far the content of a box without braces is looked for."""

_TOKEN = re.compile(r"(?P<box>\\{1,2}(?:boxed|fbox)(?![A-Za-z]))\s*+(?P<open>\{)?|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_HAS_CONTENT = re.compile(r"[^\s.…]")
_ONLY_DOTS = re.compile(r"\\[lc]?dots")
_FORMULA_END = re.compile(r"\$|\\[)\]]|</")
_NO_ANSWER = re.compile(r"[A-Za-z]{2}|\}")


def last_boxed(text: str) -> str | None:
    r"""The stripped content of the box that starts last among those with content, or None.

    Final answers come last, so the last box counts and earlier ones are working. Boxes that are empty, hold only dots (an echo of
    the instructions) or are never closed are passed over. `\boxed 5` counts too: its content goes to the end of the formula where
    one ends on the same line, and otherwise is one word, which must not be prose (two letters or more).
    """
    for start, end in reversed(_spans(text)[-MAX_BOXES:]):
        content = (_bare_content(text, start) if end is None else text[start:end]).strip()
        if has_content(content):
            return content
    return None


def has_boxed(text: str) -> bool:
    """Whether a box begins anywhere in `text`, well-formed or not."""
    return _BOX.search(text) is not None


def has_content(answer: str) -> bool:
    """Whether `answer` holds more than white space and dots."""
    return _HAS_CONTENT.search(_ONLY_DOTS.sub("", answer)) is not None


def _spans(text: str) -> list[tuple[int, int | None]]:
    """(start, end) of the content of each closed box, in order of their starts; `end` is None for a box without braces."""
    first = _BOX.search(text)
    if first is None:
        return []
    spans: list[tuple[int, int | None]] = []
    open_groups: list[int | None] = []  # where the content of a box starts; None for a group that is no box
    for match in _TOKEN.finditer(text, max(first.start() - 1, 0)):
        token = match[0]
        if token == "{":
            open_groups.append(None)
        elif token == "}":
            start = open_groups.pop() if open_groups else None
            if start is not None:
                spans.append((start, match.start()))
        elif match["open"]:
            open_groups.append(match.end())
        elif match["box"]:
            spans.append((match.end(), None))
    return sorted(spans, key=lambda span: span[0])


def _bare_content(text: str, start: int) -> str:
    if not text[start - 1 : start].isspace() or _NO_ANSWER.match(text, start):
        return ""
    line = text[start : start + MAX_BARE_CHARS].split("\n", 1)[0]
    formula_end = _FORMULA_END.search(line)
    if formula_end is not None:
        return line[: formula_end.start()]
    return line.split(maxsplit=1)[0] if line.strip() else ""
