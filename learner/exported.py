"""What the driver exports to Prometheus after each update and checkpoint; the table is `rollout_workers.exported`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from cluster.metrics_export import Exporter
from learner.config import RunConfig
from rollout_workers.exported import OF_UPDATES
from rollout_workers.lease import LeaseSummary

_FIGURES = (
    "reward", "accuracy", "nfe", "zero_variance_share", "unparsable_share", "grader_error_share", "step_limit_share", "loss", "kl",
    "grad_norm", "commit_entropy", "validation_reward", "validation_accuracy", "validation_nfe",
)  # fmt: skip
"""Values of an update's record that are exported as `dllm_NAME`."""
_DROPPED = {"dropped_groups": "small", "dropped_groups_failed": "failed", "dropped_groups_stale": "stale"}
"""Counts of an update's record, and the reason that they are exported with."""


class UpdateExport:
    """Says how a run goes."""

    def __init__(self, config: RunConfig, exporter: Exporter | None = None) -> None:
        self._export = Exporter(OF_UPDATES) if exporter is None else exporter
        self._export.set(
            "dllm_run_info", 1, run=config.run_dir, task=",".join(config.task_weights), model=config.model.name
        )
        self._export.set("dllm_updates_planned", config.learner.num_updates)
        self._counts: dict[str, int] = {}

    def update(
        self, step: int, record: Mapping[str, float], times: Mapping[str, float], *, at: float | None = None
    ) -> None:
        """One update, or the validation before the first, that ended at the Unix time `at`, or now."""
        export = self._export
        export.set("dllm_update", step)
        export.set("dllm_update_timestamp_seconds", time.time() if at is None else at)
        for name in _FIGURES:
            if name in record:
                export.set(f"dllm_{name}", record[name])
        for name, reason in _DROPPED.items():
            export.add("dllm_dropped_groups_total", record.get(name, 0), reason=reason)
        for cause, seconds in times.items():
            export.add("dllm_wall_clock_seconds_total", seconds, cause=cause)

    def leases(self, step: int, summaries: Sequence[LeaseSummary]) -> None:
        """What the update after `step` learns from."""
        for summary in summaries:
            self._export.observe("dllm_weight_lag", step - summary.rows[0].weight_version)
            tasks = (group.task for group in summary.lease.groups for _ in range(group.num_samples))
            for task, seconds in zip(tasks, summary.grade_seconds, strict=False):
                self._export.observe("dllm_grade_seconds", seconds, task=task)
        for verdict, count in Counter(str(grade.kind) for each in summaries for grade in each.grades).items():
            self._export.add("dllm_verdicts_total", count, verdict=verdict)

    def actors(self, num_workers: int, counts: Mapping[str, int], *, num_rebuilt: int) -> None:
        """How many rollout actors there are; `counts` of the pool and of the learner's rebuilds are those of the whole run."""
        self._export.set("dllm_workers", num_workers)
        for name, count in {**counts, "learner ranks replaced": num_rebuilt}.items():
            actors, _, what = name.rpartition(" ")
            if what in ("replaced", "reissued"):
                metric = "dllm_worker_restarts_total" if what == "replaced" else "dllm_leases_reissued_total"
                self._export.add(metric, count - self._counts.get(name, 0), actors=actors)
        self._counts = {**counts, "learner ranks replaced": num_rebuilt}

    def checkpoint(self, step: int, *, at: float | None = None) -> None:
        """A checkpoint was saved at the Unix time `at`, or now."""
        self._export.set("dllm_checkpoint_update", step)
        self._export.set("dllm_checkpoint_timestamp_seconds", time.time() if at is None else at)

    def error(self, kind: str) -> None:
        """An alarm, or whatever else ought to be looked at."""
        self._export.add("dllm_errors_total", kind=kind)
