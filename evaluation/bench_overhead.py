"""What the engine adds to bare forward passes of the same rows: `python -m evaluation.bench overhead`.

The engine decodes, and the very forward passes that it made are then made again and nothing else; both take turns, and figures are
medians over the turns. What the engine adds is split by its own time states: deciding, and scheduling with its bookkeeping.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from cluster.metrics import TimeStates
from evaluation.bench_rollouts import RecordingModel
from evaluation.turns import Timer, ratios, typical
from policy.unmasker import Unmasker
from rollout_workers.engine import POLICY, SCHEDULING, Engine
from rollout_workers.models.base import FrozenDLLM
from rollout_workers.sequence import Sequence as Row
from rollout_workers.view import FORWARD

_STATES = (FORWARD, POLICY, SCHEDULING)


@dataclass(frozen=True, slots=True)
class OverheadFigures:
    """One block length and batch size; times in seconds, as the host sees them."""

    block_length: int
    batch_size: int
    num_rows: int
    num_passes: int
    """Steps of the engine."""
    mean_live_rows: float
    """Rows computed per step."""
    engine_s: float
    bare_forward_s: float
    state_s: dict[str, float]
    """The engine's time states, which add up to it."""
    overhead: float
    """Engine time beyond the bare passes, as a share of these: the median over the turns."""
    spread: float
    """Of that over the turns: largest - smallest."""

    def share(self, state: str) -> float:
        """A time state as a share of the bare passes; of the forward state what is beyond them."""
        seconds = self.state_s[state] - (self.bare_forward_s if state == FORWARD else 0.0)
        return seconds / self.bare_forward_s


def bench_overhead(
    model: FrozenDLLM,
    unmasker: Unmasker,
    make_rows: Callable[[int], list[Row]],
    *,
    block_length: int,
    batch_size: int,
    repeats: int,
) -> OverheadFigures:
    """Decoding and its bare forward passes, in turns after one warm-up of each."""
    recording = RecordingModel(model)
    decoded = Engine(recording, unmasker, num_slots=batch_size).decode(make_rows(block_length))
    engine_times: list[float] = []
    bare_times: list[float] = []
    states: list[dict[str, float]] = []
    for _ in range(repeats + 1):
        rows = make_rows(block_length)
        clock = TimeStates(SCHEDULING)
        with Timer(model.device, engine_times):
            Engine(model, unmasker, num_slots=batch_size, clock=clock).decode(rows)
        states.append(clock.take())
        with Timer(model.device, bare_times):
            recording.replay()
    overheads = [ratio - 1 for ratio in ratios(engine_times, bare_times)]
    stats = decoded.stats
    return OverheadFigures(
        block_length=block_length,
        batch_size=batch_size,
        num_rows=len(rows),
        num_passes=stats.num_steps,
        mean_live_rows=stats.num_row_forwards / max(1, stats.num_steps),
        engine_s=typical(engine_times),
        bare_forward_s=typical(bare_times),
        state_s={name: statistics.median(state.get(name, 0.0) for state in states[1:]) for name in _STATES},
        overhead=statistics.median(overheads),
        spread=max(overheads) - min(overheads),
    )


def overhead_brief(line: OverheadFigures) -> str:
    """One line while the others are still measured."""
    return (
        f"overhead {line.overhead:+.1%} (spread {line.spread:.1%}) over {1000 * line.bare_forward_s / line.num_passes:.2f} "
        "ms per bare pass"
    )


def overhead_table(figures: Sequence[OverheadFigures], title: str) -> Table:
    """One line for each block length and batch size."""
    table = Table(title=title, title_justify="left")
    names = ("block", "batch", "rows per pass", "bare ms/pass", "engine ms/pass", "overhead", "spread", "deciding",
             "scheduling", "forward")  # fmt: skip
    for name in names:
        table.add_column(name, justify="right")
    for line in figures:
        table.add_row(
            str(line.block_length),
            str(line.batch_size),
            f"{line.mean_live_rows:.1f}",
            f"{1000 * line.bare_forward_s / line.num_passes:.2f}",
            f"{1000 * line.engine_s / line.num_passes:.2f}",
            f"{line.overhead:+.1%}",
            f"{line.spread:.1%}",
            f"{line.share(POLICY):.1%}",
            f"{line.share(SCHEDULING):.1%}",
            f"{line.share(FORWARD):+.1%}",
        )
    return table
