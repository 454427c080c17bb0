"""Intervals, summaries and the file of records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluation.results import (
    Arm,
    ExampleRecord,
    RecordFile,
    bootstrap,
    by_arm,
    paired_reward_difference,
    per_example,
    summarise,
    wilson,
)

ARM = Arm("threshold", 0.9, 24)


def make_record(index: int = 0, **values) -> ExampleRecord:
    base = dict(
        sampler="threshold", parameter=0.9, block_length=24, seed=0, example_id=f"sudoku/test/{index}", grade="correct",
        score=1.0, nfe=4, reward=0.5, status="clean", num_near_ties=0, answer="7", text="<answer> 7 </answer>",
    )  # fmt: skip
    return ExampleRecord(**(base | values))


@pytest.mark.parametrize(
    ("right", "num", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (50, 100, 0.4038, 0.5962),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_against_published_values(right, num, low, high):
    got = wilson(right, num)
    assert (got.mean, got.low, got.high) == pytest.approx((right / num, low, high), abs=2e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_wilson_holds_its_own_mean_at_the_ends(share):
    """Rounding must not push an end past the mean: matplotlib refuses negative error bars."""
    wrong = [num for num in range(1, 400) if not (i := wilson(share * num, num)).low <= i.mean <= i.high]
    assert not wrong


def test_wilson_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    rights = rng.binomial(80, 0.9, size=2000)
    covered = np.mean([(i := wilson(float(right), 80)).low <= 0.9 <= i.high for right in rights])
    assert 0.92 <= covered <= 0.98


def test_the_bootstrap_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    got = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert got.mean == pytest.approx(values.mean())
    assert (got.low, got.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)
    assert got == bootstrap(values)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    intervals = [bootstrap(rng.exponential(1.0, size=60), seed=seed) for seed in range(120)]
    assert 0.86 <= np.mean([i.low <= 1.0 <= i.high for i in intervals]) <= 0.99


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


class TestRecordFile:
    def test_what_is_written_is_read(self, tmp_path):
        file = RecordFile(tmp_path / "deep" / "records.jsonl")
        assert file.read() == []
        file.append([make_record(0), make_record(1, parameter=None, text="line\nbreak “quoted”")])
        file.append([make_record(2, reward=1 / 3)])
        assert file.read() == [
            make_record(0),
            make_record(1, parameter=None, text="line\nbreak “quoted”"),
            make_record(2, reward=1 / 3),
        ]

    @pytest.mark.parametrize("num_lost", [1, 2, 30])
    def test_a_torn_last_line_is_dropped_and_the_next_append_is_whole(self, tmp_path, num_lost):
        path = tmp_path / "records.jsonl"
        file = RecordFile(path)
        file.append([make_record(0), make_record(1)])
        path.write_bytes(path.read_bytes()[:-num_lost])
        assert file.read() == [make_record(0)]
        file.append([make_record(1)])
        assert file.read() == [make_record(0), make_record(1)]


def test_records_find_their_arms():
    random_arm, learned = Arm("random", 2.0, 24, is_random=True), Arm("learned", None, 12, is_random=True)
    records = [
        make_record(0), make_record(0, sampler="random", parameter=2.0), make_record(1),
        make_record(0, sampler="learned", parameter=None, block_length=12), make_record(0, block_length=12),
    ]  # fmt: skip
    groups = by_arm(records, [learned, ARM, random_arm])
    assert list(groups) == [learned, ARM, random_arm]
    assert groups[ARM] == [make_record(0), make_record(1)]
    assert [len(groups[arm]) for arm in (learned, random_arm)] == [1, 1]


def test_labels():
    assert ARM.label == "threshold 0.9"
    assert Arm("low_confidence", 4.0, 24).label == "low_confidence 4"
    assert Arm("learned", None, 24).label == "learned"
    assert replace(ARM, block_length=12).label == ARM.label
