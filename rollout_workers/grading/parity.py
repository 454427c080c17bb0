r"""Answer extraction and equality as the reference release has them, quirks included, for comparing with its published numbers.

Invariant: for every text these functions give what the release's own code gives; nothing here is a judgement of what is right.
Used only where a task is configured with `parity: true`. Source: `parse_and_get_acc.py`, `parser_utils.py` and `reward_func.py` of
the release of arXiv 2512.09106, after d1 (dllm-reasoning/d1) and Hendrycks et al., arXiv 2103.03874.

What differs from the exact graders:

- numbers: the first box with a readable number wins; its content ends at the first `}` and is cut to its first digits:
  `\boxed{1,234}` is 1, `\boxed{\$18}` is 18, `\boxed{\frac{1}{2}}` is 1. Between answer tags the last digits count: `1,234` is 234;
- MATH: a text without a box is its own answer, as a whole; an unclosed last box is no answer, and `\boxed ` with a space beats
  every box; strings that cannot be normalised are compared raw; two missing answers are equal.
"""

from __future__ import annotations

import re

from rollout_workers.grading.answers import Grade, GradeKind

TOLERANCE = 1e-6
"""Of rewards; the release's evaluation compares floats with `==`."""

_NUMBER = re.compile(r"-?\d+\.?\d*")
_SPACED_BOX = "\\boxed "
_BRACED_BOX = "\\boxed{"


class _Unreadable(ValueError):
    """A string at which the release's normalisation raises."""


def extract_number(text: str) -> float | None:
    """The number that the release reads from a GSM8K response."""
    for content in _box_contents(text):
        if content.strip("."):
            value = _number_in(content, take=0)
            if value is not None:
                return value
    answer = _first_answer(text)
    return None if answer is None else _number_in(answer, take=-1)


def reference_number(reference: str) -> float:
    """The release's value of a ground truth, from what follows the first `####` where there is one.

    Raises:
        ValueError: it is not a number.
    """
    answer = reference.split("####")[1] if "####" in reference else reference
    try:
        return float(answer.replace(" ", "").replace(",", ""))
    except ValueError as error:
        raise ValueError(f"reference answer {reference!r} is not a number") from error


def grade_number(reference: str, text: str, *, tolerance: float = TOLERANCE) -> Grade:
    """The release's verdict on a GSM8K response; `tolerance=0` compares with `==`, as its evaluation does.

    Raises:
        ValueError: the reference is malformed.
    """
    expected, value = reference_number(reference), extract_number(text)
    if value is None:
        return Grade(GradeKind.UNPARSABLE, 0.0, "")
    is_correct = value == expected if tolerance == 0 else abs(value - expected) < tolerance
    return _grade(is_correct, repr(value))


def extract_math(text: str, *, answer_tags: bool = False) -> str | None:
    """The release's answer of a MATH response or solution; None where it raises or finds an unclosed box.

    Args:
        answer_tags: as in the release's evaluation, an empty or missing answer is replaced by the first `<answer>` content.
    """
    answer = _unboxed(text)
    if answer_tags and not answer:
        tagged = _first_answer(text)
        return answer if tagged is None else tagged
    return answer


def equivalent(first: str | float | None, second: str | float | None) -> bool:
    """The release's equality of MATH answers. Two missing answers are equal."""
    if isinstance(first, float) or isinstance(second, float):
        return first is not None and second is not None and _close(first, second)
    if first is None or second is None:
        return first is second
    try:
        return normalise(first) == normalise(second)
    except _Unreadable:
        return first == second


def grade_math(reference: str, text: str) -> Grade:
    """The release's verdict on a MATH response; `reference` is a final answer or a whole solution.

    Raises:
        ValueError: the last box of the reference is never closed (the release stops there too).
    """
    expected, answer = extract_math(reference), extract_math(text)
    if expected is None:
        raise ValueError(f"reference answer {reference!r} has an unclosed box")
    if answer is None:
        return Grade(GradeKind.UNPARSABLE, 0.0, "")
    return _grade(equivalent(answer, expected), answer)


def normalise(text: str) -> str:
    """The release's normal form of a MATH answer.

    Raises:
        ValueError: where the release's code raises.
    """
    for old, new in (("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
                     ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", "")):  # fmt: skip
        text = text.replace(old, new)
    text, *units = text.split("\\text{ ")
    if len(units) > 1:
        raise _Unreadable("two units")
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text.startswith("."):
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    return _slash_fraction("\\frac{1}{2}" if text == "0.5" else text)


def _box_contents(text: str) -> list[str]:
    r"""What `\\boxed{(.*?)}` finds, stripped; written out because that expression takes quadratic time on unclosed boxes."""
    contents = []
    for line in text.split("\n"):
        start = line.find(_BRACED_BOX)
        while start >= 0:
            start += len(_BRACED_BOX)
            end = line.find("}", start)
            if end < 0:
                break
            contents.append(line[start:end].strip())
            start = line.find(_BRACED_BOX, end + 1)
    return contents


def _first_answer(text: str) -> str | None:
    start = text.find("<answer>")
    end = text.find("</answer>", max(start, 0))
    return text[start + len("<answer>") : end].strip() if start >= 0 and end >= 0 else None


def _number_in(content: str, *, take: int) -> float | None:
    """`float(content)`, or else the number at index `take` of those in it."""
    try:
        return float(content)
    except ValueError:
        numbers = _NUMBER.findall(content)
        return float(numbers[take]) if numbers else None


def _unboxed(text: str) -> str | None:
    if _SPACED_BOX in text:
        return text.rpartition(_SPACED_BOX)[2].split("$", 1)[0]
    start = text.rfind("\\boxed")
    if start < 0:
        start = text.rfind("\\fbox")
    if start < 0:
        return text
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0 and brace[0] == "}":
            box = text[start : start + brace.end()]
            return box[len(_BRACED_BOX) : -1] if box.startswith(_BRACED_BOX) else box
    return None


def _close(first: str | float, second: str | float) -> bool:
    try:
        return abs(float(first) - float(second)) < TOLERANCE
    except ValueError:
        return False


def _braced_roots(text: str) -> str:
    head, *tails = text.split("\\sqrt")
    if "" in tails:
        raise _Unreadable("a root of nothing")
    return "".join([head, *(f"\\sqrt{tail}" if tail[0] == "{" else f"\\sqrt{{{tail[0]}}}{tail[1:]}" for tail in tails)])


def _braced_fractions(text: str) -> str:
    head, *tails = text.split("\\frac")
    parts = [head]
    for tail in tails:
        if not tail:
            raise _Unreadable("a fraction of nothing")
        if tail[0] == "{":
            parts.append(f"\\frac{tail}")
        elif len(tail) < 2:
            return text
        elif tail[1] == "{":
            parts.append(f"\\frac{{{tail[0]}}}{tail[1:]}")
        else:
            parts.append(f"\\frac{{{tail[0]}}}{{{tail[1]}}}{tail[2:]}")
    return "".join(parts)


def _slash_fraction(text: str) -> str:
    sides = text.split("/")
    if len(sides) != 2:
        return text
    try:
        above, below = int(sides[0]), int(sides[1])
    except ValueError as error:
        raise _Unreadable(str(error)) from error
    return f"\\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text


def _grade(is_correct: bool, answer: str) -> Grade:
    return Grade(GradeKind.CORRECT, 1.0, answer) if is_correct else Grade(GradeKind.WRONG, 0.0, answer)
