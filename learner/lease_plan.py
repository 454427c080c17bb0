"""Which leases make one update: the policy's groups, and beside or instead of them a heuristic's.

Steered groups have members from two kinds of lease, the policy's and the expert's, with the same group number. What a step's leases
are depends on the step, the problems drawn and the configuration alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from learner.config import RunConfig
from policy.behaviour import Behaviour
from rollout_workers.hosting import in_parts
from rollout_workers.lease import ExpertSpec, GroupRequest, Lease, UnmaskerSpec
from rollout_workers.tasks import Split
from rollout_workers.tasks.stream import Pick


class LeasePlan:
    """Leases by update."""

    def __init__(self, config: RunConfig, block_length: int) -> None:
        self._config = config
        self._block_length = block_length
        learner = config.learner
        self._rows_per_lease = config.rollout.lease_groups * learner.group_size

    def imitates(self, step: int) -> bool:
        """Whether the update after `step` updates is supervised."""
        return step < self._config.learner.imitation.num_steps

    def alpha(self, step: int) -> float | None:
        """Speed exponent of the update after `step` updates; None is the run's."""
        reward, num_steps = self._config.reward, self._config.learner.num_steps
        if reward.initial_alpha is None:
            return None
        done = (step - self._config.learner.imitation.num_steps) / max(1, num_steps - 1)
        return reward.initial_alpha + (reward.alpha - reward.initial_alpha) * min(1.0, max(0.0, done))

    def leases(self, picks: Sequence[Pick], *, first_group: int, step: int) -> list[Lease]:
        """The leases of the update after `step` updates, on the problems `picks`."""
        learner = self._config.learner
        if self.imitates(step):
            imitation = learner.imitation
            # Imitation scores the decision itself, whatever the shares.
            behaviour = Behaviour("policy_ratio", policy_share=0.5, expert_share=0.5)
            expert = ExpertSpec(imitation.heuristic, imitation.parameter, imitation.block_length, behaviour)
            size = imitation.group_size
            return self._split(
                self._groups(picks, first_group, size=size, offset=0, stride=size), size, expert, step, 0
            )
        steering, size = learner.steering, learner.group_size
        stride = size + len(steering.parameters)
        leases = self._split(self._groups(picks, first_group, size=size, offset=0, stride=stride), size, None, step, 0)
        for number, parameter in enumerate(steering.parameters):
            expert = ExpertSpec(steering.heuristic, parameter, steering.block_length, learner.behaviour)
            groups = self._groups(picks, first_group, size=1, offset=size + number, stride=stride)
            leases += self._split(groups, 1, expert, step, len(leases))
        return leases

    @staticmethod
    def _groups(picks: Sequence[Pick], first_group: int, *, size: int, offset: int, stride: int) -> list[GroupRequest]:
        """One request per pick; a problem that is posed twice in one step never uses the same noise twice."""
        posed: Counter[Pick] = Counter()
        groups = []
        for number, pick in enumerate(picks, start=first_group):
            first_sample = posed[pick] * stride + offset
            groups.append(GroupRequest(number, pick.task, Split.TRAIN, pick.index, size, first_sample=first_sample))
            posed[pick] += 1
        return groups

    def _groups_per_lease(self, size: int) -> int:
        return max(1, self._rows_per_lease // size)

    def _split(
        self, groups: list[GroupRequest], size: int, expert: ExpertSpec | None, step: int, first_lease: int
    ) -> list[Lease]:
        """Leases of about so many rows, each for one model."""
        spec = UnmaskerSpec(weight_version=step, expert=expert)
        parts = in_parts(groups, self._groups_per_lease(size), taper=self._config.rollout.taper_leases)
        return [
            Lease(number, self._config.seed, spec, part, self._block_length, record=True, alpha=self.alpha(step))
            for number, part in enumerate(parts, start=first_lease)
        ]
