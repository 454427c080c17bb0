"""What the runs of a study measured, and their means over training seeds.

Rewards of all arms are the multiplicative ones at the study's alpha, whatever an arm was trained on. Intervals are 95% by
Student's t over seeds; a single seed has none. Every file of a run is read once (`measure`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.metrics import read_jsonl
from evaluation.arms import Arm
from evaluation.records import ExampleRecord, read_records
from evaluation.results import by_arm
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
    pass_at: tuple[float, ...]
    """Pass@N for N = 1, 2, ... as many samples as each problem has."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A finished run."""

    run: StudyRun
    learned: Figures
    """Of the policy that it trained."""
    heuristics: Mapping[Arm, Figures]
    curves: Mapping[str, tuple[list[int], list[float]]]
    """Training metric -> (updates, values)."""
    num_supervised: int = 0
    """Updates of imitation before the first of GRPO."""


@dataclass(frozen=True, slots=True)
class SeedInterval:
    """A mean over seeds; `half` is half of its 95% interval, not a number for a single seed."""

    mean: float
    half: float

    def text(self, *, percent: bool = False, digits: int = 3, signed: bool = False) -> str:
        """``0.853 ± 0.012``"""
        scale, digits = (100.0, 1) if percent else (1.0, digits)
        unit = "%" if percent else ""
        spread = "" if math.isnan(self.half) else f" ± {self.half * scale:.{digits}f}"
        return f"{self.mean * scale:{'+' if signed else ''}.{digits}f}{unit}{spread}"


def over_seeds(values: Sequence[float]) -> SeedInterval:
    """Mean and half interval over seeds."""
    count = len(values)
    if count < 2:
        return SeedInterval(float(values[0]), math.nan)
    t = _T_95[min(count, max(_T_95))]
    return SeedInterval(float(np.mean(values)), t * float(np.std(values, ddof=1)) / math.sqrt(count))


def measure(run: StudyRun, *, alpha: float) -> Measured:
    """What `run` wrote, with rewards at `alpha`."""
    evaluation = run.path / "evaluation"
    length = int(json.loads((evaluation / "results.json").read_text())["canvas_length"])
    groups = by_arm(read_records(evaluation / "records.jsonl"))
    found = {arm: figures(records, alpha=alpha, canvas_length=length) for arm, records in groups.items()}
    (learned,) = [arm for arm in found if arm.is_learned]
    curves: dict[str, tuple[list[int], list[float]]] = {}
    lines = read_jsonl(run.path / "metrics.jsonl")
    for line in lines:
        for name, value in line["values"].items():
            steps, values = curves.setdefault(name, ([], []))
            steps.append(line["step"])
            values.append(value)
    num_supervised = sum("imitation_loss" in line["values"] for line in lines)
    return Measured(run, found.pop(learned), found, curves, num_supervised)


def figures(records: Sequence[ExampleRecord], *, alpha: float, canvas_length: int) -> Figures:
    """Of the validly graded records of one sampler."""
    valid = [record for record in records if record.grade != "grader_error"]
    correct = np.array([record.grade == "correct" for record in valid], float)
    speeds = np.array([speed(record.nfe, canvas_length, alpha) for record in valid])
    return Figures(
        accuracy=float(correct.mean()),
        nfe=float(np.mean([record.nfe for record in valid])),
        reward=float((correct * speeds).mean()),
        pass_at=tuple(pass_at(valid)),
    )


def pass_at(records: Sequence[ExampleRecord]) -> list[float]:
    """Pass@N for N = 1, 2, ... up to the fewest samples of any problem: the chance that one of N of them is right.

    The unbiased estimate from all samples: 1 - C(n - c, N) / C(n, N) of c right ones among n (arXiv 2107.03374, equation 1).
    """
    solved: dict[str, list[bool]] = {}
    for record in records:
        solved.setdefault(record.example_id, []).append(record.grade == "correct")
    fewest = min(len(samples) for samples in solved.values())
    return [
        float(np.mean([1 - math.comb(len(s) - sum(s), n) / math.comb(len(s), n) for s in solved.values()]))
        for n in range(1, fewest + 1)
    ]
