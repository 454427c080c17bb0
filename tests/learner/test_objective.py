"""Objectives against slow oracles: gradients of the whole formula, taken by autograd in one piece."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cluster.metrics import values
from learner.config import ImitationConfig, RegulariserConfig, SteeringConfig
from learner.losses.reference import bernoulli_kl
from learner.trainer import Trainer
from policy.learned import score_steps, step_logits
from policy.reference_policies import make_reference
from policy.trajectory import TrajectoryBatch
from tests.learner.records import GROUPS, NFES, POLICY, REWARDS, decoded, learner_config, weights_of

ADVANTAGES = REWARDS - np.repeat(REWARDS.reshape(3, 3).mean(1), 3)
CATEGORICAL = replace(POLICY, distribution="categorical")


def trainer_of(policy: Any = POLICY, **settings: Any) -> Trainer:
    return Trainer(policy, learner_config(num_iterations=1, **settings), seed=0, vocabulary_size=50)


def gradient_after_update(trainer: Trainer, batch: TrajectoryBatch) -> tuple[torch.Tensor, dict[str, float]]:
    metrics = values(trainer.update([batch], REWARDS, np.ones(9, bool)))
    return torch.cat([p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None]), metrics


def gradient_of(loss: torch.Tensor, trainer: Trainer) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(trainer.network.parameters()))])


def row_of_step() -> torch.Tensor:
    return torch.from_numpy(np.repeat(np.arange(9), NFES))


def step_weight() -> torch.Tensor:
    return torch.from_numpy(1.0 / (9 * np.repeat(NFES, NFES))).float()


def surrogate(trainer: Trainer, batch: TrajectoryBatch) -> torch.Tensor:
    """The surrogate at ratio 1: its gradient is the policy gradient."""
    log_prob = score_steps(trainer.network, trainer.distribution, batch.steps).log_prob_N
    return -(step_weight() * torch.from_numpy(ADVANTAGES[row_of_step().numpy()]).float() * log_prob).sum()


@pytest.mark.parametrize("size", [1000, 4])
def test_the_entropy_bonus_is_the_weighted_mean_entropy_of_every_row(size: int) -> None:
    trainer = trainer_of(entropy_bonus=0.3, micro_batch_steps=size)
    batch = decoded(trainer.network, GROUPS, NFES)
    entropy = score_steps(trainer.network, trainer.distribution, batch.steps).entropy_N
    expected = gradient_of(surrogate(trainer, batch) - 0.3 * (step_weight() * entropy).sum(), trainer)
    found, metrics = gradient_after_update(trainer, batch)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert metrics["learned_steps"] == sum(NFES)


def test_a_linear_anneal_ends_at_zero() -> None:
    annealed = trainer_of(entropy_bonus=5.0, entropy_anneal="linear", num_steps=4)
    plain = trainer_of(num_steps=4)
    batch = decoded(annealed.network, GROUPS, NFES)
    annealed.num_optimizer_steps = plain.num_optimizer_steps = 4
    found, _ = gradient_after_update(annealed, batch)
    expected, _ = gradient_after_update(plain, batch)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [1000, 4])
def test_the_pull_is_the_closed_form_kl_of_every_decision(size: int) -> None:
    regulariser = RegulariserConfig(kind="kl", reference="threshold", parameter=0.6, coefficient=0.5)
    trainer = trainer_of(regulariser=regulariser, micro_batch_steps=size)
    batch = decoded(trainer.network, GROUPS, NFES)
    logits, eligible = step_logits(trainer.network, batch.steps)
    reference = make_reference("threshold", 0.6, smoothing=0.05, vocabulary_size=50)
    target = reference.probabilities(torch.from_numpy(batch.steps.confidences_NLK.copy()), eligible)
    kl = bernoulli_kl(logits, eligible, target)
    expected = gradient_of(surrogate(trainer, batch) + 0.5 * (step_weight() * kl).sum(), trainer)
    found, metrics = gradient_after_update(trainer, batch)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert metrics["divergence"] == pytest.approx(float(kl.detach().mean()), rel=1e-4)


@pytest.mark.parametrize("size", [1000, 4])
def test_at_the_output_level_the_gradient_is_that_of_the_sums_over_steps(size: int) -> None:
    trainer = trainer_of(ratio="trajectory", micro_batch_steps=size)
    batch = decoded(trainer.network, GROUPS, NFES)
    log_prob = score_steps(trainer.network, trainer.distribution, batch.steps).log_prob_N
    advantage = torch.from_numpy(ADVANTAGES[row_of_step().numpy()]).float()
    expected = gradient_of(-(advantage * log_prob).sum() / 9, trainer)
    found, metrics = gradient_after_update(trainer, batch)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert metrics["first_ratio_gap"] < 1e-4


@pytest.mark.parametrize("size", [1000, 4])
def test_what_is_said_of_ratios_of_trajectories_is_a_mean_over_trajectories(size: int) -> None:
    settings: dict[str, Any] = {"ratio": "trajectory", "learning_rate": 0.05, "clip_low": 0.05, "clip_high": 0.05}
    trainer = Trainer(POLICY, learner_config(num_iterations=2, micro_batch_steps=size, **settings), seed=0)
    batch = decoded(trainer.network, GROUPS, NFES)
    _, metrics = gradient_after_update(trainer, batch)
    moved = Trainer(POLICY, learner_config(num_iterations=1, **settings), seed=0)
    gradient_after_update(moved, batch)
    gone = score_steps(moved.network, moved.distribution, batch.steps).log_prob_N - torch.from_numpy(
        batch.steps.log_prob_N
    )
    log_ratio = torch.zeros(9).index_add(0, row_of_step(), gone.detach())[ADVANTAGES != 0]
    ratio, advantage = log_ratio.exp(), torch.from_numpy(ADVANTAGES[ADVANTAGES != 0])
    cut = torch.where(advantage > 0, ratio > 1.05, ratio < 0.95)
    assert int(cut.sum()) > 0
    assert metrics["clipped_share"] == pytest.approx(float(cut.float().mean()))
    assert metrics["kl"] == pytest.approx(float((ratio - 1 - log_ratio).mean()), rel=1e-3)


@pytest.mark.parametrize("ratio", ["step", "trajectory"])
def test_plain_clipping_says_how_stale_the_weights_are(ratio: Any) -> None:
    behind = Trainer(POLICY, learner_config(num_iterations=1), seed=1).network
    batch = decoded(behind, GROUPS, NFES)
    _, metrics = gradient_after_update(trainer_of(max_weight_lag=1, stale_correction="clip", ratio=ratio), batch)
    assert metrics["stale_kl"] > 0
    _, metrics = gradient_after_update(trainer_of(ratio=ratio), batch)
    assert "stale_kl" not in metrics


@pytest.mark.parametrize("distribution", ["bernoulli", "bernoulli_argmax", "dpls", "categorical"])
def test_the_entropy_that_is_told_is_that_of_a_decision(distribution: Any) -> None:
    """Of independent draws the sum over the positions, however many there are."""
    trainer = trainer_of(replace(POLICY, distribution=distribution))
    batch = decoded(trainer.network, GROUPS, NFES)
    scored = score_steps(trainer.network, trainer.distribution, batch.steps)
    kept = torch.from_numpy(ADVANTAGES[row_of_step().numpy()] != 0)
    expected_N = scored.entropy_N.detach()
    if "bernoulli" in distribution:
        p = torch.sigmoid(scored.logits_NL.detach())
        each_NL = -(p * p.log() + (1 - p) * (1 - p).log())
        expected_N = (each_NL * scored.open_NL).sum(1)
    _, metrics = gradient_after_update(trainer, batch)
    assert metrics["commit_entropy"] == pytest.approx(float(expected_N[kept].mean()), rel=1e-4)


@pytest.mark.parametrize("size", [1000, 4])
def test_the_kl_of_outputs_weighs_whole_trajectories(size: int) -> None:
    regulariser = RegulariserConfig(kind="output_kl", reference="softmax_confidence", parameter=0.05, coefficient=0.2)
    trainer = trainer_of(CATEGORICAL, regulariser=regulariser, micro_batch_steps=size)
    batch = decoded(trainer.network, GROUPS, NFES)
    log_prob = score_steps(trainer.network, trainer.distribution, batch.steps).log_prob_N
    _, eligible = step_logits(trainer.network, batch.steps)
    reference = make_reference("softmax_confidence", 0.05, smoothing=0.05, vocabulary_size=50)
    g = reference.probabilities(torch.from_numpy(batch.steps.confidences_NLK.copy()), eligible)
    log_g = (g * torch.from_numpy(batch.steps.committed_NL)).sum(1).log()
    sums = torch.zeros(9).index_add(0, row_of_step(), (log_prob - log_g).detach())
    pull = ((1 + sums)[row_of_step()] * log_prob).sum() / 9
    expected = gradient_of(surrogate(trainer, batch) + 0.2 * pull, trainer)
    found, _ = gradient_after_update(trainer, batch)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [1000, 4])
def test_stale_decisions_are_clipped_around_the_update_s_start_and_weighed_by_how_stale_they_are(size: int) -> None:
    settings = {"max_weight_lag": 1, "stale_weight_cap": 1.1, "clip_low": 0.2, "clip_high": 0.2, "learning_rate": 0.05}
    trainer = Trainer(
        POLICY, learner_config(num_iterations=2, micro_batch_steps=size, **settings), seed=0, vocabulary_size=50
    )
    behind = Trainer(POLICY, learner_config(num_iterations=1), seed=1, vocabulary_size=50).network
    batch = decoded(behind, GROUPS, NFES)
    start = copy.deepcopy(trainer.network)
    anchor = score_steps(start, trainer.distribution, batch.steps).log_prob_N.detach()
    stale = (anchor - torch.from_numpy(batch.steps.log_prob_N)).exp()
    assert float((stale - 1).abs().max()) > 0.01
    _, metrics = gradient_after_update(trainer, batch)
    assert metrics["stale_ratio_gap"] == pytest.approx(float((stale - 1).abs().max()), rel=1e-4)
    kept = torch.from_numpy(ADVANTAGES[row_of_step().numpy()] != 0)
    assert metrics["stale_kl"] == pytest.approx(float((stale - 1 - stale.log())[kept].mean()), rel=1e-3)
    # The second iteration of the same by hand, from where the first one ended.
    twin = Trainer(
        POLICY, learner_config(num_iterations=1, micro_batch_steps=1000, **settings), seed=0, vocabulary_size=50
    )
    gradient_after_update(twin, batch)
    log_prob = score_steps(twin.network, twin.distribution, batch.steps).log_prob_N
    ratio, advantage = (log_prob - anchor).exp(), torch.from_numpy(ADVANTAGES[row_of_step().numpy()]).float()
    taken = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    expected = gradient_of(-(step_weight() * stale.clamp(max=1.1) * taken).sum(), twin)
    found = torch.cat([p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-3)


def test_without_lag_and_with_plain_clipping_the_ratio_is_that_to_the_weights_that_decided() -> None:
    behind = Trainer(POLICY, learner_config(num_iterations=1), seed=1, vocabulary_size=50).network
    batch = decoded(behind, GROUPS, NFES)
    plain = trainer_of(max_weight_lag=1, stale_correction="clip")
    synchronous = trainer_of()
    found, metrics = gradient_after_update(plain, batch)
    assert torch.equal(found, gradient_after_update(synchronous, batch)[0])
    assert metrics["stale_kl"] > 0


def test_expert_rows_are_scored_as_parts_of_the_mixture() -> None:
    steering = SteeringConfig(parameters=(0.9,), mode="mixture")
    trainer = trainer_of(steering=steering, group_size=2)
    batch = decoded(trainer.network, GROUPS, NFES)
    rows = tuple(replace(row, is_expert=number % 3 == 2) for number, row in enumerate(batch.rows))
    mixed = replace(batch, rows=rows)
    log_prob = score_steps(trainer.network, trainer.distribution, batch.steps).log_prob_N
    share = torch.tensor(2 / 3)
    mixture = torch.logaddexp(share.log() + log_prob, (1 - share).log())
    is_expert = row_of_step() % 3 == 2
    behaviour = torch.where(is_expert, mixture, log_prob)
    steps = replace(mixed.steps, log_prob_N=behaviour.detach().numpy())
    advantage = torch.from_numpy(ADVANTAGES[row_of_step().numpy()]).float()
    expected = gradient_of(-(step_weight() * advantage * behaviour).sum(), trainer)
    found, metrics = gradient_after_update(trainer, replace(mixed, steps=steps))
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert metrics["first_ratio_gap"] < 1e-4
    # The middle group has no signal.
    assert metrics["expert_advantage"] == pytest.approx(ADVANTAGES[[2, 8]].mean())


def test_imitation_raises_the_likelihood_of_what_is_imitated_and_looks_at_no_reward() -> None:
    trainer = trainer_of(imitation=ImitationConfig(num_steps=10))
    batch = decoded(trainer_of().network, GROUPS, NFES)
    before = score_steps(trainer.network, trainer.distribution, batch.steps).log_prob_N
    losses = [values(trainer.imitate([batch]))["imitation_loss"] for _ in range(10)]
    after = score_steps(trainer.network, trainer.distribution, batch.steps).log_prob_N
    assert losses[0] == pytest.approx(-float(before.detach().mean()), rel=1e-4)
    assert float(after.detach().mean()) > float(before.detach().mean()) + 0.05
    assert losses[-1] < losses[0]


def test_imitating_a_reference_brings_the_policy_to_it() -> None:
    trainer = trainer_of(
        CATEGORICAL,
        imitation=ImitationConfig(num_steps=60, objective="reference", heuristic="low_confidence", parameter=1),
        regulariser=RegulariserConfig(reference="softmax_confidence", parameter=0.2),
    )
    batch = decoded(trainer_of(CATEGORICAL).network, GROUPS, NFES)
    losses = [values(trainer.imitate([batch]))["imitation_loss"] for _ in range(60)]
    reference = make_reference("softmax_confidence", 0.2, smoothing=0.05, vocabulary_size=50)
    _, eligible = step_logits(trainer.network, batch.steps)
    g = reference.probabilities(torch.from_numpy(batch.steps.confidences_NLK.copy()), eligible)
    least = float(-(torch.xlogy(g, g)).sum(1).mean())
    assert losses[-1] - least < 0.5 * (losses[0] - least)


def test_a_trainer_starts_from_another_policy() -> None:
    from policy.weights import to_bytes

    other = Trainer(POLICY, learner_config(), seed=3)
    trainer = trainer_of()
    trainer.start_from(to_bytes(other.network))
    assert weights_of(trainer.network) == weights_of(other.network)
