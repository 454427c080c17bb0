"""Notation that typesets the same becomes the same string, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rollout_workers.grading.math_normalisation import normalise


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("5", "5"), (" 5 ", "5"), ("5.", "5"), ("$5$", "5"), (r"\(5\)", "5"), (r"\[5\]", "5"), ("{5}", "5"), ("−5", "-5"),
        (r"\$5", "5"), (r"5\%", "5"), ("5%", "5"), (r"90^\circ", "90"), (r"90^{\circ}", "90"), ("90°", "90"),
        ("10,080", "10080"), (r"10,\!080", "10080"), ("10{,}080", "10080"), (r"10\,080", "10080"), (r"\$32,\!348", "32348"),
        (r"11,\! 111,\! 111,\! 100", "11111111100"), ("x = 10,080", "x=10080"), ("100, 200", "100,200"), ("1,2", "1,2"),
        ("(10,080)", "(10,080)"), ("1 2", "1 2"), ("1,-2", "1,-2"), ("3, 5, 7", "3,5,7"), ("1,2345", "1,2345"),
        (".5", "0.5"), ("-.5", "-0.5"), ("(.5,x)", "(0.5,x)"), ("1.5", "1.5"),
        (r"\dfrac12", r"\frac{1}{2}"), (r"\tfrac 1 2", r"\frac{1}{2}"), (r"\frac9{19}", r"\frac{9}{19}"),
        (r"\frac{270}7", r"\frac{270}{7}"), (r"\frac\pi2", r"\frac{\pi}{2}"), (r"\frac{\sqrt3}7", r"\frac{\sqrt{3}}{7}"),
        (r"\frac{1}{\frac12}", r"\frac{1}{\frac{1}{2}}"), (r"\\frac{1}{2}", r"\frac{1}{2}"), (r"\sqrt3", r"\sqrt{3}"),
        (r"11\sqrt 2", r"11\sqrt{2}"), (r"\sqrt[3]2", r"\sqrt[3]{2}"), (r"\sqrt\pi", r"\sqrt{\pi}"), ("√3", r"\sqrt{3}"),
        ("1/2", r"\frac{1}{2}"), ("-1/2", r"-\frac{1}{2}"), ("(1/2,x)", r"(\frac{1}{2},x)"), ("1/2/3", "1/2/3"), ("1/2x", "1/2x"),
        ("x^{2}", "x^2"), ("x^{10}", "x^{10}"), ("4210_{5}", "4210_5"), (r"\pi r^2", r"\pi r^2"), (r"2 \pi", r"2\pi"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"), (r"\left.x\right|", "x|"), (r"a\leftarrow b", r"a\leftarrow b"),
        (r"\left\{ 1 \right\}", r"\{1\}"), (r"x \leq 3", r"x\le3"), ("x ≤ 3", r"x\le3"), (r"a \; b", "ab"), ("a~b", "ab"),
        (r"5.4 \text{ cents}", "5.4"), (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"), (r"864 \mbox{ inches}^2", "864"),
        (r"15\mbox{ cm}^{2}", "15"), (r"5 \text{ m}\text{/s}", "5"), (r"2\mathrm{e}", "2e"), (r"3+2\text{i}", "3+2i"),
        (r"2\mathbf{v}", "2v"), (r"x=\text{no}", "x=no"), (r"10_\text{six}", "10_six"), (r"5\text{ (mod 7)}", "5(mod7)"),
        (r"\text{Evelyn}", "Evelyn"), (r"\text{(C)}", "C"), ("(C)", "C"), (r"\mathrm{(C)}", "C"), ("(x+1)", "(x+1)"),
        (r"3 \text{ or } 5", "3,5"), (r"3\text{ and }5", "3,5"), ("x = 5 or x = -5", "x=5,x=-5"), ("android", "android"),
        (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{pmatrix}-\frac{1}{3}\\\frac{2}{3}\end{pmatrix}"),
        (r"\begin{bmatrix}1\\2\\\end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{vmatrix}1\end{vmatrix}", r"\begin{vmatrix}1\end{vmatrix}"),
        ("", ""), ("$", ""), (r"\text{}", ""), ("...", ""), (r"\left\right", ""), ("{}", ""),
    ],
)  # fmt: skip
def test_normal_forms(answer, normal):
    assert normalise(answer) == normal


LATEX = st.lists(
    st.sampled_from(
        [r"\frac", r"\dfrac", r"\sqrt", "[", "]", "{", "}", "1", "12", ",", ".", "/", " ", "x", "=", r"\text{", r"\text{ cm}",
        "^", "_", "$",
         r"\left", "(", ")", "\\\\", r"\begin{pmatrix}", r"\end{pmatrix}", r"\!", r"\,", "%", r"\circ", "and", r"\pi", "\\", "\n"]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@given(st.one_of(st.text(), LATEX))
def test_any_answer_has_a_normal_form(answer):
    normal = normalise(answer)
    assert "$" not in normal
    assert "%" not in normal
    assert "\n" not in normal


@given(LATEX, st.sampled_from(["${}$", " {} ", r"\({}\)", r"\displaystyle {}", "{} ."]))
def test_frames_vanish(answer, frame):
    # A final backslash takes the next character for its own, and "and" is a comma between spaces only.
    assume(not answer.rstrip().endswith("\\") and "and" not in answer)
    assert normalise(frame.replace("{}", answer)) == normalise(answer)
