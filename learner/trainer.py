"""The learner proper, without Ray: a network, its optimiser, and updates on packed steps.

An update is GRPO on a batch of groups (`update`) or supervised learning of a heuristic's rollouts (`imitate`). Gradients of
micro-batches are sums that already carry their weights, so neither the split into micro-batches nor the one into ranks changes the
update.

Shapes: `R` rows, `N` packed steps, `L` canvas positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.metrics import Count, Gauge, Maximum, Mean, Metric
from learner.batching import UpdateBatch, take_share
from learner.config import LearnerConfig
from learner.objective import GrpoObjective, ImitationObjective, Objective, Regulariser, Tally
from learner.ranks import OneRank, Ranks
from learner.update_plan import UpdatePlan, UpdateRows, make_update_plan
from policy.config import PolicyConfig
from policy.factory import make_network
from policy.learned import ScoredSteps, make_distribution, score_steps
from policy.steering import expert_log_prob
from policy.trajectory import TrajectoryBatch
from policy.weights import from_bytes

_OF_LATER_ITERATIONS = frozenset({"kl", "clipped_share"})
"""Before the first step of an update the policy is the one that decided: there they say nothing."""


class Trainer:
    """Owns the policy being trained."""

    def __init__(
        self,
        policy: PolicyConfig,
        config: LearnerConfig,
        *,
        seed: int,
        vocabulary_size: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """`ranks` are the processes that learn together; without any, this one learns alone."""
        self.config = config
        self.ranks: Ranks = ranks or OneRank()
        self.network = make_network(policy, seed=seed).to(config.device).train()
        self.distribution = make_distribution(policy)
        self._behaviour = config.behaviour
        self._regulariser = None
        if config.uses_reference:
            self._regulariser = Regulariser(config.regulariser, self.distribution, vocabulary_size=vocabulary_size)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )
        self.num_optimizer_steps = 0

    def start_from(self, policy_file: bytes) -> None:
        """Takes the weights of a policy file of the same architecture."""
        self.network.load_state_dict(from_bytes(policy_file, where="the initial policy").state_dict())

    def update(
        self, parts: Sequence[TrajectoryBatch], reward_R: NDArray[np.float64], valid_R: NDArray[np.bool_]
    ) -> dict[str, Metric]:
        """mu optimiser steps on one batch of rollouts, all of them at hand; returns what was learned from, and how."""
        rows = UpdateRows.of([part.rows for part in parts], reward_R.tolist(), valid_R.tolist())
        return self.learn(rows, lambda numbers: [parts[number] for number in numbers])

    def imitate(self, parts: Sequence[TrajectoryBatch]) -> dict[str, Metric]:
        """mu supervised optimiser steps on a heuristic's rollouts, all of them at hand."""
        num_rows = sum(len(part.rows) for part in parts)
        rows = UpdateRows.of([part.rows for part in parts], [0.0] * num_rows, [True] * num_rows)
        return self.learn(rows, lambda numbers: [parts[number] for number in numbers], imitate=True)

    def learn(
        self, rows: UpdateRows, fetch: Callable[[list[int]], Sequence[TrajectoryBatch]], *, imitate: bool = False
    ) -> dict[str, Metric]:
        """One update on this rank's share of `rows`; every rank must be called with the same rows.

        Args:
            rows: all rows of the update.
            fetch: gives the lease results with these numbers; asked once, for those that hold rows of this rank.
            imitate: supervised learning, whatever the rows earned.

        Returns:
            This rank's part of the metrics: those of all ranks, reduced, are the update's.
        """
        config, ranks = self.config, self.ranks
        plan = self._plan(rows, imitate=imitate)
        batch = take_share(plan, plan.share(ranks.rank, ranks.num_ranks), rows, fetch)
        if imitate:
            return self._optimise(batch, ImitationObjective(config, batch, self.distribution, self._regulariser))
        objective = GrpoObjective(config, batch, self.distribution, self._regulariser, progress=self._progress())
        return self._describe(batch) | self._optimise(batch, objective)

    def needs(self, rows: UpdateRows, *, imitate: bool = False) -> list[int]:
        """The numbers of the lease results that `learn` will ask for."""
        plan = self._plan(rows, imitate=imitate)
        share = plan.share(self.ranks.rank, self.ranks.num_ranks)
        return [int(number) for number in np.unique(rows.part_R[plan.kept_K[share.start : share.stop]])]

    def _plan(self, rows: UpdateRows, *, imitate: bool) -> UpdatePlan:
        config = self.config
        keep_all = imitate or config.needs_every_row
        return make_update_plan(
            rows,
            advantage=config.advantage,
            normaliser=config.normaliser,
            keep_all=keep_all,
            std_floor=config.std_floor,
        )

    def _describe(self, batch: UpdateBatch) -> dict[str, Metric]:
        """What the whole update has to learn from: said by one rank, but for the experts' rows, of which each has its own."""
        advantages = batch.advantages
        metrics: dict[str, Metric] = {}
        if self.ranks.rank == 0:
            metrics["zero_variance_share"] = Mean(advantages.num_zero_groups, advantages.num_groups)
            metrics["group_reward_std"] = Mean(advantages.sum_std, advantages.num_groups - advantages.num_small_groups)
            metrics["dropped_groups"] = Count(advantages.num_small_groups)
        if num_experts := int(batch.expert_R.sum()):
            metrics["expert_advantage"] = Mean(float(batch.advantage_R[batch.expert_R].sum()), num_experts)
        return metrics

    def _optimise(self, batch: UpdateBatch, objective: Objective) -> dict[str, Metric]:
        """mu optimiser steps; an empty batch moves neither weights nor schedule."""
        num_steps = batch.num_steps
        metrics: dict[str, Metric] = {"learned_steps": Count(num_steps)}
        norms: list[float] = []
        for iteration in range(self.config.num_iterations if batch.num_update_steps else 0):
            tally = Tally()
            norms.append(self._optimizer_step(batch, objective, tally))
            if iteration == 0:
                metrics |= tally.means(num_steps, without=_OF_LATER_ITERATIONS)
                # Of weights that did not decide, the ratio is not 1 even without an error.
                gap = "stale_ratio_gap" if self.config.max_weight_lag else "first_ratio_gap"
                metrics |= {
                    gap: Maximum(max(tally.max_ratio_gap, tally.max_stale_gap)),
                    "loss": Count(tally.loss),
                }
            else:
                metrics |= tally.means(num_steps, only=_OF_LATER_ITERATIONS)
        if norms:
            # Of the first iteration; where a later one lost the weights, its own.
            metrics["grad_norm"] = Gauge(next((norm for norm in norms if not math.isfinite(norm)), norms[0]))
        return metrics | {"learning_rate": Gauge(self._learning_rate())}

    def _optimizer_step(self, batch: UpdateBatch, objective: Objective, tally: Tally) -> float:
        """One pass over the batch; returns the norm of its gradient before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        expert_N = None
        if objective.mixes_experts:
            expert_N = torch.from_numpy(batch.expert_R[batch.row_N]).to(self.config.device)
        if objective.has_trajectory_terms and batch.num_steps:
            with torch.no_grad():
                parts = [self._score(batch, span, expert_N) for span in self._spans(batch)]
            log_prob_N = torch.cat([part.log_prob_N for part in parts])
            objective.set_trajectories(log_prob_N, torch.cat([part.open_NL for part in parts]), tally)
        for span in self._spans(batch):
            objective.loss(self._score(batch, span, expert_N), span, tally).backward()
        self.ranks.sum_gradients(list(self.network.parameters()))
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.num_optimizer_steps += 1
        return float(norm)

    def _spans(self, batch: UpdateBatch) -> Iterator[slice]:
        return batch.micro_batches(self.config.micro_batch_steps)

    def _score(self, batch: UpdateBatch, span: slice, expert_N: Tensor | None) -> ScoredSteps:
        """The steps of a span under the present weights; experts' decisions as parts of the mixture."""
        assert batch.steps is not None, "a span is one of steps"
        scored = score_steps(self.network, self.distribution, batch.steps.select(span))
        if expert_N is None or not expert_N[span].any():
            return scored
        expert_log_prob_N = expert_log_prob(
            self.distribution, scored.logits_NL, scored.open_NL, scored.outcome_NL, self._behaviour
        )
        return replace(scored, log_prob_N=torch.where(expert_N[span], expert_log_prob_N, scored.log_prob_N))

    def _progress(self) -> float:
        """Share of the planned optimiser steps that are done."""
        return min(1.0, self.num_optimizer_steps / max(1, self.config.num_optimizer_steps))

    def _learning_rate(self) -> float:
        """Linear warm-up, then constant or a cosine to zero over the planned optimiser steps."""
        config, step = self.config, self.num_optimizer_steps
        if step < config.warmup_steps:
            return config.learning_rate * (step + 1) / config.warmup_steps
        if config.schedule == "constant":
            return config.learning_rate
        progress = min(1.0, (step - config.warmup_steps) / max(1, config.num_optimizer_steps - config.warmup_steps))
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
