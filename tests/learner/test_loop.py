"""The loop's order of events, over a pool and a learner that are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ray.exceptions import ObjectLostError

import learner.loop
from cluster.config import to_dict
from cluster.errors import StopRequested
from cluster.metrics import read_jsonl
from cluster.run_dir import RunDir
from cluster.weight_store import WeightMismatch
from learner.breakdown import overlapped_breakdown
from learner.checkpoint import POLICY_FILE, STATE_FILE, read_progress
from learner.config import RESULT_NEUTRAL
from learner.group import TrajectoriesLost
from learner.loop import TrainingLoop
from learner.main import resolve
from rollout_workers.lease import Lease, LeaseSummary
from rollout_workers.pool import Batch, LeaseFailed
from rollout_workers.problems import Problems
from rollout_workers.tasks import Split, make_tasks
from rollout_workers.tasks.stream import Pick, TaskStream
from tests.fakes.pool import summary_of

Event = tuple[Any, ...]


class TurnPool:
    """Gives back one lease a turn; those with an id in `failing` never."""

    num_actors = 2
    counts: ClassVar[dict[str, int]] = {}

    def __init__(self, events: list[Event], tick: Callable[[], None], failing: frozenset[int]) -> None:
        self.events, self.tick, self.failing = events, tick, failing
        self.seconds: dict[str, dict[str, float]] = {}
        self.waiting: list[tuple[Lease, Batch, Callable[[Lease], Lease]]] = []

    @property
    def num_out(self) -> int:
        return len(self.waiting)

    def submit(self, leases: Sequence[Lease], *, at_dispatch: Callable[[Lease], Lease]) -> Batch:
        batch = Batch(num_open=len(leases))
        self.events.append(("submit", leases[0].weight_version, len(leases)))
        self.waiting += [(lease, batch, at_dispatch) for lease in leases]
        return batch

    def turn(self, timeout_s: float, also: Sequence[Any] = ()) -> None:
        self.tick()
        if self.waiting:
            lease, batch, at_dispatch = self.waiting.pop(0)
            batch.num_open -= 1
            if lease.record and lease.id in self.failing:
                batch.failures.append((lease, "five actors died"))
            else:
                lease = at_dispatch(lease)
                batch.results.append((summary_of(lease), f"trajectories of {lease.id}"))

    def run(self, leases: Sequence[Lease]) -> Iterator[tuple[LeaseSummary, str]]:
        self.tick()
        self.events.append(("run", [lease.id for lease in leases]))
        yield from ((summary_of(lease), f"again {lease.id}") for lease in leases)

    def forget(self, batch: Batch) -> None:
        self.waiting = [each for each in self.waiting if each[1] is not batch]


class CountingLearner:
    """Its weights are what it has learned from."""

    num_rebuilt = 0

    def __init__(self, events: list[Event], pool: TurnPool, losing: frozenset[int]) -> None:
        self.events, self.pool, self.losing = events, pool, set(losing)
        self.files = {POLICY_FILE: b"."}
        self.seconds: dict[str, dict[str, float]] = {}

    @property
    def weights(self) -> bytes:
        return self.files[POLICY_FILE]

    def restore(self, files: dict[str, bytes], where: str) -> None:
        self.files = {POLICY_FILE: files[POLICY_FILE]}

    def update(self, rows: Any, references: list[Any], *, imitate: bool, what: str, turn: Any) -> dict[str, Any]:
        if self.losing:
            lost, self.losing = sorted(self.losing), set()
            raise TrajectoriesLost(lost)
        self.events.append(("update", what, list(references), self.pool.num_out))
        turn(["reply"], 0.0)
        learned = f"{float(rows.reward_R.sum()):.6f};".encode()
        self.files = {POLICY_FILE: self.files[POLICY_FILE] + learned}
        return {}


class Run:
    """One run in a folder, which may be gone on with."""

    def __init__(
        self, path: Path, *overrides: str, stop: Callable[[list[Event]], bool] = lambda events: False,
        failing: frozenset[int] = frozenset(), losing: frozenset[int] = frozenset(), resume: bool = False,
    ) -> None:  # fmt: skip
        config = resolve([
            "tiny", "learner.num_steps=5", "learner.prompts_per_step=8", "checkpoint.every=2", "rollout.lease_groups=2",
            "checkpoint.validation_examples=4", "rollout.taper_leases=false", f"run_dir={path}", *overrides,
        ])  # fmt: skip
        self.events: list[Event] = []
        self.run_dir = RunDir.open(path, to_dict(config), resume=resume, ignore=RESULT_NEUTRAL)

        def tick() -> None:
            if stop(self.events):
                raise StopRequested("stopped")

        self.pool = TurnPool(self.events, tick, failing)
        self.learner = CountingLearner(self.events, self.pool, losing)
        tasks = make_tasks(config.task_configs)
        stream = TaskStream(tasks, config.task_weights, Split.TRAIN, 0)
        validation = [Pick("arithmetic", index) for index in range(4)]
        self.loop = TrainingLoop(
            config, self.run_dir, pool=self.pool, learner=self.learner,
            publish=lambda version, weights: self.events.append(("publish", version, weights)),
            problems=Problems(stream, validation, [], tasks), canvas_length=48, block_length=48,
        )  # fmt: skip
        newest = self.run_dir.latest("checkpoints")
        if newest is not None:
            self.loop.resume(newest[0], newest[1])

    @property
    def lines(self) -> list[tuple[int, dict[str, float]]]:
        return [(line["step"], line["values"]) for line in read_jsonl(self.run_dir.metrics_path)]

    @property
    def newest(self) -> dict[str, bytes]:
        found = self.run_dir.latest("checkpoints")
        assert found is not None
        return found[1]


def test_without_lag_nothing_runs_beside_anything_and_every_lease_has_the_newest_weights(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.loop.run()
    names = [event[0] for event in run.events if event[0] != "run"]
    assert names == ["publish", *["submit", "update", "publish"] * 5]
    assert [event[1] for event in run.events if event[0] == "submit"] == list(range(5))
    assert all(event[3] == 0 for event in run.events if event[0] == "update")
    assert all("weight_lag" not in values for _, values in run.lines)


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_with_lag_rollouts_go_on_during_updates_and_no_weights_are_older_than_it(tmp_path: Path, lag: int) -> None:
    run = Run(tmp_path / "run", f"learner.max_weight_lag={lag}")
    run.loop.run()
    updates = [event for event in run.events if event[0] == "update"]
    assert [event[1] for event in updates] == [f"update {step}" for step in range(1, 6)]
    assert all(event[3] > 0 for event in updates[:-1])
    for number, event in enumerate(run.events):
        if event[0] == "submit":
            live = [each[1] for each in run.events[:number] if each[0] == "publish"][-1]
            assert event[1] <= live + lag
    lags = [values["weight_lag_max"] for step, values in run.lines if step]
    assert max(lags) <= lag
    assert max(lags) >= 1
    assert "while rollouts went on" in run.loop._overlap.describe()
    assert run.loop._overlap.hidden_s > 0


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("after", [1, 2, 7, 12])
def test_a_stop_at_any_moment_saves_what_was_reported_and_resuming_reports_the_same(
    tmp_path: Path, lag: int, after: int
) -> None:
    whole = Run(tmp_path / "whole", f"learner.max_weight_lag={lag}")
    whole.loop.run()
    stopped = Run(tmp_path / "run", f"learner.max_weight_lag={lag}", stop=lambda events: len(events) > after)
    with pytest.raises(StopRequested) as caught:
        stopped.loop.run()
    assert stopped.pool.num_out == 0
    reported = stopped.lines
    if not reported:
        assert "before the first checkpoint" in str(caught.value)
    else:
        assert read_progress(stopped.newest[STATE_FILE]).step == reported[-1][0]
    again = Run(tmp_path / "run", f"learner.max_weight_lag={lag}", resume=True)
    again.loop.run()
    if lag == 0:
        assert again.lines == whole.lines
        assert again.newest == whole.newest
    else:
        assert [step for step, _ in again.lines] == [step for step, _ in whole.lines]
        assert read_progress(again.newest[STATE_FILE]).task_cursor == {"arithmetic": 40}


def test_lease_results_that_the_cluster_lost_are_made_again_and_learned_from_in_their_place(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", losing=frozenset({1, 3}))
    run.loop.run()
    first = next(event for event in run.events if event[0] == "update")
    assert first[2] == ["trajectories of 0", "again 1", "trajectories of 2", "again 3"]


def test_rows_of_other_weights_than_those_published_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = summary_of

    def summary(lease: Lease) -> LeaseSummary:
        return dataclasses.replace(made_up(lease), weights="f" * 64, actor="rollout-1")

    monkeypatch.setattr(f"{__name__}.summary_of", summary)
    with pytest.raises(
        WeightMismatch, match=r"rollout-1 decoded lease 0 with weights ffffffffffff, published as version 0 were"
    ):
        Run(tmp_path / "run").loop.run()


def test_lease_results_that_are_lost_before_they_are_archived_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived = []

    def wait_for(references: Sequence[str], *, deadline_s: float, what: str) -> list[str]:
        if "trajectories of 1" in references:
            raise ObjectLostError("", "", "")
        return list(references)

    monkeypatch.setattr(learner.loop, "wait_for", wait_for)
    monkeypatch.setattr(learner.loop, "archive_update", lambda path, step, parts, summaries: archived.append(parts))
    Run(tmp_path / "run", "trajectories.archive=true", "learner.num_steps=1").loop.run()
    assert archived == [["trajectories of 0", "again 1", "trajectories of 2", "trajectories of 3"]]


def test_a_lease_that_is_given_up_ends_a_synchronous_run_and_is_a_counted_loss_of_an_overlapped_one(
    tmp_path: Path,
) -> None:
    with pytest.raises(LeaseFailed, match=r"lease 2 .* was given up: five actors died"):
        Run(tmp_path / "synchronous", failing=frozenset({2})).loop.run()
    run = Run(tmp_path / "overlapped", "learner.max_weight_lag=1", failing=frozenset({2}))
    run.loop.run()
    assert [values["dropped_groups_failed"] for step, values in run.lines if step] == [2] * 5
    with pytest.raises(LeaseFailed):
        Run(tmp_path / "none left", "learner.max_weight_lag=1", failing=frozenset(range(4))).loop.run()


def test_times_of_an_overlapped_run_add_up_to_the_drivers_wall_clock() -> None:
    times = overlapped_breakdown({"rollout": 3.0, "learner": 2.0, "driver": 1.0}, [], num_actors=2)
    assert times == {"waiting": 6.0}
