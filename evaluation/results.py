"""What an evaluation produces: one record per example, and one summary per arm with intervals.

NFE is the number of forward passes in which a row was live, the same for every sampler. Intervals are 95%: Wilson's for accuracy,
percentile bootstrap over examples for the rest; comparisons are paired by example.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEARNED = "learned"
_Z = 1.959964
_NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, order=True)
class Arm:
    """One sampler at one setting."""

    sampler: str
    parameter: float | None
    block_length: int
    is_random: bool = False

    @property
    def label(self) -> str:
        """For tables and file names, for instance `threshold 0.9`; a learned policy's parameter is its temperature."""
        if self.sampler == LEARNED and self.parameter is not None:
            return f"{LEARNED}, T = {self.parameter:g}"
        return self.sampler if self.parameter is None else f"{self.sampler} {self.parameter:g}"


@dataclass(frozen=True, slots=True)
class ExampleRecord:
    """One decoded example of one arm under one seed."""

    sampler: str
    parameter: float | None
    block_length: int
    seed: int
    example_id: str
    grade: str
    score: float
    nfe: int
    reward: float
    status: str
    num_near_ties: int
    answer: str
    text: str
    prompt_hash: str = ""

    @property
    def task(self) -> str:
        """The task that the example belongs to."""
        return self.example_id.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One line of the table."""

    arm: Arm
    num_examples: int
    accuracy: Interval
    nfe: Interval
    reward: Interval
    num_step_limit: int
    """Rows that ended with masks left."""
    num_grader_errors: int


def wilson(num_right: float, num: int) -> Interval:
    """Wilson's interval of a proportion."""
    share, z2 = num_right / num, _Z**2
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = _Z / (1 + z2 / num) * np.sqrt(share * (1 - share) / num + z2 / (4 * num**2))
    # Rounding must not push the interval past its own mean.
    return Interval(share, min(share, max(0.0, float(centre - half))), max(share, min(1.0, float(centre + half))))


def bootstrap(values: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean over examples."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(_NUM_RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def summarise(arm: Arm, records: Sequence[ExampleRecord]) -> ArmSummary:
    """Means over examples; several seeds of one example are averaged first. Grader errors count in no mean."""
    valid = [record for record in records if record.grade != "grader_error"]
    correct = np.array(list(per_example(valid, lambda record: float(record.grade == "correct")).values()))
    nfe = np.array(list(per_example(valid, lambda record: float(record.nfe)).values()))
    reward = np.array(list(per_example(valid, lambda record: record.reward).values()))
    return ArmSummary(
        arm=arm,
        num_examples=len(correct),
        accuracy=wilson(float(correct.sum()), len(correct)),
        nfe=bootstrap(nfe),
        reward=bootstrap(reward),
        num_step_limit=sum(record.status == "step_limit" for record in records),
        num_grader_errors=len(records) - len(valid),
    )


def per_example(records: Sequence[ExampleRecord], value: object) -> dict[str, float]:
    """Example id -> mean of `value(record)` over its records, by id."""
    assert callable(value)
    groups: dict[str, list[float]] = {}
    for record in records:
        groups.setdefault(record.example_id, []).append(float(value(record)))
    return {example_id: sum(groups[example_id]) / len(groups[example_id]) for example_id in sorted(groups)}


def paired_reward_difference(ours: Sequence[ExampleRecord], theirs: Sequence[ExampleRecord]) -> Interval:
    """Mean reward difference over the examples that both arms have, with its bootstrap interval."""
    mine = per_example(ours, lambda record: record.reward)
    other = per_example(theirs, lambda record: record.reward)
    shared = [example_id for example_id in mine if example_id in other]
    return bootstrap(np.array([mine[example_id] - other[example_id] for example_id in shared]))


class RecordFile:
    """Example records as JSON lines; what is there already need not be decoded again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[ExampleRecord]:
        """All whole records; a torn last line (a killed run) is dropped from the file."""
        if not self._path.exists():
            return []
        text = self._path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self._path.write_text(whole)
        return [ExampleRecord(**json.loads(line)) for line in whole.splitlines()]

    def append(self, records: Sequence[ExampleRecord]) -> None:
        """Adds records at the end."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.writelines(json.dumps(asdict(record)) + "\n" for record in records)


def by_arm(records: Sequence[ExampleRecord], arms: Sequence[Arm]) -> Mapping[Arm, list[ExampleRecord]]:
    """Records of each arm, in the order of `arms`."""
    index = {(arm.sampler, arm.parameter, arm.block_length): arm for arm in arms}
    groups: dict[Arm, list[ExampleRecord]] = {arm: [] for arm in arms}
    for record in records:
        arm = index.get((record.sampler, record.parameter, record.block_length))
        if arm is not None:
            groups[arm].append(record)
    return groups
