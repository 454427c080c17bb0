"""What an evaluation found: a summary per arm with intervals and spread over seeds, and paired tests against the best heuristic.

NFE is the number of forward passes in which a row was live, the same for every sampler. Comparisons are paired by example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.arms import Arm
from evaluation.records import ExampleRecord
from evaluation.statistics import Interval, bootstrap, sign_flip_p, wilson


@dataclass(frozen=True, slots=True)
class Spread:
    """Sample standard deviation of the seeds' means; None for a single seed."""

    accuracy: float | None
    nfe: float | None
    reward: float | None


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One line of the table."""

    arm: Arm
    num_examples: int
    accuracy: Interval
    nfe: Interval
    reward: Interval
    num_step_limit: int
    """Rows that ended with masks left."""
    num_grader_errors: int
    num_seeds: int = 1
    spread: Spread = Spread(None, None, None)
    tokens_per_pass: float = 0.0
    """Response tokens over forward passes."""
    serial_passes: float = 0.0
    """Mean of passes one after another."""
    tokens_per_second: float | None = None
    """Response tokens over decoding seconds of one actor, first leases left out; None where nothing else was decoded."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm against another on the same examples."""

    reward: Interval
    """Mean difference, with its bootstrap interval."""
    p_reward: float
    accuracy: float
    """Mean difference."""
    p_accuracy: float
    num_examples: int
    p_reward_adjusted: float
    """`p_reward` over all arms that are compared with the same one (Holm)."""


def summarise(arm: Arm, records: Sequence[ExampleRecord]) -> ArmSummary:
    """Means over examples; several seeds of one example are averaged first. Grader errors count in no mean."""
    valid = [record for record in records if record.grade != "grader_error"]
    correct = np.array(list(per_example(valid, is_correct).values()))
    nfe = np.array(list(per_example(valid, lambda record: float(record.nfe)).values()))
    reward = np.array(list(per_example(valid, lambda record: record.reward).values()))
    return ArmSummary(
        arm=arm,
        num_examples=len(correct),
        accuracy=wilson(float(correct.sum()), len(correct)),
        nfe=bootstrap(nfe),
        reward=bootstrap(reward),
        num_step_limit=sum(record.status == "step_limit" for record in records),
        num_grader_errors=len(records) - len(valid),
        num_seeds=len({record.seed for record in records}),
        spread=Spread(
            _spread(valid, is_correct),
            _spread(valid, lambda record: float(record.nfe)),
            _spread(valid, lambda record: record.reward),
        ),
        tokens_per_pass=sum(r.response_length for r in records) / max(1, sum(r.nfe for r in records)),
        serial_passes=sum(r.serial_passes for r in valid) / len(valid),
        tokens_per_second=_speed(records),
    )


def is_correct(record: ExampleRecord) -> float:
    """1 for a right answer, else 0."""
    return float(record.grade == "correct")


def _spread(records: Sequence[ExampleRecord], value: Callable[[ExampleRecord], float]) -> float | None:
    by_seed: dict[int, list[float]] = {}
    for record in records:
        by_seed.setdefault(record.seed, []).append(value(record))
    means = [float(np.mean(values)) for values in by_seed.values()]
    return float(np.std(means, ddof=1)) if len(means) > 1 else None


def _speed(records: Sequence[ExampleRecord]) -> float | None:
    timed = [record for record in records if not record.is_warm_up]
    seconds = sum(record.seconds for record in timed)
    return sum(record.response_length for record in timed) / seconds if seconds > 0 else None


def per_example(records: Sequence[ExampleRecord], value: Callable[[ExampleRecord], float]) -> dict[str, float]:
    """Example id -> mean of `value(record)` over its records, by id."""
    groups: dict[str, list[float]] = {}
    for record in records:
        groups.setdefault(record.example_id, []).append(value(record))
    return {example_id: sum(groups[example_id]) / len(groups[example_id]) for example_id in sorted(groups)}


def paired_reward_difference(ours: Sequence[ExampleRecord], theirs: Sequence[ExampleRecord]) -> Interval:
    """Mean reward difference over the examples that both arms have, with its bootstrap interval."""
    return bootstrap(_differences(ours, theirs, lambda record: record.reward))


def compare_pairs(ours: Sequence[ExampleRecord], theirs: Sequence[ExampleRecord]) -> Comparison | None:
    """Paired differences over the examples that both arms have valid grades for; None where there is none."""
    ours = [record for record in ours if record.grade != "grader_error"]
    theirs = [record for record in theirs if record.grade != "grader_error"]
    reward = _differences(ours, theirs, lambda record: record.reward)
    accuracy = _differences(ours, theirs, is_correct)
    if not len(reward):
        return None
    p_reward = sign_flip_p(reward)
    return Comparison(
        bootstrap(reward),
        p_reward,
        float(accuracy.mean()),
        sign_flip_p(accuracy),
        len(reward),
        p_reward_adjusted=p_reward,
    )


def _differences(
    ours: Sequence[ExampleRecord], theirs: Sequence[ExampleRecord], value: Callable[[ExampleRecord], float]
) -> np.ndarray:
    mine, other = per_example(ours, value), per_example(theirs, value)
    return np.array([mine[example_id] - other[example_id] for example_id in mine if example_id in other])


def by_arm(records: Sequence[ExampleRecord]) -> Mapping[Arm, list[ExampleRecord]]:
    """Records of each arm, arms in their own order."""
    groups: dict[Arm, list[ExampleRecord]] = {}
    for record in records:
        groups.setdefault(record.arm, []).append(record)
    return {arm: groups[arm] for arm in sorted(groups)}


def best_heuristic(summaries: Sequence[ArmSummary]) -> ArmSummary | None:
    """The heuristic with the best mean reward: chosen with hindsight on the test problems, which favours the heuristics."""
    heuristics = [summary for summary in summaries if not summary.arm.is_learned]
    return max(heuristics, key=lambda summary: summary.reward.mean, default=None)
