"""The training loop.

    task examples -> leases --(RolloutPool)--> rollout actors: decode, grade
                                                  | summaries to here, trajectories by reference
                     TrajectoryBuffer <-----------+
                          | one step's worth, ordered by lease
                     LearnerGroup.update -> new weights -> WeightStore -> (actors pull by version)
                          every k updates: validation through the same pool, then a checkpoint

With `learner.max_weight_lag = k` the rollouts of up to k later steps are out while the learner updates: the step that begins with
version v has a slot as soon as version v - k is live. With k = 0 there is one slot, and nothing runs beside anything.

Each wait and who ends it: a lease (its actor, that actor's death, or `rollout.lease_deadline_s`: then others run it), an update
(the learner's ranks, or `learner.update_deadline_s`: then new ranks repeat it), a weight pull (the store, or the worker's
deadline). A stop request is seen in every wait; what is saved then is the state after the last update that was reported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import ObjectLostError

from cluster.errors import RunFailure, StopRequested
from cluster.logs import get_logger
from cluster.metrics import JsonlSink, Metric, TimeStates, read_jsonl, reduce, values
from cluster.run_dir import RunDir
from cluster.runtime import wait_for
from cluster.storage import atomic_write
from cluster.weight_store import WeightMismatch
from learner.archive import archive_update
from learner.breakdown import (
    CHECKPOINT,
    DRIVER,
    LEARNER,
    ROLLOUT,
    VALIDATION,
    Overlap,
    overlapped_breakdown,
    wall_clock_breakdown,
)
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
from learner.exported import UpdateExport
from learner.group import LearnerGroup, TrajectoriesLost
from learner.lease_plan import LeasePlan
from learner.rollout_metrics import rollout_metrics, staleness_metrics
from learner.update_plan import UpdateRows
from learner.watch import Alarm, Watch
from rollout_workers.grading.answers import GradeKind
from rollout_workers.hosting import in_parts
from rollout_workers.lease import GroupRequest, Lease, LeaseSummary, UnmaskerSpec
from rollout_workers.pool import Batch, RolloutPool, check_failures
from rollout_workers.problems import Problems
from rollout_workers.tasks import Split

_SLICE_S = 0.5
ARCHIVE_DEADLINE_S = 60.0
ACTORS_FILE = "actors.json"
"""In the run directory: the exclusive time states of every actor."""

logger = get_logger(__name__)


class GraderFailing(RunFailure):
    """The grader itself fails too often for the rewards to mean anything."""


class Diverged(RunFailure):
    """The policy is beyond repair."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one update looked like, for progress displays."""

    step: int
    num_steps: int
    values: dict[str, float]


@dataclass(slots=True)
class _Slot:
    """The rollouts of one update."""

    step: int
    """Updates before it."""
    batch: Batch
    buffer: TrajectoryBuffer
    next_cursor: Mapping[str, int]


class TrainingLoop:
    """GRPO over a pool of rollout actors and a group of learner ranks."""

    def __init__(
        self,
        config: RunConfig,
        run_dir: RunDir,
        *,
        pool: RolloutPool,
        learner: LearnerGroup,
        publish: Callable[[int, bytes], None],
        problems: Problems,
        canvas_length: int,
        block_length: int,
        on_report: Callable[[Report], None] = lambda report: None,
        on_alarm: Callable[[Alarm], None] = lambda alarm: None,
        on_checkpoint: Callable[[int], None] = lambda step: None,
    ) -> None:
        """`publish` makes weights available to the rollout actors, by version."""
        self._config = config
        self._run_dir = run_dir
        self._pool = pool
        self._learner = learner
        self._publish_weights = publish
        self._training = problems.training
        self._validation = problems.validation
        self._tasks = problems.tasks
        self._block_length = block_length
        self._on_report = on_report
        self._on_alarm = on_alarm
        self._on_checkpoint = on_checkpoint
        self._clock = TimeStates(DRIVER)
        self._sink = JsonlSink(run_dir.metrics_path)
        self._export = UpdateExport(config)
        self._plan = LeasePlan(config, block_length)
        self._lag = config.learner.max_weight_lag
        self._slots: deque[_Slot] = deque()
        self.progress = Progress()
        self._reported: tuple[Progress, dict[str, bytes]] | None = None
        """The state after the last update whose metrics are written."""
        self._checksums: dict[int, str] = {}
        """Of the weights by version, as they were published."""
        self._watch = Watch(config.learner.watch, canvas_length=canvas_length, block_length=block_length)
        self._overlap = Overlap()

    def resume(self, name: str, files: dict[str, bytes]) -> None:
        """Goes back to a checkpoint: weights, optimiser, counters, and the metrics up to it."""
        self.progress = read_progress(files[STATE_FILE])
        self._learner.restore(files, name)
        self._reported = self.progress, self._learner.files
        self._sink.rewind(self.progress.step)
        JsonlSink(self._run_dir.samples_path).rewind(self.progress.step)
        for line in read_jsonl(self._run_dir.metrics_path):
            for alarm in self._watch.observe(line["step"], line["values"]):
                self._on_alarm(alarm)

    def run(self) -> None:
        """Trains to the last update; raises StopRequested after saving when it was asked to stop."""
        try:
            self._train()
        except StopRequested as stop:
            if self._reported is None:
                raise StopRequested("stopped before the first checkpoint") from stop
            self._save(*self._reported)
            raise StopRequested(f"stopped after update {self._reported[0].step}; a checkpoint was saved") from stop
        finally:
            for slot in self._slots:
                self._pool.forget(slot.batch)
            self._slots.clear()
            self._sink.close()
        if self._lag:
            logger.info("%s", self._overlap.describe())

    def _train(self) -> None:
        self._publish()
        if self.progress.step == 0:
            self._sink.rewind(-1)
            logger.info("decoding %d validation problems before the first update", len(self._validation))
            self._validate_and_save({})
        while self.progress.step < self._config.learner.num_updates:
            self._fill()
            entries = self._rollouts(self._slots[0])
            self._update(entries)

    def _fill(self) -> None:
        """Hands out the leases of every step that has a slot."""
        learner = self._config.learner
        while len(self._slots) <= self._lag:
            step = self.progress.step + len(self._slots)
            if step >= learner.num_updates:
                return
            cursor = self._slots[-1].next_cursor if self._slots else self.progress.task_cursor
            picks, next_cursor = self._training.draw(cursor, learner.prompts_per_step)
            leases = self._plan.leases(picks, first_group=sum(cursor.values()), step=step)
            buffer = TrajectoryBuffer(capacity=len(leases), max_weight_lag=self._lag)
            batch = self._pool.submit(leases, at_dispatch=self._with_newest_weights)
            self._slots.append(_Slot(step, batch, buffer, next_cursor))

    def _with_newest_weights(self, lease: Lease) -> Lease:
        """The lease under the newest weights that are live; they are those of its step when nothing overlaps."""
        spec = dataclasses.replace(lease.unmasker, weight_version=self.progress.step)
        return dataclasses.replace(lease, unmasker=spec)

    def _rollouts(self, slot: _Slot) -> list[Entry]:
        """One step's lease results, by lease."""
        with self._clock.state(ROLLOUT):
            while slot.batch.num_open or slot.batch.results:
                while slot.batch.results:
                    slot.buffer.add(Entry(*slot.batch.results.popleft()), current_version=slot.step)
                if not self._lag:
                    check_failures(slot.batch)
                if slot.batch.num_open:
                    self._pool.turn(_SLICE_S)
        if not len(slot.buffer):
            check_failures(slot.batch)
        for lease, reason in slot.batch.failures:
            logger.warning("update %d goes on without lease %d: %s", slot.step + 1, lease.id, reason)
        return slot.buffer.take()

    def _update(self, entries: list[Entry]) -> None:
        slot = self._slots[0]
        summaries = [entry.summary for entry in entries]
        self._check_weights(summaries)
        self._check_grader(summaries)
        self._export.leases(slot.step, summaries)
        with self._clock.state(LEARNER):
            metrics, references = self._learn(entries)
        self._slots.popleft()
        self.progress = dataclasses.replace(
            self.progress, step=self.progress.step + 1, task_cursor=dict(slot.next_cursor)
        )
        self._publish()
        if self._lag:
            self._fill()
            metrics = metrics | staleness_metrics(
                summaries, slot.step, failures=slot.batch.failures, buffer=slot.buffer
            )
        record = values(reduce([rollout_metrics(summaries), metrics]))
        step = self.progress.step
        self._archive(step, summaries, references)
        if step % self._config.checkpoint.samples_every == 0 or step == self._config.learner.num_updates:
            self._write_samples(summaries)
        self._raise_alarms(record)
        if step % self._config.checkpoint.every == 0 or step == self._config.learner.num_updates:
            self._validate_and_save(record, summaries)
        else:
            self._report(record, summaries)

    def _learn(self, entries: list[Entry]) -> tuple[dict[str, Metric], list[Any]]:
        """The learner's update, and the trajectories it learned from: what the cluster lost meanwhile is made again."""
        summaries = [entry.summary for entry in entries]
        rows = UpdateRows.of(
            [summary.rows for summary in summaries],
            [reward for summary in summaries for reward in summary.rewards],
            [grade.is_valid for summary in summaries for grade in summary.grades],
        )
        references = [entry.trajectories for entry in entries]
        imitate, what = self._plan.imitates(self.progress.step), f"update {self.progress.step + 1}"
        while True:
            try:
                return self._learner.update(rows, references, imitate=imitate, what=what, turn=self._turn), references
            except TrajectoriesLost as lost:
                self._make_again(lost.numbers, summaries, references, what)

    def _make_again(
        self, numbers: Sequence[int], summaries: Sequence[LeaseSummary], references: list[Any], what: str
    ) -> None:
        """Decodes these leases once more; their trajectories are the same."""
        logger.warning("%s: lease results %s are lost; they are made again", what, list(numbers))
        again = {summaries[number].lease.id: number for number in numbers}
        for summary, trajectories in self._pool.run([summaries[number].lease for number in numbers]):
            references[again[summary.lease.id]] = trajectories

    def _turn(self, references: Sequence[Any], timeout_s: float) -> None:
        """Lets the pool go on while the learner works."""
        is_hidden = any(slot.batch.num_open for slot in self._slots)
        started = time.perf_counter()
        self._pool.turn(timeout_s, also=references)
        self._overlap.add(time.perf_counter() - started, is_hidden=is_hidden)

    def _publish(self) -> None:
        weights = self._learner.weights
        self._checksums[self.progress.step] = hashlib.sha256(weights).hexdigest()
        self._checksums.pop(self.progress.step - self._lag - 2, None)
        self._publish_weights(self.progress.step, weights)

    def _check_weights(self, summaries: Sequence[LeaseSummary]) -> None:
        """What decoded is what was published: nobody learns from rows of weights that only seem to be there."""
        for summary in summaries:
            published = self._checksums.get(summary.lease.weight_version)
            if summary.weights and published is not None and summary.weights != published:
                raise WeightMismatch(
                    f"{summary.actor} decoded lease {summary.lease.id} with weights {summary.weights[:12]}, published as version "
                    f"{summary.lease.weight_version} were {published[:12]}"
                )

    def _validate_and_save(self, record: dict[str, float], summaries: list[LeaseSummary] | None = None) -> None:
        """Decodes the validation split, remembers the best step, writes metrics and then the checkpoint."""
        config = self._config
        with self._clock.state(VALIDATION):
            spec = UnmaskerSpec(weight_version=self.progress.step)
            groups = [
                GroupRequest(number, pick.task, Split.VALIDATION, pick.index, 1)
                for number, pick in enumerate(self._validation)
            ]
            leases = [
                Lease(number, config.seed, spec, part, self._block_length, record=False)
                for number, part in enumerate(
                    in_parts(groups, config.evaluation.lease_examples, taper=config.rollout.taper_leases)
                )
            ]
            done = sorted((summary for summary, _ in self._pool.run(leases)), key=lambda summary: summary.lease.id)
        self._check_weights(done)
        measured = values(rollout_metrics(done))
        record = record | {f"validation_{name}": measured[name] for name in ("reward", "accuracy", "nfe")}
        if measured["reward"] > self.progress.best_reward:
            self.progress = dataclasses.replace(
                self.progress, best_step=self.progress.step, best_reward=measured["reward"]
            )
        self._report(record, (summaries or []) + done)
        self._save(self.progress, self._learner.files)

    def _save(self, progress: Progress, files: dict[str, bytes]) -> None:
        with self._clock.state(CHECKPOINT):
            self._run_dir.publish(checkpoint_name(progress.step), files | {STATE_FILE: progress_file(progress)})
            best = checkpoint_name(progress.best_step)
            self._run_dir.retain("checkpoints", self._config.checkpoint.keep, always=[best])
            seconds = self._pool.seconds | self._learner.seconds
            atomic_write(self._run_dir.path / ACTORS_FILE, json.dumps(seconds, indent=1).encode())
        self._export.checkpoint(progress.step)
        self._on_checkpoint(progress.step)

    def _report(self, record: dict[str, float], summaries: list[LeaseSummary]) -> None:
        breakdown = overlapped_breakdown if self._lag else wall_clock_breakdown
        times = breakdown(self._clock.take(), summaries, num_actors=max(1, self._pool.num_actors))
        self._sink.write(self.progress.step, record, times=times)
        self._export.update(self.progress.step, record, times)
        self._export.actors(self._pool.num_actors, self._pool.counts, num_rebuilt=self._learner.num_rebuilt)
        self._reported = self.progress, self._learner.files
        self._on_report(Report(self.progress.step, self._config.learner.num_updates, record))

    def _raise_alarms(self, record: dict[str, float]) -> None:
        """Says what looks wrong; what no later update could mend ends the run, with the last good checkpoint in place."""
        for alarm in self._watch.observe(self.progress.step, record):
            self._export.error(alarm.name)
            if alarm.is_fatal:
                raise Diverged(f"update {alarm.step}: {alarm.message}")
            logger.warning("update %d: %s: %s", alarm.step, alarm.name, alarm.message)
            self._on_alarm(alarm)

    def _check_grader(self, summaries: list[LeaseSummary]) -> None:
        grades = [grade for summary in summaries for grade in summary.grades]
        errors = [grade for grade in grades if grade.kind is GradeKind.GRADER_ERROR]
        if len(errors) > self._config.learner.max_grader_error_rate * len(grades):
            raise GraderFailing(
                f"{len(errors)} of {len(grades)} answers could not be graded "
                f"(allowed share: learner.max_grader_error_rate = {self._config.learner.max_grader_error_rate:g}); "
                f"the first: {errors[0].detail}"
            )

    def _archive(self, step: int, summaries: list[LeaseSummary], references: list[Any]) -> None:
        """Keeps the trajectories of an update, where the config says so."""
        config = self._config.trajectories
        if not config.archive or step % config.every:
            return
        with self._clock.state(CHECKPOINT):
            what = f"the trajectories of update {step}"
            parts: list[Any] = []
            while not parts:
                try:
                    parts = wait_for(references, deadline_s=ARCHIVE_DEADLINE_S, what=what)
                except ObjectLostError:
                    # Their node died between the learner's update and here.
                    lost = [number for number, reference in enumerate(references) if _is_lost(reference)]
                    self._make_again(lost, summaries, references, what)
            archive_update(self._run_dir.trajectories_path, step, parts, summaries)

    def _write_samples(self, summaries: list[LeaseSummary]) -> None:
        """The best and the worst row of the step's first groups, with their order of unmasking."""
        places = [(summary, i, row.group) for summary in summaries for i, row in enumerate(summary.rows)]
        groups = list(dict.fromkeys(group for _, _, group in places))[: self._config.checkpoint.sample_groups]
        with self._run_dir.samples_path.open("a") as file:
            for group in groups:
                members = [(summary, i) for summary, i, mine in places if mine == group]
                ranked = sorted(members, key=lambda member: member[0].rewards[member[1]])
                for pick, (summary, i) in (("best", ranked[-1]), ("worst", ranked[0])):
                    file.write(json.dumps(self._sample(pick, summary, i)) + "\n")

    def _sample(self, pick: str, summary: LeaseSummary, i: int) -> dict[str, Any]:
        row, grade = summary.rows[i], summary.grades[i]
        request = next(each for each in summary.lease.groups if each.group == row.group)
        return {
            "step": self.progress.step,
            "pick": pick,
            "example_id": row.example_id,
            "prompt": self._tasks[request.task].example(request.split, request.index).prompt,
            "prompt_hash": summary.prompt_hashes[i],
            "weight_version": row.weight_version,
            "reward": summary.rewards[i],
            "reward_terms": summary.reward_terms[i],
            "grade": str(grade.kind),
            "answer": grade.answer,
            "nfe": row.nfe,
            "status": row.status,
            "text": summary.texts[i],
            "tokens": row.tokens_L.tolist(),
            "order": row.order_L.tolist(),
        }


def _is_lost(reference: Any) -> bool:
    """Whether no node of the cluster holds this any more."""
    try:
        wait_for([reference], deadline_s=ARCHIVE_DEADLINE_S, what="an update's trajectories")
    except ObjectLostError:
        return True
    return False


def best_policy(run_dir: RunDir, progress: Progress) -> tuple[str, bytes]:
    """(name, policy file) of the checkpoint with the best validation reward."""
    name = checkpoint_name(progress.best_step)
    return name, run_dir.load(name)[POLICY_FILE]
