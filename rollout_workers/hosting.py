"""Which dLLM decodes what, where the rollout actors of one run host several.

A task of the run is named `TASK`, decoded by `model`, or `TASK@NAME`, decoded by `models.NAME`. Both are tasks of their own, with
their own share of the mixture, noise and figures. All groups of a lease have one model, and only an actor that hosts it gets the
lease. Imports neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

MAIN = ""
"""Name of the model in the config section `model`."""
_AT = "@"


class _OfTask(Protocol):
    @property
    def task(self) -> str: ...


Item = TypeVar("Item", bound=_OfTask)


def task_of(name: str) -> str:
    """The task without its model: `sudoku` of `sudoku@second`."""
    return name.partition(_AT)[0]


def model_of(name: str) -> str:
    """The model that decodes a task of the run: `second` of `sudoku@second`, `MAIN` of `sudoku`."""
    return name.partition(_AT)[2]


def section_of(model: str) -> str:
    """The config section of a model by its name."""
    return f"models.{model}" if model else "model"


def by_model(items: Sequence[Item]) -> list[list[Item]]:
    """Picks or groups apart by the model that decodes them; the order within each stays."""
    apart: dict[str, list[Item]] = {}
    for item in items:
        apart.setdefault(model_of(item.task), []).append(item)
    return list(apart.values())


def in_parts(items: Sequence[Item], size: int, *, taper: bool = False) -> list[tuple[Item, ...]]:
    """Picks or groups as leases take them: `size` at most in each part, all for one model.

    With `taper` the last `size` items of each model come in ever smaller parts: few actors that take many end together.
    """
    parts: list[tuple[Item, ...]] = []
    for mine in by_model(items):
        while mine:
            take = (len(mine) + 1) // 2 if taper and len(mine) <= size else size
            parts.append(tuple(mine[:take]))
            mine = mine[take:]
    return parts


def spread(models: Sequence[str], num_actors: int) -> list[tuple[str, ...]]:
    """The models that each actor hosts: one each, in turn; with fewer actors than models some host several."""
    if num_actors >= len(models):
        return [(models[number % len(models)],) for number in range(num_actors)]
    return [tuple(models[number::num_actors]) for number in range(num_actors)]
