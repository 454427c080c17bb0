"""The evaluation's plan: which leases are dispatched, and what is not decoded again."""

from __future__ import annotations

from collections import Counter

import pytest

from cluster.config import build
from cluster.errors import DeadlineExceeded, RunFailure, UserError
from evaluation.arms import LEARNED, heuristic_arms, learned_arm, temperature_of
from evaluation.config import EvaluationConfig
from evaluation.records import ExampleRecord
from evaluation.results_dir import ResultsDir
from evaluation.runner import Conditions, Outcome, Suite, evaluate, validation_rewards
from policy.inference import InferenceConfig
from rollout_workers.tasks import Split
from rollout_workers.tasks.stream import Pick
from tests.fakes.pool import FakePool, summary_of
from tests.fakes.records import arm_of

THRESHOLD = arm_of("threshold", 0.9, 24)
RANDOM = arm_of("random", 2.0, 12)
LEARNED_ARM = learned_arm(24)
ARMS = (THRESHOLD, RANDOM, LEARNED_ARM)
CONFIG = EvaluationConfig(num_examples=10, seeds=(0, 1, 2), lease_examples=4)


def picks(num: int) -> list[Pick]:
    return [Pick("sudoku", index) for index in range(num)]


def outcome(pool: FakePool, path, *, config: EvaluationConfig = CONFIG, arms=ARMS, **options) -> Outcome:
    conditions = Conditions(Split.TEST, 100, {"": 7}, **options.pop("conditions", {}))
    suite = Suite(arms, picks(config.num_examples), 24)
    return evaluate(pool, [suite], config, conditions, ResultsDir(str(path)), **options)


def run(pool: FakePool, path, **options) -> list[ExampleRecord]:
    found = outcome(pool, path, **options)
    assert not found.failures
    return found.records


def test_deterministic_arms_run_once_and_random_ones_per_seed(tmp_path):
    pool = FakePool()
    records = run(pool, tmp_path)
    counts = Counter((record.sampler, record.seed) for record in records)
    assert counts == {("threshold", 0): 10, **{(name, seed): 10 for name in ("random", LEARNED) for seed in (0, 1, 2)}}
    assert Counter(lease.run_seed for lease in pool.leases) == {100: 9, 101: 6, 102: 6}
    assert {len(lease.groups) for lease in pool.leases} == {4, 2}
    assert len({lease.id for lease in pool.leases}) == len(pool.leases)


def test_a_lease_holds_examples_of_one_model(tmp_path):
    pool = FakePool()
    mixed = [Pick(task, index) for index in range(5) for task in ("sudoku", "sudoku@second")]
    conditions = Conditions(Split.TEST, 100, {"": 7})
    evaluate(pool, [Suite([THRESHOLD], mixed, 24)], CONFIG, conditions, ResultsDir(str(tmp_path)))
    assert sorted((lease.model, len(lease.groups)) for lease in pool.leases) == [
        ("", 1), ("", 4), ("second", 1), ("second", 4),
    ]  # fmt: skip
    assert all(len({group.task for group in lease.groups}) == 1 for lease in pool.leases)


def test_leases_carry_their_arms(tmp_path):
    pool = FakePool()
    run(pool, tmp_path)
    specs = [
        (lease.unmasker.heuristic, lease.unmasker.parameter, lease.weight_version, lease.block_length)
        for lease in pool.leases
    ]
    # Heuristics do not depend on the trained weights, so their noise must not either.
    expected = [("threshold", {"tau": 0.9}, 0, 24), ("random", {"k": 2}, 0, 12), (None, None, 7, 24)]
    assert all(spec in expected for spec in specs)
    assert all(spec in specs for spec in expected)
    for lease in pool.leases:
        assert not lease.record
        assert all((group.task, group.split, group.num_samples) == ("sudoku", Split.TEST, 1) for group in lease.groups)


def test_records_belong_to_the_arm_and_example_that_made_them(tmp_path):
    records = run(FakePool(), tmp_path)
    assert {record.example_id for record in records} == {f"sudoku/test/{i}" for i in range(10)}
    assert {record.arm for record in records} == set(ARMS)
    for record in records:
        assert record.reward == pytest.approx(record.score / record.nfe)
        assert record.grade == ("correct" if record.score else "wrong")


def test_a_finished_evaluation_decodes_nothing(tmp_path):
    first = run(FakePool(), tmp_path)
    pool = FakePool()
    assert run(pool, tmp_path) == first
    assert pool.leases == []


def test_an_interrupted_evaluation_goes_on_to_the_same_records(tmp_path):
    whole = run(FakePool(), tmp_path / "whole")
    with pytest.raises(ConnectionError):
        run(FakePool(die_after=5), tmp_path / "cut")
    done = ResultsDir(str(tmp_path / "cut")).records()
    assert 0 < len(done) < len(whole)
    pool = FakePool()
    assert run(pool, tmp_path / "cut") == whole
    decoded = sum(len(lease.groups) for lease in pool.leases)
    assert decoded == len(whole) - len(done)


def test_more_examples_and_seeds_decode_the_new_ones_only(tmp_path):
    run(FakePool(), tmp_path)
    pool = FakePool()
    more = EvaluationConfig(num_examples=12, seeds=(0, 1, 2, 3), lease_examples=4)
    records = run(pool, tmp_path, config=more)
    assert len(records) == 12 * (1 + 2 * 4)
    assert sum(len(lease.groups) for lease in pool.leases) == len(records) - 70


def test_other_seeds_are_no_reason_to_decode_what_draws_nothing_again(tmp_path):
    run(FakePool(), tmp_path)
    records = run(FakePool(), tmp_path, config=EvaluationConfig(num_examples=10, seeds=(7, 8), lease_examples=4))
    assert Counter(record.seed for record in records if record.sampler == "threshold") == {0: 10}
    assert {record.seed for record in records if record.sampler == "random"} == {0, 1, 2, 7, 8}


def test_arms_that_draw_nothing_run_per_seed_once_tokens_are_drawn(tmp_path):
    records = run(FakePool(), tmp_path, conditions={"draws_tokens": True})
    assert {record.seed for record in records if record.sampler == "threshold"} == {0, 1, 2}


def test_a_policy_that_draws_nothing_runs_once(tmp_path):
    arm = learned_arm(24, inference=InferenceConfig(selection="threshold"))
    assert {record.seed for record in run(FakePool(), tmp_path, arms=[arm])} == {0}


def test_a_failed_shard_is_named_and_the_others_are_kept(tmp_path):
    found = outcome(FakePool(failing_block=12), tmp_path)
    assert len(found.records) == 40
    assert len(found.failures) == 9
    with pytest.raises(RunFailure) as caught:
        found.raise_failures()
    message = str(caught.value)
    assert "9 shards" in message
    assert (
        "random 2, block 12, seed 1, sudoku/test/4 to sudoku/test/7 (4 examples): ValueError: no such block" in message
    )
    again = FakePool()
    assert len(run(again, tmp_path)) == 70
    assert {lease.block_length for lease in again.leases} == {12}


def test_a_pool_that_gives_up_leaves_what_it_had_and_names_the_rest(tmp_path):
    found = outcome(FakePool(die_after=5, error=DeadlineExceeded("lease 5 did not come back")), tmp_path)
    assert 0 < len(found.records) < 70
    assert len(found.failures) == 21 - 5
    assert all("lease 5 did not come back" in str(failure) for failure in found.failures)


def test_only_the_first_examples_of_the_first_seed_are_traced(tmp_path):
    pool = FakePool()
    run(pool, tmp_path, conditions={"num_traced": 2})
    traced = {(lease.run_seed, group.index) for lease in pool.leases for group in lease.groups if group.trace}
    assert traced == {(100, 0), (100, 1)}


def test_records_hold_their_settings(tmp_path):
    records = run(FakePool(), tmp_path, conditions={"settings": {"model": "tiny"}})
    assert {(r.settings["model"], r.settings["canvas_length"], r.settings["run_seed"]) for r in records} == {
        ("tiny", 24, 100)
    }


def test_records_say_how_their_task_was_posed(tmp_path):
    tasks = {"sudoku": {"infill": True}, "other": {}}
    records = run(FakePool(), tmp_path, conditions={"tasks": tasks})
    assert {str(record.settings["task_settings"]) for record in records} == {"{'infill': True}"}


def test_progress_ends_at_its_total(tmp_path):
    seen: list[tuple[int, int]] = []
    run(FakePool(), tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 70)
    assert seen[-1] == (70, 70)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_no_examples_is_an_empty_evaluation(tmp_path):
    assert run(FakePool(), tmp_path, config=EvaluationConfig(num_examples=0)) == []


class TestHeuristicArms:
    def test_every_parameter_at_every_block(self):
        config = EvaluationConfig(block_lengths=(12, 24), heuristics={"threshold": (0.5, 1.0), "random": (2.0,)})
        arms = heuristic_arms(config, 24)
        assert set(arms) == {
            arm_of(name, value, block)
            for name, value in (("threshold", 0.5), ("threshold", 1.0), ("random", 2.0))
            for block in (12, 24)
        }
        assert len(arms) == 6
        assert {arm.sampler for arm in arms if arm.is_random} == {"random"}

    def test_without_block_lengths_the_canvas_is_among_them(self):
        arms = heuristic_arms(EvaluationConfig(heuristics={"threshold": (0.5,)}), 48)
        blocks = [arm.block_length for arm in arms]
        assert 48 in blocks
        assert 24 in blocks
        assert all(48 % block == 0 for block in blocks)

    @pytest.mark.parametrize("canvas_length", [4, 7])
    def test_a_short_canvas_has_its_own_length_as_a_block(self, canvas_length):
        arms = heuristic_arms(EvaluationConfig(heuristics={"threshold": (0.5,)}), canvas_length)
        assert canvas_length in [arm.block_length for arm in arms]

    @pytest.mark.parametrize(
        ("name", "value", "parts"),
        [
            ("treshold", 0.9, ("treshold", "threshold", "low_confidence", "random")),
            ("threshold", 1.5, ("1.5", "[0, 1]")),
            ("threshold", -0.1, ("-0.1", "[0, 1]")),
            ("threshold", float("nan"), ("nan", "[0, 1]")),
            ("low_confidence", 0.0, ("0", "an integer >= 1")),
            ("low_confidence", 2.5, ("2.5", "an integer >= 1")),
            ("random", -3.0, ("-3", "an integer >= 1")),
            ("random", float("inf"), ("inf", "an integer >= 1")),
        ],
    )
    def test_bad_names_and_values_are_quoted_with_what_is_allowed(self, name, value, parts):
        with pytest.raises(UserError) as caught:
            heuristic_arms(EvaluationConfig(heuristics={name: (value,)}), 24, key="eval")
        message = str(caught.value)
        assert f"eval.heuristics.{name}" in message
        assert all(part in message for part in parts), message
        assert "\n" not in message

    @pytest.mark.parametrize("block", [7, 48, 23])
    def test_blocks_that_do_not_divide_the_canvas(self, block):
        with pytest.raises(
            UserError, match=rf"'evaluation.block_lengths' is {block}; .*24.*\[1, 2, 3, 4, 6, 8, 12, 24\]"
        ):
            heuristic_arms(EvaluationConfig(block_lengths=(24, block), heuristics={"threshold": (0.5,)}), 24)


def test_at_least_one_seed_is_needed():
    with pytest.raises(UserError, match=r"'evaluation.seeds' is \[\]"):
        EvaluationConfig(seeds=()).validate("evaluation")


def test_settings_are_compared_on_the_validation_split_and_all_its_seeds():
    pool, arms = FakePool(), [learned_arm(24, temperature) for temperature in (1.0, 0.5)]
    rewards = validation_rewards(pool, Suite(arms, picks(6), 24), CONFIG, run_seed=100, weight_version=7)
    assert {group.split for lease in pool.leases for group in lease.groups} == {Split.VALIDATION}
    assert {(lease.unmasker.heuristic, lease.unmasker.parameter, lease.weight_version) for lease in pool.leases} == {
        (None, 1.0, 7),
        (None, 0.5, 7),
    }
    for arm in arms:
        earned = [
            reward
            for lease in pool.leases
            if lease.unmasker.parameter == temperature_of(arm)
            for reward in summary_of(lease).rewards
        ]
        assert len(earned) == 6 * len(CONFIG.seeds)
        assert rewards[arm] == pytest.approx(sum(earned) / len(earned))
    assert rewards[arms[0]] != rewards[arms[1]]


def test_entries_may_name_parameters_and_arms_say_which() -> None:
    entries = {
        "threshold": [0.9, {"tau": 0.9, "eos": "last"}],
        "klass": [0.8, {"kl": 0.005, "history": 3}],
        "dus": [{}],
    }
    config = build(EvaluationConfig, {"block_lengths": [12], "heuristics": entries})
    arms = heuristic_arms(config, 24)
    assert [(arm.sampler, arm.values) for arm in arms] == [
        ("threshold", {"tau": 0.9}),
        ("threshold", {"tau": 0.9, "eos": "last"}),
        ("klass", {"tau": 0.8}),
        ("klass", {"tau": 0.9, "kl": 0.005, "history": 3}),
        ("dus", {"base": 2}),
    ]
    for bad, message in (
        ({"klas": [0.9]}, r"'evaluation.heuristics.klas': unknown heuristic 'klas'; did you mean 'klass'\?"),
        (
            {"klass": [{"taw": 0.9}]},
            r"unknown parameter 'taw' of heuristic 'klass'; did you mean 'tau'\? allowed: tau, kl",
        ),
        ({"klass": [{"history": 1.5}]}, r"parameter 'history' of heuristic 'klass' is 1.5; allowed: an integer >= 1"),
    ):
        with pytest.raises(UserError, match=message):
            heuristic_arms(build(EvaluationConfig, {"heuristics": bad}), 24)
