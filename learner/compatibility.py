"""Settings that exclude each other, found before anything is loaded. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.errors import UserError
from policy.config import PolicyConfig
from policy.reference_policies import check_reference
from rollout_workers.config import check_device, check_model_devices

if TYPE_CHECKING:
    from learner.config import LearnerConfig, RunConfig


_COUNTING = ("low_confidence", "random", "margin", "entropy", "left_to_right")
"""Heuristics whose parameter is the number of positions per pass."""


def check_compatible(config: RunConfig, prefix: str) -> None:
    """Raises a ValueError for the first choice that another one rules out; `prefix` stands before the keys."""
    policy, learner = config.policy, config.learner
    _check_experts(policy, learner, prefix)
    _check_trajectories(learner, prefix)
    if learner.regulariser.kind == "none" and learner.regulariser.coefficient:
        raise UserError(
            f"config key '{prefix}learner.regulariser.coefficient' is {learner.regulariser.coefficient:g}; "
            f"allowed: 0 with {prefix}learner.regulariser.kind=none"
        )
    if learner.uses_reference:
        regulariser = learner.regulariser
        check_reference(
            regulariser.reference, regulariser.parameter, policy.distribution, where=f"{prefix}learner.regulariser"
        )
    config.evaluation.inference.check(policy, where=f"{prefix}evaluation.inference")
    config.decode.check_models(config.model_configs, prefix)
    check_model_devices(config.model_configs, config.rollout, prefix)
    check_device(f"{prefix}learner.device", learner.device, f"{prefix}learner.gpus_per_rank", learner.gpus_per_rank)
    config.decode.check_scope(policy.scope, f"config key '{prefix}policy.scope'")


def _check_experts(policy: PolicyConfig, learner: LearnerConfig, prefix: str) -> None:
    """Experts commit sets of any size, in no order; the policy's distribution must give these a likelihood."""
    steering, imitation = learner.steering, learner.imitation
    scores_sets = policy.draws_independently or (policy.distribution == "dpls" and policy.dpls_likelihood == "set")
    if steering.parameters and not scores_sets:
        raise UserError(
            f"config key '{prefix}learner.steering.parameters' is {list(steering.parameters)}; allowed: [] with "
            f"{_distribution(policy)}, which gives an expert's set no likelihood"
        )
    if steering.parameters and steering.mode == "per_decision" and not policy.draws_independently:
        raise UserError(
            f"config key '{prefix}learner.steering.mode' is 'per_decision'; "
            f"allowed: 'mixture', 'policy_ratio' with {_distribution(policy)}, whose positions are not independent"
        )
    if steering.parameters and learner.regulariser.kind == "output_kl":
        raise UserError(
            f"config key '{prefix}learner.regulariser.kind' is 'output_kl'; allowed: 'none', 'kl', 'cross_entropy' with "
            f"learner.steering.parameters={list(steering.parameters)}: experts' trajectories are not drawn from the policy"
        )
    if imitation.num_steps and imitation.objective == "decisions" and policy.candidates_only:
        raise UserError(
            f"config key '{prefix}policy.candidates_only' is True; allowed: False with learner.imitation.objective=decisions, "
            "for the heuristic may choose a position that is no candidate"
        )
    if not imitation.num_steps or scores_sets:
        return
    if policy.distribution != "categorical":
        raise UserError(
            f"config key '{prefix}learner.imitation.num_steps' is {imitation.num_steps}; allowed: 0 with {_distribution(policy)}, "
            "which gives a heuristic's set no likelihood"
        )
    if imitation.heuristic not in _COUNTING or imitation.parameter != 1:
        raise UserError(
            f"config key '{prefix}learner.imitation.heuristic' is {imitation.heuristic!r} with parameter "
            f"{imitation.parameter:g}; allowed: {', '.join(_COUNTING)} with parameter 1, one position per decision as "
            f"{_distribution(policy)} makes them"
        )


def _check_trajectories(learner: LearnerConfig, prefix: str) -> None:
    """One ratio per trajectory has neither the expert's mixture nor the correction of stale decisions."""
    if learner.ratio != "trajectory":
        return
    if learner.steering.parameters:
        raise UserError(
            f"config key '{prefix}learner.ratio' is 'trajectory'; allowed: 'step' with "
            f"learner.steering.parameters={list(learner.steering.parameters)}, whose mixture is one of decisions"
        )
    if learner.max_weight_lag and learner.stale_correction == "decoupled":
        raise UserError(
            f"config key '{prefix}learner.stale_correction' is 'decoupled'; "
            "allowed: 'clip' with learner.ratio=trajectory and max_weight_lag above 0"
        )


def _distribution(policy: PolicyConfig) -> str:
    if policy.distribution == "dpls":
        return f"distribution 'dpls' and dpls_likelihood {policy.dpls_likelihood!r}"
    return f"distribution {policy.distribution!r}"
