"""Leases: what one produces depends on nothing but the lease."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cluster.metrics import TimeStates
from policy.factory import make_heuristic
from policy.trajectory import TrajectoryBatch
from rollout_workers.engine import FORWARD, POLICY, SCHEDULING
from rollout_workers.grader import GRADING
from rollout_workers.lease import GroupRequest, Lease, LeaseSummary, UnmaskerSpec
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.rewards import RewardFunction
from rollout_workers.rollout import DecodeSettings, Rollout
from rollout_workers.tasks import Split, make_task
from rollout_workers.tasks.sudoku import word_grid
from tests.fakes.models import FixedTextModel, HashModel
from tests.fakes.policies import lively_policy

TOKENIZER = load_tokenizer("tiny")
SPEC = load_model("tiny").spec
POLICY_ = lively_policy(seed=1, initial_logit=-1.0)


def make_rollout(model=None, **settings) -> Rollout:
    settings = DecodeSettings(**(dict(canvas_length=24, num_slots=3) | settings))
    model = model or HashModel(SPEC)
    tasks = {name: make_task(name) for name in ("arithmetic", "sudoku", "sudoku_infill")}
    reward = RewardFunction({"dense_multiplicative": 1.0}, alpha=1.0)
    return Rollout(model, TOKENIZER, settings, reward, tasks=tasks, clock=TimeStates(SCHEDULING))


def make_lease(
    number: int = 0, *, seed: int = 0, version: int = 0, block: int = 12, record: bool = True, indices=(3, 8)
) -> Lease:
    groups = tuple(
        GroupRequest(10 + place, "sudoku_infill" if place % 2 else "sudoku", Split.TRAIN, index, 3)
        for place, index in enumerate(indices)
    )
    return Lease(number, seed, UnmaskerSpec(weight_version=version), groups, block, record)


def check_equal(
    one: tuple[LeaseSummary, TrajectoryBatch | None], other: tuple[LeaseSummary, TrajectoryBatch | None]
) -> None:
    (summary, batch), (summary2, batch2) = one, other
    assert (summary.grades, summary.texts, summary.rewards) == (summary2.grades, summary2.texts, summary2.rewards)
    for row, row2 in zip(summary.rows, summary2.rows, strict=True):
        assert (row.example_id, row.group, row.sample, row.status, row.nfe) == (
            row2.example_id, row2.group, row2.sample, row2.status, row2.nfe,
        )  # fmt: skip
        np.testing.assert_array_equal(row.tokens_L, row2.tokens_L)
        np.testing.assert_array_equal(row.order_L, row2.order_L)
    assert batch is not None
    assert batch2 is not None
    np.testing.assert_array_equal(batch.offsets, batch2.offsets)
    for name in ("confidences_NLK", "flags_NL", "time_N", "log_prob_N"):
        np.testing.assert_array_equal(getattr(batch.steps, name), getattr(batch2.steps, name))


def test_a_lease_run_twice_gives_identical_results():
    rollout = make_rollout()
    check_equal(rollout.run(make_lease(), POLICY_), rollout.run(make_lease(), POLICY_))


def test_a_lease_does_not_depend_on_what_ran_before_it_or_who_runs_it():
    busy = make_rollout()
    for number in range(1, 4):
        busy.run(make_lease(number, seed=number, block=24, indices=(number, 9, 11)), make_heuristic("random", 2))
    check_equal(make_rollout().run(make_lease(), POLICY_), busy.run(make_lease(), POLICY_))


def test_the_shipped_model_repeats_a_lease_bit_by_bit():
    rollout = make_rollout(load_model("tiny"))
    first = rollout.run(make_lease(), POLICY_)
    rollout.run(make_lease(1, seed=5), POLICY_)
    check_equal(first, rollout.run(make_lease(), POLICY_))


def test_rows_come_group_by_group_and_sample_by_sample():
    summary, batch = make_rollout().run(make_lease(version=7), POLICY_)
    named = [(row.group, row.sample, row.example_id, row.weight_version) for row in summary.rows]
    assert named == [
        *[(10, sample, "sudoku/train/3", 7) for sample in range(3)],
        *[(11, sample, "sudoku_infill/train/8", 7) for sample in range(3)],
    ]
    assert batch.rows == summary.rows
    np.testing.assert_array_equal(np.diff(batch.offsets), [row.nfe for row in summary.rows])
    lengths = {len(values) for values in (summary.rows, summary.grades, summary.texts, summary.rewards)}
    assert lengths == {6}


def test_samples_seeds_and_weight_versions_draw_their_own_noise():
    def orders(**lease) -> list[tuple[int, ...]]:
        summary, _ = make_rollout().run(make_lease(**lease), POLICY_)
        return [tuple(row.order_L.tolist()) for row in summary.rows if row.example_id.startswith("sudoku/")]

    base = orders()
    assert len(set(base)) == 3
    assert set(base).isdisjoint(orders(seed=1))
    assert set(base).isdisjoint(orders(version=1))


def test_without_recording_there_are_no_trajectories_and_the_rows_are_the_same():
    rollout = make_rollout()
    silent, nothing = rollout.run(make_lease(record=False), POLICY_)
    loud, batch = rollout.run(make_lease(), POLICY_)
    assert nothing is None
    assert batch is not None
    assert silent.texts == loud.texts
    assert [row.nfe for row in silent.rows] == [row.nfe for row in loud.rows]


def test_right_answers_earn_by_speed_and_wrong_ones_nothing():
    example = make_task("sudoku").example(Split.TRAIN, 3)
    text = word_grid(example.answer.split()[1])
    model = FixedTextModel(TOKENIZER.encode_canvas(text, 24), SPEC)
    unmasker = make_heuristic("low_confidence", 5)
    lease = Lease(0, 0, UnmaskerSpec("low_confidence", 5), (GroupRequest(0, "sudoku", Split.TRAIN, 3, 2),), 24)
    summary, _ = make_rollout(model).run(lease, unmasker)
    assert [grade.is_correct for grade in summary.grades] == [True, True]
    assert summary.texts[0] == text
    assert {row.nfe for row in summary.rows} == {5}
    assert summary.rewards == pytest.approx([(24 - 5 + 1) / 24] * 2)
    other, _ = make_rollout(model).run(
        Lease(0, 0, UnmaskerSpec("low_confidence", 5), (GroupRequest(0, "sudoku", Split.TRAIN, 4, 1),), 24), unmasker
    )
    assert not other.grades[0].is_correct


def test_time_states_cover_decoding_and_grading():
    summary, _ = make_rollout().run(make_lease(), POLICY_)
    assert {FORWARD, POLICY, SCHEDULING, GRADING} <= set(summary.seconds)
    assert summary.stats.num_row_forwards == sum(row.nfe for row in summary.rows)


def test_settings_reach_the_engine():
    stop, _ = make_rollout(HashModel(SPEC, eos_bonus=6.0), eos="stop").run(
        make_lease(), make_heuristic("low_confidence", 1)
    )
    assert "eos_stop" in {row.status for row in stop.rows}


def test_a_token_temperature_changes_what_is_written():
    cold, _ = make_rollout().run(make_lease(), make_heuristic("low_confidence", 1))
    warm, _ = make_rollout(token_temperature=1.5).run(make_lease(), make_heuristic("low_confidence", 1))
    assert cold.texts != warm.texts


def test_a_block_length_that_does_not_divide_the_canvas_is_refused():
    with pytest.raises(ValueError, match="block_length 7"):
        make_rollout().run(make_lease(block=7), POLICY_)


def test_a_trace_tells_how_the_canvas_came_to_be_and_changes_nothing():
    lease = make_lease(record=False)
    watched = replace(lease, groups=(replace(lease.groups[0], trace=True), lease.groups[1]))
    (plain, _), (traced, _) = (make_rollout().run(each, POLICY_) for each in (lease, watched))
    assert plain.traces == {}
    assert [row.nfe for row in plain.rows] == [row.nfe for row in traced.rows]
    assert plain.texts == traced.texts
    assert sorted(traced.traces) == [0, 1, 2]
    for number, trace in traced.traces.items():
        row = traced.rows[number]
        assert len(trace.passes) == row.nfe
        canvas_L = trace.passes[0].canvas_L
        assert (canvas_L == trace.mask_id).all()
        for each in trace.passes:
            np.testing.assert_array_equal(each.canvas_L, canvas_L)
            assert (each.guess_L[each.commit_L] >= 0).all()
            asked_L = each.guess_L >= 0
            assert ((each.confidence_L[asked_L] > 0) & (each.confidence_L[asked_L] <= 1)).all()
            canvas_L = np.where(each.commit_L, each.guess_L, canvas_L)
        np.testing.assert_array_equal(canvas_L, row.tokens_L)
        assert set(trace.pieces) >= set(row.tokens_L.tolist())


def test_a_lease_may_have_a_canvas_of_its_own():
    summary, _ = make_rollout(canvas_length=48).run(replace(make_lease(record=False), canvas_length=24), POLICY_)
    same, _ = make_rollout().run(make_lease(record=False), POLICY_)
    assert (summary.texts, summary.rewards) == (same.texts, same.rewards)


def test_response_lengths_count_decoded_tokens_before_the_end():
    rollout = make_rollout()
    summary, _ = rollout.run(make_lease(record=False), POLICY_)
    for row, length in zip(summary.rows, summary.response_lengths, strict=True):
        ends = np.flatnonzero(row.tokens_L == TOKENIZER.eos_id)
        before = ends[0] if len(ends) else len(row.tokens_L)
        assert length == (row.order_L[:before] > 0).sum()
    assert summary.is_warm_up
    assert not rollout.run(make_lease(record=False), POLICY_)[0].is_warm_up
