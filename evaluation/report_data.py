"""What the report shows, as one JSON document: per task every arm's numbers, the order of unmasking, and rows to replay.

Of one sampler, policy and block length only the arm with the best reward brings a heat map and replays, so that the document stays
small enough to be opened on a phone; the others are in the plot and the table.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.errors import UserError
from evaluation.arms import Arm
from evaluation.records import ExampleRecord
from evaluation.results import ArmSummary
from evaluation.statistics import Interval, frontier, hypervolume
from evaluation.views import ALL_TASKS, View, make_views

_MAX_BINS = 48
"""Of the heat map, in either direction."""
_MAX_REPLAY_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class ReportRun:
    """One evaluation, and the training run that it belongs to if there is one."""

    name: str
    settings: Mapping[str, Any]
    records: Sequence[ExampleRecord]
    traces: Sequence[Mapping[str, Any]] = ()
    history: Sequence[Mapping[str, Any]] = ()
    """Lines of metrics.jsonl."""
    manifest: Mapping[str, Any] = field(default_factory=dict)


def report_data(runs: Sequence[ReportRun]) -> dict[str, Any]:
    """The document; UserError for runs that cannot be shown together."""
    _check_canvases([record for run in runs for record in run.records])
    runs = _distinguished(runs)
    records = list({record.key: record for run in reversed(runs) for record in run.records}.values())
    traces = [trace for run in runs for trace in run.traces]
    alphas = sorted({float(run.settings["reward"]["alpha"]) for run in runs})
    return {
        "runs": [
            {
                "name": run.name,
                "models": list(run.settings["models"].values()),
                "manifest": run.manifest,
                "curves": _curves(run.history),
            }
            for run in runs
        ],
        "alpha": alphas[0] if len(alphas) == 1 else None,
        "views": [_view(view, traces) for view in make_views(records)],
    }


def _distinguished(runs: Sequence[ReportRun]) -> list[ReportRun]:
    """Of several runs, each learned policy bears its run's name; heuristics do where runs decode under other settings."""
    if len(runs) == 1:
        return list(runs)
    settings = {json.dumps(dict(run.settings), sort_keys=True) for run in runs}
    named: list[ReportRun] = []
    for run in runs:
        renamed = [
            dataclasses.replace(record, policy=f"{run.name} {record.policy}".strip())
            if record.arm.is_learned or len(settings) > 1
            else record
            for record in run.records
        ]
        policies = {old.arm: new.policy for old, new in zip(run.records, renamed, strict=True)}
        traces = [{**trace, "policy": policies[_arm_of(trace)]} for trace in run.traces if _arm_of(trace) in policies]
        named.append(dataclasses.replace(run, records=renamed, traces=traces))
    return named


def _check_canvases(records: Sequence[ExampleRecord]) -> None:
    lengths: dict[str, set[int]] = {}
    for record in records:
        lengths.setdefault(record.task, set()).add(int(record.settings["canvas_length"]))
    for task, found in lengths.items():
        if len(found) > 1:
            raise UserError(
                f"the runs decode task {task!r} on canvases of {' and '.join(map(str, sorted(found)))} tokens; "
                "allowed: runs that share a task's canvas length"
            )


def _view(view: View, traces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ranked = view.ranked
    ordered = sorted(view.summaries, key=lambda summary: (summary not in ranked, -summary.reward.mean))
    number = {summary.arm: index for index, summary in enumerate(ordered)}
    featured = _featured(ordered)
    heuristics = [_point(summary) for summary in ranked if not summary.arm.is_learned]
    best = view.best_heuristic
    return {
        "name": view.name,
        "canvas_length": view.canvas_length,
        "num_examples": max(summary.num_examples for summary in ordered),
        "hypervolume": {
            "all": hypervolume(map(_point, ranked), view.canvas_length),
            "heuristics": hypervolume(heuristics, view.canvas_length),
        },
        "frontier": frontier(heuristics),
        "best_heuristic": None if best is None else number[best.arm],
        "arms": [_arm(view, summary, summary.arm in featured) for summary in ordered],
        "replays": [] if view.name == ALL_TASKS else _replays(view, traces, number, featured),
    }


def _point(summary: ArmSummary) -> tuple[float, float]:
    return summary.nfe.mean, summary.accuracy.mean


def _featured(ordered: Sequence[ArmSummary]) -> set[Arm]:
    """The best arm of each sampler, policy and block length."""
    best: dict[tuple[str, str, int], Arm] = {}
    for summary in ordered:
        best.setdefault((summary.arm.sampler, summary.arm.policy, summary.arm.block_length), summary.arm)
    return set(best.values())


def _arm(view: View, summary: ArmSummary, is_featured: bool) -> dict[str, Any]:
    arm, records = summary.arm, view.groups[summary.arm]
    pair = view.comparisons.get(arm)
    return {
        "label": arm.label,
        "family": f"{arm.sampler} {arm.policy.partition('@')[0]}".strip(),
        "block": arm.block_length,
        "learned": arm.is_learned,
        "num_examples": summary.num_examples,
        "num_seeds": summary.num_seeds,
        "accuracy": _interval(summary.accuracy),
        "nfe": _interval(summary.nfe),
        "reward": _interval(summary.reward),
        "spread": dataclasses.asdict(summary.spread),
        "difference": None if pair is None else [*_interval(pair.reward), pair.p_reward, pair.p_reward_adjusted],
        "tokens_per_pass": summary.tokens_per_pass,
        "tokens_per_second": summary.tokens_per_second,
        "num_step_limit": summary.num_step_limit,
        "num_grader_errors": summary.num_grader_errors,
        "histogram": sorted(Counter(record.nfe for record in records).items()),
        "order": heat_map(records, view.canvas_length) if is_featured else None,
    }


def _interval(interval: Interval) -> list[float]:
    return [interval.mean, interval.low, interval.high]


def heat_map(records: Sequence[ExampleRecord], canvas_length: int) -> dict[str, Any] | None:
    """Share of decoded tokens in each (pass, position) cell, in per cent of the largest; None where no order is known."""
    known = [record for record in records if len(record.order) == canvas_length]
    if not known:
        return None
    orders_NL = np.array([record.order for record in known])
    num_passes = max(1, int(orders_NL.max()))
    shape = min(num_passes, _MAX_BINS), min(canvas_length, _MAX_BINS)
    rows, positions = np.nonzero(orders_NL > 0)
    counts = np.zeros(shape)
    passes = orders_NL[rows, positions] - 1
    np.add.at(counts, (passes * shape[0] // num_passes, positions * shape[1] // canvas_length), 1)
    cells = np.rint(100 * counts / max(1.0, counts.max())).astype(int)
    return {"num_passes": num_passes, "cells": cells.tolist()}


def _replays(
    view: View, traces: Sequence[Mapping[str, Any]], number: Mapping[Arm, int], featured: set[Arm]
) -> list[dict[str, Any]]:
    """Examples with the rows of featured arms; examples beyond the size limit are left out."""
    records = {record.key: record for group in view.groups.values() for record in group}
    examples: dict[str, dict[str, Any]] = {}
    size = 0
    for trace in sorted(traces, key=lambda trace: _natural(str(trace["example_id"]))):
        record = records.get((_arm_of(trace), int(trace["seed"]), str(trace["example_id"])))
        if record is None or record.arm not in featured:
            continue
        row = {name: trace[name] for name in ("pieces", "mask", "final")}
        # Traces of earlier versions say nothing of passes ahead: there each decision is a pass.
        row["passes"] = [{"nfe": number, **each} for number, each in enumerate(trace["passes"], start=1)]
        row |= {"arm": number[record.arm], "grade": record.grade, "answer": record.answer, "text": record.text}
        size += len(json.dumps(row))
        if size > _MAX_REPLAY_BYTES:
            break
        example = examples.setdefault(
            record.example_id, {"id": record.example_id, "prompt": trace["prompt"], "rows": []}
        )
        example["rows"].append(row)
    for example in examples.values():
        example["rows"].sort(key=lambda row: row["arm"])
    return list(examples.values())


def _natural(example_id: str) -> tuple[str, int]:
    head, _, index = example_id.rpartition("/")
    return head, int(index)


def _arm_of(trace: Mapping[str, Any]) -> Arm:
    parameters = json.dumps(trace["parameters"], sort_keys=True)
    return Arm(str(trace["sampler"]), parameters, int(trace["block_length"]), str(trace["policy"]))


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Metric -> [update, value] points, of training and of the validation split."""
    names = [prefix + name for name in ("reward", "accuracy", "nfe") for prefix in ("", "validation_")]
    curves = {
        name: [[line["step"], line["values"][name]] for line in history if name in line["values"]] for name in names
    }
    return {name: points for name, points in curves.items() if points}
