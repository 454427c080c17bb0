"""Sudoku in words: grades, templates, and puzzles of files and of the generator."""

from __future__ import annotations

import pytest

from rollout_workers.config import TaskConfig
from rollout_workers.grading.answers import GradeKind
from rollout_workers.models.load import load_tokenizer
from rollout_workers.tasks import MASK, Split, make_task
from rollout_workers.tasks.base import split_of
from rollout_workers.tasks.sudoku import count_solutions
from rollout_workers.tasks.sudoku_grid import solve
from tests.fakes.checkpoints import write_dream, write_llada
from tests.fakes.rows import task_over
from tests.fakes.shared_data import shared_data

NAMES = ("sudoku_4x4", "sudoku_4x4_infill", "sudoku_9x9", "sudoku_9x9_infill")
ROW = {"Puzzle": "3102200002100320", "Solution": "3142243142131324"}


def solved(tmp_path, name="sudoku_4x4", **settings):
    task = task_over(name, tmp_path, test=[ROW], **settings)
    return task, task.example(Split.TEST, 0)


def tagged(grid: str) -> str:
    return f"<reasoning>\nso\n</reasoning>\n<answer>\n{grid}\n</answer>"


@pytest.mark.parametrize("name", NAMES)
class TestMadeUp:
    def test_puzzles_have_one_solution_and_belong_to_their_split(self, name):
        task = make_task(name)
        for split in Split:
            for index in range(12):
                puzzle, solution = task.example(split, index).answer.split()
                if "4x4" in name:
                    assert count_solutions(puzzle) == 1
                else:
                    assert solve(puzzle) == [solution]
                assert split_of(f"{task.family} {puzzle}") is split
            assert task.size(split) is None

    def test_both_forms_pose_the_same_puzzles(self, name):
        free, infill = make_task(name.removesuffix("_infill")), make_task(f"{name.removesuffix('_infill')}_infill")
        for index in range(10):
            assert free.example(Split.TRAIN, index).answer == infill.example(Split.TRAIN, index).answer

    def test_puzzles_of_the_test_file_are_never_made_up(self, name, tmp_path):
        made_up = [make_task(name).example(Split.TRAIN, index).answer.split() for index in range(4)]
        rows = [{"Puzzle": puzzle, "Solution": solution} for puzzle, solution in made_up[:2]]
        task = task_over(name, tmp_path, test=rows)
        assert task.size(Split.TEST) == 2
        assert task.size(Split.TRAIN) is None
        drawn = [task.example(Split.TRAIN, index).answer.split() for index in range(4)]
        assert drawn[2:] == made_up[2:]
        assert not {puzzle for puzzle, _ in drawn} & {puzzle for puzzle, _ in made_up[:2]}

    def test_a_training_file_is_divided_where_no_test_file_is_given(self, name, tmp_path):
        examples = [make_task(name).example(split, index).answer.split() for split in Split for index in range(3)]
        rows = [{"Puzzle": puzzle, "Solution": solution} for puzzle, solution in examples]
        task = task_over(name, tmp_path, train=rows)
        assert [task.size(split) for split in Split] == [3, 3, 3]


class TestGrades:
    @pytest.mark.parametrize("layout", ["3142243142131324", "3142\n2431\n4213\n1324", "3 1 4 2 | 2 4 3 1 | 4213 1324"])
    def test_any_layout_of_the_solution_is_correct(self, tmp_path, layout):
        task, example = solved(tmp_path)
        grade = task.grade(example, tagged(layout))
        assert (grade.kind, grade.score, grade.answer) == (GradeKind.CORRECT, 1.0, ROW["Solution"])

    def test_the_score_is_the_share_of_empty_cells_that_are_right(self, tmp_path):
        task, example = solved(tmp_path)
        assert ROW["Puzzle"].count("0") == 8
        # Three of the eight empty cells are changed: those at 2, 5 and 6.
        wrong = "31" + "1" + "2" + "2" + "1" + "1" + "142131324"
        grade = task.grade(example, tagged(wrong))
        assert (grade.kind, grade.score) == (GradeKind.WRONG, 5 / 8)

    def test_an_overwritten_given_is_wrong_whatever_else_is_right(self, tmp_path):
        task, example = solved(tmp_path)
        grade = task.grade(example, tagged("4" + ROW["Solution"][1:]))
        assert grade.kind is GradeKind.WRONG
        assert 0.9 < grade.score < 1.0

    def test_another_solution_of_an_ambiguous_puzzle_is_correct(self, tmp_path):
        row = {"Puzzle": "1" + "0" * 15, "Solution": "1234341221434321"}
        task = task_over("sudoku_4x4", tmp_path, test=[row])
        grade = task.grade(task.example(Split.TEST, 0), tagged("1243431221343421"))
        assert grade.kind is GradeKind.CORRECT

    @pytest.mark.parametrize("cell", ["x", " ", "?", "٣"])
    def test_a_cell_that_is_no_digit_is_one_wrong_cell(self, tmp_path, cell):
        task, example = solved(tmp_path, "sudoku_4x4_infill")
        grade = task.grade(example, f"\n<answer>\n31{cell}2\n2431\n4213\n1324\n</answer>")
        assert (grade.kind, grade.score) == (GradeKind.WRONG, 7 / 8)

    def test_digits_beyond_the_side_are_wrong_cells(self, tmp_path):
        task, example = solved(tmp_path)
        grade = task.grade(example, tagged("3192243142131324"))
        assert (grade.kind, grade.score) == (GradeKind.WRONG, 7 / 8)

    @pytest.mark.parametrize("text", ["", "3142243142131324", tagged("314224314213132"), tagged("3" * 17), tagged("")])
    def test_what_is_no_grid_is_unparsable(self, tmp_path, text):
        task, example = solved(tmp_path)
        grade = task.grade(example, text)
        assert (grade.kind, grade.score) == (GradeKind.UNPARSABLE, 0.0)

    @pytest.mark.parametrize(
        ("text", "kind", "score"),
        [
            (tagged("3142243142131324"), GradeKind.CORRECT, 1.0),
            (tagged("31422431421313249999"), GradeKind.CORRECT, 1.0),
            (tagged("3142"), GradeKind.WRONG, 1 / 8),
            (tagged("4142243142131324"), GradeKind.CORRECT, 1.0),
            (tagged("none"), GradeKind.UNPARSABLE, 0.0),
            ("3142243142131324", GradeKind.UNPARSABLE, 0.0),
        ],
    )
    def test_parity_cuts_fills_up_and_looks_at_empty_cells_alone(self, tmp_path, text, kind, score):
        task, example = solved(tmp_path, parity=True)
        grade = task.grade(example, text)
        assert (grade.kind, grade.score) == (kind, score)

    @pytest.mark.parametrize("name", NAMES)
    def test_canonical_is_correct_and_perturbed_all_but_right(self, name):
        task = make_task(name)
        for index in range(10):
            example = task.example(Split.TEST, index)
            assert task.grade(example, task.canonical(example)).is_correct
            grade = task.grade(example, task.perturbed(example))
            empty = example.answer.split()[0].count("0")
            assert (grade.kind, grade.score) == (GradeKind.WRONG, (empty - 1) / empty)


@pytest.mark.parametrize("write", [write_llada, write_dream])
@pytest.mark.parametrize("name", ["sudoku_4x4_infill", "sudoku_9x9_infill"])
def test_templates_are_one_mask_for_each_empty_cell_in_tokens_too(tmp_path, write, name):
    write(tmp_path / "model")
    tokenizer, task = load_tokenizer(str(tmp_path / "model")), make_task(name)
    for index in range(5):
        example = task.example(Split.TEST, index)
        puzzle, solution = example.answer.split()
        assert example.template.count(MASK) == puzzle.count("0")
        canvas = tokenizer.encode_canvas(example.template, task.canvas_length)
        assert canvas.count(tokenizer.mask_id) == puzzle.count("0")
        missing = iter(digit for digit, given in zip(solution, puzzle, strict=True) if given == "0")
        filled = [tokenizer.encode_text(next(missing))[0] if i == tokenizer.mask_id else i for i in canvas]
        text = tokenizer.decode_canvas(filled)
        assert text == task.canonical(example)
        assert task.grade(example, text).is_correct


def test_the_prompt_of_infilling_leaves_empty_cells_blank(tmp_path):
    _, example = solved(tmp_path, "sudoku_4x4_infill")
    assert example.prompt.endswith("\n31 2\n2   \n 21 \n 32 \n")
    assert example.template == "\n<answer>\n31M2\n2MMM\nM21M\nM32M\n</answer>".replace("M", MASK)
    _, example = solved(tmp_path)
    assert example.prompt.endswith("Solve the following Sudoku puzzle: 3102200002100320\n")


@pytest.mark.parametrize("name", ["sudoku_4x4", "sudoku_4x4_infill"])
def test_puzzles_made_by_others(name):
    task = make_task(name, TaskConfig(test=str(shared_data("sudoku_4x4.csv"))))
    assert task.size(Split.TEST) == 250
    for index in range(250):
        example = task.example(Split.TEST, index)
        assert task.grade(example, task.canonical(example)).is_correct
        assert not task.grade(example, task.perturbed(example)).is_correct
