"""Tasks by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

from cluster.errors import UserError
from rollout_workers.config import TaskConfig
from rollout_workers.hosting import task_of
from rollout_workers.tasks.arithmetic import Arithmetic
from rollout_workers.tasks.base import MASK, Example, Split, Task
from rollout_workers.tasks.countdown import Countdown
from rollout_workers.tasks.dataset import DatasetTask
from rollout_workers.tasks.gsm8k import Gsm8k
from rollout_workers.tasks.humaneval import HumanEval
from rollout_workers.tasks.kodcode import KodCode
from rollout_workers.tasks.math import Math, Math500
from rollout_workers.tasks.mbpp import Mbpp
from rollout_workers.tasks.sudoku import HARD_GIVENS, Sudoku
from rollout_workers.tasks.sudoku_text import Sudoku4x4, Sudoku4x4Infill, Sudoku9x9, Sudoku9x9Infill
from rollout_workers.tasks.zebra import Zebra

_MADE_UP: Mapping[str, Callable[[], Task]] = MappingProxyType(
    {
        "arithmetic": Arithmetic,
        "sudoku": Sudoku,
        "sudoku_infill": lambda: Sudoku(infill=True),
        "sudoku_hard_infill": lambda: Sudoku(infill=True, max_givens=HARD_GIVENS),
    }
)
"""Tasks that invent their examples and take no settings."""
_CONFIGURED: tuple[type[DatasetTask], ...] = (
    Gsm8k,
    Math,
    Math500,
    HumanEval,
    Mbpp,
    KodCode,
    Countdown,
    Sudoku4x4,
    Sudoku4x4Infill,
    Sudoku9x9,
    Sudoku9x9Infill,
    Zebra,
)
_DATASETS: Mapping[str, type[DatasetTask]] = MappingProxyType({task.name: task for task in _CONFIGURED})
"""Tasks over rows of files or published data sets, each with the settings that it reads."""

TASK_NAMES = (*_MADE_UP, *_DATASETS)


def task_settings(name: str) -> frozenset[str]:
    """Names in `TaskConfig` that the task reads; none for one that there is not."""
    return _DATASETS[name].settings if name in _DATASETS else frozenset()


def make_task(name: str, config: TaskConfig | None = None) -> Task:
    """The task called `name`; a UserError names the known ones, or the setting that the task does not read."""
    if name not in TASK_NAMES:
        raise UserError(f"unknown task {name!r}; known tasks: {', '.join(TASK_NAMES)}")
    config, settings = config or TaskConfig(), task_settings(name)
    for field in dataclasses.fields(TaskConfig):
        value = getattr(config, field.name)
        if value != field.default and field.name not in settings:
            allowed = f"allowed there: {', '.join(sorted(settings))}" if settings else "it has no settings"
            raise UserError(
                f"config key 'task_settings.{name}.{field.name}' is {value!r}; task {name!r} does not read it; {allowed}"
            )
    return _DATASETS[name](config) if name in _DATASETS else _MADE_UP[name]()


def make_tasks(configs: Mapping[str, TaskConfig]) -> dict[str, Task]:
    """Tasks by name, each of which this machine can grade; a UserError says what is wrong.

    `TASK@MODEL` and `TASK@OTHER` (`rollout_workers.hosting`) are one and the same object.
    """
    made: dict[str, Task] = {}
    for name, config in configs.items():
        if task_of(name) not in made:
            made[task_of(name)] = make_task(task_of(name), config)
            made[task_of(name)].prepare()
    return {name: made[task_of(name)] for name in configs}


__all__ = ["MASK", "TASK_NAMES", "Example", "Split", "Task", "make_task", "make_tasks", "task_settings"]
