"""How far an evaluation is: a bar on a terminal, elsewhere a log line per tenth, both with the time left."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster.logs import console, get_logger

logger = get_logger(__name__)


class EvaluationProgress:
    """Shows rows done of rows to do."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("[bold]evaluation"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"),
            TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=console(),
        )  # fmt: skip
        self._row = self._bar.add_task("evaluation", total=None)
        self._is_terminal = console().is_terminal
        self._started = time.monotonic()
        self._last_tenth = -1

    def __enter__(self) -> Self:
        if self._is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_terminal:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` rows are decoded."""
        self._bar.update(self._row, completed=done, total=total)
        tenth = 10 * done // max(1, total)
        if self._is_terminal or tenth == self._last_tenth:
            return
        self._last_tenth = tenth
        passed = time.monotonic() - self._started
        left = "" if done == 0 else f", ETA {passed / done * (total - done):.0f} s"
        logger.info("evaluation: %d of %d rows%s", done, total, left)
