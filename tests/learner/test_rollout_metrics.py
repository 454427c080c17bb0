"""What an update's rollouts say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cluster.metrics import values
from learner.rollout_metrics import rollout_metrics
from rollout_workers.lease import GroupRequest, Lease, LeaseSummary, UnmaskerSpec
from rollout_workers.tasks import Split
from tests.fakes.pool import summary_of


def summary(orders: list[list[int]], nfes: list[int]) -> LeaseSummary:
    groups = tuple(GroupRequest(index, "arithmetic", Split.TRAIN, index, 1) for index in range(len(orders)))
    made = summary_of(Lease(0, 0, UnmaskerSpec(), groups, 4, record=False))
    rows = tuple(
        replace(row, order_L=np.array(order, np.int16), nfe=nfe)
        for row, order, nfe in zip(made.rows, orders, nfes, strict=True)
    )
    return replace(made, rows=rows)


def test_passes_that_commit_nothing_count_whether_or_not_a_group_is_learned_from() -> None:
    # Given tokens (0) and positions that stayed masked (-1) are no decisions.
    found = summary([[0, 1, 1, 3], [-1, -1, -1, -1], [1, 2, 3, 4]], [3, 10, 4])
    assert values(rollout_metrics([found]))["empty_share"] == pytest.approx((1 + 10 + 0) / 17)
