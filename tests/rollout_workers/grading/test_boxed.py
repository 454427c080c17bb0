"""The last box with content, brace-matched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_workers.grading.boxed import has_boxed, has_content, last_boxed

PIECES = st.sampled_from(
    [r"\boxed{", r"\fbox{", r"\boxed ", "{", "}", r"\{", r"\}", "\\", "1", " ", "\n", "$", "..", "a"]
)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{18}", "18"), (r"so $\boxed{ 18 }$.", "18"), (r"\fbox{18}", "18"), (r"\boxed {18}", "18"), ("\\boxed\n{18}", "18"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"), (r"\boxed{\{1, 2\}}", r"\{1, 2\}"), (r"\boxed{[0, 1\}}", r"[0, 1\}"),
        (r"\boxed{x\\}", r"x\\"), (r"\\boxed{18}", "18"), ("\\boxed{1\n2}", "1\n2"),
        (r"\boxed{1} then \boxed{2}", "2"), (r"\boxed{1} then \fbox{2}", "2"), (r"\fbox{1} then \boxed{2}", "2"),
        (r"\boxed{1} then \boxed{}", "1"), (r"\boxed{1} then \boxed{...}", "1"), (r"\boxed{1} then \boxed{\dots}", "1"),
        (r"\boxed{1} then \boxed{2", "1"), (r"\boxed{1 then \boxed{2}", "2"), (r"\boxed{x = \boxed{2}}", "2"),
        (r"{ ( \boxed{2} and a lone } { here", "2"),
        (r"\boxed 5", "5"), (r"$\boxed 5$.", "5"), (r"\(\boxed -5\)", "-5"), (r"$\boxed x = 5$", "x = 5"), ("\\boxed 5\n6$", "5"),
        (r"\boxed 5 is it", "5"), (r"\boxed \frac{1}{2}$", r"\frac{1}{2}"), (r"<answer>\boxed 5</answer>", "5"),
        (r"\boxed{4} or \boxed 5", "5"), (r"\boxed{4}, in a \boxed as told", "4"),
    ],
)  # fmt: skip
def test_content(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    "text",
    ["", "18", "boxed{18}", r"\box{18}", r"\boxedx{18}", r"\boxed", r"\boxed{", r"\boxed{18", r"\boxed{\frac{1}{2}", r"\boxed{18\}",
     r"\boxed{}", r"\boxed{ . . }", r"\boxed{…}", r"put it in \boxed as told", r"\boxed }"],
)  # fmt: skip
def test_no_content(text):
    assert last_boxed(text) is None


@given(st.lists(PIECES, max_size=12).map("".join))
def test_agrees_with_matching_each_box_alone(text):
    def closing(start):
        depth, position = 1, start
        while position < len(text):
            if text[position] == "\\":
                position += 1
            elif text[position] in "{}":
                depth += 1 if text[position] == "{" else -1
                if depth == 0:
                    return position
            position += 1
        return None

    for name in (r"\boxed{", r"\fbox{"):
        text = text.replace("\\" + name, name)
    starts = [i + len(name) for name in (r"\boxed{", r"\fbox{") for i in range(len(text)) if text.startswith(name, i)]
    contents = [text[start : closing(start)].strip() for start in sorted(starts) if closing(start) is not None]
    filled = [content for content in contents if has_content(content)]
    if r"\boxed " not in text:
        assert last_boxed(text) == (filled[-1] if filled else None)


@given(st.text())
def test_any_text(text):
    last_boxed(text)
    assert last_boxed(text + r"\boxed{7}") in ("7", None)


def test_whether_a_box_begins():
    assert has_boxed(r"a \boxed{")
    assert has_boxed(r"\fbox 5")
    assert not has_boxed("boxed")
    assert not has_boxed(r"\boxedx")
