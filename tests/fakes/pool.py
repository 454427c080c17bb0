"""A rollout pool without Ray: it invents the outcome of every row from the row's name."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from policy.trajectory import TrajectoryRow
from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.lease import EngineStats, Lease, LeaseSummary


class FakePool:
    """Yields summaries in a shuffled order and keeps the leases it was given.

    After `die_after` leases it raises `error`; leases of the block length `failing_block` fail.
    """

    def __init__(
        self,
        *,
        die_after: int | None = None,
        error: Exception | None = None,
        failing_block: int | None = None,
    ) -> None:
        self.leases: list[Lease] = []
        self._die_after = die_after
        self._error = error or ConnectionError("the fake pool died")
        self._failing_block = failing_block

    def run(
        self, leases: Sequence[Lease], *, on_failure: Callable[[Lease, str], None] | None = None
    ) -> Iterator[tuple[LeaseSummary, None]]:
        order = list(leases)
        random.Random(0).shuffle(order)
        for number, lease in enumerate(order):
            if self._die_after is not None and number >= self._die_after:
                raise self._error
            self.leases.append(lease)
            if lease.block_length == self._failing_block:
                assert on_failure is not None
                on_failure(lease, "ValueError: no such block")
                continue
            yield summary_of(lease), None


def summary_of(lease: Lease) -> LeaseSummary:
    """A made-up summary: outcomes depend on the seed, the unmasker, the block length and the example."""
    rows, grades = [], []
    for request in lease.groups:
        rng = random.Random(f"{lease.run_seed}/{lease.unmasker}/{lease.block_length}/{request.index}")
        is_correct = rng.random() < 0.7
        rows.append(
            TrajectoryRow(
                example_id=f"{request.task}/{request.split}/{request.index}",
                group=request.group,
                sample=0,
                weight_version=lease.weight_version,
                tokens_L=np.zeros(4, np.int32),
                order_L=np.ones(4, np.int16),
                status="clean",
                nfe=rng.randint(1, 4),
                num_near_ties=0,
            )
        )
        grades.append(Grade(GradeKind.CORRECT if is_correct else GradeKind.WRONG, float(is_correct), "7"))
    rewards = tuple(grade.score / row.nfe for grade, row in zip(grades, rows, strict=True))
    terms = tuple({"multiplicative": reward} for reward in rewards)
    texts, hashes = ("text",) * len(rows), ("hash",) * len(rows)
    return LeaseSummary(lease, tuple(rows), tuple(grades), texts, hashes, rewards, terms, EngineStats(), {})
