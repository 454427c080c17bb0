"""Decodes held-out problems under every arm, through the same pool, leases and graders as training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cluster.errors import UserError
from evaluation.config import EvaluationConfig
from evaluation.results import LEARNED, Arm, ExampleRecord, RecordFile
from policy.factory import canonical_name, heuristic_kind, heuristic_parameters, whole_numbers
from rollout_workers.config import check_block_length
from rollout_workers.hosting import by_model
from rollout_workers.pool import RolloutPool
from rollout_workers.rollout import GroupRequest, Lease, LeaseSummary, UnmaskerSpec
from rollout_workers.tasks import Split
from rollout_workers.tasks.stream import Pick


def heuristic_arms(config: EvaluationConfig, canvas_length: int, *, key: str = "evaluation") -> list[Arm]:
    """Every heuristic at every parameter and block length; bad names, values and blocks are UserErrors."""
    blocks = config.block_lengths or _halves(canvas_length)
    for block in blocks:
        check_block_length(block, canvas_length, f"{key}.block_lengths")
    arms: list[Arm] = []
    for name, values in config.heuristics.items():
        for value in values:
            check_heuristic(name, value, f"{key}.heuristics.{name}")
            arms.extend(_arm(name, value, block) for block in blocks)
    return arms


def _arm(name: str, entry: object, block_length: int) -> Arm:
    """One heuristic: its name brings along what is neither swept nor at its default."""
    entry, kind = whole_numbers(entry), heuristic_kind(name)
    value = heuristic_parameters(name, entry)[kind.parameter]
    assert not isinstance(value, str), "swept parameters are numbers"
    return Arm(canonical_name(name, entry), float(value), block_length, kind.is_random)


def check_heuristic(name: str, entry: object, key: str) -> None:
    """Raises a UserError that names the config key for a heuristic or parameter that there is not."""
    try:
        heuristic_parameters(name, whole_numbers(entry))
    except ValueError as error:
        raise UserError(f"config key '{key}': {error}") from error


def _halves(canvas_length: int) -> tuple[int, ...]:
    """The canvas length, its half, its quarter, ... as long as these come out even and are no shorter than 4."""
    blocks = [canvas_length]
    while blocks[-1] % 2 == 0 and blocks[-1] // 2 >= 4:
        blocks.append(blocks[-1] // 2)
    return tuple(blocks)


def learned_arm(block_length: int, temperature: float | None = None, *, is_random: bool = True) -> Arm:
    """The trained policy at a policy temperature (None: as trained), decoded with the blocks that it was trained with."""
    return Arm(LEARNED, temperature, block_length, is_random)


def validation_rewards(
    pool: RolloutPool,
    arms: Sequence[Arm],
    config: EvaluationConfig,
    *,
    picks: Sequence[Pick],
    run_seed: int,
    weight_version: int,
) -> dict[Arm, float]:
    """Mean reward of each arm on the validation split, by which settings of a policy may be chosen."""
    split = Split.VALIDATION
    plan = _plan(arms, config, picks=picks, split=split, run_seed=run_seed, weight_version=weight_version, done=set())
    arm_of = {lease.id: arm for lease, arm, _ in plan}
    rewards: dict[Arm, list[float]] = {arm: [] for arm in arms}
    for summary, _ in pool.run([lease for lease, _, _ in plan]):
        rewards[arm_of[summary.lease.id]].extend(summary.rewards)
    # An exact sum does not depend on which actor was done first.
    return {arm: math.fsum(values) / max(1, len(values)) for arm, values in rewards.items()}


def evaluate(
    pool: RolloutPool,
    arms: Sequence[Arm],
    config: EvaluationConfig,
    *,
    picks: Sequence[Pick],
    split: Split,
    run_seed: int,
    weight_version: int,
    record_file: RecordFile,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ExampleRecord]:
    """The records of all arms; those already in `record_file` are kept and the rest decoded and appended."""
    records = record_file.read()
    done = {(r.sampler, r.parameter, r.block_length, r.seed, r.example_id) for r in records}
    plan = _plan(arms, config, picks=picks, split=split, run_seed=run_seed, weight_version=weight_version, done=done)
    total = sum(len(lease.groups) for lease, _, _ in plan)
    arm_of = {lease.id: (arm, seed) for lease, arm, seed in plan}
    num_done = 0
    on_progress(0, total)
    for summary, _ in pool.run([lease for lease, _, _ in plan]):
        fresh = _records(summary, *arm_of[summary.lease.id])
        record_file.append(fresh)
        records.extend(fresh)
        num_done += len(fresh)
        on_progress(num_done, total)
    return sorted(records, key=lambda r: (r.sampler, r.parameter or 0.0, r.block_length, r.seed, r.example_id))


def _plan(
    arms: Sequence[Arm],
    config: EvaluationConfig,
    *,
    picks: Sequence[Pick],
    split: Split,
    run_seed: int,
    weight_version: int,
    done: set[tuple[str, float | None, int, int, str]],
) -> list[tuple[Lease, Arm, int]]:
    """Leases of all arms and seeds; arms that draw nothing run once."""
    plan: list[tuple[Lease, Arm, int]] = []
    for arm in arms:
        is_learned = arm.sampler == LEARNED
        spec = UnmaskerSpec(
            heuristic=None if is_learned else arm.sampler,
            parameter=arm.parameter,
            weight_version=weight_version if is_learned else 0,
            inference=config.inference,
        )
        for seed in config.seeds if arm.is_random else config.seeds[:1]:
            arm_key = (arm.sampler, arm.parameter, arm.block_length, seed)
            groups_of_arm = [
                GroupRequest(number, pick.task, split, pick.index, 1)
                for number, pick in enumerate(picks)
                if (*arm_key, f"{pick.task}/{split}/{pick.index}") not in done
            ]
            for mine in by_model(groups_of_arm):
                for start in range(0, len(mine), config.lease_examples):
                    groups = tuple(mine[start : start + config.lease_examples])
                    lease = Lease(len(plan), run_seed + seed, spec, groups, arm.block_length, record=False)
                    plan.append((lease, arm, seed))
    return plan


def _records(summary: LeaseSummary, arm: Arm, seed: int) -> list[ExampleRecord]:
    rows = zip(summary.rows, summary.grades, summary.texts, summary.rewards, summary.prompt_hashes, strict=True)
    return [
        ExampleRecord(
            sampler=arm.sampler,
            parameter=arm.parameter,
            block_length=arm.block_length,
            seed=seed,
            example_id=row.example_id,
            grade=str(grade.kind),
            score=grade.score,
            nfe=row.nfe,
            reward=reward,
            status=row.status,
            num_near_ties=row.num_near_ties,
            answer=grade.answer,
            text=text,
            prompt_hash=prompt_hash,
        )
        for row, grade, text, reward, prompt_hash in rows
    ]
