"""Rollout actors and graders as one pool, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import cluster.actor_pool
import cluster.runtime
import rollout_workers.pool
from rollout_workers.config import RolloutConfig
from rollout_workers.lease import GroupRequest, Lease, LeaseSummary, UnmaskerSpec
from rollout_workers.pool import LeaseFailed, RolloutPool
from rollout_workers.tasks import Split
from tests.fakes.actors import FakeActor, FakeRay, FakeReference
from tests.fakes.pool import summary_of


class Method:
    def __init__(self, call: Any) -> None:
        self.remote = call

    def options(self, *, num_returns: int) -> Method:
        return self


class Worker(FakeActor):
    """Decodes at once, unless it is told to hold."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.started.end(True)
        self.run = Method(self._run)  # type: ignore[assignment]
        self.leases: list[Lease] = []
        self.held: list[FakeReference] | None = None

    def _run(self, lease: Lease) -> list[FakeReference]:
        self.leases.append(lease)
        summary = replace(
            summary_of(lease), grades=(), rewards=(), actor=f"rollout-{self.number}", seconds={"forward": 1.0}
        )
        references = [FakeReference("summary"), FakeReference(f"trajectories of {lease.id}")]
        self.calls.append((lease, references[0]))
        if self.held is None:
            references[0].end(summary)
        return references


class Grader(FakeActor):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.started.end(True)
        self.grade = Method(self._grade)
        self.num_left = 1000

    def _grade(self, summary: LeaseSummary) -> FakeReference:
        reference = FakeReference("grades")
        self.calls.append((summary, reference))
        self.num_left -= 1
        if self.num_left < 0:
            self.die()
        else:
            reference.end((summary_of(summary.lease), f"grader-{self.number}", {"grading": 2.0}))
        return reference


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    fake = FakeRay()
    for module in (cluster.actor_pool, cluster.runtime, rollout_workers.pool):
        monkeypatch.setattr(module, "ray", fake)
    return fake


def lease(number: int) -> Lease:
    group = GroupRequest(number, "arithmetic", Split.TRAIN, number, 1)
    return Lease(number, 0, UnmaskerSpec("threshold", 0.9), (group,), 8)


def make_pool(fake: FakeRay, **settings: Any) -> tuple[RolloutPool, list[Worker], list[Grader]]:
    workers: list[Worker] = []
    graders: list[Grader] = []

    def start(kind: Any, into: list[Any]) -> Any:
        into.append(kind(len(into)))
        return into[-1]

    config = RolloutConfig(**{"max_replacements": 100} | settings)
    pool = RolloutPool(
        config,
        start_worker=lambda models: start(Worker, workers),
        start_grader=(lambda: start(Grader, graders)) if config.num_graders else None,
    )
    pool.start()
    return pool, workers, graders


def test_leases_are_graded_by_graders_and_come_back_once_with_their_trajectories(fake: FakeRay) -> None:
    pool, _workers, graders = make_pool(fake, num_graders=2)
    results = list(pool.run([lease(number) for number in range(9)]))
    assert sorted(summary.lease.id for summary, _ in results) == list(range(9))
    assert all(reference.name == f"trajectories of {summary.lease.id}" for summary, reference in results)
    assert all(summary.grades for summary, _ in results)
    assert sum(len(grader.calls) for grader in graders) == 9
    assert sum(seconds["grading"] for name, seconds in pool.seconds.items() if name.startswith("grader")) == 18
    assert sum(seconds["forward"] for name, seconds in pool.seconds.items() if name.startswith("rollout")) == 9


def test_a_grader_that_dies_is_replaced_and_nothing_is_decoded_again(fake: FakeRay) -> None:
    pool, workers, graders = make_pool(fake, num_graders=1)
    graders[0].num_left = 3
    results = list(pool.run([lease(number) for number in range(8)]))
    assert sorted(summary.lease.id for summary, _ in results) == list(range(8))
    assert len(graders) == 2
    assert sum(len(worker.leases) for worker in workers) == 8


def test_a_batch_does_not_see_the_results_of_another(fake: FakeRay) -> None:
    pool, _, _ = make_pool(fake, num_workers=1)
    training = pool.submit([lease(number) for number in range(6)])
    validation = list(pool.run([lease(number) for number in range(100, 103)]))
    assert sorted(summary.lease.id for summary, _ in validation) == [100, 101, 102]
    while training.num_open:
        pool.turn(0.0)
    assert sorted(summary.lease.id for summary, _ in training.results) == list(range(6))


def test_a_run_that_is_left_takes_its_leases_back(fake: FakeRay) -> None:
    pool, workers, _ = make_pool(fake, num_workers=1)
    results = pool.run([lease(number) for number in range(40)])
    next(results)
    results.close()
    before = len(workers[0].leases)
    assert [summary.lease.id for summary, _ in pool.run([lease(50)])] == [50]
    assert len(workers[0].leases) == before + 1


def test_a_lease_that_kills_every_actor_is_named(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def deadly(self: Worker, lease: Lease) -> list[FakeReference]:
        references = [FakeReference("summary"), FakeReference("trajectories")]
        self.calls.append((lease, references[0]))
        self.die()
        return references

    monkeypatch.setattr(Worker, "_run", deadly)
    monkeypatch.setattr(cluster.actor_pool, "_MAX_BACKOFF_S", 0.0)
    pool, _, _ = make_pool(fake, num_workers=1)
    with pytest.raises(
        LeaseFailed, match=r"lease 7 \(1 groups, weight version 0\) was given up: lease 7: 5 times, last"
    ):
        list(pool.run([lease(7)]))


def test_a_stop_is_seen_in_every_turn(fake: FakeRay) -> None:
    pool, _workers, _ = make_pool(fake)

    class Stop(Exception):
        pass

    def tick() -> None:
        raise Stop

    pool._tick = tick
    with pytest.raises(Stop):
        list(pool.run([lease(1)]))
    assert not pool._batch_of
