"""The settings of an evaluation as its files have them, built from the sections of a run in one place for training and pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.config import to_dict
from evaluation.config import EvaluationConfig
from evaluation.runner import Conditions
from rollout_workers.config import DecodeConfig, ModelConfig, RewardConfig, TaskConfig
from rollout_workers.hosting import section_of
from rollout_workers.tasks import Split


def directory_settings(
    models: Mapping[str, ModelConfig],
    tasks: Mapping[str, TaskConfig],
    decode: DecodeConfig,
    reward: RewardConfig,
    evaluation: EvaluationConfig,
    *,
    canvas_lengths: Mapping[str, int],
    run_seed: int,
) -> dict[str, Any]:
    """What a results directory belongs to: everything that decides a record beside its arm, its seed and its example."""
    decoding = to_dict(decode)
    del decoding["block_length"]
    return {
        "models": {section_of(name): to_dict(model) for name, model in models.items()},
        "tasks": {name: to_dict(task) for name, task in sorted(tasks.items())},
        "decode": decoding | {"canvas_length": dict(sorted(canvas_lengths.items()))},
        "reward": to_dict(reward),
        "inference": to_dict(evaluation.inference),
        "run_seed": run_seed,
        "lease_examples": evaluation.lease_examples,
    }


def conditions_of(
    models: Mapping[str, ModelConfig],
    tasks: Mapping[str, TaskConfig],
    decode: DecodeConfig,
    reward: RewardConfig,
    evaluation: EvaluationConfig,
    *,
    versions: Mapping[str, int],
    run_seed: int,
) -> Conditions:
    """What all test records of one evaluation share."""
    return Conditions(
        split=Split.TEST,
        run_seed=run_seed,
        versions=versions,
        draws_tokens=decode.token_temperature > 0,
        num_traced=evaluation.num_traced,
        models={
            name: {"model" if key == "name" else key: value for key, value in to_dict(model).items()}
            for name, model in models.items()
        },
        tasks={name: to_dict(task) for name, task in tasks.items()},
        settings={
            "num_slots": decode.num_slots,
            "token_temperature": decode.token_temperature,
            "eos": decode.eos,
            "cache": decode.cache,
            "cache_refresh": decode.cache_refresh,
            "reward": dict(reward.terms),
            "alpha": reward.alpha,
        },
    )
