"""Learner ranks as Ray actors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

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


class TwoRanks:
    """Ranks as actors, and the same rows as one rank learns from."""

    def __init__(self) -> None:
        self.alone = Trainer(POLICY, replace(CONFIG, num_ranks=1), seed=0)
        self.parts = [decoded(self.alone.network, [group] * 4, [2, 3, 1, 4], seed=group) for group in range(2)]
        self.rows = UpdateRows.of([part.rows for part in self.parts], REWARDS, [True] * 8)
        self.references = [ray.put(part) for part in self.parts]
        self.group = LearnerGroup(RankSpec(POLICY, CONFIG, 0, 50, None), start_deadline_s=120)

    def update(self) -> dict[str, float]:
        return values(self.group.update(self.rows, self.references, imitate=False, what="an update"))

    def update_alone(self) -> dict[str, float]:
        return values(self.alone.learn(self.rows, lambda numbers: [self.parts[n] for n in numbers]))


@pytest.fixture
def two(ray_local: None) -> Iterator[TwoRanks]:
    ranks = TwoRanks()
    yield ranks
    ranks.group.close()


def test_two_ranks_learn_what_one_does(two: TwoRanks) -> None:
    for _ in range(2):
        assert two.update() == pytest.approx(two.update_alone(), rel=1e-3, abs=1e-5)
    assert two.group.seconds.keys() == {"learner-0", "learner-1"}


@pytest.mark.slow
def test_ranks_that_are_killed_change_nothing(two: TwoRanks) -> None:
    first = two.group.files
    undisturbed = [two.update(), two.update()]
    after = two.group.files
    two.group.restore(first, "the beginning")
    again = [two.update()]
    os.kill(living_actors("LearnerRank")[-1], signal.SIGKILL)
    again.append(two.update())
    assert two.group.num_rebuilt == 1
    assert again == undisturbed
    assert two.group.files == after


def test_more_than_the_cluster_has_is_refused_with_what_was_asked_and_what_there_is() -> None:
    config = learner_config(num_ranks=3, cpus_per_rank=2.0)
    with pytest.raises(PlacementError, match=r"3 learner ranks ask for CPU 6, but the Ray cluster has CPU 4 in all"):
        LearnerGroup(RankSpec(POLICY, config, 0, 50, None), start_deadline_s=5)
