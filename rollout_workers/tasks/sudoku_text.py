"""4x4 and 9x9 Sudoku in plain English, answered freely or by infilling a canvas that already holds the givens.

The score is the share of originally empty cells that are right (the reward of d1, arXiv 2504.12216, and of UPO, arXiv
2510.05725); only a valid grid that keeps the givens is `CORRECT`.
"""

from __future__ import annotations

import random
from typing import ClassVar

from rollout_workers.config import TaskConfig
from rollout_workers.grading.answers import Grade, GradeKind, last_answer
from rollout_workers.tasks import sudoku, sudoku_grid
from rollout_workers.tasks.base import MASK, Example, Split, split_of
from rollout_workers.tasks.data import Row, short
from rollout_workers.tasks.dataset import Columns
from rollout_workers.tasks.puzzle import PuzzleTask

EMPTY = "0"

_RULES = {
    4: "A 4x4 Sudoku grid has four rows, four columns and four 2x2 boxes. Each of the digits 1 to 4 occurs exactly once "
    "in every row, in every column and in every box.",
    9: "A 9x9 Sudoku grid has nine rows, nine columns and nine 3x3 boxes. Each of the digits 1 to 9 occurs exactly once "
    "in every row, in every column and in every box.",
}
_FREE = (
    "{rules}\n\nA grid is written as one string of {cells} digits, row after row from the top; 0 stands for an empty "
    "cell. Fill in the empty cells and leave the given digits as they are.\n\nRespond in the following format:\n"
    "<reasoning>\n...\n</reasoning>\n<answer>\n(the {cells} digits of the completed grid)\n</answer>\n\n"
    "Solve the following Sudoku puzzle: {puzzle}\n"
)
_INFILL = (
    "{rules}\n\nFill in the empty cells of the grid below, which are left blank, and keep the given digits where they "
    "stand. Answer with the {side} rows of the completed grid, one row on each line, between <answer> and </answer>.\n\n"
    "{puzzle}\n"
)


class SudokuText(PuzzleTask):
    """Rows have `Puzzle` and `Solution`, strings of side * side digits in reading order with 0 for an empty cell."""

    settings = frozenset({"train", "test", "parity"})
    columns: ClassVar[Columns] = {"Puzzle": str, "Solution": str}
    side: ClassVar[int]
    infill: ClassVar[bool] = False

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self._cells = self.side * self.side

    def problem(self, row: Row) -> str:
        return str(row["Puzzle"])

    def check_row(self, row: Row) -> None:
        digits = "".join(map(str, range(1, self.side + 1)))
        puzzle, solution = row["Puzzle"], row["Solution"]
        for key, value, allowed in (("Puzzle", puzzle, EMPTY + digits), ("Solution", solution, digits)):
            if len(value) != self._cells or not set(value) <= set(allowed):
                raise ValueError(f"key {key!r} is {short(value)}; needed: {self._cells} digits of {allowed}")
        if EMPTY not in puzzle:
            raise ValueError(f"key 'Puzzle' is {short(puzzle)}; needed: at least one empty cell ({EMPTY})")
        if not self.is_solution(puzzle, solution):
            raise ValueError(
                f"key 'Solution' is {short(solution)}; needed: a valid grid that keeps the givens of 'Puzzle'"
            )

    def is_solution(self, puzzle: str, grid: str) -> bool:
        """Whether `grid`, all digits in range, is valid and keeps the givens of `puzzle`."""
        return (sudoku if self.side == sudoku.SIZE else sudoku_grid).is_solution(puzzle, grid)

    def pose(self, example_id: str, row: Row) -> Example:
        puzzle, side = row["Puzzle"], self.side
        wording, shown = _FREE, puzzle
        if self.infill:
            wording, shown = _INFILL, "\n".join(self._rows(puzzle, " "))
        prompt = wording.format(rules=_RULES[side], cells=self._cells, side=side, puzzle=shown)
        template = self._word_grid(puzzle, blank=MASK) if self.infill else None
        return Example(id=example_id, prompt=prompt, answer=f"{puzzle} {row['Solution']}", template=template)

    def grade(self, example: Example, text: str) -> Grade:
        """A grid is the digits of the last answer, `side * side` of them, or as many rows of as many characters.

        In such rows a character that is no digit is a wrong cell. `parity` grades as the reference releases do: digits
        alone, cut or filled up with 0 to a whole grid, and only the originally empty cells are compared, with the one listed
        solution.
        """
        puzzle, solution = example.answer.split()
        answer = last_answer(text)
        if answer is None:
            return Grade(GradeKind.UNPARSABLE, 0.0, "")
        grid = self._parity_cells(answer) if self.config.parity else self._read_cells(answer)
        if grid is None:
            return Grade(GradeKind.UNPARSABLE, 0.0, answer)
        empty = [i for i, given in enumerate(puzzle) if given == EMPTY]
        share = sum(grid[i] == solution[i] for i in empty) / len(empty)
        if share == 1.0 if self.config.parity else self._solves(puzzle, grid):
            return Grade(GradeKind.CORRECT, 1.0, grid)
        # A grid whose empty cells are all right but whose givens were overwritten is still wrong.
        return Grade(GradeKind.WRONG, min(share, (self._cells - 1) / self._cells), grid)

    def canonical(self, example: Example) -> str:
        return self._word_answer(example.answer.split()[1])

    def perturbed(self, example: Example) -> str:
        """The solution with another digit in its first empty cell: a valid grid with one cell changed is never valid."""
        puzzle, solution = example.answer.split()
        cell = puzzle.index(EMPTY)
        digit = int(solution[cell]) % self.side + 1
        return self._word_answer(f"{solution[:cell]}{digit}{solution[cell + 1 :]}")

    def draw(self, rng: random.Random, split: Split) -> Row:
        if self.side == sudoku.SIZE:
            puzzle, solution = sudoku.draw_puzzle(rng, split, num_givens=rng.randint(4, 12))
        else:
            puzzle, solution = sudoku_grid.draw(rng, num_givens=rng.randint(30, 50))
            while split_of(f"{self.family} {puzzle}") is not split:
                puzzle, solution = sudoku_grid.reorder(rng, puzzle, solution)
        return {"Puzzle": puzzle, "Solution": solution}

    def _solves(self, puzzle: str, grid: str) -> bool:
        digits = set(map(str, range(1, self.side + 1)))
        return set(grid) <= digits and self.is_solution(puzzle, grid)

    def _read_cells(self, answer: str) -> str | None:
        digits = "".join(ch for ch in answer if ch.isascii() and ch.isdigit())
        if len(digits) == self._cells:
            return digits
        rows = answer.splitlines()
        is_grid = len(rows) == self.side and all(len(row) == self.side for row in rows)
        return "".join(rows) if is_grid else None

    def _parity_cells(self, answer: str) -> str | None:
        digits = "".join(ch for ch in answer if ch.isdigit())
        return digits[: self._cells].ljust(self._cells, EMPTY) if digits else None

    def _rows(self, cells: str, blank: str) -> list[str]:
        marks = [blank if cell == EMPTY else cell for cell in cells]
        return ["".join(marks[start : start + self.side]) for start in range(0, self._cells, self.side)]

    def _word_answer(self, grid: str) -> str:
        return self._word_grid(grid) if self.infill else f"<reasoning>\n...\n</reasoning>\n<answer>\n{grid}\n</answer>"

    def _word_grid(self, cells: str, *, blank: str = EMPTY) -> str:
        return "\n".join(["\n<answer>", *self._rows(cells, blank), "</answer>"])


class Sudoku4x4(SudokuText):
    """The 16 digits after free reasoning, as the d1 data set poses them."""

    name, family, side = "sudoku_4x4", "sudoku", 4


class Sudoku4x4Infill(SudokuText):
    """The grid as a template with one mask for each empty cell, as UPO poses it."""

    name, family, side, infill = "sudoku_4x4_infill", "sudoku", 4, True
    canvas_length = 64


class Sudoku9x9(SudokuText):
    """The 81 digits after free reasoning."""

    name, family, side = "sudoku_9x9", "sudoku_9x9", 9


class Sudoku9x9Infill(SudokuText):
    """The grid as a template with one mask for each empty cell."""

    name, family, side, infill = "sudoku_9x9_infill", "sudoku_9x9", 9, True
    canvas_length = 128
