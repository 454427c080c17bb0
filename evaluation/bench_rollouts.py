"""This project's decoding against a lock-step batched decoder, in the same run: `python -m evaluation.bench rollouts`.

Both sides decode the same problems with the same model, unmasker and batch size, taking turns; figures are medians over the turns.
Useful operations are those of the engine's forward passes over real tokens; both sides are held against the device's own peak.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from torch import Tensor

from cluster.metrics import TimeStates
from evaluation.lockstep import decode_lock_step
from evaluation.roofline import RowForward, forward_flops
from evaluation.turns import Timer, ratios, relative_spread, typical
from policy.unmasker import Unmasker
from rollout_workers.engine import POLICY, SCHEDULING, Engine
from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.base import FrozenDLLM, ModelSpec, Prediction
from rollout_workers.sequence import Sequence as Row


@dataclass(frozen=True, slots=True)
class RolloutFigures:
    """One line of the rollouts benchmark; times are medians in seconds."""

    block_length: int
    num_rows: int
    batch_size: int
    mean_nfe: float
    engine_s: float
    lock_step_s: float
    bare_forward_s: float
    policy_s: float
    """Part of `engine_s`: deciding, noise and observation included, as seen by the host."""
    engine_live_share: float | None
    """Live rows over slots while rows were waiting; None where none ever were."""
    lock_step_live_share: float
    """Live rows over computed rows."""
    num_different: int
    """Rows whose tokens differ between the two decoders: rounding, and the other reduction of the baseline."""
    num_decisions: int
    """Decisions compared with those for the same rows alone, one at a time and without padding (`decisions_apart`)."""
    num_decisions_apart: int
    """Of these, the ones that differ."""
    lock_step_mean_nfe: float
    engine_padding_share: float
    """Padding over all tokens that the engine computed."""
    speedup: float
    """Lock-step over engine time: the median of the ratios of each turn."""
    spread: float
    """Of these ratios: (largest - smallest) / median."""
    overhead: float
    """Engine time beyond bare forward passes of the same rows, as a share of the latter: the median over the turns."""
    useful_flops: float | None
    """Operations of the engine's forward passes over real tokens; None of a model whose sizes are not known."""
    peak_flops: float
    """Operations per second of the device's fastest matmul, measured in the same run."""

    @property
    def policy_overhead(self) -> float:
        """The part of `overhead` that is the unmasker's."""
        return self.policy_s / self.bare_forward_s

    def roofline(self, seconds: float) -> float | None:
        """Share of the matmul peak that useful operations make in so many seconds."""
        return None if self.useful_flops is None else self.useful_flops / seconds / self.peak_flops


ORACLE_ROWS = 8
"""Rows decoded once more, alone."""


class RecordingModel:
    """Passes everything through and keeps the inputs, so that the bare forwards can be timed again."""

    def __init__(self, model: FrozenDLLM) -> None:
        self._model = model
        self.spec: ModelSpec = model.spec
        self.device = model.device
        self.calls: list[tuple[Tensor, ...]] = []

    def predict(self, *inputs: Tensor, **options: Any) -> Prediction:
        self.calls.append(inputs)
        return self._model.predict(*inputs, **options)

    def replay(self) -> None:
        """The same forward passes, and nothing else."""
        for inputs in self.calls:
            self._model.predict(*inputs)

    def useful_flops(self) -> float | None:
        """Operations of all calls over real tokens."""
        if not isinstance(self._model, BackboneDLLM):
            return None
        rows = []
        for _, length_B, canvas_BL, wanted_BL in self.calls:
            counts = zip(length_B.tolist(), wanted_BL.sum(1).tolist(), strict=True)
            rows += [RowForward(length + canvas_BL.shape[1], wanted) for length, wanted in counts]
        return forward_flops(self._model.model.config, rows)

    def padding_share(self) -> float:
        """Padding over all tokens."""
        padding = sum(prompt_BP.numel() - int(length_B.sum()) for prompt_BP, length_B, _, _ in self.calls)
        return padding / max(1, sum(prompt_BP.numel() + canvas_BL.numel() for prompt_BP, _, canvas_BL, _ in self.calls))


def bench_rollouts(
    model: FrozenDLLM,
    unmasker: Unmasker,
    make_rows: Callable[[int], list[Row]],
    *,
    block_length: int,
    batch_size: int,
    repeats: int,
    baseline_model: FrozenDLLM,
    peak_flops: float,
) -> RolloutFigures:
    """Engine against lock-step decoder against bare forwards, interleaved `repeats` times after one warm-up of each.

    The lock-step decoder runs on `baseline_model`: the same model, or the same weights with another reduction over the vocabulary.
    """
    recording = RecordingModel(model)
    first = make_rows(block_length)
    Engine(recording, unmasker, num_slots=batch_size).decode(first)
    alone = make_rows(block_length)[:ORACLE_ROWS]
    for row in alone:
        Engine(model, unmasker, num_slots=1).decode([row])
    compared = [decisions_apart(*pair) for pair in zip(first, alone, strict=False)]
    engine_times: list[float] = []
    lock_times: list[float] = []
    bare_times: list[float] = []
    policy_times: list[float] = []
    for _ in range(repeats + 1):
        rows, lock_rows = make_rows(block_length), make_rows(block_length)
        clock = TimeStates(SCHEDULING)
        with Timer(model.device, engine_times):
            decoded = Engine(model, unmasker, num_slots=batch_size, clock=clock).decode(rows)
        policy_times.append(clock.take().get(POLICY, 0.0))
        with Timer(model.device, lock_times):
            lock_tokens, lock_stats = decode_lock_step(baseline_model, unmasker, lock_rows, batch_size=batch_size)
        with Timer(model.device, bare_times):
            recording.replay()
    stats = decoded.stats
    speedups = ratios(lock_times, engine_times)
    return RolloutFigures(
        block_length=block_length,
        num_rows=len(rows),
        batch_size=batch_size,
        mean_nfe=statistics.mean(row.nfe for row in rows),
        engine_s=typical(engine_times),
        lock_step_s=typical(lock_times),
        bare_forward_s=typical(bare_times),
        policy_s=typical(policy_times),
        engine_live_share=(
            stats.num_queued_row_forwards / (stats.num_queued_steps * batch_size) if stats.num_queued_steps else None
        ),
        lock_step_live_share=lock_stats.num_live_rows / lock_stats.num_computed_rows,
        num_different=sum(row.tokens_L.tolist() != tokens for row, tokens in zip(rows, lock_tokens, strict=True)),
        num_decisions=sum(number for number, _ in compared),
        num_decisions_apart=sum(is_apart for _, is_apart in compared),
        lock_step_mean_nfe=lock_stats.num_live_rows / len(lock_rows),
        engine_padding_share=recording.padding_share(),
        speedup=statistics.median(speedups),
        spread=relative_spread(speedups),
        overhead=statistics.median(ratios(engine_times, bare_times)) - 1,
        useful_flops=recording.useful_flops(),
        peak_flops=peak_flops,
    )


def decisions_apart(row: Row, alone: Row) -> tuple[int, bool]:
    """(decisions compared, whether the last of them differs) of one row decoded twice.

    From the first that differs on, the two stand in different states and are not compared any more. So the rate of differing
    decisions is that per decision in the same state.
    """
    for number in range(1, max(row.nfe, alone.nfe) + 1):
        here_L, there_L = row.order_L == number, alone.order_L == number
        if (here_L != there_L).any() or (row.tokens_L[here_L] != alone.tokens_L[here_L]).any():
            return number, True
    return row.nfe, row.nfe != alone.nfe


def rollouts_brief(line: RolloutFigures) -> str:
    """One line while the others are still measured."""
    return (
        f"{line.num_rows / line.engine_s:.1f} rows/s, lock-step {line.num_rows / line.lock_step_s:.1f}, ratio {line.speedup:.2f}x "
        f"(spread {line.spread:.0%}), NFE {line.mean_nfe:.2f}"
    )


def rollouts_tables(figures: Sequence[RolloutFigures], title: str) -> list[Table]:
    """One line for each block length and batch size: how fast both are, and why."""
    speed = Table(title=title, title_justify="left")
    for name in ("block", "batch", "NFE", "lock-step NFE", "engine rows/s", "lock-step rows/s", "ratio", "spread",
                 "rows unlike lock-step", "decisions unlike one row alone"):  # fmt: skip
        speed.add_column(name, justify="right")
    causes = Table(title="where the time goes", title_justify="left")
    for name in ("block", "batch", "slots filled", "lock-step live rows", "padding", "overhead",
                 "deciding", "of matmul peak", "lock-step of peak"):  # fmt: skip
        causes.add_column(name, justify="right")
    for line in figures:
        place = (str(line.block_length), str(line.batch_size))
        speed.add_row(
            *place,
            f"{line.mean_nfe:.2f}",
            f"{line.lock_step_mean_nfe:.2f}",
            f"{line.num_rows / line.engine_s:.1f}",
            f"{line.num_rows / line.lock_step_s:.1f}",
            f"{line.speedup:.2f}x",
            f"{line.spread:.0%}",
            f"{line.num_different} of {line.num_rows}",
            f"{line.num_decisions_apart} of {line.num_decisions}",
        )
        causes.add_row(
            *place,
            "none waited" if line.engine_live_share is None else f"{line.engine_live_share:.1%}",
            f"{line.lock_step_live_share:.1%}",
            f"{line.engine_padding_share:.1%}",
            f"{line.overhead:+.1%}",
            f"{line.policy_overhead:.1%}",
            _share(line.roofline(line.engine_s)),
            _share(line.roofline(line.lock_step_s)),
        )
    return [speed, causes]


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"
