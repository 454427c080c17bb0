"""Decodes held-out problems under every arm, through the same pool, leases and graders as training.

A shard is one lease: examples of one arm under one seed. What the results directory has already is not decoded again, and a shard
that fails is reported while the others go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.actor_pool import PoolExhausted
from cluster.errors import DeadlineExceeded, RunFailure
from evaluation.arms import Arm, unmasker_of
from evaluation.config import EvaluationConfig
from evaluation.records import ExampleRecord, sort_records
from evaluation.results_dir import ResultsDir
from evaluation.traces import trace_document
from rollout_workers.engine import FORWARD, POLICY, SCHEDULING
from rollout_workers.hosting import in_parts
from rollout_workers.lease import GroupRequest, Lease, LeaseSummary
from rollout_workers.pool import RolloutPool
from rollout_workers.tasks import Split
from rollout_workers.tasks.stream import Pick

_DECODING = (FORWARD, POLICY, SCHEDULING)


@dataclass(frozen=True, slots=True)
class Suite:
    """Arms on examples that share a canvas length."""

    arms: Sequence[Arm]
    picks: Sequence[Pick]
    canvas_length: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all suites of one evaluation share."""

    split: Split
    run_seed: int
    versions: Mapping[str, int]
    """Policy of a learned arm -> the version of its weights in the actors' store."""
    draws_tokens: bool = False
    """Whether tokens are drawn too (`token_temperature > 0`), so that no arm is deterministic."""
    num_traced: int = 0
    """Examples of each task that are recorded pass by pass, under the first seed."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a model (`rollout_workers.hosting`) -> what its records say of it."""
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Task -> what its records say of how it was posed and graded."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Goes into every record."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One lease, and whose it is."""

    lease: Lease
    arm: Arm
    seed: int

    def __str__(self) -> str:
        first, last = ("{0.task}/{0.split}/{0.index}".format(self.lease.groups[i]) for i in (0, -1))
        examples = first if first == last else f"{first} to {last} ({len(self.lease.groups)} examples)"
        return f"{self.arm.label}, block {self.arm.block_length}, seed {self.seed}, {examples}"


@dataclass(frozen=True, slots=True)
class Failure:
    """A shard that was not decoded, and why."""

    shard: Shard
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was decoded, now and before, and what was not."""

    records: list[ExampleRecord]
    failures: list[Failure]

    def raise_failures(self) -> None:
        """A RunFailure that says which shards failed; nothing happens where none did."""
        if self.failures:
            lines = "".join(f"\n  {failure}" for failure in self.failures)
            raise RunFailure(f"{len(self.failures)} shards of the evaluation failed; the others are kept:{lines}")


def validation_rewards(
    pool: RolloutPool,
    suite: Suite,
    config: EvaluationConfig,
    *,
    run_seed: int,
    weight_version: int,
    draws_tokens: bool = False,
) -> dict[Arm, float]:
    """Mean reward of each arm on the validation split, by which settings of a policy may be chosen."""
    conditions = Conditions(Split.VALIDATION, run_seed, {"": weight_version}, draws_tokens=draws_tokens)
    shards = {shard.lease.id: shard for shard in plan([suite], config, conditions, done=set())}
    rewards: dict[Arm, list[float]] = {arm: [] for arm in suite.arms}
    for summary, _ in pool.run([shard.lease for shard in shards.values()]):
        rewards[shards[summary.lease.id].arm].extend(summary.rewards)
    # An exact sum does not depend on which actor was done first.
    return {arm: math.fsum(values) / max(1, len(values)) for arm, values in rewards.items()}


@dataclass(frozen=True, slots=True)
class Work:
    """What the results directory has of an evaluation, and what is still to be decoded."""

    records: list[ExampleRecord]
    shards: list[Shard]

    @staticmethod
    def left(suites: Sequence[Suite], config: EvaluationConfig, conditions: Conditions, results: ResultsDir) -> Work:
        """Of these suites."""
        records = results.records()
        return Work(records, plan(suites, config, conditions, done={record.key for record in records}))


def evaluate(
    pool: RolloutPool,
    suites: Sequence[Suite],
    config: EvaluationConfig,
    conditions: Conditions,
    results: ResultsDir,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """The records of all suites; those already in `results` are kept and the rest decoded and added there."""
    work = Work.left(suites, config, conditions, results)
    return decode(pool, work, conditions, results, on_progress=on_progress)


def decode(
    pool: RolloutPool,
    work: Work,
    conditions: Conditions,
    results: ResultsDir,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """All records of an evaluation with so much left; what is decoded is added to `results`."""
    records = list(work.records)
    waiting = {shard.lease.id: shard for shard in work.shards}
    total = sum(len(shard.lease.groups) for shard in work.shards)
    failures: list[Failure] = []

    def on_failure(lease: Lease, reason: str) -> None:
        failures.append(Failure(waiting.pop(lease.id), reason))

    num_done = 0
    on_progress(0, total)
    try:
        for summary, _ in pool.run([shard.lease for shard in work.shards], on_failure=on_failure):
            fresh = _records(summary, waiting.pop(summary.lease.id), conditions)
            traces = [trace_document(fresh[row], trace) for row, trace in summary.traces.items()]
            results.append(fresh, traces)
            records.extend(fresh)
            num_done += len(fresh)
            on_progress(num_done, total)
    except (DeadlineExceeded, PoolExhausted) as error:
        failures.extend(Failure(shard, str(error)) for shard in waiting.values())
    return Outcome(sort_records(records), failures)


def plan(
    suites: Sequence[Suite],
    config: EvaluationConfig,
    conditions: Conditions,
    *,
    done: set[tuple[Arm, int, str]],
) -> list[Shard]:
    """Shards of all suites, arms and seeds without the examples in `done`; arms that draw nothing run once, under any seed."""
    shards: list[Shard] = []
    done_once = {(arm, example_id) for arm, _, example_id in done}
    for suite in suites:
        traced = set(_first_of_each_task(suite.picks, conditions.num_traced))
        for arm in suite.arms:
            spec = unmasker_of(arm, weight_version=conditions.versions.get(arm.policy, 0), inference=config.inference)
            draws = arm.is_random or conditions.draws_tokens
            for seed in config.seeds if draws else config.seeds[:1]:
                ids = (f"{pick.task}/{conditions.split}/{pick.index}" for pick in suite.picks)
                groups = [
                    GroupRequest(
                        number, pick.task, conditions.split, pick.index, 1,
                        trace=pick in traced and seed == config.seeds[0],
                    )
                    for number, (pick, example_id) in enumerate(zip(suite.picks, ids, strict=True))
                    if ((arm, seed, example_id) not in done if draws else (arm, example_id) not in done_once)
                ]  # fmt: skip
                for part in in_parts(groups, config.lease_examples):
                    lease = Lease(
                        len(shards),
                        conditions.run_seed + seed,
                        spec,
                        part,
                        arm.block_length,
                        record=False,
                        canvas_length=suite.canvas_length,
                    )
                    shards.append(Shard(lease, arm, seed))
    return shards


def _first_of_each_task(picks: Sequence[Pick], num: int) -> list[Pick]:
    by_task: dict[str, list[Pick]] = {}
    for pick in picks:
        by_task.setdefault(pick.task, []).append(pick)
    return [pick for mine in by_task.values() for pick in mine[:num]]


def _records(summary: LeaseSummary, shard: Shard, conditions: Conditions) -> list[ExampleRecord]:
    arm = shard.arm
    seconds = sum(summary.seconds.get(state, 0.0) for state in _DECODING) / len(summary.rows)
    common = {
        **conditions.models.get(shard.lease.model, {}),
        **conditions.settings,
        "canvas_length": shard.lease.canvas_length,
        "run_seed": conditions.run_seed,
        "num_rows": len(summary.rows),
        "device_name": summary.device,
    }  # fmt: skip
    settings = {
        task: {**common, "task_settings": conditions.tasks.get(task, {})}
        for task in dict.fromkeys(group.task for group in shard.lease.groups)
    }
    lengths = summary.response_lengths or (0,) * len(summary.rows)
    serial = summary.serial_passes or tuple(row.nfe for row in summary.rows)
    rows = zip(
        summary.rows,
        summary.grades,
        summary.texts,
        summary.rewards,
        summary.prompt_hashes,
        lengths,
        serial,
        strict=True,
    )
    return [
        ExampleRecord(
            sampler=arm.sampler,
            parameters=arm.parameters,
            block_length=arm.block_length,
            seed=shard.seed,
            example_id=row.example_id,
            grade=str(grade.kind),
            score=grade.score,
            nfe=row.nfe,
            reward=reward,
            status=row.status,
            num_near_ties=row.num_near_ties,
            answer=grade.answer,
            text=text,
            prompt_hash=prompt_hash,
            policy=arm.policy,
            order=tuple(row.order_L.tolist()),
            response_length=length,
            serial_passes=num_serial,
            seconds=seconds,
            is_warm_up=summary.is_warm_up,
            settings=settings[row.example_id.partition("/")[0]],
        )
        for row, grade, text, reward, prompt_hash, length, num_serial in rows
    ]
