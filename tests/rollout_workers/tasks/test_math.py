r"""MATH: the published prompts to the letter, answers of either column, and grades."""

from __future__ import annotations

import pytest

from rollout_workers.config import TaskConfig
from rollout_workers.grading.answers import GradeKind
from rollout_workers.tasks import Split, make_task
from tests.fakes.rows import task_over
from tests.fakes.shared_data import shared_data

ROWS = [
    {"problem": "Half of one?", "answer": r"\frac{1}{2}"},
    {"problem": "Half of three?", "solution": r"It is $\boxed{\frac{3}{2}}$."},
    {"problem": "Whose?", "answer": r"\text{Evelyn}", "solution": r"Not \boxed{Ann}."},
    {"problem": "Which?", "answer": "x^2"},
]
TRAINING = r"""
Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>


You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in a \boxed{}.SPACE

Half of one?""".replace("SPACE", " ")
EVALUATION = r"""You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in a \boxed{}.
Respond in the following format:
<reasoning>
Your reasoning here
</reasoning>
<answer>
\boxed{...}
</answer>QUOTE

Half of one?"""  # noqa: E501


@pytest.mark.parametrize(
    ("settings", "text", "prefill"),
    [
        ({}, TRAINING, ""),
        ({"parity": True}, TRAINING, ""),
        ({"prompt": "paper_evaluation"}, EVALUATION.replace("QUOTE", ""), "<reasoning>"),
        ({"prompt": "paper_evaluation", "parity": True}, EVALUATION.replace("QUOTE", '"\n'), "<reasoning>"),
    ],
)
@pytest.mark.parametrize("name", ["math", "math500"])
def test_prompts_are_the_published_ones(tmp_path, name, settings, text, prefill):
    example = task_over(name, tmp_path, test=ROWS, **settings).example(Split.TEST, 0)
    assert (example.prompt, example.prefill) == (text, prefill)


def test_the_answer_column_wins_over_the_solution(tmp_path):
    task = task_over("math", tmp_path, test=ROWS)
    answers = [task.example(Split.TEST, index).answer for index in range(3)]
    assert answers == [r"\frac{1}{2}", r"\frac{3}{2}", r"\text{Evelyn}"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [(r"\boxed{\frac12}", GradeKind.CORRECT), (r"<answer>\boxed{0.5}</answer>", GradeKind.CORRECT),
     (r"\boxed{\frac{1}{3}}", GradeKind.WRONG), ("a half", GradeKind.UNPARSABLE)],
)  # fmt: skip
def test_grades(tmp_path, text, kind):
    task = task_over("math", tmp_path, test=ROWS, symbolic=False)
    assert task.grade(task.example(Split.TEST, 0), text).kind is kind


def test_symbolic_comparison_is_an_option_that_runs_in_other_processes(tmp_path):
    plain = task_over("math", tmp_path, test=[{"problem": "?", "answer": "2x+2"}], symbolic=False)
    symbolic = task_over("math", tmp_path, test=[{"problem": "?", "answer": "2x+2"}])
    assert (plain.num_graders, symbolic.num_graders) == (1, 2)
    example = plain.example(Split.TEST, 0)
    assert plain.grade(example, r"\boxed{2(x+1)}").kind is GradeKind.WRONG
    assert symbolic.grade(example, r"\boxed{2(x+1)}").kind is GradeKind.CORRECT


@pytest.mark.parametrize("prompt", ["paper_training", "paper_evaluation"])
def test_canonical_and_perturbed(tmp_path, prompt):
    task = task_over("math", tmp_path, test=ROWS, prompt=prompt, symbolic=False)
    wrong = []
    for index in range(4):
        example = task.example(Split.TEST, index)
        assert task.grade(example, task.canonical(example)).is_correct
        grade = task.grade(example, task.perturbed(example))
        assert grade.kind is GradeKind.WRONG
        wrong.append(grade.answer)
    assert wrong == [r"\frac{1}{3}", r"\frac{3}{3}", r"\text{Evelyn} + 1", "x^2 + 1"]


def test_demonstrations_show_solutions(tmp_path):
    example = task_over("math", tmp_path, train=ROWS[1:2] * 3, test=ROWS[:1], few_shot=1).example(Split.TEST, 0)
    assert "Question: Half of three?\nAnswer:\n<reasoning>\nIt is " in example.prompt
    assert "<answer>\n\\boxed{\\frac{3}{2}}\n</answer>" in example.prompt


def test_the_published_rows():
    task = make_task("math500", TaskConfig(test=str(shared_data("math500.jsonl")), symbolic=False))
    assert task.size(Split.TEST) == 500
    for index in range(500):
        example = task.example(Split.TEST, index)
        assert task.grade(example, task.canonical(example)).is_correct
        assert task.grade(example, task.perturbed(example)).kind is GradeKind.WRONG
