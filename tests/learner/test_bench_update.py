"""The update benchmark: both sides learn the same, and the padded one computes what public code computes."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from cluster.errors import ExitCode, UserError
from learner.bench import main
from learner.bench_update import PaddedTime, bench_update, make_rollouts
from learner.main import resolve
from policy.factory import make_network

SMALL = (
    "learner.prompts_per_step=4",
    "learner.group_size=4",
    "rollout.lease_groups=2",
    "policy.initial_logit=0.0",
)


@pytest.mark.parametrize("preset", [pytest.param("tiny", marks=pytest.mark.slow), "tiny_blocks"])
def test_both_sides_end_with_the_same_weights(preset):
    config = resolve([preset, *SMALL])
    figures = bench_update(config, make_network(config.policy, seed=3), repeats=1)
    assert figures.num_learned_steps <= figures.num_steps < figures.num_padded_steps
    assert figures.num_kept_rows % 4 == 0
    assert 0 < figures.num_kept_rows <= figures.num_rows == 16
    # Adam divides by the gradient's size, so weights whose gradient is rounding alone may go either way by one step.
    assert figures.max_weight_gap < 2 * config.learner.learning_rate


@pytest.mark.parametrize("normaliser", ["per_step", "constant", pytest.param("sum", marks=pytest.mark.slow)])
def test_both_sides_weigh_steps_alike(normaliser):
    config = resolve(["tiny", *SMALL, f"learner.normaliser={normaliser}", "learner.num_iterations=1"])
    assert bench_update(config, make_network(config.policy, seed=3), repeats=1).max_weight_gap < 1e-4


def test_every_recorded_step_has_one_place_and_blocks_begin_together():
    config = resolve(["tiny_blocks", *SMALL])
    rollouts = make_rollouts(config, make_network(config.policy, seed=3))
    batch = rollouts.batch
    padded = PaddedTime.of(batch, 16)
    assert sorted(padded.index_RT[padded.is_real_RT].tolist()) == list(range(len(batch.steps)))
    block_N = batch.steps.eligible_NL.argmax(1) // 16
    for row, (index_T, is_real_T) in enumerate(zip(padded.index_RT, padded.is_real_RT, strict=True)):
        steps = index_T[is_real_T]
        assert steps.tolist() == list(range(batch.offsets[row], batch.offsets[row + 1])), "time goes on"
    starts = np.cumsum([0, *(_longest(batch.offsets, block_N, block) for block in range(3))])
    assert padded.index_RT.shape[1] == starts[-1]
    for block in range(3):
        places = np.flatnonzero((padded.is_real_RT & (block_N[padded.index_RT] == block)).any(0))
        assert places.min() >= starts[block]
        assert places.max() < starts[block + 1]


def _longest(offsets, block_N, block):
    return max((block_N[start:stop] == block).sum() for start, stop in pairwise(offsets))


def test_command_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "update.json"
    assert main(["update", "tiny", *SMALL, "--repeats", "1", "--json", str(path)]) == ExitCode.FINISHED
    output = capsys.readouterr().out
    assert "padded time" in output
    assert "as fast" in output
    document = json.loads(path.read_text())
    assert document["speedup"] == pytest.approx(document["padded_s"] / document["packed_s"])


@pytest.mark.parametrize(
    "setting", ["learner.ratio=trajectory", "learner.entropy_bonus=0.01", "task={arithmetic: 1, sudoku: 1}"]
)
def test_what_is_not_measured_is_refused(setting):
    config = resolve(["tiny", setting])
    with pytest.raises(UserError, match="allowed"):
        bench_update(config, make_network(config.policy, seed=0), repeats=1)


def test_a_missing_policy_file_is_one_line(capsys):
    assert main(["update", "tiny", "--policy", "nowhere.safetensors"]) == ExitCode.USER_ERROR
    assert "'nowhere.safetensors' is no file" in capsys.readouterr().out


def test_a_file_that_could_not_be_written_is_refused_before_anything_is_measured(tmp_path, capsys):
    path = tmp_path / "missing" / "update.json"
    assert main(["update", "tiny", "--json", str(path)]) == ExitCode.USER_ERROR
    assert f"error: --json is '{path}'; allowed: a file in a folder that exists" in capsys.readouterr().out
