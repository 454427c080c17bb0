"""Records, summaries and paired comparisons."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cluster.errors import UserError
from evaluation.arms import Arm
from evaluation.records import from_lines, read_records, to_lines
from evaluation.results import by_arm, compare_pairs, paired_reward_difference, per_example, summarise
from evaluation.statistics import bootstrap, wilson
from tests.fakes.records import arm_of, make_record

ARM = arm_of("threshold", 0.9, 24)


@pytest.mark.parametrize("value", [0.0, 16 / 3, 24.0, 0.1])
def test_the_bootstrap_of_equal_values_is_that_value(value):
    got = bootstrap(np.full(37, value))
    assert got.low <= got.mean <= got.high
    assert (got.low, got.high) == pytest.approx((value, value))


def test_seeds_of_one_example_are_averaged_first():
    records = [
        make_record(0, seed=0, nfe=2, reward=1.0), make_record(0, seed=1, nfe=4, grade="wrong", reward=0.0),
        make_record(1, seed=0, nfe=6, reward=0.5), make_record(1, seed=1, nfe=6, reward=0.5),
    ]  # fmt: skip
    summary = summarise(ARM, records)
    assert summary.num_examples == 2
    assert summary.accuracy == wilson(1.5, 2)
    assert summary.nfe.mean == pytest.approx(4.5)
    assert summary.reward.mean == pytest.approx(0.5)
    assert per_example(records, lambda record: record.nfe) == {"sudoku/test/0": 3.0, "sudoku/test/1": 6.0}


def test_an_example_with_more_seeds_counts_no_more_than_another():
    records = [make_record(0, seed=seed, nfe=10) for seed in range(5)] + [make_record(1, nfe=2)]
    assert summarise(ARM, records).nfe.mean == pytest.approx(6.0)


def test_grader_errors_are_counted_apart():
    records = [
        make_record(0),
        make_record(1, grade="wrong", reward=0.0),
        make_record(2, grade="grader_error", nfe=999, reward=0.0),
    ]
    summary = summarise(ARM, records)
    assert (summary.num_examples, summary.num_grader_errors) == (2, 1)
    assert summary.accuracy.mean == 0.5
    assert summary.nfe.mean == 4
    assert summary.reward.mean == pytest.approx(0.25)


def test_unparsable_answers_are_not_correct_and_step_limits_are_counted():
    records = [make_record(0), make_record(1, grade="unparsable", status="step_limit", reward=0.0)]
    summary = summarise(ARM, records)
    assert (summary.accuracy.mean, summary.num_step_limit) == (0.5, 1)


def test_the_paired_difference_has_the_sign_of_ours_minus_theirs():
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 1, size=50)
    theirs = [make_record(i, reward=float(noise[i])) for i in range(50)]
    ours = [make_record(i, reward=float(noise[i]) + 0.1) for i in range(50)]
    better = paired_reward_difference(ours, theirs)
    # Paired: the examples' own spread, ten times the difference, cancels.
    assert (better.mean, better.low, better.high) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_reward_difference(theirs, ours).mean == pytest.approx(-0.1)


def test_the_paired_difference_uses_shared_examples_only_and_averages_seeds():
    ours = [make_record(0, seed=0, reward=1.0), make_record(0, seed=1, reward=0.0), make_record(1, reward=9.0)]
    theirs = [make_record(0, reward=0.2), make_record(2, reward=-9.0)]
    assert paired_reward_difference(ours, theirs).mean == pytest.approx(0.3)


def test_what_is_written_is_read(tmp_path):
    records = [make_record(0, order=(1, 2, 0, -1)), make_record(1, arm=arm_of("learned", 0.5, 24, policy="best@ab")),
               make_record(2, text="line\nbreak “quoted”", reward=1 / 3)]  # fmt: skip
    path = tmp_path / "records.jsonl"
    path.write_bytes(to_lines(records))
    assert read_records(path) == records
    line = json.loads(path.read_text().splitlines()[0])
    assert line["parameters"] == {"tau": 0.9}
    assert line["tokens_per_pass"] == [1, 1, 0, 0]
    assert line["settings"]["model"] == "tiny"


def test_records_of_another_version_are_refused():
    old = to_lines([make_record()]).replace(b'"schema": 2', b'"schema": 1')
    with pytest.raises(UserError, match="records of schema 1, this version reads 2"):
        from_lines(old, where="records.jsonl")


def test_tokens_per_pass_add_up_to_what_was_decoded():
    record = make_record(nfe=3, order=(1, 1, 0, 3, 2, -1))
    assert record.tokens_per_pass == (2, 1, 1)


def test_the_spread_is_over_seeds():
    records = [make_record(i, seed=seed, reward=0.1 * seed, nfe=seed + 1) for i in range(4) for seed in range(3)]
    summary = summarise(ARM, records)
    assert summary.num_seeds == 3
    assert summary.spread.reward == pytest.approx(0.1)
    assert summary.spread.nfe == pytest.approx(1.0)
    assert summarise(ARM, records[::3]).spread.reward is None


def test_speed_counts_response_tokens_and_leaves_warm_up_out():
    records = [make_record(0, seconds=100.0, is_warm_up=True), make_record(1, seconds=2.0), make_record(2, seconds=1.0)]
    summary = summarise(ARM, records)
    assert summary.tokens_per_second == pytest.approx(12 / 3)
    assert summary.tokens_per_pass == pytest.approx(18 / 12)
    assert summarise(ARM, records[:1]).tokens_per_second is None


def test_pairs_with_a_grader_error_are_left_out():
    ours = [make_record(0, reward=0.9), make_record(1, grade="grader_error", reward=0.0)]
    theirs = [make_record(0, reward=0.4), make_record(1, reward=0.4)]
    pair = compare_pairs(ours, theirs)
    assert pair is not None
    assert (pair.num_examples, pair.reward.mean) == (1, pytest.approx(0.5))
    assert compare_pairs(ours[1:], theirs) is None


def test_records_find_their_arms():
    random_arm, learned = arm_of("random", 2.0, 24), arm_of("learned", None, 12)
    records = [make_record(0), make_record(0, arm=random_arm), make_record(1), make_record(0, arm=learned)]
    groups = by_arm(records)
    assert set(groups) == {learned, ARM, random_arm}
    assert groups[ARM] == [make_record(0), make_record(1)]
    assert list(groups) == list(by_arm(records[::-1]))


@pytest.mark.parametrize(
    ("arm", "label"),
    [
        (ARM, "threshold 0.9"),
        (arm_of("low_confidence", 4.0, 24), "low_confidence 4"),
        (arm_of("learned", None, 24), "learned"),
        (arm_of("learned", 0.5, 24), "learned, T = 0.5"),
        (arm_of("learned", 1, 24, policy="step-000090@0123"), "learned step-000090, T = 1"),
        (Arm("klass", '{"eps": 0.01, "tau": 0.9}', 24), "klass eps=0.01 tau=0.9"),
    ],
)
def test_labels(arm, label):
    assert arm.label == label
    assert replace(arm, block_length=12).label == label


def test_equal_settings_are_one_arm():
    assert arm_of("low_confidence", 4.0, 24) == arm_of("low_confidence", 4, 24)
    assert replace(ARM, is_random=True) == ARM
    assert replace(ARM, policy="a") != ARM
