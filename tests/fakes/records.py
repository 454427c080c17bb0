"""Records of decoded examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from evaluation.arms import LEARNED, Arm, canonical_parameters, heuristic_arm
from evaluation.records import ExampleRecord

SETTINGS = {"model": "tiny", "canvas_length": 24, "alpha": 1.0, "device": "cpu", "dtype": "float32", "num_slots": 16}


def arm_of(sampler: str, parameter: float | None, block_length: int, **values: Any) -> Arm:
    """A heuristic at its only parameter, or the learned policy at a temperature."""
    if sampler == LEARNED:
        parameters = canonical_parameters({} if parameter is None else {"policy_temperature": parameter})
        return Arm(LEARNED, parameters, block_length, is_random=True, **values)
    assert parameter is not None
    return heuristic_arm(sampler, parameter, block_length)


def make_record(index: int = 0, *, arm: Arm | None = None, task: str = "sudoku", **values: Any) -> ExampleRecord:
    """A right answer of `threshold 0.9` in four passes, or what `arm` and `values` say."""
    arm = arm or arm_of("threshold", 0.9, 24)
    base = dict(
        sampler=arm.sampler, parameters=arm.parameters, block_length=arm.block_length, policy=arm.policy, seed=0,
        example_id=f"{task}/test/{index}", grade="correct", score=1.0, nfe=4, reward=0.5, status="clean", num_near_ties=0,
        answer="7", text="<answer> 7 </answer>", settings=SETTINGS, response_length=6, seconds=0.5,
    )  # fmt: skip
    return ExampleRecord(**(base | values))


def timeless(records: Sequence[ExampleRecord]) -> list[ExampleRecord]:
    """Records without what no two evaluations share."""
    return [dataclasses.replace(record, seconds=0.0, is_warm_up=False) for record in records]


def records_of(arm: Arm, *, accuracy: float, nfe: int, num: int = 20, task: str = "sudoku") -> list[ExampleRecord]:
    """`num` records of which the first are right, on a canvas of 24."""
    return [
        make_record(
            i, arm=arm, task=task, nfe=nfe, grade="correct" if i < accuracy * num else "wrong",
            score=float(i < accuracy * num), reward=(i < accuracy * num) * (24 - nfe + 1) / 24,
            order=tuple(1 + position * nfe // 24 for position in range(24)),
        )
        for i in range(num)
    ]  # fmt: skip


def rewarded(arm: Arm, rewards: Sequence[float], *, task: str = "arithmetic") -> list[ExampleRecord]:
    """One record per reward."""
    return [
        make_record(i, arm=arm, task=task, reward=reward, grade="correct" if reward > 0 else "wrong")
        for i, reward in enumerate(rewards)
    ]
