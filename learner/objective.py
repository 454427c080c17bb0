"""What an update minimises, as a loss over spans of packed steps whose gradients add up.

`GrpoObjective`: the clipped surrogate with one ratio per decision (L_token) or per trajectory (L_output), minus the entropy
bonus, plus the pull towards a reference policy. `ImitationObjective`: supervised learning of a heuristic's decisions, or of a
reference policy in the states that it visits.

A term over whole trajectories depends on their log-probabilities alone: its gradient is sum_n c_n grad log pi(a_n|s_n) with c
the derivative by the trajectory's sum. One pass without gradients gives the sums, and the second sees steps again.

Shapes: `R` rows, `N` packed steps, `L` canvas positions.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cluster.metrics import Mean, Metric
from learner.batching import UpdateBatch
from learner.config import LearnerConfig, RegulariserConfig
from learner.losses.grpo import MAX_LOG_RATIO, SurrogateTerms, clipped_surrogate
from learner.losses.reference import bernoulli_kl, categorical_kl, cross_entropy, reference_log_prob
from learner.losses.trajectory import output_kl, output_surrogate, trajectory_sums
from policy.distributions import Bernoulli, SetDistribution
from policy.learned import ScoredSteps
from policy.reference_policies import make_reference
from policy.trajectory import PackedSteps

_OF_RATIOS = frozenset({"kl", "clipped_share", "stale_kl"})


@dataclass(slots=True)
class Tally:
    """What the spans of one optimiser step add up to."""

    loss: float = 0.0
    max_ratio_gap: float = 0.0
    max_stale_gap: float = 0.0
    """The same between the weights at the update's start and those that decided; 0 where these are not told apart."""
    num_ratios: int = 0
    """Over decisions, or over trajectories where these have one each."""
    _sums: dict[str, float] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        """Adds to sums over steps, those of ratios to sums over these, by metric."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def add_surrogate(self, terms: SurrogateTerms, num_ratios: int, *, is_stale: bool) -> None:
        """Takes what a clipped surrogate says of itself; `is_stale` where its ratios are to weights before the update's own."""
        self.loss += float(terms.loss.detach())
        self.max_ratio_gap = max(self.max_ratio_gap, terms.max_ratio_gap)
        self.num_ratios += num_ratios
        self.add(kl=terms.sum_kl, clipped_share=terms.num_clipped)
        if is_stale:
            self.add(stale_kl=terms.sum_kl)

    def means(
        self, num_steps: int, *, only: Set[str] | None = None, without: Set[str] = frozenset()
    ) -> dict[str, Metric]:
        """The sums over the number of steps, or of ratios."""
        names = [name for name in self._sums if (only is None or name in only) and name not in without]
        return {name: Mean(self._sums[name], self.num_ratios if name in _OF_RATIOS else num_steps) for name in names}


class Objective(Protocol):
    """A loss that is a sum over spans."""

    mixes_experts: bool
    """Whether experts' decisions are scored as parts of the mixture, and not as if the policy had made them."""
    has_trajectory_terms: bool
    """Whether `set_trajectories` must be called before `loss`, in every pass."""

    def set_trajectories(self, log_prob_N: Tensor, open_NL: Tensor, tally: Tally) -> None:
        """Takes the log-probabilities of all steps under the present weights, without gradients."""
        ...

    def loss(self, scored: ScoredSteps, span: slice, tally: Tally) -> Tensor:
        """Scalar: the part of `span`."""
        ...


class Regulariser:
    """The reference policy of one run, and how far the policy is from it."""

    def __init__(
        self, config: RegulariserConfig, distribution: SetDistribution, *, vocabulary_size: int | None
    ) -> None:
        self._kind = config.kind
        self._distribution = distribution
        self._reference = make_reference(
            config.reference, config.parameter, smoothing=config.smoothing, vocabulary_size=vocabulary_size
        )

    def divergence(self, scored: ScoredSteps) -> Tensor:
        """`[N]` KL(policy || reference) of each decision, or the cross-entropy with it."""
        if self._kind == "cross_entropy":
            return self.cross_entropy(scored)
        kl = bernoulli_kl if self._reference.family == "parallel" else categorical_kl
        scaled_NL = self._distribution.scaled(scored.logits_NL)
        return kl(scaled_NL, scored.open_NL, self._probabilities(scored.steps, scored.open_NL))

    def cross_entropy(self, scored: ScoredSteps) -> Tensor:
        """`[N]` -sum of reference times log policy."""
        reference_NL = self._probabilities(scored.steps, scored.open_NL)
        scaled_NL = self._distribution.scaled(scored.logits_NL)
        return cross_entropy(scaled_NL, scored.open_NL, reference_NL, family=self._reference.family)

    def log_prob(self, steps: PackedSteps, open_NL: Tensor) -> Tensor:
        """`[N]` log-probability of what was decided."""
        reference_NL = self._probabilities(steps, open_NL)
        committed_NL = torch.from_numpy(steps.committed_NL).to(open_NL.device)
        return reference_log_prob(committed_NL, open_NL, reference_NL, family=self._reference.family)

    def _probabilities(self, steps: PackedSteps, open_NL: Tensor) -> Tensor:
        confidences_NLK = torch.from_numpy(steps.confidences_NLK.copy()).to(open_NL.device)
        return self._reference.probabilities(confidences_NLK, open_NL)


class GrpoObjective:
    """One batch of groups under GRPO or UPO."""

    mixes_experts = True

    def __init__(
        self,
        config: LearnerConfig,
        batch: UpdateBatch,
        distribution: SetDistribution,
        regulariser: Regulariser | None,
        *,
        progress: float,
    ) -> None:
        """`progress` is the share of the run that is over, which anneals the coefficients."""
        self._config = config
        self._batch = batch
        self._distribution = distribution
        self._regulariser = regulariser
        left, pull = 1 - progress, config.regulariser
        self._beta = pull.coefficient * (left if pull.anneal == "linear" else 1.0)
        self._bonus = config.entropy_bonus * (left if config.entropy_anneal == "linear" else 1.0)
        self._advantage_N = torch.from_numpy(batch.advantage_N).to(config.device)
        self._weight_N = torch.from_numpy(batch.weight_N).to(config.device)
        self._coefficient_N: Tensor | None = None
        self._is_decoupled = config.max_weight_lag > 0 and config.stale_correction == "decoupled"
        self._is_stale = config.max_weight_lag > 0 and not self._is_decoupled
        self._anchor_N: Tensor | None = None
        """Log-probabilities under the weights at the update's start, of the spans that have been seen; NaN of the others."""
        self.has_trajectory_terms = config.ratio == "trajectory" or pull.kind == "output_kl"

    def set_trajectories(self, log_prob_N: Tensor, open_NL: Tensor, tally: Tally) -> None:
        """Takes the log-probabilities of all steps under the present weights, without gradients."""
        config, batch = self._config, self._batch
        assert batch.steps is not None, "a rank without rows has no trajectories"
        device = log_prob_N.device
        offsets_R = torch.from_numpy(batch.offsets).to(device)
        sum_R = trajectory_sums(log_prob_N, offsets_R).requires_grad_()
        old_R = trajectory_sums(torch.from_numpy(batch.steps.log_prob_N.copy()).to(device), offsets_R)
        loss = sum_R.sum() * 0
        if config.ratio == "trajectory":
            advantage_R = torch.from_numpy(batch.advantage_R).to(device)
            terms = output_surrogate(
                sum_R,
                old_R,
                advantage_R,
                num_rows=batch.num_rows,
                clip_low=config.clip_low,
                clip_high=config.clip_high,
            )
            tally.add_surrogate(terms, len(sum_R), is_stale=self._is_stale)
            loss = loss + terms.loss
        if self._regulariser is not None and config.regulariser.kind == "output_kl":
            reference_R = trajectory_sums(self._regulariser.log_prob(batch.steps, open_NL), offsets_R)
            term_R = output_kl(sum_R, old_R, reference_R)
            tally.add(divergence=float((sum_R - reference_R).detach().sum()))
            loss = loss + self._beta * term_R.sum() / batch.num_rows
        (slope_R,) = torch.autograd.grad(loss, sum_R)
        self._coefficient_N = slope_R[torch.from_numpy(batch.row_N).to(device)]

    def loss(self, scored: ScoredSteps, span: slice, tally: Tally) -> Tensor:
        """The span's part of the objective."""
        config, weight_N = self._config, self._weight_N[span]
        self._describe(scored, tally)
        parts: list[Tensor] = []
        if config.ratio == "step":
            old_N = torch.from_numpy(scored.steps.log_prob_N.copy()).to(weight_N.device)
            surrogate_weight_N = weight_N
            if self._is_decoupled:
                anchor_N = self._anchor(scored, span)
                stale_N = (anchor_N - old_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
                tally.max_stale_gap = max(
                    tally.max_stale_gap, float((stale_N - 1).abs().amax()) if len(stale_N) else 0.0
                )
                tally.add(stale_kl=float((stale_N - 1 - (anchor_N - old_N)).sum()))
                old_N, surrogate_weight_N = anchor_N, weight_N * stale_N.clamp(max=config.stale_weight_cap)
            terms = clipped_surrogate(
                scored.log_prob_N,
                old_N,
                self._advantage_N[span],
                surrogate_weight_N,
                clip_low=config.clip_low,
                clip_high=config.clip_high,
            )
            tally.add_surrogate(terms, len(old_N), is_stale=self._is_stale)
            parts.append(terms.loss)
        if self._coefficient_N is not None:
            parts.append((self._coefficient_N[span] * scored.log_prob_N).sum())
        if self._bonus:
            parts.append(-self._bonus * (weight_N * scored.entropy_N).sum())
        if self._regulariser is not None and config.regulariser.kind in ("kl", "cross_entropy"):
            divergence_N = self._regulariser.divergence(scored)
            tally.add(divergence=float(divergence_N.detach().sum()))
            parts.append(self._beta * (weight_N * divergence_N).sum())
        return torch.stack(parts).sum()

    def _anchor(self, scored: ScoredSteps, span: slice) -> Tensor:
        """`[N]` of the span; the update's first pass over it, whose weights are those of the start, sets them."""
        if self._anchor_N is None:
            self._anchor_N = torch.full_like(self._weight_N, torch.nan)
        if bool(self._anchor_N[span].isnan().any()):
            self._anchor_N[span] = scored.log_prob_N.detach()
        return self._anchor_N[span]

    def _describe(self, scored: ScoredSteps, tally: Tally) -> None:
        """Of independent draws also the mean probability of committing an eligible position, before any is forced."""
        tally.add(commit_entropy=_sum_entropy(scored, self._distribution))
        if isinstance(self._distribution, Bernoulli):
            share_NL = torch.sigmoid(self._distribution.scaled(scored.logits_NL.detach())) * scored.open_NL
            tally.add(mean_unmask_prob=float((share_NL.sum(1) / scored.open_NL.sum(1).clamp(min=1)).sum()))


class ImitationObjective:
    """Rollouts of a heuristic as examples: its decisions, or the reference policy in the states that it visits."""

    mixes_experts = False
    has_trajectory_terms = False

    def __init__(
        self,
        config: LearnerConfig,
        batch: UpdateBatch,
        distribution: SetDistribution,
        regulariser: Regulariser | None,
    ) -> None:
        self._weight_N = torch.from_numpy(batch.weight_N).to(config.device)
        self._distribution = distribution
        self._reference = regulariser if config.imitation.objective == "reference" else None

    def set_trajectories(self, log_prob_N: Tensor, open_NL: Tensor, tally: Tally) -> None:
        raise AssertionError("imitation has no terms over trajectories")

    def loss(self, scored: ScoredSteps, span: slice, tally: Tally) -> Tensor:
        """The span's part of the objective."""
        loss_N = -scored.log_prob_N if self._reference is None else self._reference.cross_entropy(scored)
        tally.add(commit_entropy=_sum_entropy(scored, self._distribution), imitation_loss=float(loss_N.detach().sum()))
        loss = (self._weight_N[span] * loss_N).sum()
        tally.loss += float(loss.detach())
        return loss


def _sum_entropy(scored: ScoredSteps, distribution: SetDistribution) -> float:
    """Nats of the decisions, added up: of independent draws those of all eligible positions, else of the first choice."""
    entropy_N = scored.entropy_N.detach()
    if isinstance(distribution, Bernoulli):
        entropy_N = entropy_N * scored.open_NL.sum(1)
    return float(entropy_N.sum())
