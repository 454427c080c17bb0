"""Progress on a terminal as bars, elsewhere as one log line per update."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cluster.logs import console, get_logger, wide_console
from learner.loop import Report
from learner.watch import Alarm

logger = get_logger(__name__)

_SHOWN = (("reward", "reward {:.3f}"), ("accuracy", "accuracy {:.1%}"), ("nfe", "NFE {:.1f}"),
          ("zero_variance_share", "zero-variance {:.0%}"), ("validation_reward", "validation {:.3f}"))  # fmt: skip


def print_alarms(alarms: Sequence[Alarm]) -> None:
    """Lists again what was seen while training, for whoever did not watch; nothing where nothing was."""
    if not alarms:
        return
    out = wide_console()
    out.print(f"Alarms while training ({len(alarms)})", style="bold yellow")
    for alarm in alarms:
        out.print(f"update {alarm.step}: {alarm.name}: {alarm.message}", soft_wrap=True, markup=False, highlight=False)


class Display:
    """Shows updates and evaluation progress."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console(),
        )
        self._tasks: dict[str, TaskID] = {}
        self._latest: dict[str, float] = {}
        self._last_tenth = -1
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        if console().is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if console().is_terminal:
            self._progress.stop()

    def update(self, report: Report) -> None:
        """One policy update is done."""
        self._latest |= report.values
        figures = "  ".join(text.format(self._latest[name]) for name, text in _SHOWN if name in self._latest)
        self._advance("training", report.step, report.num_steps, figures)
        if not console().is_terminal:
            logger.info("update %d/%d  %s  %s", report.step, report.num_steps, figures, self._eta(report))

    def _eta(self, report: Report) -> str:
        """Time left at the pace of the updates seen so far."""
        now = time.monotonic()
        if self._first is None:
            self._first = (report.step, now)
        first_step, started = self._first
        if report.step == first_step:
            return ""
        left = (now - started) / (report.step - first_step) * (report.num_steps - report.step)
        return f"ETA {int(left) // 60}:{int(left) % 60:02d}"

    def evaluation(self, done: int, total: int) -> None:
        """`done` of `total` evaluation rows are decoded."""
        self._advance("evaluation", done, total, "rows")
        tenth = 10 * done // max(1, total)
        if not console().is_terminal and tenth != self._last_tenth:
            self._last_tenth = tenth
            logger.info("evaluation: %d of %d rows", done, total)

    def _advance(self, name: str, done: int, total: int, figures: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, figures=figures)
        self._progress.update(self._tasks[name], completed=done, total=total, figures=figures)
