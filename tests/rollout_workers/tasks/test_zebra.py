"""Zebra puzzles: the solver against all tables, clues that suffice and cannot be spared, and grades by cell."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from rollout_workers.grading.answers import GradeKind
from rollout_workers.tasks import Split, make_task
from rollout_workers.tasks.zebra_puzzle import Clue, Relation, draw_clues, solve
from tests.fakes.rows import task_over

VALUES = (("Ann", "Ben", "Eva"), ("red", "blue", "green"), ("cat", "dog", "fish"))
ROW = {
    "puzzle": "Who lives where?",
    "solution": {
        "header": ["House", "Name", "Pet"],
        "rows": [["1", "Ann", "cat"], ["2", "Ben", "dog"], ["3", "Eva", "guinea pig"]],
    },
}
RIGHT = "House 1: Ann, cat\nHouse 2: Ben, dog\nHouse 3: Eva, guinea pig"


def holds(clue: Clue, table) -> bool:
    """What the clue says, read off a table."""
    place = {value: house for row in table for house, value in enumerate(row)}
    first, second = place[clue.first], clue.house if clue.second is None else place[clue.second]
    return {
        "SAME": first == second, "AT": first == second, "DIFFERENT": first != second, "NOT_AT": first != second,
        "LEFT": first < second, "DIRECTLY_LEFT": first + 1 == second, "NEXT_TO": abs(first - second) == 1,
    }[clue.relation.name]  # fmt: skip


def brute_force(values, clues) -> list:
    tables = itertools.product(*(itertools.permutations(row) for row in values))
    return [table for table in tables if all(holds(clue, table) for clue in clues)]


@st.composite
def clue_of(draw) -> Clue:
    """Any clue about VALUES, true or not."""
    relation = draw(st.sampled_from(Relation))
    first, second = draw(
        st.lists(st.sampled_from([v for row in VALUES for v in row]), min_size=2, max_size=2, unique=True)
    )
    if relation in (Relation.AT, Relation.NOT_AT):
        return Clue(relation, first, house=draw(st.integers(0, 2)))
    return Clue(relation, first, second)


@given(st.lists(clue_of(), max_size=8))
def test_solutions_are_the_tables_that_keep_all_clues(clues):
    assert sorted(solve(VALUES, clues, limit=1000)) == sorted(brute_force(VALUES, clues))


@pytest.mark.parametrize("seed", range(12))
def test_drawn_clues_leave_one_table_and_none_can_be_spared(seed):
    rng = random.Random(seed)
    table = tuple(tuple(rng.sample(row, 3)) for row in VALUES)
    clues = draw_clues(rng, table)
    assert brute_force(VALUES, clues) == [table]
    for clue in clues:
        assert len(brute_force(VALUES, [other for other in clues if other is not clue])) > 1


@pytest.mark.parametrize("split", list(Split))
def test_made_up_puzzles_state_a_table_of_the_announced_values(split):
    task, sizes = make_task("zebra"), set()
    for index in range(25):
        example = task.example(split, index)
        houses = json.loads(example.answer)
        sizes.add((len(houses), len(houses[0])))
        listed = [line.partition(": ")[2].split(", ") for line in example.prompt.splitlines() if line.startswith("- ")]
        assert [sorted(column) for column in zip(*houses, strict=True)] == listed
        assert example.prompt.count("House ") == len(houses)
        assert "1. " in example.prompt
    assert {houses for houses, _ in sizes} == {3, 4, 5}
    assert {attributes for _, attributes in sizes} == {3, 4}


def test_made_up_solutions_of_the_splits_are_disjoint():
    task = make_task("zebra")
    answers = [task.example(split, index).answer for split in Split for index in range(40)]
    assert len(set(answers)) == len(answers)


class TestGrades:
    @pytest.fixture
    def graded(self, tmp_path):
        task = task_over("zebra", tmp_path, test=[ROW])
        example = task.example(Split.TEST, 0)
        return lambda answer: task.grade(example, f"<reasoning>\nso\n</reasoning>\n<answer>\n{answer}\n</answer>")

    @pytest.mark.parametrize(
        "answer",
        [RIGHT, RIGHT.lower(), RIGHT.replace(", ", " | "), f"Here it is:\n{RIGHT}.", RIGHT.replace("House ", "- House "),
         "House 3: Eva, Guinea  Pig\nHouse 1: Ann, cat\nHouse 2: Ben, dog", f"House 1: Ben, dog\n{RIGHT}"],
    )  # fmt: skip
    def test_the_right_table_is_correct(self, graded, answer):
        grade = graded(answer)
        assert (grade.kind, grade.score) == (GradeKind.CORRECT, 1.0)

    @pytest.mark.parametrize(
        ("answer", "cells"),
        [
            (RIGHT.replace("dog", "cat"), 5),
            (RIGHT.replace("Ann", "Ben"), 5),
            ("House 1: Ann, cat", 2),
            ("House 1: cat, Ann\nHouse 2: Ben, dog", 2),
            (RIGHT.replace("Ann, cat", "Ann, Ben, cat"), 4),
            (RIGHT.replace("Ann, cat", ""), 4),
            ("House 2: Ann, cat\nHouse 3: Ben, dog\nHouse 1: Eva, guinea pig", 0),
            ("House 1: ", 0),
        ],
    )
    def test_the_score_is_the_share_of_cells_that_are_right(self, graded, answer, cells):
        grade = graded(answer)
        assert (grade.kind, grade.score) == (GradeKind.WRONG, cells / 6)

    @pytest.mark.parametrize("answer", ["", "Ann, cat", "House 4: Ann, cat", "House x: Ann", "House 99999: Ann, cat"])
    def test_what_names_no_house_is_unparsable(self, graded, answer):
        grade = graded(answer)
        assert (grade.kind, grade.score) == (GradeKind.UNPARSABLE, 0.0)

    def test_without_answer_tags_nothing_is_read(self, tmp_path):
        task = task_over("zebra", tmp_path, test=[ROW])
        assert task.grade(task.example(Split.TEST, 0), RIGHT).kind is GradeKind.UNPARSABLE

    def test_canonical_and_perturbed(self):
        task = make_task("zebra")
        for index in range(10):
            example = task.example(Split.TEST, index)
            assert task.grade(example, task.canonical(example)).is_correct
            grade = task.grade(example, task.perturbed(example))
            assert grade.kind is GradeKind.WRONG
            assert grade.score > 0.7


def test_the_prompt_shows_the_form_of_the_answer(tmp_path):
    prompt = task_over("zebra", tmp_path, test=[ROW]).example(Split.TEST, 0).prompt
    assert prompt.startswith("Who lives where?\n\n")
    assert "<answer>\nHouse 1: (name), (pet)\nHouse 2: (name), (pet)\nHouse 3: (name), (pet)\n</answer>" in prompt


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["1", "Ann", "cat"]], "two houses"),
        ([["1", "Ann", "cat"], ["2", "Ben"]], r"solution.rows\[1\]'"),
        ([["1", "Ann", "cat"], ["3", "Ben", "dog"]], r"solution.rows\[1\]'.*'2'"),
        ([["1", "Ann", "cat"], ["2", "Ben", "a, b"]], r"solution.rows\[1\]'.*without commas"),
        ([["1", "Ann", "cat"], ["2", "Ben", ""]], r"solution.rows\[1\]'"),
        ([["1", "___", "cat"], ["2", "___", "dog"]], "'Name'.*distinct"),
        ([["1", "Ann", "cat"], ["2", "Ben", "CAT"]], "'Pet'.*distinct"),
        ([["1", "Ann", "cat"], "2"], r"solution.rows\[1\]'"),
    ],
)
def test_malformed_solutions_are_named(tmp_path, rows, words):
    row = {"puzzle": "?", "solution": {"header": ["House", "Name", "Pet"], "rows": rows}}
    with pytest.raises(UserError, match=rf"test\.jsonl', row 1: key 'solution.rows.*{words}|test\.jsonl.*{words}"):
        task_over("zebra", tmp_path, test=[row]).size(Split.TEST)
