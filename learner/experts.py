"""What a run takes from outside its own updates: heuristics as experts, and a policy to start from. Checked before Ray starts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cluster.config import first_difference
from cluster.errors import UserError
from evaluation.arms import check_heuristic
from learner.config import RunConfig, SteeringConfig
from policy.factory import EXPERTS, heuristic_kind, heuristic_parameters
from policy.weights import WeightsError, from_bytes
from rollout_workers.config import check_block_length

_FREE = ("policy_temperature", "initial_logit", "distribution", "dpls_stop_logit", "dpls_likelihood", "top_k",
         "num_candidates", "candidates_only")  # fmt: skip
"""Settings that may differ between a policy file and the run that starts from it: no tensor depends on them."""


def check_experts(config: RunConfig, *, block_length: int) -> None:
    """Raises a UserError for experts that do not exist or do not fit into the policy's blocks."""
    steering, imitation = config.learner.steering, config.learner.imitation
    if steering.parameters:
        _check_expert(steering.heuristic, "learner.steering.heuristic")
        for parameter in steering.parameters:
            check_heuristic(steering.heuristic, parameter, "learner.steering.parameters")
        _check_mixture(steering)
        _check_block(steering.block_length, block_length, "learner.steering.block_length")
    if imitation.num_steps:
        _check_expert(imitation.heuristic, "learner.imitation.heuristic")
        check_heuristic(imitation.heuristic, imitation.parameter, "learner.imitation.parameter")
        _check_block(imitation.block_length, block_length, "learner.imitation.block_length")


def read_initial_policy(config: RunConfig) -> bytes | None:
    """The file at `learner.initial_policy`, whose architecture must be the run's."""
    path = config.learner.initial_policy
    if path is None:
        return None
    try:
        data = Path(path).read_bytes()
        found = from_bytes(data, where=path).config
    except (OSError, WeightsError) as error:
        raise UserError(f"config key 'learner.initial_policy' is {path!r}: {error}") from error
    # Before the model is known, its shape is not.
    free = _FREE if config.policy.backbone is not None else (*_FREE, "backbone")
    theirs, ours = ({k: v for k, v in asdict(each).items() if k not in free} for each in (found, config.policy))
    if difference := first_difference(theirs, ours, where="policy"):
        raise UserError(
            f"config key 'learner.initial_policy' is {path!r}, of another architecture ({difference}); "
            "allowed: a policy with the settings of this run"
        )
    return data


def _check_expert(name: str, key: str) -> None:
    """A policy learns from decisions that depend on what it may see, and that stand."""
    try:
        kind = heuristic_kind(name)
    except ValueError as error:
        # It names all heuristics there are, of which not all are experts.
        why = str(error).partition("; allowed:")[0]
        raise UserError(f"config key '{key}' is {name!r}: {why}; allowed: {', '.join(EXPERTS)}") from error
    try:
        parameters = heuristic_parameters(name, {})
    except ValueError as error:
        raise UserError(f"config key '{key}' is {name!r}: {error}") from error
    if not kind.is_expert or parameters.get("eos"):
        raise UserError(f"config key '{key}' is {name!r}; allowed: {', '.join(EXPERTS)}")


def _check_mixture(steering: SteeringConfig) -> None:
    """The mixture gives each expert's decision that expert's whole share: it must decide the same every time, and be there once."""
    if heuristic_kind(steering.heuristic).is_random:
        if steering.mode != "policy_ratio":
            raise UserError(
                f"config key 'learner.steering.mode' is {steering.mode!r}; allowed: 'policy_ratio' with "
                f"learner.steering.heuristic={steering.heuristic}, whose decisions are drawn"
            )
    elif len(set(steering.parameters)) < len(steering.parameters):
        raise UserError(
            f"config key 'learner.steering.parameters' is {list(steering.parameters)}; allowed: each value once, for "
            f"{steering.heuristic!r} decides the same every time"
        )


def _check_block(expert: int | None, block_length: int, key: str) -> None:
    if expert is not None:
        check_block_length(expert, block_length, key, of="policy's block length")
