"""The metrics that a run exports to Prometheus: the one table, and what a rollout actor says of each lease.

docs/metrics.md, the dashboard and the alert rules name what is in the table and nothing else (tests/deploy/test_monitoring.py).
"""

from __future__ import annotations

import time

import torch

from cluster.metrics_export import Exported, Exporter
from rollout_workers.lease import LeaseSummary

_GRADE_SECONDS = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LEASE_SECONDS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

OF_UPDATES = (
    Exported("dllm_run_info", "gauge", "1, with where the run writes and what it trains on", ("run", "task", "model")),
    Exported("dllm_update", "gauge", "number of the last finished policy update"),
    Exported("dllm_updates_planned", "gauge", "policy updates that the run is configured for"),
    Exported("dllm_update_timestamp_seconds", "gauge", "Unix time of the last finished update"),
    Exported("dllm_reward", "gauge", "mean reward of the update's rollouts"),
    Exported("dllm_accuracy", "gauge", "share of right answers of the update's rollouts"),
    Exported("dllm_nfe", "gauge", "mean forward passes per answer of the update's rollouts"),
    Exported("dllm_zero_variance_share", "gauge", "share of groups whose rewards are all equal, which teach nothing"),
    Exported("dllm_unparsable_share", "gauge", "share of answers in which no answer was found"),
    Exported("dllm_grader_error_share", "gauge", "share of answers that could not be graded, of the last update"),
    Exported("dllm_step_limit_share", "gauge", "share of rows that ended at the step limit with masks left"),
    Exported("dllm_loss", "gauge", "loss of the update's first iteration"),
    Exported("dllm_kl", "gauge", "KL(old || new) per decision after the first iteration"),
    Exported("dllm_grad_norm", "gauge", "gradient norm before clipping"),
    Exported("dllm_commit_entropy", "gauge", "entropy of the policy's decisions in nats per decision"),
    Exported("dllm_validation_reward", "gauge", "mean reward on the validation split"),
    Exported("dllm_validation_accuracy", "gauge", "share of right answers on the validation split"),
    Exported("dllm_validation_nfe", "gauge", "mean forward passes per answer on the validation split"),
    Exported(
        "dllm_wall_clock_seconds_total", "counter", "wall-clock of the run by cause; the causes add up", ("cause",)
    ),
    Exported(
        "dllm_weight_lag",
        "histogram",
        "versions by which the weights of a lease were behind",
        (),
        (0.5, 1.5, 2.5, 4.5, 8.5),
    ),
    Exported(
        "dllm_grade_seconds", "histogram", "seconds that grading an answer took, by task", ("task",), _GRADE_SECONDS
    ),
    Exported("dllm_verdicts_total", "counter", "graded answers of training rollouts by verdict", ("verdict",)),
    Exported(
        "dllm_dropped_groups_total",
        "counter",
        "groups that were not learned from: too few valid rows, given up after failures, or too old",
        ("reason",),
    ),
    Exported("dllm_checkpoint_timestamp_seconds", "gauge", "Unix time of the last saved checkpoint"),
    Exported("dllm_checkpoint_update", "gauge", "update that the last checkpoint was saved after"),
    Exported("dllm_workers", "gauge", "rollout actors that the run has"),
    Exported("dllm_worker_restarts_total", "counter", "actors that were lost and replaced", ("actors",)),
    Exported("dllm_leases_reissued_total", "counter", "leases that were given out again", ("actors",)),
    Exported("dllm_errors_total", "counter", "alarms of the run by kind (docs/learning.md)", ("kind",)),
)
"""What the driver says, once per update."""

OF_LEASES = (
    Exported("dllm_leases_total", "counter", "leases finished"),
    Exported("dllm_lease_seconds", "histogram", "seconds that a lease kept its actor busy", (), _LEASE_SECONDS),
    Exported("dllm_rows_total", "counter", "rows decoded and graded"),
    Exported("dllm_forward_passes_total", "counter", "forward passes of the dLLM"),
    Exported("dllm_row_forwards_total", "counter", "live rows summed over forward passes"),
    Exported(
        "dllm_slot_forwards_total",
        "counter",
        "slots summed over forward passes; row forwards over it is the live-row share",
    ),
    Exported(
        "dllm_worker_seconds_total", "counter", "seconds of a rollout actor by state, waiting included", ("state",)
    ),
    Exported("dllm_weight_version", "gauge", "weight version of a rollout actor's last lease of the policy"),
    Exported("dllm_lease_timestamp_seconds", "gauge", "Unix time of a rollout actor's last finished lease"),
    Exported(
        "dllm_gpu_memory_bytes", "gauge", "memory of a rollout actor's GPU: allocated, reserved, peak, total", ("kind",)
    ),
)
"""What each rollout actor says, once per lease."""

EXPORTED = (*OF_UPDATES, *OF_LEASES)
"""All metrics of a run."""


class LeaseExport:
    """Says what became of a rollout actor's leases."""

    def __init__(self, *, exporter: Exporter | None = None) -> None:
        self._export = Exporter(OF_LEASES) if exporter is None else exporter

    def lease(self, summary: LeaseSummary, *, waiting: str) -> None:
        """One finished lease; `waiting` names the state in which the actor has nothing to do."""
        export, stats = self._export, summary.stats
        export.add("dllm_leases_total")
        export.add("dllm_rows_total", len(summary.rows))
        export.add("dllm_forward_passes_total", stats.num_steps)
        export.add("dllm_row_forwards_total", stats.num_row_forwards)
        export.add("dllm_slot_forwards_total", stats.num_slot_forwards)
        for state, seconds in summary.seconds.items():
            export.add("dllm_worker_seconds_total", seconds, state=state)
        busy = sum(seconds for state, seconds in summary.seconds.items() if state != waiting)
        export.observe("dllm_lease_seconds", busy)
        if summary.lease.unmasker.heuristic is None:
            export.set("dllm_weight_version", summary.lease.weight_version)
        export.set("dllm_lease_timestamp_seconds", time.time())
        self._gpu()

    def _gpu(self) -> None:
        if not torch.cuda.is_available() or not torch.cuda.is_initialized():
            return
        free, total = torch.cuda.mem_get_info()
        allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        peak = torch.cuda.max_memory_allocated()
        for kind, value in {
            "allocated": allocated,
            "reserved": reserved,
            "peak": peak,
            "total": total,
            "free": free,
        }.items():
            self._export.set("dllm_gpu_memory_bytes", value, kind=kind)
