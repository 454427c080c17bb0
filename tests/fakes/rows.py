"""Small data files, and tasks over them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout_workers.config import TaskConfig
from rollout_workers.tasks import Task, make_task


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` as JSON lines; returns the path as a setting has it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def task_over(name: str, folder: Path, *, train: Any = None, test: Any = None, **settings: Any) -> Task:
    """The task `name` over files of these rows."""
    parts = {part: rows for part, rows in (("train", train), ("test", test)) if rows is not None}
    files = {part: write_rows(folder / f"{part}.jsonl", rows) for part, rows in parts.items()}
    return make_task(name, TaskConfig(**files, **settings))
