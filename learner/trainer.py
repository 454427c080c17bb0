"""The learner proper, without Ray: a network, its optimiser, and GRPO updates on packed steps.

Gradients of micro-batches are sums that already carry their weights, so the split does not change the update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.metrics import Count, Gauge, Maximum, Mean, Metric
from learner.batching import UpdateBatch, make_update_batch
from learner.config import LearnerConfig
from learner.losses.grpo import clipped_surrogate
from policy.config import PolicyConfig
from policy.factory import make_network
from policy.learned import make_distribution, score_steps
from policy.trajectory import TrajectoryBatch


class Trainer:
    """Owns the policy being trained."""

    def __init__(self, policy: PolicyConfig, config: LearnerConfig, *, seed: int) -> None:
        self.config = config
        self.network = make_network(policy, seed=seed).train()
        self.distribution = make_distribution(policy)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )
        self.num_optimizer_steps = 0

    def update(
        self, parts: Sequence[TrajectoryBatch], reward_R: NDArray[np.float64], valid_R: NDArray[np.bool_]
    ) -> dict[str, Metric]:
        """mu optimiser steps on one batch of rollouts; returns what was learned from, and how."""
        config = self.config
        batch = make_update_batch(parts, reward_R, valid_R, advantage=config.advantage, normaliser=config.normaliser)
        metrics: dict[str, Metric] = {
            "zero_variance_share": Mean(batch.advantages.num_zero_groups, batch.advantages.num_groups),
            "dropped_groups": Count(batch.advantages.num_small_groups),
            "learned_steps": Count(len(batch.steps)),
        }
        for iteration in range(config.num_iterations):
            metrics |= self._optimizer_step(batch, iteration)
        metrics["learning_rate"] = Gauge(self._learning_rate())
        return metrics

    def _optimizer_step(self, batch: UpdateBatch, iteration: int) -> dict[str, Metric]:
        """One pass over the batch; an empty batch moves neither weights nor schedule."""
        config, num_steps = self.config, len(batch.steps)
        if num_steps == 0:
            return {}
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        sums = {"loss": 0.0, "kl": 0.0, "clipped": 0.0, "entropy": 0.0}
        max_gap = 0.0
        for span in batch.micro_batches(config.micro_batch_steps):
            steps = batch.steps.select(span)
            log_prob_N, entropy_N = score_steps(self.network, self.distribution, steps)
            terms = clipped_surrogate(
                log_prob_N,
                torch.from_numpy(steps.log_prob_N.copy()),
                torch.from_numpy(batch.advantage_N[span]),
                torch.from_numpy(batch.weight_N[span]),
                clip_low=config.clip_low,
                clip_high=config.clip_high,
            )
            terms.loss.backward()
            sums["loss"] += float(terms.loss.detach())
            sums["kl"] += terms.sum_kl
            sums["clipped"] += terms.num_clipped
            sums["entropy"] += float(entropy_N.detach().sum())
            max_gap = max(max_gap, terms.max_ratio_gap)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.max_grad_norm)
        self.optimizer.step()
        self.num_optimizer_steps += 1
        if iteration == 0:
            return {
                "first_ratio_gap": Maximum(max_gap),
                "commit_entropy": Mean(sums["entropy"], num_steps),
                "grad_norm": Gauge(float(norm)),
                "loss": Gauge(sums["loss"]),
            }
        return {"kl": Mean(sums["kl"], num_steps), "clipped_share": Mean(sums["clipped"], num_steps)}

    def _learning_rate(self) -> float:
        """Linear warm-up, then constant or a cosine to zero over the planned optimiser steps."""
        config, step = self.config, self.num_optimizer_steps
        if step < config.warmup_steps:
            return config.learning_rate * (step + 1) / config.warmup_steps
        if config.schedule == "constant":
            return config.learning_rate
        planned = config.num_steps * config.num_iterations
        progress = min(1.0, (step - config.warmup_steps) / max(1, planned - config.warmup_steps))
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
