"""Archived trajectories come back as they were, and score as they were recorded."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster.errors import UserError
from learner.archive import archive_file, read_trajectories, write_trajectories
from learner.trainer import Trainer
from policy.learned import score_steps
from policy.trajectory import PackedSteps, TrajectoryBatch
from tests.learner.records import POLICY, decoded, learner_config, make_row

GROUPS, NFES = [0, 0, 1, 1, 2], [3, 1, 4, 2, 5]


def equal(a: PackedSteps, b: PackedSteps) -> None:
    for field in fields(PackedSteps):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert (one is None) == (other is None), field.name
        if one is not None:
            assert (one.dtype, one.shape) == (other.dtype, other.shape), field.name
            assert one.tobytes() == other.tobytes(), field.name


def random_batch(*, num_confidences: int, hidden_size: int | None, ranked: bool, length: int = 6) -> TrajectoryBatch:
    """A batch of which no network made anything."""
    random, num_steps = np.random.default_rng(0), sum(NFES)
    steps = PackedSteps(
        random.random((num_steps, length, num_confidences), np.float32),
        random.integers(0, 8, (num_steps, length), np.uint8),
        random.random(num_steps, np.float32),
        -random.random(num_steps, np.float32),
        random.integers(0, 9, (num_steps, length)).astype(np.int16) if ranked else None,
        None if hidden_size is None else random.random((num_steps, length, hidden_size)).astype(np.float16),
    )
    rows = tuple(
        replace(
            make_row(group, nfe, sample=sample, length=length),
            tokens_L=random.integers(0, 2**31 - 1, length, np.int32),
            order_L=random.integers(-1, 99, length).astype(np.int16),
            is_expert=sample == 1,
        )
        for sample, (group, nfe) in enumerate(zip(GROUPS, NFES, strict=True))
    )
    return TrajectoryBatch(rows, steps, np.concatenate([[0], np.cumsum(NFES)]).astype(np.int64))


@pytest.mark.parametrize(("num_confidences", "hidden_size", "ranked"), [(1, None, False), (3, 4, True), (0, 4, False)])
def test_every_number_comes_back(tmp_path: Path, num_confidences: int, hidden_size: int | None, ranked: bool) -> None:
    batch = random_batch(num_confidences=num_confidences, hidden_size=hidden_size, ranked=ranked)
    write_trajectories(tmp_path / "new" / "a.parquet", batch, extra={"reward": [0.5] * 5})
    back = read_trajectories(tmp_path / "new" / "a.parquet")
    equal(back.steps, batch.steps)
    assert back.offsets.tolist() == batch.offsets.tolist()
    for row, other in zip(back.rows, batch.rows, strict=True):
        for field in fields(row):
            one, two = getattr(row, field.name), getattr(other, field.name)
            assert type(one) is type(two)
            assert np.array_equal(one, two), field.name


@pytest.mark.parametrize("distribution", ["bernoulli_argmax", "bernoulli", "dpls"])
def test_scoring_archived_decisions_reproduces_the_recorded_log_probs(tmp_path: Path, distribution: Any) -> None:
    trainer = Trainer(replace(POLICY, distribution=distribution), learner_config(), seed=0)
    batch = decoded(trainer.network, GROUPS, NFES)
    write_trajectories(tmp_path / "a.parquet", batch, extra={})
    back = read_trajectories(tmp_path / "a.parquet")
    with torch.no_grad():
        scored = score_steps(trainer.network, trainer.distribution, back.steps).log_prob_N
    assert np.allclose(scored.numpy(), batch.steps.log_prob_N, atol=1e-5)
    assert np.abs(batch.steps.log_prob_N).mean() > 0.1


def test_other_tools_see_one_row_a_rollout(tmp_path: Path) -> None:
    batch = random_batch(num_confidences=1, hidden_size=None, ranked=False)
    path = archive_file(tmp_path, 7)
    write_trajectories(path, batch, extra={"reward": [0.1, 0.2, 0.3, 0.4, 0.5]})
    assert path.name == "step-000007.parquet"
    frame = pq.read_table(path).to_pandas()
    assert frame["reward"].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert frame["nfe"].tolist() == NFES
    assert [len(each) for each in frame["log_prob"]] == NFES
    assert frame["tokens"][2].tolist() == batch.rows[2].tokens_L.tolist()


def test_what_is_no_archive_of_this_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(UserError, match=f"cannot read trajectories '{path}'"):
        read_trajectories(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=f"cannot read trajectories '{path}'"):
        read_trajectories(path)
    write_trajectories(path, random_batch(num_confidences=1, hidden_size=None, ranked=False), extra={})
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"schema": b"9"}), path)
    with pytest.raises(UserError, match=r"have the schemas 9, 2 of file and record; allowed: 1, 2"):
        read_trajectories(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(UserError, match="schemas none, none"):
        read_trajectories(path)
