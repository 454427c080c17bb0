"""Which example comes next: a weighted mixture of tasks, each walked through in its own order.

The order is a pure function of the cursor (how many examples each task has given so far), so a run goes on from a checkpoint with
exactly the examples that an undisturbed run would have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cluster.errors import UserError
from rollout_workers.tasks.base import Split, Task

Cursor = Mapping[str, int]
"""Task name -> examples drawn from it."""


@dataclass(frozen=True, slots=True)
class Pick:
    """One example by name."""

    task: str
    index: int


@dataclass(slots=True)
class TaskStream:
    """Examples of one split.

    `weights` are relative: of many draws each task gets its share, and after any number of draws no task is more than one example
    away from it. Tasks of bounded size are shuffled anew in every pass over them; those without end are walked in order.
    `skipped` names examples that are never drawn (prompts over the limit).
    """

    tasks: Mapping[str, Task]
    weights: Mapping[str, float]
    split: Split
    seed: int
    skipped: Mapping[str, Collection[int]] = field(default_factory=dict)
    _usable: dict[str, list[int] | None] = field(default_factory=dict, init=False)
    _passes: dict[tuple[str, int], list[int]] = field(default_factory=dict, init=False)

    def draw(self, cursor: Cursor, num: int) -> tuple[list[Pick], dict[str, int]]:
        """The next `num` examples after `cursor`, and the cursor behind them."""
        counts = {name: cursor.get(name, 0) for name in self.weights}
        picks: list[Pick] = []
        for _ in range(num):
            name = self._most_behind(counts)
            picks.append(Pick(name, self._index(name, counts[name])))
            counts[name] += 1
        return picks, counts

    def _most_behind(self, counts: Mapping[str, int]) -> str:
        """The task that is furthest behind its share of the draws so far and the coming one; ties go to the first named."""
        total, weight = sum(counts.values()) + 1, sum(self.weights.values())
        return max(self.weights, key=lambda name: self.weights[name] / weight * total - counts[name])

    def _index(self, name: str, drawn: int) -> int:
        usable = self._usable_of(name)
        if usable is None:
            return drawn
        number, position = divmod(drawn, len(usable))
        if (name, number) not in self._passes:
            key = f"{self.seed}/{name}/{self.split}/{number}"
            self._passes = {done: order for done, order in self._passes.items() if done[0] != name}
            self._passes[name, number] = _keyed_permutation(len(usable), key=key)
        return usable[self._passes[name, number][position]]

    def _usable_of(self, name: str) -> list[int] | None:
        if name not in self._usable:
            size = self.tasks[name].size(self.split)
            skipped = frozenset(self.skipped.get(name, ()))
            self._usable[name] = None if size is None else [i for i in range(size) if i not in skipped]
            if self._usable[name] == []:
                raise UserError(f"task {name!r}: all {size} {self.split} examples are skipped; nothing is left to draw")
        return self._usable[name]


def _keyed_permutation(size: int, *, key: str) -> list[int]:
    """0..size-1 in an order that depends on nothing but `key`."""
    order = list(range(size))
    random.Random(key).shuffle(order)
    return order
