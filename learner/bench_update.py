"""One update against the same update on a padded time axis: `python -m learner.bench update`.

Public implementations stack the steps of a batch as `[R, T]`, where T is the number of passes of the lock-step decoder that made
them: every block lasts as long as its slowest row needs. The policy runs over all of it, rows without an advantage included, and a
mask takes the padding out of the loss. Both sides here learn from the same rollouts with the same policy, optimiser and number of
steps per micro-batch, and must end with the same weights.

Shapes: `R` rows, `T` padded time, `N` packed steps, `L` canvas positions.
"""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from cluster.errors import UserError
from cluster.metrics import TimeStates
from evaluation.turns import Timer, ratios, relative_spread, typical
from learner.advantages import Advantages, group_advantages
from learner.config import LearnerConfig, RunConfig
from learner.losses.grpo import clipped_surrogate, step_weights
from learner.trainer import Trainer
from policy.learned import LearnedUnmasker, make_distribution, score_steps
from policy.networks.base import PolicyNetwork
from policy.trajectory import TrajectoryBatch
from rollout_workers.lease import GroupRequest, Lease, UnmaskerSpec
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.rewards import RewardFunction
from rollout_workers.rollout import DecodeSettings, Rollout
from rollout_workers.tasks import Split, make_tasks

_SCHEDULING = "scheduling"


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What one update learns from."""

    batch: TrajectoryBatch
    reward_R: NDArray[np.float64]
    valid_R: NDArray[np.bool_]
    decode_s: float
    """Decoding and grading, in this process."""
    block_length: int


@dataclass(frozen=True, slots=True)
class UpdateFigures:
    """Times are medians in seconds."""

    num_rows: int
    num_kept_rows: int
    """Rows of groups whose rewards differ."""
    num_steps: int
    """Recorded steps of all rows."""
    num_learned_steps: int
    num_padded_steps: int
    """R times T."""
    packed_s: float
    padded_s: float
    decode_s: float
    """Decoding and grading of the rows, once."""
    speedup: float
    """Padded over packed time: the median of the ratios of each turn."""
    spread: float
    """Of these ratios: (largest - smallest) / median."""
    max_weight_gap: float
    """Largest difference of a weight after both updates."""


def check_config(config: RunConfig) -> None:
    """Refuses what is not measured."""
    learner = config.learner
    if len(config.task_configs) > 1:
        raise UserError(
            f"config key 'task' is {list(config.task_configs)}; allowed in a benchmark: one task on one dLLM"
        )
    if learner.ratio != "step" or learner.needs_every_row or learner.steering.parameters:
        raise UserError(
            "learner.bench update measures plain GRPO; "
            "allowed: learner.ratio step, no regulariser, no entropy bonus, no steering"
        )


def make_rollouts(config: RunConfig, network: PolicyNetwork) -> Rollouts:
    """One update's worth of groups from the training problems, decoded and graded in this process."""
    tasks = make_tasks(config.task_configs)
    ((name, task),) = tasks.items()
    ((_, model_config),) = config.model_configs.items()
    canvas_length, block_length = config.decode.lengths(task.canvas_length, "decode")
    model = load_model(
        model_config.name, dtype=model_config.dtype, device=model_config.device, options=model_config.options
    )
    tokenizer = load_tokenizer(model_config.name, model_config.options)
    settings = DecodeSettings.of(config.decode, canvas_length)
    reward = RewardFunction(config.reward.terms, alpha=config.reward.alpha)
    rollout = Rollout(model, tokenizer, settings, reward, tasks=tasks, clock=TimeStates(_SCHEDULING))
    groups = tuple(
        GroupRequest(number, name, Split.TRAIN, number, config.learner.group_size)
        for number in range(config.learner.prompts_per_step)
    )
    unmasker = LearnedUnmasker(copy.deepcopy(network).to(model.device), make_distribution(network.config))
    started = time.perf_counter()
    summary, batch = rollout.run(Lease(0, config.seed, UnmaskerSpec(), groups, block_length), unmasker)
    decode_s = time.perf_counter() - started
    assert batch is not None, "the lease records"
    valid_R = np.asarray([grade.is_valid for grade in summary.grades], bool)
    return Rollouts(batch, np.asarray(summary.rewards, np.float64), valid_R, decode_s, block_length)


@dataclass(frozen=True, slots=True)
class PaddedTime:
    """Which packed step stands where on the padded time axis."""

    index_RT: NDArray[np.int64]
    """A padded place repeats its row's first step: it is computed, and counts nothing."""
    is_real_RT: NDArray[np.bool_]

    @staticmethod
    def of(batch: TrajectoryBatch, block_length: int) -> PaddedTime:
        """As a lock-step decoder has them: a block begins for all rows when the slowest one has cleaned the block before."""
        offsets = batch.offsets
        block_N = batch.steps.eligible_NL.argmax(1) // block_length
        num_blocks = batch.steps.flags_NL.shape[1] // block_length
        row_N = np.repeat(np.arange(len(batch.rows)), np.diff(offsets))
        count_RB = np.zeros((len(batch.rows), num_blocks), np.int64)
        np.add.at(count_RB, (row_N, block_N), 1)
        start_B = np.concatenate([[0], np.cumsum(count_RB.max(0))])
        before_RB = np.concatenate([np.zeros((len(batch.rows), 1), np.int64), np.cumsum(count_RB, 1)], 1)
        step_N = np.arange(len(row_N)) - offsets[row_N]
        time_N = start_B[block_N] + step_N - before_RB[row_N, block_N]
        index_RT = np.repeat(offsets[:-1, None], start_B[-1], 1)
        is_real_RT = np.zeros(index_RT.shape, bool)
        index_RT[row_N, time_N], is_real_RT[row_N, time_N] = np.arange(len(row_N)), True
        return PaddedTime(index_RT, is_real_RT)


class PaddedLearner:
    """GRPO on `[R, T]` steps: the same arithmetic as `Trainer`, over everything."""

    def __init__(self, config: LearnerConfig, network: PolicyNetwork, rollouts: Rollouts) -> None:
        self.config = config
        self.network = network
        self._distribution = make_distribution(network.config)
        batch, padded = rollouts.batch, PaddedTime.of(rollouts.batch, rollouts.block_length)
        R, T = self.shape = padded.index_RT.shape
        self._chunk = max(1, self.config.micro_batch_steps // R)
        # Stacked while decoding, so it is not part of the update's time.
        self._parts = [
            batch.steps.select(padded.index_RT[:, start : start + self._chunk].reshape(-1))
            for start in range(0, T, self._chunk)
        ]
        advantages, nfe_R = _advantages(rollouts, self.config), np.diff(batch.offsets)
        advantage_R1 = advantages.advantage_R[:, None].astype(np.float32)
        self._advantage_RT = torch.from_numpy(np.broadcast_to(advantage_R1, (R, T)).copy()).to(config.device)
        kept_R, canvas_length = advantages.kept_R, batch.steps.flags_NL.shape[1]
        weight_N = np.zeros(len(batch.steps), np.float32)
        weight_N[np.repeat(kept_R, nfe_R)] = step_weights(
            nfe_R[kept_R],
            R,
            normaliser=config.normaliser,
            num_all_steps=int(nfe_R.sum()),
            canvas_length=canvas_length,
        )
        weight_RT = np.where(padded.is_real_RT, weight_N[padded.index_RT], 0).astype(np.float32)
        self._weight_RT = torch.from_numpy(weight_RT).to(config.device)

    def update(self) -> None:
        """mu optimiser steps."""
        config = self.config
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )
        for _ in range(config.num_iterations):
            optimizer.zero_grad(set_to_none=True)
            for number, steps in enumerate(self._parts):
                span = slice(number * self._chunk, (number + 1) * self._chunk)
                scored = score_steps(self.network, self._distribution, steps, everywhere=True)
                clipped_surrogate(
                    scored.log_prob_N,
                    torch.from_numpy(steps.log_prob_N.copy()).to(config.device),
                    self._advantage_RT[:, span].reshape(-1),
                    self._weight_RT[:, span].reshape(-1),
                    clip_low=config.clip_low,
                    clip_high=config.clip_high,
                ).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.max_grad_norm)
            optimizer.step()


def _advantages(rollouts: Rollouts, config: LearnerConfig) -> Advantages:
    group_R = np.asarray([row.group for row in rollouts.batch.rows])
    return group_advantages(
        rollouts.reward_R, group_R, rollouts.valid_R, kind=config.advantage, std_floor=config.std_floor
    )


def bench_update(config: RunConfig, network: PolicyNetwork, *, repeats: int) -> UpdateFigures:
    """Both updates on the same rollouts of `network`, `repeats` times in turns after one warm-up of each."""
    learner = replace(config.learner, warmup_steps=0, schedule="constant")
    check_config(config)
    # A trained policy's file has the temperature that suits it in the end; rollouts of training are drawn at another.
    network.config = replace(network.config, policy_temperature=config.policy.policy_temperature)
    torch.set_num_threads(learner.torch_threads)
    rollouts = make_rollouts(config, network)
    packed_times: list[float] = []
    padded_times: list[float] = []
    for _ in range(repeats + 1):
        trainer = Trainer(network.config, learner, seed=config.seed)
        trainer.network.load_state_dict(network.state_dict())
        padded = PaddedLearner(learner, copy.deepcopy(trainer.network), rollouts)
        with Timer(torch.device(learner.device), packed_times):
            trainer.update([rollouts.batch], rollouts.reward_R, rollouts.valid_R)
        with Timer(torch.device(learner.device), padded_times):
            padded.update()
    speedups = ratios(padded_times, packed_times)
    weights = zip(trainer.network.parameters(), padded.network.parameters(), strict=True)
    R, T = padded.shape
    kept_R = _advantages(rollouts, learner).kept_R
    return UpdateFigures(
        num_rows=R,
        num_kept_rows=int(kept_R.sum()),
        num_steps=len(rollouts.batch.steps),
        num_learned_steps=int(np.diff(rollouts.batch.offsets)[kept_R].sum()),
        num_padded_steps=R * T,
        packed_s=typical(packed_times),
        padded_s=typical(padded_times),
        decode_s=rollouts.decode_s,
        speedup=statistics.median(speedups),
        spread=relative_spread(speedups),
        max_weight_gap=max(float((mine - theirs).detach().abs().max()) for mine, theirs in weights),
    )


def update_table(figures: UpdateFigures, title: str) -> Table:
    """One line per side."""
    table = Table(title=title, title_justify="left")
    for name in ("", "rows", "steps", "of them recorded", "seconds", "steps/s recorded"):
        table.add_column(name, justify="left" if not name else "right")
    real = figures.num_steps
    for name, rows, steps, seconds in (
        ("packed", figures.num_kept_rows, figures.num_learned_steps, figures.packed_s),
        ("padded time", figures.num_rows, figures.num_padded_steps, figures.padded_s),
    ):
        share = min(1.0, real / steps) if steps else 1.0
        table.add_row(name, str(rows), str(steps), f"{share:.0%}", f"{seconds:.3f}", f"{real / seconds:.0f}")
    return table
