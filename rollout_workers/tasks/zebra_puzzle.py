"""Logic-grid puzzles: houses in a row, one value of each attribute in each, and clues about where the values are.

Invariant: every drawn puzzle has exactly one solution, no clue of it can be spared, and it is a pure function of its random source.
A set of houses is a bit mask: bit h is the h-th house from the left, counted from 0.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

Table = tuple[tuple[str, ...], ...]
"""One row for each attribute: its values from the leftmost house to the rightmost."""


class Relation(Enum):
    """What a clue says about the houses of its values, in words; `{house}` counts from 1."""

    SAME = "{first} is {second}."
    DIFFERENT = "{first} is not {second}."
    LEFT = "{first} lives somewhere to the left of {second}."
    DIRECTLY_LEFT = "{first} lives directly to the left of {second}."
    NEXT_TO = "{first} lives next to {second}."
    AT = "{first} lives in house {house}."
    NOT_AT = "{first} does not live in house {house}."

    def allows(self, first: int, second: int) -> bool:
        """Whether the clue holds with its first value in house `first` and its second in (or its named house being) `second`."""
        if self in (Relation.SAME, Relation.AT):
            return first == second
        if self in (Relation.DIFFERENT, Relation.NOT_AT):
            return first != second
        if self is Relation.LEFT:
            return first < second
        return second - first == 1 if self is Relation.DIRECTLY_LEFT else abs(second - first) == 1


_UNARY = (Relation.AT, Relation.NOT_AT)
_WEIGHTS: Mapping[Relation, int] = {
    Relation.SAME: 4,
    Relation.DIFFERENT: 1,
    Relation.LEFT: 2,
    Relation.DIRECTLY_LEFT: 2,
    Relation.NEXT_TO: 3,
    Relation.AT: 1,
    Relation.NOT_AT: 1,
}
"""How often each kind of clue is offered."""


@dataclass(frozen=True, slots=True)
class Clue:
    """One statement about one value, or about two."""

    relation: Relation
    first: str
    second: str | None = None
    house: int | None = None
    """For AT and NOT_AT."""


@functools.cache
def _supports(relation: Relation, num_houses: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For each set of houses of one value, the houses that it leaves the other; forwards and backwards."""

    def reach(houses: int, backwards: bool) -> int:
        mask = 0
        for here in range(num_houses):
            for there in range(num_houses):
                pair = (there, here) if backwards else (here, there)
                if houses >> here & 1 and relation.allows(*pair):
                    mask |= 1 << there
        return mask

    masks = range(1 << num_houses)
    return tuple(reach(mask, False) for mask in masks), tuple(reach(mask, True) for mask in masks)


def solve(attributes: Sequence[Sequence[str]], clues: Sequence[Clue], *, limit: int = 2) -> list[Table]:
    """Up to `limit` solutions for attributes of equally many values; with the default, one says that it is unique.

    Values are distinct over all attributes.
    """
    num_houses = len(attributes[0])
    numbers = {value: i for i, value in enumerate(value for values in attributes for value in values)}
    groups = [[numbers[value] for value in values] for values in attributes]
    domains = [(1 << num_houses) - 1] * len(numbers)
    links: list[tuple[int, int, tuple[int, ...]]] = []
    for clue in clues:
        forwards, backwards = _supports(clue.relation, num_houses)
        if clue.relation in _UNARY:
            assert clue.house is not None, "the clue names a house"
            domains[numbers[clue.first]] &= backwards[1 << clue.house]
        else:
            assert clue.second is not None, "the clue names two values"
            links.append((numbers[clue.first], numbers[clue.second], forwards))
            links.append((numbers[clue.second], numbers[clue.first], backwards))
    found: list[list[int]] = []
    _search(domains, groups, links, limit, found)
    names = list(numbers)
    return [
        tuple(tuple(names[i] for i in sorted(group, key=lambda i: masks[i])) for group in groups) for masks in found
    ]


def _search(
    domains: list[int],
    groups: Sequence[Sequence[int]],
    links: Sequence[tuple[int, int, tuple[int, ...]]],
    limit: int,
    found: list[list[int]],
) -> None:
    if not (all(domains) and _propagate(domains, groups, links)):
        return
    open_values = [i for i, mask in enumerate(domains) if mask & mask - 1]
    if not open_values:
        found.append(domains)
        return
    value = min(open_values, key=lambda i: domains[i].bit_count())
    mask = domains[value]
    while mask and len(found) < limit:
        house = mask & -mask
        mask ^= house
        _search([*domains[:value], house, *domains[value + 1 :]], groups, links, limit, found)


def _propagate(
    domains: list[int], groups: Sequence[Sequence[int]], links: Sequence[tuple[int, int, tuple[int, ...]]]
) -> bool:
    """Narrows `domains` in place by every clue and by "one house, one value"; False if a value has no house left."""
    changed = True
    while changed:
        changed = False
        for here, there, supports in links:
            mask = domains[there] & supports[domains[here]]
            if mask != domains[there]:
                if not mask:
                    return False
                domains[there] = mask
                changed = True
        for group in groups:
            once = twice = 0
            taken = 0
            for i in group:
                mask = domains[i]
                twice |= once & mask
                once |= mask
                if not mask & mask - 1:
                    if taken & mask:
                        return False
                    taken |= mask
            for i in group:
                mask = domains[i]
                if mask & mask - 1:
                    mask = mask & ~twice or mask & ~taken
                    if not mask:
                        return False
                    if mask != domains[i]:
                        domains[i] = mask
                        changed = True
    return True


def draw_clues(rng: random.Random, table: Table) -> list[Clue]:
    """Clues, in random order, whose only solution is `table` and none of which can be spared."""
    clues: list[Clue] = []
    while len(solve(table, clues)) != 1:
        clues.extend(_draw_clue(rng, table) for _ in range(len(table) * len(table[0])))
    clues = list(dict.fromkeys(clues))
    # Whatever was drawn first, a direct statement is the first to go: what remains takes more steps of thought.
    for clue in sorted(clues, key=lambda clue: clue.relation not in _UNARY):
        rest = [other for other in clues if other is not clue]
        if len(solve(table, rest)) == 1:
            clues = rest
    return clues


def _draw_clue(rng: random.Random, table: Table) -> Clue:
    """A true clue."""
    num_houses = len(table[0])
    while True:
        (relation,) = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        row, other = rng.sample(range(len(table)), 2)
        here, there = rng.randrange(num_houses), rng.randrange(num_houses)
        if relation not in (Relation.SAME, Relation.DIFFERENT, *_UNARY) and rng.random() < 1 / len(table):
            other = row
        if relation.allows(here, there):
            if relation in _UNARY:
                return Clue(relation, table[row][here], house=there)
            return Clue(relation, table[row][here], table[other][there])
