"""4x4 Sudoku with unique solutions, answered freely or by infilling a canvas that already holds the givens."""

from __future__ import annotations

import random
from functools import lru_cache
from itertools import permutations

from rollout_workers.grading.answers import Grade, GradeKind, last_answer
from rollout_workers.tasks.base import MASK, Example, Split, example_random, split_of

SIZE = 4
CELLS = SIZE * SIZE
EMPTY = "0"
BLANK = "_"
"""How an empty cell is written in a prompt."""
ROW_END = "|"
HARD_GIVENS = 5
"""Puzzles with at most so many are `sudoku_hard`: there the order of filling in decides most."""

WORDS = ("fill", "the", "grid", ":", ".", BLANK, ROW_END)

Grid = tuple[int, ...]


class Sudoku:
    """Puzzles with 4 to 12 givens and one solution.

    Args:
        infill: pose the puzzle with its givens fixed on the canvas instead of asking for the whole grid.
    """

    def __init__(self, *, infill: bool = False, min_givens: int = 4, max_givens: int = 12) -> None:
        if not 4 <= min_givens <= max_givens < CELLS:
            raise ValueError(f"givens must satisfy 4 <= min <= max < {CELLS}, got {min_givens} and {max_givens}")
        self.infill = infill
        hard = "_hard" if max_givens <= HARD_GIVENS else ""
        self.name = f"sudoku{hard}{'_infill' if infill else ''}"
        self.min_givens = min_givens
        self.max_givens = max_givens
        self.num_graders = 1
        self.canvas_length = 24

    def prepare(self) -> None:
        """Nothing: the grade is a look-up."""

    def size(self, split: Split) -> int | None:
        return None

    def example(self, split: Split, index: int) -> Example:
        rng = example_random("sudoku", split, index)
        puzzle, solution = draw_puzzle(rng, split, num_givens=rng.randint(self.min_givens, self.max_givens))
        return self.pose(f"{self.name}/{split}/{index}", puzzle, solution)

    def pose(self, example_id: str, puzzle: str, solution: str) -> Example:
        """The example of one puzzle, both as strings of 16 digits with `0` for an empty cell."""
        template = word_grid(puzzle, blank=MASK) if self.infill else None
        prompt = f"fill the grid : {_rows(puzzle, BLANK)} ."
        return Example(id=example_id, prompt=prompt, answer=f"{puzzle} {solution}", template=template)

    def grade(self, example: Example, text: str) -> Grade:
        """`CORRECT` is the solution, or any valid grid with the puzzle's givens (puzzles of others may have several).

        For other grids `score` is the share of originally empty cells that agree with the solution, below 1.
        """
        puzzle, solution = example.answer.split()
        answer = last_answer(text)
        if answer is None:
            return Grade(GradeKind.UNPARSABLE, 0.0, "")
        digits = "".join(ch for ch in answer if ch.isdigit())
        if len(digits) != CELLS:
            return Grade(GradeKind.UNPARSABLE, 0.0, digits)
        if digits == solution or is_solution(puzzle, digits):
            return Grade(GradeKind.CORRECT, 1.0, digits)
        empty = [i for i in range(CELLS) if puzzle[i] == EMPTY]
        share = sum(digits[i] == solution[i] for i in empty) / len(empty)
        # A grid whose empty cells are all right but whose givens were overwritten is still wrong.
        return Grade(GradeKind.WRONG, min(share, (CELLS - 1) / CELLS), digits)

    def canonical(self, example: Example) -> str:
        return word_grid(example.answer.split()[1])

    def perturbed(self, example: Example) -> str:
        """The solution with another digit in its first empty cell: a valid grid with one cell changed is never valid."""
        puzzle, solution = example.answer.split()
        cell = puzzle.index(EMPTY)
        return word_grid(f"{solution[:cell]}{int(solution[cell]) % SIZE + 1}{solution[cell + 1 :]}")


def _rows(cells: str, blank: str) -> str:
    marks = [blank if cell == EMPTY else cell for cell in cells]
    return f" {ROW_END} ".join(" ".join(marks[row : row + SIZE]) for row in range(0, CELLS, SIZE))


def word_grid(cells: str, *, blank: str = BLANK) -> str:
    """The answer text of a grid, with `blank` for each empty cell."""
    return f"<answer> {_rows(cells, blank)} </answer>"


@lru_cache(maxsize=1)
def all_grids() -> tuple[Grid, ...]:
    """The 288 completed grids."""
    rows = list(permutations(range(1, SIZE + 1)))
    grids: list[Grid] = []

    def extend(partial: list[tuple[int, ...]]) -> None:
        if len(partial) == SIZE:
            grids.append(tuple(cell for row in partial for cell in row))
            return
        for row in rows:
            if _fits(partial, row):
                extend([*partial, row])

    extend([])
    return tuple(grids)


def _fits(partial: list[tuple[int, ...]], row: tuple[int, ...]) -> bool:
    for column in range(SIZE):
        if any(above[column] == row[column] for above in partial):
            return False
    if len(partial) % 2 == 1:
        above = partial[-1]
        return not any(set(above[i : i + 2]) & set(row[i : i + 2]) for i in (0, 2))
    return True


@lru_cache(maxsize=1)
def _grids_with() -> dict[tuple[int, str], int]:
    """For each (cell, digit): the set of completed grids that have it, as a bit mask over `all_grids()`."""
    masks: dict[tuple[int, str], int] = {}
    for bit, grid in enumerate(all_grids()):
        for cell, value in enumerate(grid):
            masks[cell, str(value)] = masks.get((cell, str(value)), 0) | 1 << bit
    return masks


def count_solutions(puzzle: str) -> int:
    """How many completed grids agree with the givens of `puzzle`."""
    grids_with = _grids_with()
    agreeing = (1 << len(all_grids())) - 1
    for cell, value in enumerate(puzzle):
        if value != EMPTY:
            agreeing &= grids_with.get((cell, value), 0)
    return agreeing.bit_count()


def is_solution(puzzle: str, grid: str) -> bool:
    """Whether `grid` is a completed grid that keeps the givens of `puzzle`."""
    return count_solutions(grid) == 1 and all(cell in (EMPTY, value) for cell, value in zip(puzzle, grid, strict=True))


def draw_puzzle(rng: random.Random, split: Split, *, num_givens: int) -> tuple[str, str]:
    """A puzzle of `split` with one solution and, where uniqueness allows, `num_givens` givens; and its solution."""
    while True:
        solution = "".join(map(str, rng.choice(all_grids())))
        cells = list(solution)
        for cell in rng.sample(range(CELLS), CELLS):
            if sum(value != EMPTY for value in cells) <= num_givens:
                break
            kept, cells[cell] = cells[cell], EMPTY
            if count_solutions("".join(cells)) > 1:
                cells[cell] = kept
        puzzle = "".join(cells)
        if split_of(f"sudoku {puzzle}") is split:
            return puzzle, solution
