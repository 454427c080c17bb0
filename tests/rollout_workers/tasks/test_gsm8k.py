"""GSM8K: the published prompts to the letter, demonstrations, and grades."""

from __future__ import annotations

import pytest

from rollout_workers.config import TaskConfig
from rollout_workers.grading.answers import GradeKind
from rollout_workers.tasks import Split, make_task
from tests.fakes.rows import task_over
from tests.fakes.shared_data import shared_data

ROWS = [
    {"question": "Ann has 2 pens and buys 3. How many?", "answer": "She has 2 + 3 = <<2+3=5>>5 pens.\n#### 5"},
    {
        "question": "A car costs $1,000. What do two cost?",
        "answer": "Two cost 2 * 1,000 = $<<2*1000=2000>>2,000\n#### 2,000",
    },
    {"question": "Ben has 9 and loses 4. How many?", "answer": "9 - 4 = <<9-4=5>>5\n#### 5"},
]
TRAINING = """
Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>


Ann has 2 pens and buys 3. How many?"""
EVALUATION = r"""You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in a \boxed{}.
Respond in the following format:
<reasoning>
Your reasoning here
</reasoning>
<answer>
\boxed{...}
</answer>

Ann has 2 pens and buys 3. How many?"""  # noqa: E501


@pytest.mark.parametrize(
    ("prompt", "text", "prefill"),
    [(None, TRAINING, ""), ("paper_training", TRAINING, ""), ("paper_evaluation", EVALUATION, "<reasoning>")],
)
def test_prompts_are_the_published_ones(tmp_path, prompt, text, prefill):
    example = task_over("gsm8k", tmp_path, test=ROWS, prompt=prompt).example(Split.TEST, 0)
    assert (example.prompt, example.prefill) == (text, prefill)


def test_demonstrations_come_before_the_question_in_the_format_asked_for(tmp_path):
    task = task_over("gsm8k", tmp_path, train=ROWS[1:], test=ROWS[:1], few_shot=1, prompt="paper_evaluation")
    example = task.example(Split.TEST, 0)
    shown = task.demonstrations({"question": "?"}, 1)[0]
    number = shown["answer"].partition("#### ")[2]
    head, question, rest = example.prompt.partition(f"\n\nQuestion: {shown['question']}\nAnswer:\n")
    assert question
    assert head == EVALUATION.partition("\n\nAnn")[0]
    assert rest.startswith("<reasoning>\n")
    assert "<<" not in rest
    assert f"<answer>\n\\boxed{{{number}}}\n</answer>\n\nQuestion: Ann has" in rest
    assert rest.endswith("How many?\nAnswer:\n")


def test_no_question_is_its_own_demonstration(tmp_path):
    rows = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(40)]
    task = task_over("gsm8k", tmp_path, train=rows, test=[ROWS[0]], few_shot=3)
    for index in range(task.size(Split.TRAIN)):
        *shown, asked = [
            part.split("\n")[0] for part in task.example(Split.TRAIN, index).prompt.split("Question: ")[1:]
        ]
        assert len(shown) == 3
        assert asked not in shown


@pytest.mark.parametrize("prompt", ["paper_training", "paper_evaluation"])
def test_canonical_and_perturbed(tmp_path, prompt):
    task = task_over("gsm8k", tmp_path, test=ROWS, prompt=prompt)
    for index, number in enumerate(["5", "2,000", "5"]):
        example = task.example(Split.TEST, index)
        assert task.grade(example, task.canonical(example)).is_correct
        assert number in task.canonical(example).rpartition("</reasoning>")[2]
        assert example.prefill == "" or not task.canonical(example).startswith("<reasoning>")
        assert task.grade(example, task.perturbed(example)).kind is GradeKind.WRONG


def test_parity_reads_the_first_box_up_to_its_comma(tmp_path):
    text = r"\boxed{2,000}"
    exact, parity = task_over("gsm8k", tmp_path, test=ROWS), task_over("gsm8k", tmp_path, test=ROWS, parity=True)
    assert exact.grade(exact.example(Split.TEST, 1), text).kind is GradeKind.CORRECT
    assert parity.grade(parity.example(Split.TEST, 1), text).kind is GradeKind.WRONG


def test_the_published_rows():
    files = {"train": str(shared_data("gsm8k_train.jsonl.gz")), "test": str(shared_data("gsm8k_test.jsonl"))}
    task = make_task("gsm8k", TaskConfig(**files))
    assert task.size(Split.TEST) == 1319
    assert task.size(Split.TRAIN) + task.size(Split.VALIDATION) == 7473
    for index in range(0, 1319, 7):
        example = task.example(Split.TEST, index)
        assert task.grade(example, task.canonical(example)).is_correct
        assert task.grade(example, task.perturbed(example)).kind is GradeKind.WRONG
