"""Policies to evaluate, from runs and from policy files, with the configuration that they are evaluated under.

A run's configuration is its `config.yaml`; a policy file inside a run's directory has that one too, any other the defaults.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import apply_overrides, build, first_difference, load_yaml, to_dict
from cluster.errors import UserError
from cluster.run_dir import RunDir, TornArtefact
from evaluation.config import PipelineConfig
from policy.config import PolicyConfig
from policy.networks.base import PolicyNetwork
from policy.weights import WeightsError, from_bytes, to_bytes

_POLICY_FILE, _STATE_FILE = "policy.safetensors", "state.json"
_PLACE_KEYS = ("run_dir", "rollout", "evaluation", "ray_address", "learner", "checkpoint", "policy", "seed")
"""Sections in which runs that are evaluated together may differ."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy; `name` ends in a digest of its weights, so that an arm names what decoded."""

    name: str
    where: str
    data: bytes
    config: PolicyConfig

    @property
    def version(self) -> int:
        """Names the weights to the actors, and their noise: the same file draws the same noise in every evaluation."""
        return int(hashlib.sha256(self.data).hexdigest()[:15], 16)


def read_config(sources: Sequence[str], overrides: Sequence[str]) -> PipelineConfig:
    """The configuration of all sources, which must agree on model, task and decoding, with overrides laid over it."""
    chosen: dict[str, Any] = {}
    first = ""
    for source in sources:
        found = _config_of(source)
        if first and (difference := first_difference(_comparable(chosen), _comparable(found))):
            raise UserError(
                f"'{first}' and '{source}' were trained under other settings: {difference}; "
                "allowed: runs that differ in training alone, or one evaluation for each"
            )
        if not first:
            chosen, first = found, source
    known = {field.name for field in dataclasses.fields(PipelineConfig)}
    return build(PipelineConfig, apply_overrides({key: chosen[key] for key in chosen if key in known}, overrides))


def read_policies(sources: Sequence[str], checkpoints: str | None, *, distribution: str | None = None) -> list[Policy]:
    """The policies at `sources`; of a run those that `checkpoints` names, or without it the run's product or its best."""
    policies: list[Policy] = []
    for source in sources:
        if _is_run(source):
            prefix = f"{Path(source).name} " if len(sources) > 1 else ""
            files = _of_run(source, checkpoints)
            mine = [_policy(prefix + name, where, data, distribution) for name, where, data in files]
            _check_architecture(source, mine, distribution)
            policies += mine
        else:
            policies.append(_policy(Path(source).stem, source, _read(source), distribution))
    # One file under two names is decoded once.
    return list({policy.version: policy for policy in reversed(policies)}.values())[::-1]


def _check_architecture(source: str, policies: Sequence[Policy], distribution: str | None) -> None:
    """Refuses a policy in a run's directory that is of another architecture than the run's."""
    loose = {"policy_temperature", "backbone", *(["distribution", "top_k"] if distribution is not None else [])}
    settings = load_yaml(RunDir(Path(source)).config_path).get("policy", {})
    expected = {key: value for key, value in to_dict(build(PolicyConfig, settings)).items() if key not in loose}
    for policy in policies:
        held = {key: value for key, value in to_dict(policy.config).items() if key not in loose}
        if difference := first_difference(expected, held):
            raise UserError(
                f"{policy.where} is a policy of another architecture than its run's: {difference} (run -> file); "
                "allowed: the policies that the run trained"
            )


def _policy(name: str, where: str, data: bytes, distribution: str | None) -> Policy:
    try:
        network = from_bytes(data, where=where)
    except WeightsError as error:
        raise UserError(str(error)) from error
    if distribution is not None:
        network.config = _with_distribution(network, distribution, where)
        data = to_bytes(network)
    return Policy(f"{name}@{hashlib.sha256(data).hexdigest()[:8]}", where, data, network.config)


def _with_distribution(network: PolicyNetwork, distribution: str, where: str) -> PolicyConfig:
    changed: Any = {"distribution": distribution}
    config = dataclasses.replace(network.config, **changed)
    try:
        return build(PolicyConfig, dataclasses.asdict(config), where="policy")
    except ValueError as error:
        raise UserError(f"--distribution {distribution!r} does not fit {where}: {error}") from error


def _is_run(source: str) -> bool:
    return RunDir(Path(source)).config_path.is_file()


def _config_of(source: str) -> dict[str, Any]:
    if _is_run(source):
        return load_yaml(RunDir(Path(source)).config_path)
    path = Path(source)
    if not path.is_file():
        raise UserError(f"'{source}' is neither a run's directory nor a policy file; allowed: RUN, or FILE.safetensors")
    run = next((folder for folder in path.resolve().parents[:3] if _is_run(str(folder))), None)
    return load_yaml(RunDir(run).config_path) if run is not None else {}


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _PLACE_KEYS}


def _read(source: str) -> bytes:
    return Path(source).read_bytes()


def _of_run(source: str, checkpoints: str | None) -> list[tuple[str, str, bytes]]:
    """(name, place, policy file) of the checkpoints asked for."""
    run = RunDir(Path(source))
    if checkpoints is None and (run.path / _POLICY_FILE).is_file():
        return [("policy", f"{source}/{_POLICY_FILE}", (run.path / _POLICY_FILE).read_bytes())]
    names = run.published("checkpoints")
    if not names:
        raise UserError(f"run '{source}' has no checkpoint; allowed: a run that has saved one")
    steps = {int(name.rpartition("-")[2]): name for name in names}
    found = []
    for step in dict.fromkeys(
        step for word in (checkpoints or "best").split(",") for step in _steps(run, word.strip(), steps)
    ):
        files = _load(run, steps[step])
        found.append((steps[step].rpartition("/")[2], f"{source}/{steps[step]}/{_POLICY_FILE}", files[_POLICY_FILE]))
    return found


def _steps(run: RunDir, word: str, steps: Mapping[int, str]) -> list[int]:
    match word:
        case "all":
            return list(steps)
        case "first":
            return [min(steps)]
        case "last":
            return [max(steps)]
        case "best":
            best = int(json.loads(_load(run, steps[max(steps)])[_STATE_FILE])["best_step"])
            return [_known(run, str(best), best, steps)]
        case _ if word.isdecimal():
            return [_known(run, word, int(word), steps)]
    raise UserError(
        f"--checkpoints has {word!r}; allowed: first, last, best, all, or updates ({', '.join(map(str, steps))})"
    )


def _known(run: RunDir, word: str, step: int, steps: Mapping[int, str]) -> int:
    if step not in steps:
        raise UserError(f"run '{run.path}' has no checkpoint of update {word}; allowed: {', '.join(map(str, steps))}")
    return step


def _load(run: RunDir, name: str) -> dict[str, bytes]:
    try:
        return run.load(name)
    except TornArtefact as error:
        raise UserError(f"run '{run.path}': {error}; allowed: another checkpoint") from error
