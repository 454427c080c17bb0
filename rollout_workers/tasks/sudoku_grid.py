"""9x9 Sudoku grids: solutions by bit masks, and puzzles with one solution.

Invariant: every drawn puzzle has exactly one solution and is a pure function of its random source. Grids are strings of 81
digits in reading order, 0 for an empty cell; a mask has bit d for digit d.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SIZE = 9
BOX = 3
CELLS = SIZE * SIZE
_ALL = (1 << SIZE + 1) - 2

_ROW = tuple(cell // SIZE for cell in range(CELLS))
_COLUMN = tuple(cell % SIZE for cell in range(CELLS))
_SQUARE = tuple(cell // SIZE // BOX * BOX + cell % SIZE // BOX for cell in range(CELLS))
_DIGITS = tuple(tuple(digit for digit in range(1, SIZE + 1) if mask >> digit & 1) for mask in range(_ALL + 1))


class _Board:
    """A partly filled grid and which digits each row, column and box has used; no unit ever holds a digit twice."""

    def __init__(self, cells: Sequence[int]) -> None:
        self.cells = [0] * CELLS
        self._rows, self._columns, self._squares = [0] * SIZE, [0] * SIZE, [0] * SIZE
        self.is_consistent = True
        for cell, digit in enumerate(cells):
            if digit and self.candidates(cell) >> digit & 1:
                self.put(cell, digit)
            elif digit:
                self.is_consistent = False

    def candidates(self, cell: int) -> int:
        """The digits that no unit of `cell` has used, as a mask."""
        return _ALL & ~(self._rows[_ROW[cell]] | self._columns[_COLUMN[cell]] | self._squares[_SQUARE[cell]])

    def put(self, cell: int, digit: int) -> None:
        self.cells[cell] = digit
        self._flip(cell, 1 << digit)

    def take(self, cell: int) -> int:
        """Empties `cell`; returns what stood there."""
        digit, self.cells[cell] = self.cells[cell], 0
        self._flip(cell, 1 << digit)
        return digit

    def _flip(self, cell: int, bit: int) -> None:
        self._rows[_ROW[cell]] ^= bit
        self._columns[_COLUMN[cell]] ^= bit
        self._squares[_SQUARE[cell]] ^= bit

    def solve(self, limit: int, rng: random.Random | None = None) -> list[str]:
        """Up to `limit` solutions; the board is left as it was. With `rng`, digits are tried in random order."""
        found: list[str] = []
        if self.is_consistent:
            self._fill([cell for cell in range(CELLS) if not self.cells[cell]], limit, rng, found)
        return found

    def _fill(self, empty: list[int], limit: int, rng: random.Random | None, found: list[str]) -> None:
        if not empty:
            found.append("".join(map(str, self.cells)))
            return
        rows, columns, squares = self._rows, self._columns, self._squares
        fewest, where, choices = SIZE + 1, 0, 0
        for i, cell in enumerate(empty):
            mask = _ALL & ~(rows[_ROW[cell]] | columns[_COLUMN[cell]] | squares[_SQUARE[cell]])
            num = mask.bit_count()
            if num < fewest:
                fewest, where, choices = num, i, mask
                if num < 2:
                    break
        if not choices:
            return
        cell = empty[where]
        rest = empty[:where] + empty[where + 1 :]
        digits = list(_DIGITS[choices])
        if rng is not None:
            rng.shuffle(digits)
        for digit in digits:
            self.put(cell, digit)
            self._fill(rest, limit, rng, found)
            self.take(cell)
            if len(found) >= limit:
                return


def solve(puzzle: str, *, limit: int = 2) -> list[str]:
    """Up to `limit` solutions of `puzzle`; with the default, one string says that the solution is unique."""
    return _Board([int(cell) for cell in puzzle]).solve(limit)


def is_solution(puzzle: str, grid: str) -> bool:
    """Whether `grid` is a completed grid that keeps the givens of `puzzle`."""
    keeps = all(given in ("0", value) for given, value in zip(puzzle, grid, strict=True))
    return keeps and "0" not in grid and _Board([int(cell) for cell in grid]).is_consistent


def draw(rng: random.Random, *, num_givens: int) -> tuple[str, str]:
    """A puzzle with one solution and, where uniqueness allows, `num_givens` givens; and its solution."""
    # A grid is found at once from three boxes that share no unit.
    start = [0] * CELLS
    for corner in (0, 30, 60):
        digits = rng.sample(range(1, SIZE + 1), SIZE)
        for i, digit in enumerate(digits):
            start[corner + i // BOX * SIZE + i % BOX] = digit
    (solution,) = _Board(start).solve(1, rng)
    board = _Board([int(digit) for digit in solution])
    remaining = CELLS
    for cell in rng.sample(range(CELLS), CELLS):
        if remaining <= num_givens:
            break
        remaining -= _remove(board, cell)
    return "".join(map(str, board.cells)), solution


def _remove(board: _Board, cell: int) -> bool:
    """Empties `cell` if the solution stays the only one: if no other digit there can be completed."""
    digit = board.take(cell)
    for other in _DIGITS[board.candidates(cell) & ~(1 << digit)]:
        board.put(cell, other)
        is_possible = bool(board.solve(1))
        board.take(cell)
        if is_possible:
            board.put(cell, digit)
            return False
    return True


def reorder(rng: random.Random, *grids: str) -> tuple[str, ...]:
    """The same random exchange of rows within their bands in every grid, which keeps solutions solutions."""
    order = [band + row for band in (0, BOX, 2 * BOX) for row in rng.sample(range(BOX), BOX)]
    return tuple("".join(grid[row * SIZE : (row + 1) * SIZE] for row in order) for grid in grids)
