"""Learner ranks as plain processes that speak gloo."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cluster.metrics import Metric, reduce, values
from learner.config import RegulariserConfig, SteeringConfig
from learner.ranks import CollectiveFailed, OneRank, Ranks, join_group, open_store
from learner.trainer import Trainer
from policy.trajectory import TrajectoryBatch
from tests.learner.records import POLICY, decoded, learner_config

GROUPS = [number // 4 for number in range(24)]
NFES = [1 + (7 * number) % 6 for number in range(24)]
REWARDS = np.array([(5 * number % 7) / 7 for number in range(24)])
REWARDS[4:8] = 0.5
VALID = np.arange(24) % 11 != 3

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "per_step, every row": {"normaliser": "per_step", "entropy_bonus": 0.1},
    "steered": {"steering": SteeringConfig(parameters=(0.9,)), "group_size": 3},
    "outputs": {
        "ratio": "trajectory",
        "regulariser": RegulariserConfig(kind="output_kl", reference="threshold", parameter=0.6, coefficient=0.2),
    },
}


def as_float64(batch: TrajectoryBatch, is_steered: bool) -> TrajectoryBatch:
    steps = replace(
        batch.steps,
        confidences_NLK=batch.steps.confidences_NLK.astype(np.float64),
        time_N=batch.steps.time_N.astype(np.float64),
        log_prob_N=batch.steps.log_prob_N.astype(np.float64),
    )
    rows = tuple(replace(row, is_expert=is_steered and n % 4 == 3) for n, row in enumerate(batch.rows))
    return replace(batch, rows=rows, steps=steps)


def learn(ranks: Ranks, name: str) -> tuple[NDArray[np.float64], list[dict[str, Metric]]]:
    """Two updates of two optimiser steps each, in float64, on leases of one group each."""
    config = learner_config(micro_batch_steps=20, **VARIANTS[name])
    trainer = Trainer(POLICY, config, seed=0, vocabulary_size=50, ranks=ranks)
    recorded = decoded(trainer.network, GROUPS, NFES)
    trainer.network.double()
    whole = as_float64(recorded, name == "steered")
    parts = [whole.select(list(range(start, start + 4))) for start in range(0, 24, 4)]
    metrics = [trainer.update(parts, REWARDS, VALID) for _ in range(2)]
    return torch.cat([each.detach().flatten() for each in trainer.network.parameters()]).numpy(), metrics


def run_rank(
    work: Callable[..., Any], arguments: tuple[Any, ...], rank: int, num_ranks: int, port: int, timeout_s: float,
    sender: Connection,
) -> None:  # fmt: skip
    """One process: joins the group and sends what `work` gives."""
    torch.set_num_threads(1)
    ranks = join_group(("127.0.0.1", port), rank=rank, num_ranks=num_ranks, device="cpu", timeout_s=timeout_s)
    sender.send(work(ranks, *arguments))
    sender.close()
    os._exit(0)


def in_processes(num_ranks: int, work: Callable[..., Any], *arguments: Any, timeout_s: float = 30.0) -> list[Any]:
    """What `work(ranks, *arguments)` gives on each rank; None of a rank that died.

    Ranks are forked from a server without threads: a copy of this process may hold locks that its threads, torch's or Ray's, held.
    """
    store = open_store("127.0.0.1", timeout_s=timeout_s)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pipes, processes = [], []
    for rank in range(num_ranks):
        receiver, sender = context.Pipe(duplex=False)
        settings = (work, arguments, rank, num_ranks, store.port, timeout_s, sender)
        processes.append(context.Process(target=run_rank, args=settings))
        processes[-1].start()
        sender.close()
        pipes.append(receiver)
    found = []
    for receiver, process in zip(pipes, processes, strict=True):
        try:
            assert receiver.poll(180), "a rank says nothing"
            found.append(receiver.recv())
        except EOFError:
            found.append(None)
        process.join(60)
    return found


def learn_all(ranks: Ranks) -> dict[str, Any]:
    return {name: learn(ranks, name) for name in VARIANTS}


def sum_some(ranks: Ranks) -> list[list[float] | None]:
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    if ranks.rank == 1:
        used.grad = torch.tensor([1.0, 2.0])
    ranks.sum_gradients([used, unused])
    return [None if each.grad is None else each.grad.tolist() for each in (used, unused)]


def lose_a_rank(ranks: Ranks, end: str) -> float | None:
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    ranks.sum_gradients([parameter])
    if ranks.rank == 1 and end == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    if ranks.rank == 1:
        time.sleep(3)
        return None
    with pytest.raises(CollectiveFailed, match=f"rank {ranks.rank} of 3"):
        ranks.sum_gradients([parameter])
    return time.monotonic() - started


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {name: learn(OneRank(), name) for name in VARIANTS}


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_ranks_learns_the_same(alone: Any, num_ranks: int) -> None:
    found = in_processes(num_ranks, learn_all)
    for name, (weights, metrics) in alone.items():
        for each in found:
            assert np.abs(each[name][0] - weights).max() < 1e-9, name
            np.testing.assert_array_equal(each[name][0], found[0][name][0])
        for number, whole in enumerate(metrics):
            together = values(reduce([each[name][1][number] for each in found]))
            assert together == pytest.approx(values(whole), rel=1e-6, abs=1e-9, nan_ok=True), name


def test_a_parameter_without_a_gradient_anywhere_keeps_none_and_a_rank_without_rows_adds_nothing() -> None:
    assert in_processes(3, sum_some) == [[[1.0, 2.0], None]] * 3


@pytest.mark.parametrize("end", ["dies", "hangs"])
def test_a_rank_that_dies_or_hangs_is_noticed_by_the_others_within_the_deadline(end: str) -> None:
    found = in_processes(3, lose_a_rank, end, timeout_s=1.5)
    assert found[1] is None
    assert all(seconds < 2.8 for seconds in (found[0], found[2]))
