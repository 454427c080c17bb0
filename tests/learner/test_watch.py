from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from cluster.config import build
from cluster.errors import UserError
from learner.config import RunConfig
from learner.watch import Alarm, Watch, WatchConfig

CANVAS = 48
WINDOW = 3
UPDATE = {
    "reward": 0.36, "accuracy": 0.75, "nfe": 25.6, "nfe_max": 34, "unparsable_share": 0.0, "grader_error_share": 0.0,
    "step_limit_share": 0.0, "near_tie_share": 0.98, "zero_variance_share": 0.03, "dropped_groups": 0,
    "learned_steps": 6558, "empty_share": 0.0, "mean_unmask_prob": 0.12, "first_ratio_gap": 6e-8,
    "commit_entropy": 0.27, "grad_norm": 0.1, "loss": -1.4e-10, "kl": 0.2, "stale_kl": 0.01, "clipped_share": 0.05,
    "learning_rate": 6e-4,
}  # fmt: skip
VALIDATION = {"validation_reward": 0.3, "validation_accuracy": 0.7, "validation_nfe": 25.7}
LEARNED = ("commit_entropy", "grad_norm", "loss", "kl", "clipped_share", "first_ratio_gap")
"""Absent where no group had a signal."""

SICK: dict[str, tuple[str, dict[str, float]]] = {
    "reward_hacking": ("reward_hacking", {"nfe": 2.0, "accuracy": 0.02}),
    "empty_actions": ("empty_actions", {"empty_share": 0.9}),
    "zero_variance": ("zero_variance", {"zero_variance_share": 0.9}),
    "kl": ("ratio_drift", {"kl": 2.0}),
    "stale weights": ("ratio_drift", {"stale_kl": 2.0}),
    "clipping": ("ratio_drift", {"clipped_share": 0.6}),
    "entropy_collapse": ("entropy_collapse", {"commit_entropy": 0.01}),
    "leftover_masks": ("leftover_masks", {"step_limit_share": 0.3}),
    "exploding norm": ("divergence", {"grad_norm": 30.0}),
    "one pass, right by luck": ("reward_hacking", {"nfe": 1.03, "accuracy": 0.45}),
}
"""Case -> the alarm, and what of an update gives it away if it lasts."""

NEAR_MISSES: dict[str, dict[str, float]] = {
    "fast and right": {"nfe": 2.0, "accuracy": 0.9},
    "fast and a little worse": {"nfe": 1.5, "accuracy": 0.6},
    "wrong but as slow as before": {"nfe": 24.0, "accuracy": 0.02},
    "Bernoulli near the end of its blocks": {"empty_share": 0.6},
    "groups mostly alike": {"zero_variance_share": 0.7},
    "large steps": {"kl": 0.45, "clipped_share": 0.28},
    "quiet": {"commit_entropy": 0.06},
    "quiet since solved": {"commit_entropy": 0.01, "accuracy": 0.97},
    "a row at the limit": {"step_limit_share": 0.02},
    "noise of float32": {"first_ratio_gap": 6e-6},
    "larger norm": {"grad_norm": 1.5},
}

CURES = {
    "reward_hacking": ("reward.terms", "reward.alpha"),
    "empty_actions": ("policy.distribution=bernoulli_argmax",),
    "zero_variance": ("learner.prompts_per_step", "learner.group_size"),
    "ratio_drift": ("learner.learning_rate", "learner.num_iterations"),
    "entropy_collapse": ("learner.entropy_bonus", "learner.steering.parameters"),
    "leftover_masks": ("policy.distribution=bernoulli_argmax",),
    "divergence": ("learner.learning_rate",),
}


def make_watch(**settings: Any) -> Watch:
    return Watch(WatchConfig(**({"window": WINDOW} | settings)), CANVAS)


def update(**values: float) -> dict[str, float]:
    return UPDATE | values


def without(record: Mapping[str, float], *names: str) -> dict[str, float]:
    return {name: value for name, value in record.items() if name not in names}


def feed(watch: Watch, records: Iterable[Mapping[str, float]], first: int = 1) -> list[Alarm]:
    return [alarm for step, record in enumerate(records, start=first) for alarm in watch.observe(step, record)]


def started(**settings: Any) -> Watch:
    """A watch that has seen ten healthy updates."""
    watch = make_watch(**settings)
    assert feed(watch, [UPDATE] * 10) == []
    return watch


@pytest.mark.parametrize("case", SICK)
def test_a_signature_that_lasts_raises_its_alarm_once_with_its_cure(case: str) -> None:
    name, signs = SICK[case]
    alarms = feed(started(), [update(**signs)] * (WINDOW + 3), first=11)
    assert [(alarm.name, alarm.step, alarm.is_fatal) for alarm in alarms] == [(name, 10 + WINDOW, False)]
    message = alarms[0].message
    assert "\n" not in message
    assert message.startswith(f"{WINDOW} updates in a row: ")
    for cure in CURES[name]:
        assert cure in message


@pytest.mark.parametrize("case", SICK)
def test_a_shorter_spell_raises_nothing_however_often_it_comes(case: str) -> None:
    _, signs = SICK[case]
    assert feed(started(), ([update(**signs)] * (WINDOW - 1) + [UPDATE] * WINDOW) * 4) == []


@pytest.mark.parametrize("case", SICK)
def test_an_alarm_comes_again_after_the_signature_went_away(case: str) -> None:
    name, signs = SICK[case]
    spell = [update(**signs)] * (WINDOW + 1) + [UPDATE] * (4 * WINDOW)
    alarms = feed(started(), spell * 2, first=11)
    assert [(alarm.name, alarm.step) for alarm in alarms] == [(name, 10 + WINDOW), (name, 10 + WINDOW + len(spell))]


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_a_near_miss_raises_nothing(case: str) -> None:
    assert feed(started(), [update(**NEAR_MISSES[case])] * 10) == []


@pytest.mark.parametrize("case", SICK)
def test_a_missing_metric_neither_ends_nor_lengthens_a_streak(case: str) -> None:
    name, signs = SICK[case]
    bad = update(**signs)
    gaps = [without(bad, *signs), {}, VALIDATION, bad | dict.fromkeys(signs, math.nan)]
    if case in ("exploding norm", "kl"):
        gaps.pop()  # there NaN is fatal
    watch = started()
    assert feed(watch, [bad] * (WINDOW - 1) + gaps * 3) == []
    assert [alarm.name for alarm in feed(watch, [bad])] == [name]


@pytest.mark.parametrize("names", [("accuracy",), ("nfe",), LEARNED, tuple(UPDATE)])
def test_updates_without_some_metrics_are_taken_from_the_first_on(names: tuple[str, ...]) -> None:
    assert feed(make_watch(), [without(UPDATE, *names)] * 10) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["loss", "grad_norm"])
def test_what_is_not_finite_is_fatal_at_once(metric: str, value: float) -> None:
    for watch, record in ((make_watch(), UPDATE), (started(), UPDATE), (started(), update(imitation_loss=0.3))):
        alarms = feed(watch, [record | {metric: value}] * 4, first=7)
        assert [(alarm.name, alarm.step, alarm.is_fatal) for alarm in alarms] == [("divergence", 7, True)]
        assert f"{metric}={value}" in alarms[0].message
        assert "learner.learning_rate" in alarms[0].message


@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_a_kl_that_is_not_finite_is_fatal(kl: float) -> None:
    assert [alarm.is_fatal for alarm in feed(started(), [update(kl=kl)])] == [True]


def test_a_policy_that_commits_whole_blocks_at_once_has_collapsed_however_many_blocks_there_are() -> None:
    hacked = update(nfe=CANVAS / 4 + 1, accuracy=0.0)
    blocks = Watch(WatchConfig(window=WINDOW), CANVAS, block_length=4)
    assert feed(blocks, [update(nfe=CANVAS)] * WINDOW) == []
    assert [alarm.name for alarm in feed(blocks, [hacked] * WINDOW)] == ["reward_hacking"]
    assert feed(started(), [hacked] * WINDOW) == []


def test_a_loss_alone_is_enough_to_be_fatal() -> None:
    assert [alarm.is_fatal for alarm in make_watch().observe(1, {"loss": math.nan})] == [True]


def test_a_rescoring_gap_needs_no_window() -> None:
    alarms = feed(started(), [update(first_ratio_gap=0.8), UPDATE], first=11)
    assert [(alarm.name, alarm.step, alarm.is_fatal) for alarm in alarms] == [("ratio_drift", 11, False)]
    assert "0.8 (bound 0.0001)" in alarms[0].message


def test_the_two_ratio_drifts_are_told_apart() -> None:
    alarms = feed(started(), [update(first_ratio_gap=0.8, kl=2.0)] * WINDOW)
    assert [alarm.name for alarm in alarms] == ["ratio_drift", "ratio_drift"]
    assert len({alarm.message for alarm in alarms}) == 2


def test_a_collapse_is_measured_by_the_canvas_where_the_run_started_collapsed() -> None:
    assert [alarm.name for alarm in feed(make_watch(), [update(nfe=1.5, accuracy=0.0)] * 5)] == ["reward_hacking"]
    assert feed(make_watch(), [update(nfe=4.0, accuracy=0.0)] * 5) == []


@pytest.mark.parametrize(
    ("accuracy", "cause"), [(0.99, "the task is solved"), (0.02, "hardly any rollout is right"), (0.6, "too alike")]
)
def test_zero_variance_says_which_kind_it_is(accuracy: float, cause: str) -> None:
    (alarm,) = feed(started(), [update(zero_variance_share=1.0, accuracy=accuracy)] * WINDOW)
    assert cause in alarm.message


def test_a_norm_is_compared_with_what_came_before_not_with_a_start_without_signal() -> None:
    assert feed(make_watch(), [update(grad_norm=0.0)] * 10 + [update(grad_norm=0.1)] * 5) == []
    # Norms may grow slowly by any factor.
    assert feed(make_watch(), [update(grad_norm=0.001 * 1.2**n) for n in range(60)]) == []


def test_supervised_updates_are_another_phase() -> None:
    imitated = {"imitation_loss": 0.3, "grad_norm": 1e-4, "loss": 0.3, "commit_entropy": 0.01, "empty_share": 0.95}
    watch = make_watch()
    assert feed(watch, [imitated] * 20) == []
    assert feed(watch, [UPDATE] * 20) == []


def test_replayed_records_bring_back_the_state() -> None:
    records = [VALIDATION] + [UPDATE] * 10 + [update(**signs) for _, signs in SICK.values() for _ in range(WINDOW)]
    whole = feed(make_watch(), records)
    assert len(whole) == len(SICK)
    for cut in range(len(records)):
        watch = make_watch()
        # Validation is added to an update's record after it was observed.
        before = feed(watch, [record | VALIDATION for record in records[:cut]])
        assert before + feed(watch, records[cut:], first=cut + 1) == whole


def test_a_disabled_watch_is_silent() -> None:
    assert feed(make_watch(enabled=False), [update(loss=math.nan, nfe=1.0, accuracy=0.0)] * 20) == []


def test_a_healthy_run_raises_nothing() -> None:
    """The course of a real run of the tiny preset, and its worst spikes."""
    course = [
        # accuracy, NFE, zero variance, entropy, norm, KL, clipped
        (0.75, 25.6, 0.00, 0.268, 0.019, 0.217, 0.055),
        (0.71, 20.6, 0.00, 0.346, 0.070, 0.095, 0.077),
        (0.69, 17.2, 0.06, 0.419, 0.108, 0.102, 0.096),
        (0.81, 12.3, 0.03, 0.545, 0.128, 0.042, 0.042),
        (0.65, 6.78, 0.13, 0.660, 0.172, 0.026, 0.026),
        (0.85, 5.74, 0.03, 0.552, 0.236, 0.758, 0.256),
        (0.87, 4.53, 0.00, 0.482, 0.268, 0.482, 0.132),
        (0.92, 5.98, 0.00, 0.379, 0.103, 0.810, 0.192),
        (0.92, 9.41, 0.03, 0.281, 0.144, 0.035, 0.019),
        (0.97, 4.99, 0.03, 0.223, 0.087, 0.040, 0.031),
        (0.94, 4.96, 0.19, 0.137, 0.079, 0.044, 0.018),
        (0.92, 4.84, 0.28, 0.113, 0.375, 0.163, 0.059),
        (0.89, 4.10, 0.38, 0.117, 0.078, 0.103, 0.036),
        (0.97, 4.53, 0.22, 0.102, 0.529, 0.131, 0.107),
        (0.93, 4.46, 0.53, 0.116, 0.133, 0.013, 0.008),
        (0.93, 4.02, 0.16, 0.116, 0.617, 0.001, 0.000),
        (0.96, 3.80, 0.06, 0.125, 0.162, 0.000, 0.000),
    ]
    names = ("accuracy", "nfe", "zero_variance_share", "commit_entropy", "grad_norm", "kl", "clipped_share")
    records = [update(**dict(zip(names, row, strict=True))) for row in course for _ in range(WINDOW - 1)]
    records[20] = without(records[20], *LEARNED) | {
        "zero_variance_share": 1.0,
        "learned_steps": 0,
        "empty_share": math.nan,
    }
    assert feed(make_watch(), [VALIDATION, *records]) == []
    assert feed(Watch(WatchConfig(), CANVAS), [VALIDATION, *records]) == []


def test_the_section_has_limits_and_help() -> None:
    assert build(WatchConfig, {"window": 2}) == WatchConfig(window=2)
    for key, value in (("window", 0), ("max_empty_share", 1.5), ("max_grad_norm_ratio", 1.0), ("min_entropy", -1.0)):
        with pytest.raises(UserError, match=key):
            build(WatchConfig, {key: value})
    assert all(field.metadata["help"] for field in dataclasses.fields(WatchConfig))


def test_every_key_that_a_message_names_exists() -> None:
    keys = set(dotted_keys(RunConfig()))
    watch = started()
    spells = [update(**signs) for _, signs in SICK.values() for _ in range(WINDOW)]
    spells += [
        update(zero_variance_share=1.0, accuracy=accuracy) for accuracy in (0.02, 0.5, 0.99) for _ in range(WINDOW)
    ]
    alarms = feed(watch, [*spells, UPDATE, update(first_ratio_gap=1.0), update(loss=math.nan)])
    words = {word.strip(",;:()").partition("=")[0] for alarm in alarms for word in alarm.message.split()}
    named = {word for word in words if word.startswith(("learner.", "policy.", "reward.", "model.", "decode."))}
    assert len(named) > 8
    assert named <= keys


def dotted_keys(section: Any, prefix: str = "") -> Iterable[str]:
    for field in dataclasses.fields(section):
        key, value = f"{prefix}{field.name}", getattr(section, field.name)
        yield key
        if dataclasses.is_dataclass(value):
            yield from dotted_keys(value, f"{key}.")
