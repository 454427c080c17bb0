"""Zebra puzzles in words: who lives where, from clues. The score is the share of cells of the grid that are right.

Rows have `puzzle` (text) and `solution`, an object with `header` (House, then the attributes) and `rows` (one list for each
house, its number first, as text): the columns of ZebraLogic's grid mode.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import ClassVar

from rollout_workers.grading.answers import Grade, GradeKind, last_answer
from rollout_workers.tasks.base import Example, Split, split_of
from rollout_workers.tasks.data import Row, short
from rollout_workers.tasks.dataset import Columns
from rollout_workers.tasks.puzzle import PuzzleTask
from rollout_workers.tasks.zebra_puzzle import Clue, Table, draw_clues

NAME = "Name"
_ATTRIBUTES = {
    NAME: ("Ann", "Ben", "Eva", "Tom", "Mia", "Leo", "Zoe"),
    "Colour": ("red", "blue", "green", "white", "yellow", "black", "orange"),
    "Pet": ("cat", "dog", "fish", "horse", "rabbit", "parrot", "turtle"),
    "Drink": ("tea", "coffee", "milk", "juice", "water", "cocoa", "lemonade"),
    "Hobby": ("chess", "painting", "singing", "gardening", "reading", "dancing", "cooking"),
    "Job": ("baker", "doctor", "teacher", "pilot", "lawyer", "farmer", "nurse"),
}
_PHRASES = {
    NAME: "{}",
    "Colour": "the person in the {} house",
    "Pet": "the person with the {}",
    "Drink": "the person who drinks {}",
    "Hobby": "the person who likes {}",
    "Job": "the {}",
}
_KIND_OF = {value: kind for kind, values in _ATTRIBUTES.items() for value in values}
_SEPARATORS = re.compile(r"[,|]")
_LINE = re.compile(r"\W*house\s*(\d{1,3})\W*?[:|]\s*(.*)", re.IGNORECASE)


class Zebra(PuzzleTask):
    """3 to 5 houses with 3 or 4 attributes."""

    name = family = "zebra"
    columns: ClassVar[Columns] = {"puzzle": str, "solution": dict}

    def problem(self, row: Row) -> str:
        return str(row["puzzle"])

    def check_row(self, row: Row) -> None:
        header, rows = (row["solution"].get(key) for key in ("header", "rows"))
        if not isinstance(header, list) or len(header) < 2 or not all(isinstance(name, str) for name in header):
            raise ValueError(
                f"key 'solution.header' is {short(header)}; needed: a list of two names or more, House first"
            )
        if not isinstance(rows, list) or len(rows) < 2:
            raise ValueError(f"key 'solution.rows' is {short(rows)}; needed: a list of two houses or more")
        for number, house in enumerate(rows, start=1):
            is_sound = isinstance(house, list) and len(house) == len(header) and all(map(_is_cell, house))
            if not is_sound or house[0] != str(number):
                raise ValueError(
                    f"key 'solution.rows[{number - 1}]' is {short(house)}; needed: a list of {len(header)} texts without commas, "
                    f"the first of them {str(number)!r}"
                )
        for name, values in zip(header[1:], list(zip(*rows, strict=True))[1:], strict=True):
            if len(set(map(_plain, values))) < len(values):
                raise ValueError(f"key 'solution.rows' has {name!r} = {short(list(values))}; needed: distinct values")

    def pose(self, example_id: str, row: Row) -> Example:
        solution = row["solution"]
        form = ", ".join(f"({name.lower()})" for name in solution["header"][1:])
        lines = "\n".join(f"House {house[0]}: {form}" for house in solution["rows"])
        prompt = (
            f"{row['puzzle'].strip()}\n\nRespond in the following format, with one line for each house:\n"
            f"<reasoning>\n...\n</reasoning>\n<answer>\n{lines}\n</answer>\n"
        )
        return Example(example_id, prompt, json.dumps([house[1:] for house in solution["rows"]]))

    def grade(self, example: Example, text: str) -> Grade:
        """The last answer's lines `House N: value, value, ...`, in any case; a line with another number of values is all wrong."""
        answer = last_answer(text)
        if answer is None:
            return Grade(GradeKind.UNPARSABLE, 0.0, "")
        houses: list[list[str]] = json.loads(example.answer)
        lines: dict[int, list[str]] = {}
        for line in answer.splitlines():
            if match := _LINE.match(line):
                lines[int(match[1])] = [_plain(cell) for cell in _SEPARATORS.split(match[2].rstrip(" |"))]
        if not lines.keys() & set(range(1, len(houses) + 1)):
            return Grade(GradeKind.UNPARSABLE, 0.0, answer)
        right = 0
        for number, house in enumerate(houses, start=1):
            cells = lines.get(number, [])
            if len(cells) == len(house):
                right += sum(cell == _plain(value) for cell, value in zip(cells, house, strict=True))
        total = sum(map(len, houses))
        if right == total:
            return Grade(GradeKind.CORRECT, 1.0, answer)
        return Grade(GradeKind.WRONG, right / total, answer)

    def canonical(self, example: Example) -> str:
        return _word_answer(json.loads(example.answer))

    def perturbed(self, example: Example) -> str:
        """The solution with the first attribute of the first two houses exchanged."""
        houses = json.loads(example.answer)
        houses[0][0], houses[1][0] = houses[1][0], houses[0][0]
        return _word_answer(houses)

    def draw(self, rng: random.Random, split: Split) -> Row:
        num_houses, num_attributes = rng.randint(3, 5), rng.randint(3, 4)
        while True:
            others = rng.sample([kind for kind in _ATTRIBUTES if kind != NAME], num_attributes - 1)
            kinds = [NAME, *sorted(others, key=list(_ATTRIBUTES).index)]
            table = tuple(tuple(rng.sample(_ATTRIBUTES[kind], num_houses)) for kind in kinds)
            if split_of(f"{self.family} {table}") is split:
                break
        rows = [[str(i), *values] for i, values in enumerate(zip(*table, strict=True), start=1)]
        puzzle = word_puzzle(rng, kinds, table, draw_clues(rng, table))
        return {"puzzle": puzzle, "solution": {"header": ["House", *kinds], "rows": rows}}


def word_puzzle(rng: random.Random, kinds: Sequence[str], table: Table, clues: Sequence[Clue]) -> str:
    """The puzzle in English; the order in which values are listed says nothing about the solution."""
    lines = [
        f"There are {len(table[0])} houses in a row, numbered 1 to {len(table[0])} from left to right. "
        "One person lives in each, and the people differ in each of these:"
    ]
    for kind, values in zip(kinds, table, strict=True):
        lines.append(f"- {kind}: {', '.join(sorted(values))}")
    lines.append("")
    lines.extend(
        f"{number}. {_word_clue(clue)}" for number, clue in enumerate(rng.sample(list(clues), len(clues)), start=1)
    )
    return "\n".join(lines)


def _word_clue(clue: Clue) -> str:
    first, second = clue.first, clue.second
    # "Ann is the doctor" reads better than "the doctor is Ann".
    if second is not None and _KIND_OF[second] == NAME and "{first} is" in clue.relation.value:
        first, second = second, first
    house = None if clue.house is None else clue.house + 1
    text = clue.relation.value.format(
        first=_PHRASES[_KIND_OF[first]].format(first),
        second=None if second is None else _PHRASES[_KIND_OF[second]].format(second),
        house=house,
    )
    return text[0].upper() + text[1:]


def _word_answer(houses: Sequence[Sequence[str]]) -> str:
    lines = [f"House {number}: {', '.join(house)}" for number, house in enumerate(houses, start=1)]
    return "\n".join(["<reasoning>\n...\n</reasoning>\n<answer>", *lines, "</answer>"])


def _is_cell(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not re.search(r"[,|\n]", value)


def _plain(cell: str) -> str:
    return " ".join(cell.casefold().split()).strip(" .*")
