"""The two CSV files: `summary.csv` has one line per task and arm, `detailed.csv` one per task, arm and seed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.arms import Arm
from evaluation.records import ExampleRecord
from evaluation.results import ArmSummary, is_correct, summarise
from evaluation.views import ALL_TASKS, View

_GRADES = ("correct", "wrong", "unparsable", "timed_out", "grader_error")


def summary_csv(views: Sequence[View]) -> bytes:
    """Means with their intervals, standard deviations over seeds, and the paired test against the task's best heuristic."""
    return _csv([_summary_line(view, summary) for view in views for summary in view.summaries])


def detailed_csv(views: Sequence[View]) -> bytes:
    """What each seed of each arm got on each task."""
    lines = []
    for view in views:
        for arm, records in view.groups.items() if view.name != ALL_TASKS else ():
            for seed in sorted({record.seed for record in records}):
                lines.append(_detailed_line(view.name, arm, seed, [r for r in records if r.seed == seed]))
    return _csv(lines)


def _summary_line(view: View, summary: ArmSummary) -> dict[str, Any]:
    line = _head(view.name, summary.arm) | {"num_examples": summary.num_examples, "num_seeds": summary.num_seeds}
    for name in ("accuracy", "nfe", "reward"):
        interval = getattr(summary, name)
        line |= {
            name: _figure(interval.mean),
            f"{name}_std": _figure(getattr(summary.spread, name)),
            f"{name}_low": _figure(interval.low),
            f"{name}_high": _figure(interval.high),
        }
    pair = view.comparisons.get(summary.arm)
    best = view.best_heuristic
    return line | {
        "reward_difference": _figure(pair and pair.reward.mean),
        "reward_difference_low": _figure(pair and pair.reward.low),
        "reward_difference_high": _figure(pair and pair.reward.high),
        "reward_p": _figure(pair and pair.p_reward),
        "reward_p_holm": _figure(pair and pair.p_reward_adjusted),
        "accuracy_difference": _figure(pair and pair.accuracy),
        "accuracy_p": _figure(pair and pair.p_accuracy),
        "is_best_heuristic": int(best is not None and summary.arm == best.arm),
        "serial_passes": _figure(summary.serial_passes),
        "tokens_per_pass": _figure(summary.tokens_per_pass),
        "tokens_per_second": _figure(summary.tokens_per_second),
        "num_step_limit": summary.num_step_limit,
        "num_grader_errors": summary.num_grader_errors,
    }


def _detailed_line(task: str, arm: Arm, seed: int, records: Sequence[ExampleRecord]) -> dict[str, Any]:
    valid = [record for record in records if record.grade != "grader_error"]
    speed = summarise(arm, records) if valid else None
    settings = records[0].settings
    return _head(task, arm) | {
        "seed": seed,
        "num_examples": len(records),
        "accuracy": _figure(np.mean([is_correct(record) for record in valid]) if valid else None),
        "nfe": _figure(np.mean([record.nfe for record in valid]) if valid else None),
        "reward": _figure(np.mean([record.reward for record in valid]) if valid else None),
        **{f"num_{grade}": sum(record.grade == grade for record in records) for grade in _GRADES},
        "num_step_limit": sum(record.status == "step_limit" for record in records),
        "response_tokens": sum(record.response_length for record in records),
        "seconds": _figure(sum(record.seconds for record in records)),
        "tokens_per_pass": _figure(speed and speed.tokens_per_pass),
        "tokens_per_second": _figure(speed and speed.tokens_per_second),
        **{name: settings.get(name, "") for name in ("model", "device", "dtype", "num_slots", "canvas_length")},
    }


def _head(task: str, arm: Arm) -> dict[str, Any]:
    return {
        "task": task, "sampler": arm.sampler, "parameters": arm.parameters, "policy": arm.policy, "block_length": arm.block_length
    }  # fmt: skip


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.6f}"


def _csv(lines: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue().encode()
