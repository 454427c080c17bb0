"""The training loop.

    task examples -> leases --(RolloutPool)--> rollout actors: decode, grade
                                                  | summaries to here, trajectories by reference
                     TrajectoryBuffer <-----------+
                          | one step's worth, ordered by lease
                     LearnerActor.update -> new weights -> WeightStore -> (actors pull by version)
                          every k updates: validation through the same pool, then a checkpoint

Each wait and who ends it: a lease (its actor, that actor's death, or `rollout.lease_deadline_s`), an update (the learner, its
death, or `learner.update_deadline_s`), a weight pull (the store, or the worker's deadline). A stop request is seen between leases.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from cluster.errors import RunFailure
from cluster.logs import get_logger
from cluster.metrics import JsonlSink, Maximum, Mean, Metric, TimeStates, read_jsonl, reduce, values
from cluster.run_dir import RunDir
from cluster.runtime import wait_for
from cluster.weight_store import WeightRecord, WeightStore
from learner.buffer import Entry, TrajectoryBuffer
from learner.checkpoint import (
    POLICY_FILE,
    STATE_FILE,
    Progress,
    checkpoint_name,
    progress_file,
    read_progress,
)
from learner.config import RunConfig
from learner.lease_plan import LeasePlan
from learner.watch import Watch
from policy.weights import fingerprint
from rollout_workers.grading.answers import GradeKind
from rollout_workers.pool import RolloutPool
from rollout_workers.problems import Problems
from rollout_workers.rollout import GroupRequest, Lease, LeaseSummary, UnmaskerSpec
from rollout_workers.tasks import Split

STORE_DEADLINE_S = 60.0
ROLLOUT, LEARNER, CHECKPOINT, VALIDATION, DRIVER = "rollout", "learner", "checkpoint", "validation", "driver"
WAITING = "waiting"

logger = get_logger(__name__)


class GraderFailing(RunFailure):
    """The grader itself fails too often for the rewards to mean anything."""


class Diverged(RunFailure):
    """The policy is beyond repair."""


class StopRequested(Exception):
    """Somebody asked the run to stop; its state has been saved."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one update looked like, for progress displays."""

    step: int
    num_steps: int
    values: dict[str, float]


class TrainingLoop:
    """Synchronous GRPO over a pool of rollout actors and one learner."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: RunDir,
        *,
        pool: RolloutPool,
        learner: ActorHandle,
        store: WeightStore,
        problems: Problems,
        canvas_length: int,
        block_length: int,
        should_stop: Callable[[], bool] = lambda: False,
        on_report: Callable[[Report], None] = lambda report: None,
        on_checkpoint: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._pool = pool
        self._learner = learner
        self._store = store
        self._training = problems.training
        self._validation = problems.validation
        self._block_length = block_length
        self._should_stop = should_stop
        self._on_report = on_report
        self._on_checkpoint = on_checkpoint
        self._clock = TimeStates(DRIVER)
        self._sink = JsonlSink(run_dir.metrics_path)
        self._fingerprint = fingerprint(config.policy)
        self._plan = LeasePlan(config, block_length)
        self._buffer = TrajectoryBuffer(
            capacity=self._plan.max_leases_per_step, max_weight_lag=config.learner.max_weight_lag
        )
        self.progress = Progress()
        self._next_cursor = self.progress.task_cursor
        self._watch = Watch(config.learner.watch, canvas_length=canvas_length)

    def resume(self, name: str, files: dict[str, bytes]) -> None:
        """Goes back to a checkpoint: weights, optimiser, counters, and the metrics up to it."""
        self.progress = read_progress(files[STATE_FILE])
        self._call_learner("restore", files, name, what=f"the learner to restore {name}")
        self._sink.rewind(self.progress.step)
        JsonlSink(self._run_dir.samples_path).rewind(self.progress.step)
        for line in read_jsonl(self._run_dir.metrics_path):
            self._watch.observe(line["step"], line["values"])

    def run(self) -> None:
        """Trains to the last update; raises StopRequested after saving when it was asked to stop."""
        self._publish(self._call_learner("weights", what="the learner's weights"))
        if self.progress.step == 0:
            self._sink.rewind(-1)
            self._validate_and_save({})
        while self.progress.step < self._config.learner.num_updates:
            entries = self._rollouts()
            if entries is None:
                self._save()
                raise StopRequested(f"stopped after update {self.progress.step}; a checkpoint was saved")
            self._update(entries)
        self._sink.close()

    def _rollouts(self) -> list[Entry] | None:
        """One step's leases, or None when a stop was requested before they were complete."""
        with self._clock.state(ROLLOUT):
            for summary, trajectories in self._pool.run(self._leases()):
                self._buffer.add(Entry(summary, trajectories), current_version=self.progress.step)
                if self._should_stop():
                    self._buffer.take()
                    return None
        return self._buffer.take()

    def _leases(self) -> list[Lease]:
        drawn = self._training.draw(self.progress.task_cursor, self._config.learner.prompts_per_step)
        picks, self._next_cursor = drawn
        return self._plan.leases(picks, first_group=sum(self.progress.task_cursor.values()), step=self.progress.step)

    def _lease(self, number: int, spec: UnmaskerSpec, groups: tuple[GroupRequest, ...], *, record: bool) -> Lease:
        return Lease(number, self._config.seed, spec, groups, self._block_length, record=record)

    def _update(self, entries: list[Entry]) -> None:
        summaries = [entry.summary for entry in entries]
        rewards = [reward for summary in summaries for reward in summary.rewards]
        valid = [grade.is_valid for summary in summaries for grade in summary.grades]
        self._check_grader(summaries)
        with self._clock.state(LEARNER):
            metrics, weights = self._call_learner(
                "imitate" if self._plan.imitates(self.progress.step) else "update",
                [entry.trajectories for entry in entries],
                rewards,
                valid,
                what=f"update {self.progress.step + 1} of the learner",
                deadline_s=self._config.learner.update_deadline_s,
            )
        self.progress = dataclasses.replace(
            self.progress,
            step=self.progress.step + 1,
            task_cursor=self._next_cursor,
        )
        self._publish(weights)
        record = values(reduce([rollout_metrics(summaries), metrics]))
        step = self.progress.step
        if step % self._config.checkpoint.samples_every == 0:
            self._write_samples(summaries)
        self._raise_alarms(record)
        if step % self._config.checkpoint.every == 0 or step == self._config.learner.num_updates:
            self._validate_and_save(record, summaries)
        else:
            self._report(record, summaries)

    def _publish(self, weights: bytes) -> None:
        record = WeightRecord.make(self.progress.step, weights, self._fingerprint)
        self._store.publish(record, timeout_s=STORE_DEADLINE_S)

    def _validate_and_save(self, record: dict[str, float], summaries: list[LeaseSummary] | None = None) -> None:
        """Decodes the validation split, remembers the best step, writes metrics and then the checkpoint."""
        config = self._config
        with self._clock.state(VALIDATION):
            spec = UnmaskerSpec(weight_version=self.progress.step)
            chunk = config.evaluation.lease_examples
            groups = [
                GroupRequest(number, pick.task, Split.VALIDATION, pick.index, 1)
                for number, pick in enumerate(self._validation)
            ]
            leases = [
                self._lease(number, spec, tuple(groups[start : start + chunk]), record=False)
                for number, start in enumerate(range(0, len(groups), chunk))
            ]
            done = sorted((summary for summary, _ in self._pool.run(leases)), key=lambda summary: summary.lease.id)
        measured = values(rollout_metrics(done))
        record = record | {f"validation_{name}": measured[name] for name in ("reward", "accuracy", "nfe")}
        if measured["reward"] > self.progress.best_reward:
            self.progress = dataclasses.replace(
                self.progress, best_step=self.progress.step, best_reward=measured["reward"]
            )
        self._report(record, (summaries or []) + done)
        self._save()

    def _save(self) -> None:
        with self._clock.state(CHECKPOINT):
            files = self._call_learner("files", what="the learner's checkpoint")
            name = checkpoint_name(self.progress.step)
            self._run_dir.publish(name, files | {STATE_FILE: progress_file(self.progress)})
            best = checkpoint_name(self.progress.best_step)
            self._run_dir.retain("checkpoints", self._config.checkpoint.keep, always=[best])
        self._on_checkpoint(self.progress.step)

    def _report(self, record: dict[str, float], summaries: list[LeaseSummary]) -> None:
        times = wall_clock_breakdown(self._clock.take(), summaries, num_actors=self._pool.num_actors)
        self._sink.write(self.progress.step, record, times=times)
        self._on_report(Report(self.progress.step, self._config.learner.num_updates, record))

    def _raise_alarms(self, record: dict[str, float]) -> None:
        """Says what looks wrong; what no later update could mend ends the run, with the last good checkpoint in place."""
        for alarm in self._watch.observe(self.progress.step, record):
            if alarm.is_fatal:
                raise Diverged(f"update {alarm.step}: {alarm.message}")
            logger.warning("update %d: %s: %s", alarm.step, alarm.name, alarm.message)

    def _check_grader(self, summaries: list[LeaseSummary]) -> None:
        grades = [grade for summary in summaries for grade in summary.grades]
        errors = [grade for grade in grades if grade.kind is GradeKind.GRADER_ERROR]
        if len(errors) > self._config.learner.max_grader_error_rate * len(grades):
            raise GraderFailing(
                f"{len(errors)} of {len(grades)} answers could not be graded "
                f"(allowed share: learner.max_grader_error_rate = {self._config.learner.max_grader_error_rate:g}); "
                f"the first: {errors[0].detail}"
            )

    def _write_samples(self, summaries: list[LeaseSummary]) -> None:
        """The best and the worst row of the step's first group, with their order of unmasking."""
        first = summaries[0]
        members = [i for i, row in enumerate(first.rows) if row.group == first.rows[0].group]
        picks = {
            "best": max(members, key=first.rewards.__getitem__),
            "worst": min(members, key=first.rewards.__getitem__),
        }
        with self._run_dir.samples_path.open("a") as file:
            for pick, i in picks.items():
                row, grade = first.rows[i], first.grades[i]
                sample = {
                    "step": self.progress.step,
                    "pick": pick,
                    "example_id": row.example_id,
                    "prompt_hash": first.prompt_hashes[i],
                    "weight_version": row.weight_version,
                    "reward": first.rewards[i],
                    "reward_terms": first.reward_terms[i],
                    "grade": str(grade.kind),
                    "answer": grade.answer,
                    "nfe": row.nfe,
                    "status": row.status,
                    "text": first.texts[i],
                    "tokens": row.tokens_L.tolist(),
                    "order": row.order_L.tolist(),
                }
                file.write(json.dumps(sample) + "\n")

    def _call_learner(self, method: str, *arguments: Any, what: str, deadline_s: float = STORE_DEADLINE_S) -> Any:
        reference = getattr(self._learner, method).remote(*arguments)
        return wait_for([reference], deadline_s=deadline_s, what=what)[0]


def rollout_metrics(summaries: list[LeaseSummary]) -> dict[str, Metric]:
    """Metrics of decoded rows; they depend on the rows alone, never on which actor decoded them.

    Of a mixture, `reward_TASK` and `accuracy_TASK` tell each task's own. Of rewards with several terms, `reward_TERM` is the term,
    unweighted. Experts' rows count in `expert_reward`, `expert_accuracy` and `expert_nfe` alone.
    """
    experts = [summary for summary in summaries if summary.lease.unmasker.expert is not None]
    own = [summary for summary in summaries if summary.lease.unmasker.expert is None]
    steered = _row_metrics(experts)
    return _row_metrics(own) | {f"expert_{name}": steered[name] for name in ("reward", "accuracy", "nfe") if experts}


def _row_metrics(summaries: list[LeaseSummary]) -> dict[str, Metric]:
    records: list[dict[str, Metric]] = []
    is_mixture = len({group.task for summary in summaries for group in summary.lease.groups}) > 1
    for summary in summaries:
        columns = zip(summary.rows, summary.grades, summary.rewards, summary.reward_terms, strict=True)
        for row, grade, reward, terms in columns:
            records.append(
                {
                    "reward": Mean(reward, 1),
                    "accuracy": Mean(float(grade.is_correct), 1),
                    "nfe": Mean(row.nfe, 1),
                    "nfe_max": Maximum(row.nfe),
                    "unparsable_share": Mean(float(grade.kind is GradeKind.UNPARSABLE), 1),
                    "grader_error_share": Mean(float(not grade.is_valid), 1),
                    "step_limit_share": Mean(float(row.status == "step_limit"), 1),
                    "near_tie_share": Mean(float(row.num_near_ties > 0), 1),
                }
            )
            if len(terms) > 1:
                records[-1] |= {f"reward_{name}": Mean(value, 1) for name, value in terms.items()}
            if is_mixture:
                task = row.example_id.partition("/")[0]
                own: dict[str, Metric] = {"reward": Mean(reward, 1), "accuracy": Mean(float(grade.is_correct), 1)}
                records[-1] |= {f"{name}_{task}": value for name, value in own.items()}
    return reduce(records)


def wall_clock_breakdown(
    driver: dict[str, float], summaries: list[LeaseSummary], *, num_actors: int
) -> dict[str, float]:
    """Seconds of wall-clock by cause; they add up to the driver's.

    While leases are out (training and validation alike) the time is split by what the actors did, averaged over them; what is left
    of it they waited, for the slowest actor or for dispatch. During the other phases the driver's own state is the cause.
    """
    times = dict(driver)
    decoding = times.pop(ROLLOUT, 0.0) + times.pop(VALIDATION, 0.0)
    busy: dict[str, float] = {}
    for summary in summaries:
        for name, seconds in summary.seconds.items():
            if name != WAITING:
                busy[name] = busy.get(name, 0.0) + seconds / num_actors
    return times | busy | {WAITING: decoding - sum(busy.values())}


def best_policy(run_dir: RunDir, progress: Progress) -> tuple[str, bytes]:
    """(name, policy file) of the checkpoint with the best validation reward."""
    name = checkpoint_name(progress.best_step)
    return name, run_dir.load(name)[POLICY_FILE]
