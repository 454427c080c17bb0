"""What keeping keys and values between passes costs in accuracy and saves in work: `python -m evaluation.bench cache`.

All settings decode the same problems with the same unmasker and noise, taking turns; times are medians over the turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from torch import Tensor

from evaluation.turns import Timer, typical
from policy.unmasker import Unmasker
from rollout_workers.caching import CacheSettings
from rollout_workers.engine import Engine
from rollout_workers.models.base import FrozenDLLM, Prediction
from rollout_workers.sequence import Sequence as Row


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """One setting."""

    mode: str
    refresh: int | None
    accuracy: float
    mean_nfe: float
    rows_per_s: float
    computed_share: float
    """Tokens that were computed, over those of full passes."""


class _CountingModel:
    """Passes everything through and counts the tokens that are computed."""

    def __init__(self, model: FrozenDLLM) -> None:
        self._model = model
        self.spec = model.spec
        self.device = model.device
        self.num_computed = 0
        self.num_tokens = 0

    def predict(
        self, prompt_BP: Tensor, prompt_length_B: Tensor, canvas_BL: Tensor, wanted_BL: Tensor, **options: Any
    ) -> Prediction:
        num_tokens_B = prompt_length_B + canvas_BL.shape[1]
        computed_B = num_tokens_B
        if cached := options.get("cached"):
            computed_B = num_tokens_B.where(cached.full_B, cached.fresh_BL.sum(1))
        self.num_tokens += int(num_tokens_B.sum())
        self.num_computed += int(computed_B.sum())
        return self._model.predict(prompt_BP, prompt_length_B, canvas_BL, wanted_BL, **options)


def bench_cache(
    model: FrozenDLLM,
    unmasker: Unmasker,
    make_rows: Callable[[], list[Row]],
    grade: Callable[[list[Row]], Sequence[bool]],
    settings: Sequence[CacheSettings],
    *,
    batch_size: int,
    repeats: int,
) -> list[CacheFigures]:
    """Every setting in turns, `repeats` times after a warm-up that also counts and grades."""
    times: dict[CacheSettings, list[float]] = {each: [] for each in settings}
    figures: dict[CacheSettings, tuple[float, float, float]] = {}
    for turn in range(repeats + 1):
        for each in settings:
            rows = make_rows()
            used = _CountingModel(model) if turn == 0 else model
            with Timer(model.device, times[each]):
                Engine(used, unmasker, num_slots=batch_size, cache=each).decode(rows)
            if isinstance(used, _CountingModel):
                nfe = statistics.mean(row.nfe for row in rows)
                figures[each] = (statistics.mean(grade(rows)), nfe, used.num_computed / used.num_tokens)
    return [
        CacheFigures(each.mode, each.refresh, accuracy, nfe, len(rows) / typical(times[each]), computed_share)
        for each, (accuracy, nfe, computed_share) in figures.items()
    ]


def cache_table(figures: Sequence[CacheFigures], title: str) -> Table:
    """One line per setting; speed is relative to full passes."""
    table = Table(title=title, title_justify="left")
    for name in ("cache", "full pass every", "accuracy", "NFE", "tokens computed", "rows/s", "speed"):
        table.add_column(name, justify="left" if name == "cache" else "right")
    full = figures[0].rows_per_s
    for line in figures:
        every = "pass" if line.mode == "none" else "block" if line.refresh is None else f"{line.refresh} passes"
        table.add_row(
            line.mode,
            every,
            f"{line.accuracy:.1%}",
            f"{line.mean_nfe:.2f}",
            f"{line.computed_share:.0%}",
            f"{line.rows_per_s:.1f}",
            f"{line.rows_per_s / full:.2f}x",
        )
    return table
