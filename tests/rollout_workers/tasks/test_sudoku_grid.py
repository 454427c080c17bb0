"""9x9 grids: the solver against the rules alone, and what it says about drawn puzzles."""

from __future__ import annotations

import random
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout_workers.tasks.sudoku_grid import CELLS, draw, is_solution, reorder, solve

KNOWN = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
KNOWN_SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
HARD = "800000000003600000070090200050007000000045700000100030001000068008500010090000400"
HARD_SOLUTION = "812753649943682175675491283154237896369845721287169534521974368438526917796318452"


def brute_force(puzzle: str, limit: int = 1000) -> list[str]:
    """Solutions by trying every digit in reading order, checked against the rules as they are stated."""
    cells, found = list(puzzle), []
    empty = [i for i, cell in enumerate(cells) if cell == "0"]

    def clashes(i: int) -> bool:
        row, column = divmod(i, 9)
        for j in range(81):
            other_row, other_column = divmod(j, 9)
            same_box = (row // 3, column // 3) == (other_row // 3, other_column // 3)
            if j != i and cells[j] == cells[i] and (row == other_row or column == other_column or same_box):
                return True
        return False

    def fill(number: int) -> None:
        if number == len(empty):
            found.append("".join(cells))
            return
        for digit in "123456789":
            cells[empty[number]] = digit
            if not clashes(empty[number]) and len(found) < limit:
                fill(number + 1)
        cells[empty[number]] = "0"

    if not any(clashes(i) for i, cell in enumerate(cells) if cell != "0"):
        fill(0)
    return found


@pytest.mark.parametrize(("puzzle", "solution"), [(KNOWN, KNOWN_SOLUTION), (HARD, HARD_SOLUTION)])
def test_published_puzzles(puzzle, solution):
    assert solve(puzzle) == [solution]
    assert is_solution(puzzle, solution)


@given(st.sets(st.integers(0, CELLS - 1), min_size=1, max_size=12), st.integers(0, 1000))
def test_all_solutions_are_those_of_brute_force(holes, seed):
    """Completed grids with holes; in a third of them two cells are exchanged, which often leaves no solution."""
    rng = random.Random(seed)
    _, grid = draw(rng, num_givens=CELLS)
    cells = list(grid)
    if seed % 3 == 0:
        swap = rng.sample(range(CELLS), 2)
        cells[swap[0]], cells[swap[1]] = cells[swap[1]], cells[swap[0]]
    puzzle = "".join("0" if i in holes else cell for i, cell in enumerate(cells))
    assert sorted(solve(puzzle, limit=1000)) == sorted(brute_force(puzzle))


def test_a_rectangle_that_can_be_turned_has_two_solutions():
    """Two digits that stand crosswise in two rows and two columns of two boxes may be exchanged."""
    rows = [KNOWN_SOLUTION[start : start + 9] for start in range(0, CELLS, 9)]
    (top, bottom, left, right) = next(
        (top, bottom, left, right)
        for (top, bottom), (left, right) in product(combinations(range(9), 2), repeat=2)
        if (top // 3 == bottom // 3) != (left // 3 == right // 3)
        and (rows[top][left], rows[top][right]) == (rows[bottom][right], rows[bottom][left])
    )
    holes = {9 * row + column for row in (top, bottom) for column in (left, right)}
    puzzle = "".join("0" if i in holes else cell for i, cell in enumerate(KNOWN_SOLUTION))
    assert sorted(solve(puzzle, limit=9)) == sorted(brute_force(puzzle))
    assert len(solve(puzzle, limit=9)) == 2
    assert len(solve(puzzle, limit=1)) == 1


@pytest.mark.parametrize("num_givens", [26, 30, 40, 50, 80])
def test_drawn_puzzles_have_one_solution_and_the_wanted_givens(num_givens):
    for seed in range(8):
        puzzle, solution = draw(random.Random(seed), num_givens=num_givens)
        assert solve(puzzle) == [solution]
        assert is_solution(puzzle, solution)
        assert num_givens <= CELLS - puzzle.count("0") <= num_givens + 2


def test_drawn_puzzles_depend_on_their_source_alone():
    first = [draw(random.Random(seed), num_givens=30) for seed in range(5)]
    assert first == [draw(random.Random(seed), num_givens=30) for seed in range(5)]
    assert len({puzzle for puzzle, _ in first}) == 5


def test_exchanged_rows_keep_the_solution():
    rng = random.Random(0)
    for _ in range(20):
        puzzle, solution = reorder(rng, KNOWN, KNOWN_SOLUTION)
        assert solve(puzzle) == [solution]


@pytest.mark.parametrize("cell", [0, 40, 80])
def test_any_changed_cell_is_no_solution(cell):
    for digit in set("0123456789") - {KNOWN_SOLUTION[cell]}:
        assert not is_solution("0" * CELLS, KNOWN_SOLUTION[:cell] + digit + KNOWN_SOLUTION[cell + 1 :])


def test_a_solution_keeps_the_givens():
    assert not is_solution("1" + "0" * 80, KNOWN_SOLUTION)
    assert is_solution("5" + "0" * 80, KNOWN_SOLUTION)


def test_contradicting_givens_have_no_solution():
    assert solve("11" + "0" * 79) == []
