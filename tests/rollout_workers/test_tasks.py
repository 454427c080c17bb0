"""Tasks: examples are pure functions of their name, splits are disjoint, answers are right and fit the model."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys

import pytest

from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.models.load import load_tokenizer
from rollout_workers.tasks import MASK, TASK_NAMES, Example, Split, make_task
from rollout_workers.tasks.arithmetic import LIMIT, MAX_STEPS, Arithmetic, Problem, Step, draw_problem, word_solution
from rollout_workers.tasks.base import split_of
from rollout_workers.tasks.sudoku import Sudoku, all_grids, count_solutions, draw_puzzle, word_grid
from tests.fakes.shared_data import shared_data

TINY = ("arithmetic", "sudoku", "sudoku_infill", "sudoku_hard_infill")
"""Tasks in the words of the shipped model."""
MADE_UP = (*TINY, "sudoku_4x4", "sudoku_4x4_infill", "sudoku_9x9", "sudoku_9x9_infill", "zebra")
"""Tasks that need no file."""


def test_every_task_can_be_made():
    assert {make_task(name).name for name in TASK_NAMES} == set(TASK_NAMES) >= set(MADE_UP)


@pytest.mark.parametrize("name", MADE_UP)
class TestEveryMadeUpTask:
    def test_examples_depend_on_nothing_but_their_name(self, name):
        keys = [(split, index) for split in Split for index in (0, 1, 7, 100_000)]
        forwards = {key: make_task(name).example(*key) for key in keys}
        task = make_task(name)
        backwards = {key: task.example(*key) for key in reversed(keys)}
        assert forwards == backwards
        assert len({example.id for example in forwards.values()}) == len(keys)
        assert len({example.prompt for example in forwards.values()}) == len(keys)

    def test_ids_name_task_split_and_index(self, name):
        assert make_task(name).example(Split.TEST, 17).id == f"{name}/test/17"

    def test_negative_indices_are_refused(self, name):
        with pytest.raises(ValueError, match="-1"):
            make_task(name).example(Split.TRAIN, -1)

    def test_there_is_no_end_to_them(self, name):
        assert [make_task(name).size(split) for split in Split] == [None] * 3

    def test_canonical_texts_are_correct_and_perturbed_ones_are_not(self, name):
        task = make_task(name)
        task.prepare()
        for split in Split:
            for index in range(20):
                example = task.example(split, index)
                grade = task.grade(example, task.canonical(example))
                assert (grade.kind, grade.score) == (GradeKind.CORRECT, 1.0)
                grade = task.grade(example, task.perturbed(example))
                assert grade.kind is GradeKind.WRONG
                assert grade.score < 1.0

    def test_prompts_of_the_splits_are_disjoint(self, name):
        task = make_task(name)
        num = 150 if name in TINY else 40
        prompts = {split: {task.example(split, index).prompt for index in range(num)} for split in Split}
        assert not prompts[Split.TRAIN] & prompts[Split.TEST]
        assert not prompts[Split.TRAIN] & prompts[Split.VALIDATION]
        assert not prompts[Split.VALIDATION] & prompts[Split.TEST]


@pytest.mark.parametrize("name", TINY)
def test_prompts_and_canvases_fit_the_shipped_tokenizer(name):
    task, tokenizer = make_task(name), load_tokenizer("tiny")
    examples = [task.example(split, index) for split in Split for index in range(60)]
    lengths = {len(tokenizer.encode_prompt(example.prompt)) for example in examples}
    assert len(lengths) == 1
    for example in examples:
        canvas = tokenizer.encode_canvas(example.template, task.canvas_length)
        assert len(canvas) == task.canvas_length
        assert tokenizer.mask_id in canvas


def test_examples_are_the_same_in_every_process():
    program = (
        "from rollout_workers.tasks import Split, make_task; "
        f"print([make_task(name).example(split, 5) for name in {MADE_UP} for split in Split])"
    )
    command = [sys.executable, "-c", program]
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        assert done.stdout == f"{[make_task(name).example(split, 5) for name in MADE_UP for split in Split]}\n"


def test_unknown_tasks_are_named():
    with pytest.raises(ValueError, match=r"'sums'.*arithmetic, sudoku"):
        make_task("sums")


def test_split_shares():
    counts = {split: 0 for split in Split}
    for number in range(8000):
        counts[split_of(f"key {number}")] += 1
    assert counts[Split.TEST] == pytest.approx(500, abs=80)
    assert counts[Split.VALIDATION] == pytest.approx(500, abs=80)


class TestArithmetic:
    def test_drawn_problems_of_one_split_never_occur_in_another(self):
        rng = random.Random(0)
        keys = {
            split: {draw_problem(rng, split, num_steps=rng.randint(4, MAX_STEPS)).key for _ in range(700)}
            for split in Split
        }
        assert all(split_of(key) is split for split in Split for key in keys[split])
        assert sum(map(len, keys.values())) == len(set().union(*keys.values()))

    def test_the_key_does_not_depend_on_the_wording(self):
        problem = draw_problem(random.Random(1), Split.TRAIN, num_steps=5)
        assert problem.key == Problem(problem.start, tuple(problem.steps)).key

    def test_values_stay_in_range_and_answers_are_the_last(self):
        rng = random.Random(2)
        for _ in range(300):
            problem = draw_problem(rng, Split.TRAIN, num_steps=rng.randint(1, MAX_STEPS))
            assert all(0 <= value < LIMIT for value in [problem.start, *problem.values()])

    @pytest.mark.parametrize(
        ("step", "value", "result"),
        [
            (Step("plus", 3), 4, 7), (Step("plus", 3), 17, None), (Step("minus", 3), 4, 1), (Step("minus", 5), 4, None),
            (Step("times", 2), 9, 18), (Step("times", 2), 10, None), (Step("over", 2), 8, 4), (Step("over", 2), 7, None),
        ],
    )  # fmt: skip
    def test_steps(self, step, value, result):
        assert step.apply(value) == result

    def test_the_sentences_lead_to_the_answer(self):
        """An independent reading of the prompt: the first person's things, and what happens to them."""
        task = Arithmetic()
        for split in Split:
            for index in range(100):
                example = task.example(split, index)
                sentences = example.prompt.split(" . ")
                value = int(next(word for word in sentences[0].split() if word.isdigit()))
                for sentence in sentences[1:]:
                    words = sentence.split()
                    numbers = [int(word) for word in words if word.isdigit()]
                    if "more" in words:
                        value += numbers[0]
                    elif "away" in words:
                        value -= numbers[0]
                    elif "doubles" in words:
                        value *= 2
                    elif "halves" in words:
                        assert value % 2 == 0
                        value //= 2
                assert example.answer == str(value)

    def test_solutions_fit_tokenise_and_grade_correct(self):
        task, tokenizer, rng = Arithmetic(), load_tokenizer("tiny"), random.Random(3)
        for number in range(200):
            problem = draw_problem(rng, Split.TRAIN, num_steps=1 + number % MAX_STEPS)
            text = word_solution(problem, rng)
            ids = tokenizer.encode_prompt(text)
            # At least one end-of-text must fit behind the longest solution.
            assert len(ids) < task.canvas_length
            example = Example("arithmetic/test/0", "", str(problem.values()[-1]))
            canvas = ids + [tokenizer.eos_id] * (task.canvas_length - len(ids))
            assert task.grade(example, tokenizer.decode_canvas(canvas)) == Grade(GradeKind.CORRECT, 1.0, example.answer)

    @pytest.mark.parametrize(
        ("text", "kind", "answer"),
        [
            ("<answer> 7 </answer>", GradeKind.CORRECT, "7"),
            ("<answer>7</answer> and more", GradeKind.CORRECT, "7"),
            ("<answer> +7 </answer>", GradeKind.CORRECT, "+7"),
            ("<answer> 8 </answer>", GradeKind.WRONG, "8"),
            ("<answer> -7 </answer>", GradeKind.WRONG, "-7"),
            ("<answer> 8 </answer> <answer> 7 </answer>", GradeKind.CORRECT, "7"),
            ("<answer> 7 </answer> <answer> 8 </answer>", GradeKind.WRONG, "8"),
            ("<answer> 7 8 </answer>", GradeKind.UNPARSABLE, "7 8"),
            ("<answer> seven </answer>", GradeKind.UNPARSABLE, "seven"),
            ("<answer> 7.0 </answer>", GradeKind.UNPARSABLE, "7.0"),
            ("<answer> </answer>", GradeKind.UNPARSABLE, ""),
            ("<answer> 7", GradeKind.UNPARSABLE, ""),
            ("7", GradeKind.UNPARSABLE, ""),
            ("", GradeKind.UNPARSABLE, ""),
            ("</answer> 7 <answer>", GradeKind.UNPARSABLE, ""),
        ],
    )
    def test_grades(self, text, kind, answer):
        grade = Arithmetic().grade(Example("arithmetic/test/0", "", "7"), text)
        assert grade == Grade(kind, float(kind is GradeKind.CORRECT), answer)

    def test_an_answer_of_thousands_of_digits_is_no_grader_error(self):
        """Python refuses to convert it, which says something about the answer and nothing about the grader."""
        grade = Arithmetic().grade(Example("arithmetic/test/0", "", "7"), f"<answer> {'9' * 5000} </answer>")
        assert grade.kind in (GradeKind.WRONG, GradeKind.UNPARSABLE)

    @pytest.mark.parametrize(("low", "high"), [(0, 4), (5, 4), (1, MAX_STEPS + 1)])
    def test_impossible_numbers_of_steps_are_refused(self, low, high):
        with pytest.raises(ValueError, match=f"{low} and {high}"):
            Arithmetic(min_steps=low, max_steps=high)


def brute_force(puzzle: str) -> list[str]:
    """All solutions by backtracking over the rules, independent of the module."""
    cells, found = [int(cell) for cell in puzzle], []

    def units(i: int) -> set[int]:
        row, column = divmod(i, 4)
        box = (row // 2 * 2, column // 2 * 2)
        same_row = {4 * row + c for c in range(4)}
        same_column = {4 * r + column for r in range(4)}
        return same_row | same_column | {4 * (box[0] + r) + box[1] + c for r in (0, 1) for c in (0, 1)}

    def fill(i: int) -> None:
        if i == 16:
            found.append("".join(map(str, cells)))
            return
        choices = [cells[i]] if puzzle[i] != "0" else [1, 2, 3, 4]
        for value in choices:
            if all(cells[j] != value for j in units(i) - {i} if j < i or puzzle[j] != "0"):
                cells[i] = value
                fill(i + 1)
        cells[i] = int(puzzle[i])

    fill(0)
    return found


class TestSudoku:
    def test_there_are_288_grids_and_all_obey_the_rules(self):
        grids = all_grids()
        assert len(grids) == len(set(grids)) == 288
        assert sorted("".join(map(str, grid)) for grid in grids) == sorted(brute_force("0" * 16))

    def test_puzzles_have_one_solution_and_it_is_the_given_one(self):
        rng = random.Random(0)
        for number in range(120):
            puzzle, solution = draw_puzzle(rng, list(Split)[number % 3], num_givens=rng.randint(4, 12))
            assert brute_force(puzzle) == [solution]
            assert count_solutions(puzzle) == 1

    @pytest.mark.parametrize(
        "puzzle", ["0" * 16, "1" + "0" * 15, "1200" + "0" * 12, "11" + "0" * 14, "1234341221434300"]
    )
    def test_solutions_are_counted_as_brute_force_counts_them(self, puzzle):
        assert count_solutions(puzzle) == len(brute_force(puzzle))

    def test_puzzles_of_the_splits_are_disjoint(self):
        tasks = Sudoku(), Sudoku(infill=True)
        puzzles = {
            split: {task.example(split, index).answer.split()[0] for task in tasks for index in range(350)}
            for split in Split
        }
        assert all(split_of(f"sudoku {puzzle}") is split for split in Split for puzzle in puzzles[split])
        assert sum(map(len, puzzles.values())) == len(set().union(*puzzles.values()))

    def test_givens_vary_and_both_forms_pose_the_same_puzzles(self):
        free, infill = Sudoku(), Sudoku(infill=True)
        numbers = set()
        for index in range(80):
            one, other = free.example(Split.TRAIN, index), infill.example(Split.TRAIN, index)
            assert (one.prompt, one.answer, one.template) == (other.prompt, other.answer, None)
            numbers.add(16 - one.answer.split()[0].count("0"))
        assert min(numbers) >= 4
        assert max(numbers) <= 12
        assert len(numbers) >= 5

    def test_templates_have_one_mask_per_empty_cell_and_keep_the_givens(self):
        task = Sudoku(infill=True)
        for index in range(50):
            example = task.example(Split.TEST, index)
            puzzle, solution = example.answer.split()
            assert example.template.split().count(MASK) == puzzle.count("0")
            filled = iter(value for value, given in zip(solution, puzzle, strict=True) if given == "0")
            text = " ".join(next(filled) if word == MASK else word for word in example.template.split())
            assert text == word_grid(solution)
            assert task.grade(example, text).is_correct

    def solved(self) -> tuple[Sudoku, Example, str]:
        task = Sudoku()
        puzzle, solution = draw_puzzle(random.Random(5), Split.TRAIN, num_givens=8)
        return task, task.pose("sudoku/train/0", puzzle, solution), solution

    def test_the_right_grid_is_correct_in_any_layout(self):
        task, example, solution = self.solved()
        for text in (word_grid(solution), f"<answer>{solution}</answer>", f"so: {word_grid(solution)} that was easy"):
            assert task.grade(example, text) == Grade(GradeKind.CORRECT, 1.0, solution)

    def test_partial_credit_is_the_share_of_right_empty_cells(self):
        task, example, solution = self.solved()
        puzzle = example.answer.split()[0]
        empty = [i for i in range(16) if puzzle[i] == "0"]
        cells = list(solution)
        for number, i in enumerate(empty, 1):
            cells[i] = str(int(cells[i]) % 4 + 1)
            grade = task.grade(example, word_grid("".join(cells)))
            assert grade == Grade(GradeKind.WRONG, (len(empty) - number) / len(empty), "".join(cells))
        assert task.grade(example, word_grid("".join(cells))).score == 0

    def test_an_overwritten_given_is_wrong_whatever_else_is_right(self):
        task, example, solution = self.solved()
        given = next(i for i, cell in enumerate(example.answer.split()[0]) if cell != "0")
        cells = list(solution)
        cells[given] = str(int(cells[given]) % 4 + 1)
        grade = task.grade(example, word_grid("".join(cells)))
        assert grade.kind is GradeKind.WRONG
        assert 0 < grade.score < 1

    def test_the_last_answer_counts(self):
        task, example, solution = self.solved()
        wrong = word_grid("1" * 16)
        assert task.grade(example, f"{wrong} {word_grid(solution)}").kind is GradeKind.CORRECT
        assert task.grade(example, f"{word_grid(solution)} {wrong}").kind is GradeKind.WRONG

    @pytest.mark.parametrize(
        ("text", "answer"),
        [("", ""), ("1 2 3", ""), ("<answer> 1 2 3 </answer>", "123"), (word_grid("1" * 16).replace("</", ""), ""),
         ("<answer> " + "1 " * 17 + "</answer>", "1" * 17), ("<answer> none </answer>", "")],
    )  # fmt: skip
    def test_what_is_no_grid_is_unparsable(self, text, answer):
        task, example, _ = self.solved()
        assert task.grade(example, text) == Grade(GradeKind.UNPARSABLE, 0.0, answer)

    @pytest.mark.parametrize(("low", "high"), [(3, 8), (9, 8), (4, 16)])
    def test_impossible_numbers_of_givens_are_refused(self, low, high):
        with pytest.raises(ValueError, match=f"{low} and {high}"):
            Sudoku(min_givens=low, max_givens=high)

    def test_puzzles_made_by_others(self):
        with shared_data("sudoku_4x4.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 250
        tokenizer = load_tokenizer("tiny")
        for number, row in enumerate(rows):
            puzzle, solution = row["Puzzle"], row["Solution"]
            # 62 of these puzzles have several solutions, whatever their makers say.
            solutions = brute_force(puzzle)
            assert solution in solutions
            assert count_solutions(puzzle) == len(solutions)
            for task in (Sudoku(), Sudoku(infill=True)):
                example = task.pose(f"{task.name}/others/{number}", puzzle, solution)
                tokenizer.encode_prompt(example.prompt)
                assert tokenizer.encode_canvas(example.template, task.canvas_length).count(tokenizer.mask_id) == (
                    puzzle.count("0") if task.infill else task.canvas_length
                )
                assert task.grade(example, word_grid(solution)).is_correct
                broken = word_grid("1" * 16)
                assert not task.grade(example, broken).is_correct
