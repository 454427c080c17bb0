"""Leases of an update: groups and their noise, with and beside experts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from cluster.config import build
from learner.config import RunConfig
from learner.lease_plan import LeasePlan
from rollout_workers.lease import Lease
from rollout_workers.tasks.stream import Pick

PICKS = [Pick("arithmetic", index) for index in (5, 9, 5, 7)]


def plan(**learner: Any) -> LeasePlan:
    settings = {"prompts_per_step": 4, "group_size": 3, **learner}
    return LeasePlan(build(RunConfig, {"learner": settings, "rollout": {"lease_groups": 2}}), block_length=12)


def leases(**learner: Any) -> list[Lease]:
    return plan(**learner).leases(PICKS, first_group=40, step=6)


def samples(found: list[Lease]) -> list[tuple[int, int]]:
    """(index of the problem, sample) of every row."""
    return [
        (group.index, sample)
        for lease in found
        for group in lease.groups
        for sample in range(group.first_sample, group.first_sample + group.num_samples)
    ]


STEERING = {"parameters": [0.9, 0.7], "block_length": 4}


def test_plain_groups_are_split_over_leases_and_numbered_from_the_cursor() -> None:
    found = leases()
    assert [(lease.id, len(lease.groups)) for lease in found] == [(0, 2), (1, 2)]
    assert [group.group for lease in found for group in lease.groups] == [40, 41, 42, 43]
    assert all(lease.unmasker.expert is None and lease.weight_version == 6 and lease.record for lease in found)


def test_leases_may_taper_off() -> None:
    settings = {"learner": {"prompts_per_step": 4}, "rollout": {"lease_groups": 2, "taper_leases": True}}
    found = LeasePlan(build(RunConfig, settings), block_length=12).leases(PICKS, first_group=0, step=0)
    assert [(lease.id, len(lease.groups)) for lease in found] == [(0, 2), (1, 1), (2, 1)]


@pytest.mark.parametrize("steering", [{}, STEERING])
def test_no_two_rows_of_a_step_share_their_noise(steering: dict[str, Any]) -> None:
    rows = samples(leases(steering=steering))
    assert len(rows) == 4 * (3 + len(steering.get("parameters", [])))
    assert len(set(rows)) == len(rows)


def test_every_group_gets_one_member_from_each_expert() -> None:
    found = leases(steering=STEERING)
    experts = [lease for lease in found if lease.unmasker.expert is not None]
    members = Counter(
        (group.group, lease.unmasker.expert.parameter)
        for lease in experts
        for group in lease.groups
        if lease.unmasker.expert is not None
    )
    assert members == Counter({(group, tau): 1 for group in (40, 41, 42, 43) for tau in (0.9, 0.7)})
    for lease in experts:
        expert = lease.unmasker.expert
        assert expert is not None
        assert expert.block_length == 4
        assert (expert.behaviour.policy_share, expert.behaviour.expert_share) == (3 / 5, 1 / 5)
        assert lease.block_length == 12
    assert [lease.id for lease in found] == list(range(len(found)))


def test_the_problems_of_experts_are_those_of_their_groups() -> None:
    index_of: dict[int, set[int]] = {}
    for lease in leases(steering=STEERING):
        for group in lease.groups:
            index_of.setdefault(group.group, set()).add(group.index)
    assert index_of == {40: {5}, 41: {9}, 42: {5}, 43: {7}}


def test_supervised_updates_come_first_and_have_experts_alone() -> None:
    imitation = {"num_steps": 2, "heuristic": "low_confidence", "parameter": 1, "group_size": 2}
    made = plan(imitation=imitation)
    assert [made.imitates(step) for step in range(4)] == [True, True, False, False]
    first = made.leases(PICKS, first_group=0, step=1)
    assert all(lease.unmasker.expert is not None for lease in first)
    rows = samples(first)
    assert len(rows) == len(set(rows)) == 8
    assert all(lease.unmasker.expert is None for lease in made.leases(PICKS, first_group=8, step=2))


def test_the_speed_exponent_moves_linearly_from_the_first_update_of_grpo_to_the_last() -> None:
    settings: dict[str, Any] = {"num_steps": 4, "imitation": {"num_steps": 2}}
    config = build(RunConfig, {"learner": settings, "reward": {"initial_alpha": 0.4, "alpha": 1.0}})
    made = LeasePlan(config, block_length=12)
    assert [made.alpha(step) for step in range(6)] == pytest.approx([0.4, 0.4, 0.4, 0.6, 0.8, 1.0])
    assert {lease.alpha for lease in made.leases(PICKS, first_group=0, step=5)} == {made.alpha(5)}
    assert plan().alpha(3) is None


MIXTURE = {"task": {"arithmetic": 1, "arithmetic@second": 1}, "models": {"second": {"name": "other"}}}
MIXED_PICKS = [Pick(task, index) for index in (5, 9, 7) for task in ("arithmetic", "arithmetic@second")][:5]


@pytest.mark.parametrize("steering", [{}, STEERING])
def test_a_lease_has_one_model_and_all_groups_are_posed(steering: dict[str, Any]) -> None:
    settings = {
        "learner": {"prompts_per_step": 5, "group_size": 3, "steering": steering},
        "rollout": {"lease_groups": 1},
    }
    mixed = LeasePlan(build(RunConfig, {**settings, **MIXTURE}), block_length=12)
    found = mixed.leases(MIXED_PICKS, first_group=0, step=0)
    assert [lease.id for lease in found] == list(range(len(found)))
    assert {lease.model for lease in found} == {"", "second"}
    assert all(len({group.task for group in lease.groups}) == 1 for lease in found)
    own = [group for lease in found if lease.unmasker.expert is None for group in lease.groups]
    assert {(group.group, group.task) for group in own} == {(n, pick.task) for n, pick in enumerate(MIXED_PICKS)}
