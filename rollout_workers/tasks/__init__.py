"""Tasks by name."""

from __future__ import annotations

from collections.abc import Callable

from rollout_workers.tasks.arithmetic import Arithmetic
from rollout_workers.tasks.base import MASK, Example, Split, Task
from rollout_workers.tasks.sudoku import Sudoku

_TASKS: dict[str, Callable[[], Task]] = {
    "arithmetic": Arithmetic,
    "sudoku": Sudoku,
    "sudoku_infill": lambda: Sudoku(infill=True),
}

TASK_NAMES = tuple(_TASKS)


def make_task(name: str) -> Task:
    """The task called `name`; `ValueError` names the known ones."""
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; known tasks: {', '.join(TASK_NAMES)}")
    return _TASKS[name]()


__all__ = ["MASK", "TASK_NAMES", "Example", "Split", "Task", "make_task"]
