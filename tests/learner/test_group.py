"""Learner ranks as Ray actors."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import pytest
import ray

from cluster.metrics import values
from cluster.runtime import PlacementError
from learner.actor import RankSpec
from learner.group import LearnerGroup
from learner.trainer import Trainer
from learner.update_plan import UpdateRows
from tests.fakes.processes import living_actors
from tests.learner.records import POLICY, decoded, learner_config

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]

CONFIG = learner_config(num_ranks=2, collective_deadline_s=20.0)
REWARDS = [1.0, 0.0, 0.2, 0.9, 0.4, 0.0, 0.1, 0.8]


def test_ranks_that_are_killed_change_nothing_and_two_learn_what_one_does() -> None:
    alone = Trainer(POLICY, replace(CONFIG, num_ranks=1), seed=0)
    parts = [decoded(alone.network, [group] * 4, [2, 3, 1, 4], seed=group) for group in range(2)]
    rows = UpdateRows.of([part.rows for part in parts], REWARDS, [True] * 8)
    group = LearnerGroup(RankSpec(POLICY, CONFIG, 0, 50, None), start_deadline_s=120)
    try:
        references = [ray.put(part) for part in parts]
        first = group.files

        def update() -> dict[str, Any]:
            return values(group.update(rows, references, imitate=False, what="an update"))

        undisturbed = [update(), update()]
        after = group.files
        alone_metrics = [values(alone.learn(rows, lambda numbers: [parts[n] for n in numbers])) for _ in range(2)]
        for ours, theirs in zip(undisturbed, alone_metrics, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
        assert group.seconds.keys() == {"learner-0", "learner-1"}

        group.restore(first, "the beginning")
        again = [update()]
        os.kill(living_actors("LearnerRank")[-1], signal.SIGKILL)
        again.append(update())
        assert group.num_rebuilt == 1
        assert again == undisturbed
        assert group.files == after
    finally:
        group.close()


def test_more_than_the_cluster_has_is_refused_with_what_was_asked_and_what_there_is() -> None:
    config = learner_config(num_ranks=3, cpus_per_rank=2.0)
    with pytest.raises(PlacementError, match=r"3 learner ranks ask for CPU 6, but the Ray cluster has CPU 4 in all"):
        LearnerGroup(RankSpec(POLICY, config, 0, 50, None), start_deadline_s=5)
