"""Tasks over rows: splits are disjoint whatever files are given, and bad rows are named by file, row and key."""

from __future__ import annotations

import logging

import pytest

from cluster.errors import UserError
from rollout_workers.config import TaskConfig
from rollout_workers.tasks import TASK_NAMES, Split, make_task
from rollout_workers.tasks.data import HubSource, Rows
from tests.fakes.rows import task_over

MATH_ROWS = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(300)]
QUESTIONS = [{"question": f"What is {i} + 1?", "answer": f"One more. #### {i + 1}"} for i in range(300)]


def prompts(task, split: Split) -> set[str]:
    return {task.example(split, index).prompt for index in range(task.size(split))}


class TestSplits:
    def test_rows_of_a_training_file_are_divided_without_overlap(self, tmp_path):
        task = task_over("gsm8k", tmp_path, train=QUESTIONS, test=[{"question": "?", "answer": "#### 1"}])
        train, validation = prompts(task, Split.TRAIN), prompts(task, Split.VALIDATION)
        assert not train & validation
        assert len(train) + len(validation) == 300
        assert 5 < len(validation) < 40
        assert task.size(Split.TEST) == 1

    def test_a_data_set_without_a_test_part_holds_a_bucket_out(self, tmp_path):
        rows = [{"nums": [i, 2, 3], "target": i + 5} for i in range(300)]
        task = task_over("countdown", tmp_path, train=rows)
        sizes = {split: task.size(split) for split in Split}
        assert sum(sizes.values()) == 300
        assert 5 < sizes[Split.TEST] < 40
        assert len(set.union(*(prompts(task, split) for split in Split))) == 300

    def test_training_rows_that_stand_in_the_test_file_are_left_out(self, tmp_path):
        task = task_over("gsm8k", tmp_path, train=QUESTIONS, test=QUESTIONS[100:200])
        train, validation, test = (prompts(task, split) for split in (Split.TRAIN, Split.VALIDATION, Split.TEST))
        assert len(train) + len(validation) == 200
        assert not (train | validation) & test

    def test_the_problem_counts_and_not_its_wording(self, tmp_path):
        """Countdown: the same numbers in another order are the same problem."""
        train = [{"nums": [i, 2, 3], "target": i + 5} for i in range(100)]
        task = task_over("countdown", tmp_path, train=train, test=[{"input": "3,7,2", "output": "12"}])
        assert task.size(Split.TRAIN) + task.size(Split.VALIDATION) == 99

    def test_one_file_for_both_parts_leaves_nothing_to_train_on(self, tmp_path):
        task = task_over("gsm8k", tmp_path, train=QUESTIONS, test=QUESTIONS)
        with pytest.raises(UserError, match=r"train\.jsonl.*300 rows leave none for the train split"):
            task.size(Split.TRAIN)

    def test_ids_and_examples_depend_on_nothing_but_split_and_index(self, tmp_path):
        keys = [(split, index) for split in Split for index in (3, 0, 1)]
        forwards = [
            task_over("gsm8k", tmp_path, train=QUESTIONS, test=QUESTIONS[:50]).example(*key).prompt for key in keys
        ]
        task = task_over("gsm8k", tmp_path, train=QUESTIONS, test=QUESTIONS[:50])
        assert [task.example(*key).prompt for key in reversed(keys)] == forwards[::-1]
        assert task.example(Split.TEST, 3).id == "gsm8k/test/3"

    @pytest.mark.parametrize("index", [-1, 50])
    def test_an_index_outside_the_split_is_refused(self, tmp_path, index):
        task = task_over("gsm8k", tmp_path, test=QUESTIONS[:50])
        with pytest.raises(ValueError, match=rf"gsm8k/test must be in 0\.\.49, got {index}"):
            task.example(Split.TEST, index)


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "row", "words"),
        [
            ("gsm8k", {"question": "?"}, ["'answer' is missing", "question, answer"]),
            ("gsm8k", {"question": "?", "answer": 5}, ["'answer' is 5", "text"]),
            ("gsm8k", {"question": "?", "answer": "It is 5."}, ["'answer' ends in 'It is 5.'", "#### number"]),
            ("gsm8k", {"question": "?", "answer": "#### five"}, ["'answer' ends in '#### five'", "#### number"]),
            ("gsm8k", {"question": "?", "answer": "#### 5 #### 6"}, ["'answer'", "#### number"]),
            ("gsm8k", {"question": " ", "answer": "#### 5"}, ["'question' is empty"]),
            ("math", {"problem": "?"}, ["'answer' is missing", "problem and answer"]),
            ("math", {"problem": "?", "answer": 5}, ["'answer' is 5", "text"]),
            ("math", {"problem": "?", "answer": "  "}, ["'answer' is '  '", "a formula"]),
            ("math", {"problem": "?", "solution": "It is 5."}, ["'solution'", r"closed \boxed{}"]),
            ("math", {"problem": "?", "solution": r"It is \boxed{5."}, ["'solution'", r"closed \boxed{}"]),
            ("math", {"answer": "5"}, ["'problem' is missing"]),
            ("countdown", {"target": 3}, ["'nums' is missing", "nums and target"]),
            ("countdown", {"nums": [1, 2, 3]}, ["'target' is missing"]),
            ("countdown", {"nums": "1,2,3", "target": 3}, ["'nums' is '1,2,3'", "a list"]),
            ("countdown", {"nums": [1, 2, "3"], "target": 3}, ["'nums' is [1, 2, '3']"]),
            ("countdown", {"nums": [1, 2, -3], "target": 3}, ["'nums' is [1, 2, -3]", ">= 0"]),
            ("countdown", {"nums": [1, 2, 3], "target": True}, ["'target' is True"]),
            ("countdown", {"input": "1,2,3"}, ["'output' is missing", "input and output"]),
            ("countdown", {"input": "1;2;3", "output": "3"}, ["'input' is '1;2;3'", "30,100,93"]),
            ("countdown", {"input": "1,2,3", "output": "x"}, ["'output' is 'x'"]),
            ("countdown", {"question": "?"}, ["'input' is missing", "nums and target, or input and output"]),
            ("sudoku_4x4", {"Puzzle": "0" * 15, "Solution": "1" * 16}, ["'Puzzle'", "16 digits of 01234"]),
            ("sudoku_4x4", {"Puzzle": "5" + "0" * 15, "Solution": "1" * 16}, ["'Puzzle'", "16 digits of 01234"]),
            ("sudoku_4x4", {"Puzzle": 1234, "Solution": "1" * 16}, ["'Puzzle' is 1234", "text"]),
            ("sudoku_4x4", {"Puzzle": "0" * 16, "Solution": "1" * 16}, ["'Solution'", "a valid grid"]),
            ("sudoku_4x4", {"Puzzle": "2" + "0" * 15, "Solution": "1234341221434321"}, ["'Solution'", "keeps the givens"]),
            ("sudoku_4x4", {"Puzzle": "1234341221434321", "Solution": "1234341221434321"}, ["'Puzzle'", "empty cell"]),
            ("sudoku_9x9", {"Puzzle": "0" * 16, "Solution": "1" * 81}, ["'Puzzle'", "81 digits of 0123456789"]),
            ("sudoku_9x9_infill", {"Puzzle": "0" * 81, "Solution": "0" * 81}, ["'Solution'", "81 digits of 123456789"]),
            ("zebra", {"puzzle": "?", "solution": "?"}, ["'solution' is '?'", "an object"]),
            ("zebra", {"puzzle": "?", "solution": {}}, ["'solution.header' is None"]),
            ("zebra", {"puzzle": "?", "solution": {"header": ["House", "Name"]}}, ["'solution.rows' is None"]),
        ],
    )  # fmt: skip
    def test_a_malformed_row_is_one_line_that_names_file_row_and_key(self, tmp_path, name, row, words):
        good = {
            "gsm8k": QUESTIONS[0], "math": MATH_ROWS[0], "countdown": {"nums": [1, 2, 3], "target": 6},
            "sudoku_4x4": {"Puzzle": "0234341221434321", "Solution": "1234341221434321"},
        }.get(name)  # fmt: skip
        task = task_over(name, tmp_path, test=[good, row] if good else [row])
        with pytest.raises(UserError) as caught:
            task.size(Split.TEST)
        message = str(caught.value)
        assert "\n" not in message
        for word in (*words, "test.jsonl", "row 2" if good else "row 1"):
            assert word in message

    @pytest.mark.parametrize("name", ["math500"])
    def test_tasks_with_a_test_part_only_have_nothing_to_train_on(self, tmp_path, name):
        task = task_over(name, tmp_path, test=MATH_ROWS)
        assert task.size(Split.TEST) == 300
        for split in (Split.TRAIN, Split.VALIDATION):
            with pytest.raises(UserError, match=rf"config key 'task' is '{name}', which has only a test part"):
                task.size(split)

    def test_unknown_prompts_are_named_with_the_known_ones(self):
        with pytest.raises(UserError, match=r"'task_settings.gsm8k.prompt' is 'mine'; allowed: paper_training, paper"):
            make_task("gsm8k", TaskConfig(prompt="mine"))

    def test_settings_that_a_task_does_not_read_are_refused(self):
        with pytest.raises(UserError, match=r"task_settings.zebra.symbolic' is False; task 'zebra' does not read it"):
            make_task("zebra", TaskConfig(symbolic=False))
        with pytest.raises(UserError, match=r"task_settings.arithmetic.train' is 'x'.*no settings"):
            make_task("arithmetic", TaskConfig(train="x"))

    def test_more_demonstrations_than_training_rows_are_refused(self, tmp_path):
        task = task_over("gsm8k", tmp_path, train=QUESTIONS[:5], test=QUESTIONS[9:10], few_shot=9)
        with pytest.raises(UserError, match=r"task_settings.gsm8k.few_shot' is 9; allowed: at most [3-5]"):
            task.example(Split.TEST, 0)


class TestPublished:
    """What is asked of the hub, without a network."""

    @pytest.fixture
    def asked(self, monkeypatch) -> list[tuple]:
        asked = []

        def load(local, hub, *, revision, key, columns):
            asked.append((hub, revision, key))
            return Rows("fake", MATH_ROWS)

        monkeypatch.setattr("rollout_workers.tasks.dataset.load_rows", load)
        return asked

    def test_one_revision_is_for_one_repository(self, asked):
        task = make_task("math", TaskConfig(revision="abc"))
        task.size(Split.TRAIN)
        task.size(Split.TEST)
        assert [(hub.repository, revision) for hub, revision, _ in asked] == [
            ("DigitalLearningGmbH/MATH-lighteval", "abc"), ("HuggingFaceH4/MATH-500", None),
        ]  # fmt: skip
        make_task("math500", TaskConfig(revision="def")).size(Split.TEST)
        assert asked[-1][1:] == ("def", "task_settings.math500.test")

    def test_published_revisions_are_commit_hashes(self):
        for name in TASK_NAMES:
            task = make_task(name)
            for hub in (getattr(task, "train_hub", None), getattr(task, "test_hub", None)):
                if hub is not None:
                    assert isinstance(hub, HubSource)
                    assert hub.revision is None or (len(hub.revision) == 40 and int(hub.revision, 16))


def test_a_malformed_row_of_a_published_data_set_is_left_out_and_named(monkeypatch, caplog):
    rows = [{"problem": "?", "answer": "5"}, {"problem": "?", "solution": "It is 5."}, {"problem": "!", "answer": "6"}]
    monkeypatch.setattr("rollout_workers.tasks.dataset.load_rows", lambda *_, **__: Rows("data set x", rows))
    task = make_task("math500")
    assert task.size(Split.TEST) == 2
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("1 of 3 rows cannot be used and are left out; the first: data set x, row 2: key 'solution'")
    monkeypatch.setattr("rollout_workers.tasks.dataset.load_rows", lambda *_, **__: Rows("data set x", rows[1:2]))
    with pytest.raises(UserError, match="data set x: all 1 rows are left out: malformed"):
        make_task("math500").size(Split.TEST)


def test_what_is_left_out_is_logged_once(tmp_path, caplog):
    rows = [{"nums": [1, 2, 3], "target": 6}, {"nums": [1, 2, 3, 4], "target": 10}, {"nums": [4, 5, 6], "target": 15}]
    with caplog.at_level(logging.INFO, logger="rollout_workers"):
        task = task_over("countdown", tmp_path, test=rows)
        assert task.size(Split.TEST) == task.size(Split.TEST) == 2
    (line,) = [record.getMessage() for record in caplog.records]
    assert "test.jsonl': 1 of 3 rows are left out: not 3 numbers" in line


def test_a_file_that_is_left_out_as_a_whole_is_an_error(tmp_path):
    task = task_over("countdown", tmp_path, test=[{"nums": [1, 2, 3, 4], "target": 10}])
    with pytest.raises(UserError, match=r"all 1 rows are left out: not 3 numbers"):
        task.size(Split.TEST)
