"""`python -m evaluation.check_task`: what it finds, and its exit codes."""

from __future__ import annotations

import pytest

from cluster.errors import ExitCode
from evaluation.check_task import Check, check_examples, main
from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.tasks import TASK_NAMES, Split, make_task
from tests.fakes.rows import write_rows
from tests.fakes.shared_data import shared_data

RIGHT, WRONG = Grade(GradeKind.CORRECT, 1.0, "5"), Grade(GradeKind.WRONG, 0.0, "6")
FAILED = Grade(GradeKind.GRADER_ERROR, 0.0, "", detail="no\nsandbox")


@pytest.mark.parametrize(
    ("canonical", "perturbed", "lines"),
    [
        (RIGHT, WRONG, []),
        (RIGHT, Grade(GradeKind.TIMED_OUT, 0.0, ""), []),
        (WRONG, WRONG, ["t/1: the canonical text is wrong: '6'"]),
        (RIGHT, RIGHT, ["t/1: the perturbed text is correct: '5'"]),
        (FAILED, WRONG, ["t/1: the canonical text is grader_error: no sandbox"]),
        (RIGHT, FAILED, ["t/1: the perturbed text is grader_error: no sandbox"]),
        (None, None, ["t/1: no canonical answer", "t/1: no perturbed answer"]),
    ],
)
def test_exceptions(canonical, perturbed, lines):
    assert Check("t/1", canonical, perturbed).exceptions() == lines


def test_checks_come_in_order_whatever_runs_at_a_time():
    task = make_task("zebra")
    task.num_graders = 4
    examples = [task.example(Split.TEST, index) for index in range(12)]
    seen: list[str] = []
    checks = check_examples(task, examples, on_check=lambda check: seen.append(check.example_id))
    assert [check.example_id for check in checks] == seen == [example.id for example in examples]
    assert not any(check.exceptions() for check in checks)


def test_a_task_without_exceptions_exits_with_0(capsys):
    assert main(["arithmetic", "--limit", "7", "--split", "train"]) == ExitCode.FINISHED
    out = capsys.readouterr().out
    assert "arithmetic, train: 7 examples" in out
    assert "correct 7" in out
    assert "wrong 7" in out


def test_exceptions_are_named_and_exit_with_1(tmp_path, capsys):
    rows = [{"nums": [1, 1, 1], "target": 999}, {"nums": [1, 2, 3], "target": 6}]
    assert main(["countdown", "--test", write_rows(tmp_path / "rows.jsonl", rows)]) == 1
    out = capsys.readouterr().out
    assert "countdown/test/0: no canonical answer" in out
    assert "countdown/test/1" not in out
    assert "none 1" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sums"], "unknown task 'sums'"),
        (
            ["gsm8k", "--test", "none.jsonl"],
            "config key 'task_settings.gsm8k.test': data file 'none.jsonl' does not exist",
        ),
        (["zebra", "--sandbox", "process"], "'task_settings.zebra.sandbox' is 'process'"),
        (["math500", "--split", "train"], "which has only a test part"),
    ],
)
def test_mistakes_are_one_line_and_exit_with_2(capsys, arguments, message):
    assert main(arguments) == ExitCode.USER_ERROR
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_limits_are_positive(capsys, limit):
    with pytest.raises(SystemExit, match=str(int(ExitCode.USER_ERROR))):
        main(["arithmetic", "--limit", limit])
    assert limit in capsys.readouterr().err


def test_the_help_names_every_task(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in TASK_NAMES:
        assert name in text


def test_real_answers(capsys):
    assert main(["gsm8k", "--test", str(shared_data("gsm8k_test.jsonl"))]) == ExitCode.FINISHED
    assert "correct 1319" in capsys.readouterr().out
