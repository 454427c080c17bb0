"""What the runs of a study measured, and their means over training seeds.

Rewards of all arms are the multiplicative ones at the study's alpha, whatever an arm was trained on. Intervals are 95% by
Student's t over seeds; a single seed has none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.metrics import read_jsonl
from evaluation.arms import LEARNED, Arm
from evaluation.records import ExampleRecord, read_records
from learner.studies.arms import StudyRun
from rollout_workers.rewards import speed

_T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95% quantiles of Student's t by number of seeds."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the held-out problems of one run."""

    accuracy: float
    nfe: float
    reward: float
    score: float


@dataclass(frozen=True, slots=True)
class SeedInterval:
    """A mean over seeds; `half` is half of its 95% interval, not a number for a single seed."""

    mean: float
    half: float

    def text(self, *, percent: bool = False, digits: int = 3) -> str:
        """``0.853 ± 0.012``"""
        scale, digits = (100.0, 1) if percent else (1.0, digits)
        unit = "%" if percent else ""
        spread = "" if math.isnan(self.half) else f" ± {self.half * scale:.{digits}f}"
        return f"{self.mean * scale:.{digits}f}{unit}{spread}"


def over_seeds(values: Sequence[float]) -> SeedInterval:
    """Mean and half interval over seeds."""
    count = len(values)
    if count < 2:
        return SeedInterval(float(values[0]), math.nan)
    t = _T_95[min(count, max(_T_95))]
    return SeedInterval(float(np.mean(values)), t * float(np.std(values, ddof=1)) / math.sqrt(count))


def figures(records: Sequence[ExampleRecord], *, alpha: float, canvas_length: int) -> Figures:
    """Of the validly graded records of one sampler."""
    valid = [record for record in records if record.grade != "grader_error"]
    correct = np.array([record.grade == "correct" for record in valid], float)
    speeds = np.array([speed(record.nfe, canvas_length, alpha) for record in valid])
    return Figures(
        accuracy=float(correct.mean()),
        nfe=float(np.mean([record.nfe for record in valid])),
        reward=float((correct * speeds).mean()),
        score=float(np.mean([record.score for record in valid])),
    )


def learned_figures(run: StudyRun, *, alpha: float) -> Figures:
    """Of the policy that `run` trained."""
    return figures([r for r in _records(run) if r.sampler == LEARNED], alpha=alpha, canvas_length=canvas_length(run))


def heuristic_figures(run: StudyRun, *, alpha: float) -> dict[Arm, Figures]:
    """Of every heuristic that `run` evaluated."""
    groups: dict[Arm, list[ExampleRecord]] = {}
    for record in _records(run):
        if record.sampler != LEARNED:
            groups.setdefault(record.arm, []).append(record)
    length = canvas_length(run)
    return {arm: figures(records, alpha=alpha, canvas_length=length) for arm, records in groups.items()}


def pass_at(run: StudyRun, sampler: str) -> list[float]:
    """Share of problems solved by one of the first N noise seeds, for N = 1, 2, ... (Pass@N)."""
    solved: dict[str, dict[int, bool]] = {}
    for record in _records(run):
        if record.sampler == sampler:
            solved.setdefault(record.example_id, {})[record.seed] = record.grade == "correct"
    table = np.array([[by_seed[seed] for seed in sorted(by_seed)] for by_seed in solved.values()], bool)
    return [float(share) for share in np.logical_or.accumulate(table, axis=1).mean(0)]


def curve(run: StudyRun, name: str) -> tuple[list[int], list[float]]:
    """(updates, values) of a training metric."""
    lines = [line for line in read_jsonl(run.path / "metrics.jsonl") if name in line["values"]]
    return [line["step"] for line in lines], [line["values"][name] for line in lines]


def canvas_length(run: StudyRun) -> int:
    """L of a finished run."""
    return int(json.loads((run.path / "evaluation" / "results.json").read_text())["canvas_length"])


def _records(run: StudyRun) -> list[ExampleRecord]:
    path: Path = run.path / "evaluation" / "records.jsonl"
    return read_records(path)
