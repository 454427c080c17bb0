"""What an update's rollouts say: metrics of decoded rows, and how old the weights were that decided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.metrics import Count, Maximum, Mean, Metric
from learner.buffer import TrajectoryBuffer
from policy.trajectory import TrajectoryRow
from rollout_workers.grading.answers import GradeKind
from rollout_workers.hosting import MAIN, model_of, task_of
from rollout_workers.lease import Lease, LeaseSummary


def staleness_metrics(
    summaries: Sequence[LeaseSummary], step: int, *, failures: Sequence[tuple[Lease, str]], buffer: TrajectoryBuffer
) -> dict[str, Metric]:
    """How old the weights were that decided, and the groups that the update goes without, by reason."""
    lags = [step - row.weight_version for summary in summaries for row in summary.rows]
    return {
        "weight_lag": Mean(sum(lags), len(lags)),
        "weight_lag_max": Maximum(max(lags)),
        "dropped_groups_failed": Count(sum(len(lease.groups) for lease, _ in failures)),
        "dropped_groups_stale": Count(buffer.num_stale_dropped),
    }


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
    columns = [
        column
        for each in summaries
        for column in zip(each.rows, each.rewards, each.grades, each.reward_terms, strict=True)
    ]
    if not columns:
        return {}
    rows, rewards, grades, terms = zip(*columns, strict=True)
    is_correct = [grade.is_correct for grade in grades]
    metrics: dict[str, Metric] = {
        "reward": _mean(rewards),
        "accuracy": _mean(is_correct),
        "nfe": _mean([row.nfe for row in rows]),
        "nfe_max": Maximum(max(row.nfe for row in rows)),
        "unparsable_share": _mean([grade.kind is GradeKind.UNPARSABLE for grade in grades]),
        "grader_error_share": _mean([not grade.is_valid for grade in grades]),
        "empty_share": _empty_share(rows),
        "step_limit_share": _mean([row.status == "step_limit" for row in rows]),
        "near_tie_share": _mean([row.num_near_ties > 0 for row in rows]),
    }
    if len(terms[0]) > 1:
        metrics |= {f"reward_{name}": _mean([each[name] for each in terms]) for name in terms[0]}
    tasks = [row.example_id.partition("/")[0] for row in rows]
    if len({group.task for summary in summaries for group in summary.lease.groups}) > 1:
        for task in dict.fromkeys(tasks):
            own = [number for number, each in enumerate(tasks) if each == task]
            name = _in_metric_names(task)
            metrics[f"reward_{name}"] = _mean([rewards[number] for number in own])
            metrics[f"accuracy_{name}"] = _mean([is_correct[number] for number in own])
    return metrics


def _mean(observations: Sequence[float]) -> Mean:
    return Mean(float(sum(observations)), len(observations))


def _empty_share(rows: Sequence[TrajectoryRow]) -> Mean:
    """Passes after which nothing was committed, over all passes."""
    num_passes = sum(row.nfe for row in rows)
    num_committing = sum(len(np.unique(row.order_L[row.order_L > 0])) for row in rows)
    return Mean(float(num_passes - num_committing), num_passes)


def _in_metric_names(task: str) -> str:
    """`sudoku@second` as `sudoku_on_second`: sinks of metrics allow few signs in names."""
    return task if model_of(task) == MAIN else f"{task_of(task)}_on_{model_of(task)}"
