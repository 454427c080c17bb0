"""Which problems a run uses: splits of a data set, held-out parts, and prompts that are too long."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import ClassVar

import pytest

from cluster.errors import UserError
from rollout_workers.config import TaskConfig
from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.models.load import load_tokenizer
from rollout_workers.problems import ProblemSet, PromptLimit
from rollout_workers.tasks import Example, Split, make_task
from rollout_workers.tasks.data import DataError, HubSource, Row
from rollout_workers.tasks.dataset import DatasetTask

TOKENIZER = load_tokenizer("tiny")


class Sums(DatasetTask):
    """Rows `terms`, a list of numbers."""

    name = "sums"
    columns: ClassVar = {"terms": list}

    def problem(self, row: Row) -> str:
        return str(row["terms"])

    def check_row(self, row: Row) -> None:
        if not all(isinstance(term, int) for term in row["terms"]):
            raise ValueError(f"key 'terms' is {row['terms']!r}; needed: integers")

    def pose(self, example_id: str, row: Row) -> Example:
        return Example(example_id, " plus ".join(str(term) for term in row["terms"]), str(sum(row["terms"])))

    def grade(self, example: Example, text: str) -> Grade:
        return Grade(
            GradeKind.CORRECT if text == example.answer else GradeKind.WRONG, float(text == example.answer), text
        )

    def canonical(self, example: Example) -> str:
        return example.answer

    def perturbed(self, example: Example) -> str:
        return example.answer + "1"


class SumsWithTest(Sums):
    test_hub = HubSource("nobody/sums", "test")


def write(path: Path, rows: list[list[object]]) -> str:
    path.write_text("".join(json.dumps({"terms": terms}) + "\n" for terms in rows))
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> str:
    """Each problem twice, so that splitting by row would tear them apart."""
    rows = [[first, second] + [1] * (second % 3) for first in range(10) for second in range(10)]
    return write(tmp_path / "train.jsonl", [*rows, *rows])


def problems(task: DatasetTask, *, max_tokens: int | None = None, long_prompts="error", **others) -> ProblemSet:
    tasks = {task.name: task} | others
    limits = dict.fromkeys(tasks, PromptLimit(TOKENIZER, max_tokens, long_prompts))
    return ProblemSet(tasks, dict.fromkeys(tasks, 1.0), 0, limits)


def prompts(task: DatasetTask, split: Split) -> list[str]:
    return [task.example(split, index).prompt for index in range(task.size(split))]


def test_without_a_test_part_the_three_splits_partition_the_rows_by_problem(train) -> None:
    task = Sums(TaskConfig(train=train))
    parts = {split: prompts(task, split) for split in Split}
    assert sum(len(part) for part in parts.values()) == 200
    assert all(parts.values())
    assert not set(parts[Split.TRAIN]) & (set(parts[Split.VALIDATION]) | set(parts[Split.TEST]))
    assert not set(parts[Split.VALIDATION]) & set(parts[Split.TEST])


def test_a_test_file_is_the_test_split_whole_and_in_its_order(train, tmp_path) -> None:
    task = SumsWithTest(TaskConfig(train=train, test=write(tmp_path / "test.jsonl", [[1, 1], [2, 2]])))
    assert prompts(task, Split.TEST) == ["1 plus 1", "2 plus 2"]
    assert len(prompts(task, Split.TRAIN)) + len(prompts(task, Split.VALIDATION)) == 200
    assert task.example(Split.TEST, 1).id == "sums/test/1"


@pytest.mark.parametrize("index", [-1, 200])
def test_an_index_beyond_the_split_is_refused(train, index) -> None:
    with pytest.raises(ValueError, match=f"sums/train must be in 0.*got {index}"):
        Sums(TaskConfig(train=train)).example(Split.TRAIN, index)


def test_a_row_that_cannot_be_graded_names_file_row_and_key(tmp_path) -> None:
    path = write(tmp_path / "bad.jsonl", [[1, 1], [2, "two"]])
    with pytest.raises(DataError, match=r"bad\.jsonl', row 2: key 'terms' is \[2, 'two'\]; needed: integers"):
        Sums(TaskConfig(train=path)).size(Split.TRAIN)


def test_an_empty_split_is_refused(tmp_path) -> None:
    task = Sums(TaskConfig(train=write(tmp_path / "one.jsonl", [[1, 1]])))
    with pytest.raises(UserError, match="1 rows leave none for the"):
        [task.size(split) for split in Split]


def test_a_small_file_still_has_three_disjoint_splits(tmp_path) -> None:
    path = write(tmp_path / "few.jsonl", [[1, 1], [2, 2], [3, 3], [1, 1]])
    task = Sums(TaskConfig(train=path))
    parts = [set(prompts(task, split)) for split in Split]
    assert all(parts)
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 3


def test_an_unknown_wording_lists_the_known_ones(train) -> None:
    with pytest.raises(UserError, match=r"'task_settings.sums.prompt' is 'terse'; allowed: default"):
        Sums(TaskConfig(train=train, prompt="terse"))


def test_settings_that_a_task_does_not_read_are_refused() -> None:
    with pytest.raises(UserError, match=r"'task_settings.arithmetic.few_shot' is 3; .*it has no settings"):
        make_task("arithmetic", TaskConfig(few_shot=3))


def test_demonstrations_are_training_rows_other_than_the_row_itself(train) -> None:
    task = Sums(TaskConfig(train=train))
    row = {"terms": [10, 3]}
    shown = task.demonstrations(row, 3)
    assert len(shown) == 3
    assert row not in shown
    with pytest.raises(UserError, match=r"'task_settings.sums.few_shot' is 999; allowed: at most"):
        task.demonstrations(row, 999)


def test_a_long_prompt_stops_the_run_by_name(train) -> None:
    with pytest.raises(UserError, match=r"prompt of sums/train/\d+ has 7 tokens; allowed: 6 .*long_prompts=skip"):
        problems(Sums(TaskConfig(train=train)), max_tokens=6).training()


def test_skipped_prompts_are_counted_and_never_drawn(train, caplog) -> None:
    task = Sums(TaskConfig(train=train))
    caplog.set_level(logging.WARNING)
    set_ = problems(task, max_tokens=6, long_prompts="skip")
    num_long = sum(len(prompt.split()) > 6 for prompt in prompts(task, Split.TRAIN))
    picks, _ = set_.training().draw({}, task.size(Split.TRAIN) - num_long)
    assert num_long > 0
    assert f"sums/train: {num_long} of {task.size(Split.TRAIN)} prompts" in caplog.text
    assert len(set(picks)) == len(picks)
    assert all(len(task.example(Split.TRAIN, pick.index).prompt.split()) <= 6 for pick in picks)


def test_validation_and_test_have_every_example_once_and_no_more_than_there_are(train) -> None:
    task = Sums(TaskConfig(train=train))
    set_ = problems(task)
    validation, test = set_.validation(1000), set_.test(1000)
    assert sorted(pick.index for pick in validation) == list(range(task.size(Split.VALIDATION)))
    assert [pick.index for pick in test] == list(range(task.size(Split.TEST)))
    assert len(set_.validation(3)) == 3
    assert set_.test(0) == []


def test_a_mixture_tests_every_task_and_has_the_longest_canvas(train) -> None:
    set_ = problems(Sums(TaskConfig(train=train)), arithmetic=make_task("arithmetic"))
    assert max(task.canvas_length for task in set_.tasks.values()) == 256
    assert {pick.task for pick in set_.test(5)} == {"sums", "arithmetic"}
    assert {pick.task for pick in set_.validation(8)} == {"sums", "arithmetic"}
