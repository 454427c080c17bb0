from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cluster.metrics import values
from learner.trainer import Trainer
from policy.learned import score_steps, step_logits
from policy.trajectory import PackedSteps, TrajectoryBatch
from tests.learner.records import GROUPS, NFES, POLICY, REWARDS, decoded, learner_config, make_row, weights_of

VALID = np.ones(9, bool)


def make_trainer(policy: Any = POLICY, **settings: Any) -> Trainer:
    return Trainer(policy, learner_config(**settings), seed=0)


def update(trainer: Trainer, batch: TrajectoryBatch, rewards: Any = REWARDS) -> dict[str, float]:
    return values(trainer.update([batch], np.asarray(rewards, np.float64), np.ones(len(batch.rows), bool)))


def gradients(trainer: Trainer) -> torch.Tensor:
    parts = [p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None]
    return torch.cat(parts)


@pytest.mark.parametrize("kind", ["bernoulli", "bernoulli_argmax"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_ratio_is_one_on_decisions_that_were_just_recorded(kind: Any, temperature: float) -> None:
    trainer = make_trainer(replace(POLICY, distribution=kind, policy_temperature=temperature))
    for seed in range(3):
        # Also after updates: what counts is that recording and scoring use the same weights.
        metrics = update(trainer, decoded(trainer.network, GROUPS, NFES, seed=seed))
        assert metrics["first_ratio_gap"] < 1e-4


def test_a_gap_shows_that_other_weights_made_the_decisions() -> None:
    batch = decoded(make_trainer().network, GROUPS, NFES)
    other = Trainer(POLICY, learner_config(), seed=1)
    assert update(other, batch)["first_ratio_gap"] > 1e-2


def test_the_gradient_is_that_of_the_formula_rollout_by_rollout() -> None:
    trainer = make_trainer(num_iterations=1)
    batch = decoded(trainer.network, GROUPS, NFES)
    log_prob = score_steps(trainer.network, trainer.distribution, batch.steps).log_prob_N
    total = torch.zeros(())
    for row in range(9):
        mine = [r for r in range(9) if GROUPS[r] == GROUPS[row]]
        advantage = REWARDS[row] - REWARDS[mine].mean()
        start, stop = batch.offsets[row], batch.offsets[row + 1]
        for n in range(start, stop):
            total = total + advantage * log_prob[n] / (stop - start) / 9
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(-total, list(trainer.network.parameters()))])
    update(trainer, batch)
    assert float(expected.abs().max()) > 1e-3
    assert torch.allclose(gradients(trainer), expected, rtol=1e-3, atol=1e-6)


def test_the_split_into_micro_batches_does_not_change_the_gradient() -> None:
    found = []
    for size in (1000, 1, 4):
        trainer = make_trainer(num_iterations=1, micro_batch_steps=size)
        metrics = update(trainer, decoded(trainer.network, GROUPS, NFES))
        found.append((gradients(trainer), metrics))
    scale = float(found[0][0].abs().max())
    for gradient, metrics in found[1:]:
        assert torch.allclose(gradient, found[0][0], atol=1e-5 * scale, rtol=1e-3)
        for name in ("loss", "commit_entropy", "grad_norm", "learned_steps"):
            assert metrics[name] == pytest.approx(found[0][1][name], rel=1e-4, abs=1e-6)


def test_the_same_inputs_give_the_same_weights_bit_for_bit() -> None:
    batch = decoded(make_trainer().network, GROUPS, NFES)
    results = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        trainer = make_trainer(micro_batch_steps=7)
        metrics = [update(trainer, batch), update(trainer, batch)]
        results.append((weights_of(trainer.network), metrics))
    assert results[0] == results[1]
    assert results[0][0] != weights_of(make_trainer().network)


def test_a_batch_without_a_signal_moves_neither_weights_nor_schedule() -> None:
    trainer, undisturbed = (make_trainer(schedule="cosine", num_steps=10, warmup_steps=3) for _ in range(2))
    batch = decoded(trainer.network, GROUPS, NFES)
    update(trainer, batch)
    update(undisturbed, batch)
    before, steps = weights_of(trainer.network), trainer.num_optimizer_steps
    metrics = update(trainer, batch, [1.0] * 9)
    assert weights_of(trainer.network) == before
    assert trainer.num_optimizer_steps == steps
    assert (metrics["zero_variance_share"], metrics["learned_steps"], metrics["dropped_groups"]) == (1, 0, 0)
    # The optimiser's moments are untouched too: the next update is the same as without the empty one.
    update(trainer, batch)
    update(undisturbed, batch)
    assert weights_of(trainer.network) == weights_of(undisturbed.network)


def test_ungraded_rows_change_nothing_but_the_normaliser() -> None:
    trainer = make_trainer()
    batch = decoded(trainer.network, GROUPS, NFES)
    rewards = REWARDS.copy()
    rewards[2] = np.nan
    valid = VALID.copy()
    valid[[2, 6, 7]] = False
    metrics = values(trainer.update([batch], rewards, valid))
    assert metrics["dropped_groups"] == 1
    assert metrics["zero_variance_share"] == pytest.approx(1 / 3)
    assert metrics["learned_steps"] == 4
    assert all(bool(torch.isfinite(p).all()) for p in trainer.network.parameters())


def test_each_update_takes_mu_optimiser_steps_and_reports_how_far_it_moved() -> None:
    trainer = make_trainer(num_iterations=3)
    batch = decoded(trainer.network, GROUPS, NFES)
    metrics = update(trainer, batch)
    assert trainer.num_optimizer_steps == 3
    assert metrics["kl"] > 0
    assert 0 <= metrics["clipped_share"] <= 1
    assert metrics["grad_norm"] > 0
    assert 0 < metrics["commit_entropy"] <= 8 * math.log(2)
    assert metrics["learned_steps"] == 8 + 6


def test_gradients_are_clipped_to_the_configured_norm() -> None:
    trainer = make_trainer(num_iterations=1, max_grad_norm=1e-3)
    metrics = update(trainer, decoded(trainer.network, GROUPS, NFES))
    assert metrics["grad_norm"] > 1e-3
    assert float(gradients(trainer).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_an_iteration_that_loses_the_weights_is_told_whichever_it_is() -> None:
    trainer = make_trainer(num_iterations=4)
    batch = decoded(trainer.network, GROUPS, NFES)
    assert math.isfinite(update(trainer, batch)["grad_norm"])
    step = trainer.optimizer.step

    def losing(*arguments: Any, **options: Any) -> Any:
        if trainer.num_optimizer_steps == 4 + 2:
            next(trainer.network.parameters()).data.fill_(math.nan)
        return step(*arguments, **options)

    trainer.optimizer.step = losing  # type: ignore[method-assign]
    assert math.isnan(update(trainer, batch)["grad_norm"])


def bandit(trainer: Trainer, seed: int) -> tuple[TrajectoryBatch, Any]:
    """One decision a row; it earns 1 when it leaves every position of low confidence masked."""
    batch = decoded(trainer.network, [i // 8 for i in range(64)], [1] * 64, seed=seed)
    confidence, committed = batch.steps.confidences_NLK[:, :, 0], batch.steps.committed_NL
    return batch, 1.0 - np.any(committed & (confidence < 0.5), axis=1)


def test_rewarded_decisions_become_likelier_than_unrewarded_ones() -> None:
    trainer = make_trainer(weight_decay=0.0)
    batch, rewards = bandit(trainer, seed=0)
    assert 0 < rewards.mean() < 1
    update(trainer, batch, rewards)
    with torch.no_grad():
        after = score_steps(trainer.network, trainer.distribution, batch.steps).log_prob_N
    gain = after.numpy() - batch.steps.log_prob_N
    assert gain[rewards == 1].mean() > gain[rewards == 0].mean() + 1e-3


def test_a_toy_task_is_learned() -> None:
    trainer = make_trainer(weight_decay=0.0)
    earned = []
    for seed in range(40):
        batch, rewards = bandit(trainer, seed=seed)
        earned.append(rewards.mean())
        update(trainer, batch, rewards)
    assert np.mean(earned[-5:]) > np.mean(earned[:3]) + 0.2


def used_rates(num_updates: int, **settings: Any) -> list[float]:
    trainer = make_trainer(num_iterations=1, **settings)
    batch = decoded(trainer.network, GROUPS, NFES)
    rates = []
    for _ in range(num_updates):
        update(trainer, batch)
        (group,) = trainer.optimizer.param_groups
        rates.append(group["lr"])
    return rates


def test_learning_rates_warm_up_linearly_then_follow_a_cosine_to_zero() -> None:
    cosine = [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(5)]
    expected = [0.01 * share for share in (0.25, 0.5, 0.75, 1.0, *cosine, 0.0)]
    assert used_rates(10, schedule="cosine", warmup_steps=4, num_steps=8) == pytest.approx(expected)
    assert expected[4] == 0.01
    assert expected[6] == pytest.approx(0.005)


def test_constant_learning_rates_stay_after_the_warm_up() -> None:
    assert used_rates(4, schedule="constant", warmup_steps=2, num_steps=3) == pytest.approx([0.005, 0.01, 0.01, 0.01])
    assert used_rates(2, schedule="constant") == [0.01, 0.01]


def test_the_schedule_counts_optimiser_steps_not_updates() -> None:
    trainer = make_trainer(num_iterations=2, schedule="cosine", num_steps=2)
    batch = decoded(trainer.network, GROUPS, NFES)
    rates = []
    for _ in range(2):
        update(trainer, batch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01 * 0.5 * (1 + math.cos(math.pi * k / 4)) for k in (1, 3)])


def test_recorded_arrays_may_be_read_only() -> None:
    # Ray hands out read-only views of its object store.
    trainer = make_trainer()
    batch = decoded(trainer.network, GROUPS, NFES)
    frozen: list[Any] = []
    for array in (
        batch.steps.confidences_NLK, batch.steps.flags_NL, batch.steps.time_N, batch.steps.log_prob_N, batch.offsets
    ):  # fmt: skip
        copy = array.copy()
        copy.setflags(write=False)
        frozen.append(copy)
    rows = tuple(make_row(group, nfe) for group, nfe in zip(GROUPS, NFES, strict=True))
    update(trainer, TrajectoryBatch(rows, PackedSteps(*frozen[:4]), frozen[4]))
    other = make_trainer()
    update(other, batch)
    assert weights_of(trainer.network) == weights_of(other.network)


def test_the_mean_unmask_probability_is_that_of_eligible_positions_and_told_of_independent_draws_alone() -> None:
    trainer = make_trainer()
    batch = decoded(trainer.network, GROUPS, NFES)
    logits, eligible = step_logits(trainer.network, batch.steps)
    # Steps of the middle group have no signal and are not learned from.
    kept = np.repeat(np.array(GROUPS) != 1, NFES)
    each = [float(torch.sigmoid(u[e]).mean()) for u, e in zip(logits.detach(), eligible, strict=True)]
    assert update(trainer, batch)["mean_unmask_prob"] == pytest.approx(np.mean(np.array(each)[kept]), abs=1e-5)
    single = make_trainer(replace(POLICY, distribution="categorical"))
    assert "mean_unmask_prob" not in update(single, decoded(single.network, GROUPS, NFES))
