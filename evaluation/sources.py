"""Policies to evaluate, from runs and from policy files, with the configuration that they are evaluated under.

A run's configuration is its `config.yaml`; a policy file inside a run's directory has that one too, any other the defaults.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import apply_overrides, build, first_difference, load_yaml, to_dict
from cluster.errors import UserError
from cluster.run_dir import CHECKPOINTS, CONFIG, RunDir, TornArtefact
from cluster.storage import LocalStorage, StorageConfig, open_storage, parse_location
from evaluation.config import PipelineConfig
from policy.config import PolicyConfig
from policy.networks.base import PolicyNetwork
from policy.weights import WeightsError, from_bytes, to_bytes

_POLICY_FILE, _STATE_FILE = "policy.safetensors", "state.json"
_PLACE_KEYS = (
    "run_dir",
    "storage",
    "trajectories",
    "rollout",
    "evaluation",
    "ray_address",
    "learner",
    "checkpoint",
    "policy",
    "seed",
)
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


@dataclass(frozen=True, slots=True)
class Source:
    """A run's directory or a policy file."""

    uri: str
    path: Path
    """Where it is, or a copy of what is read of it."""

    @property
    def run(self) -> RunDir:
        return RunDir(self.path, location=self.uri)

    @property
    def is_run(self) -> bool:
        return self.run.config_path.is_file()

    @property
    def home(self) -> str | None:
        """The run that it is, or that its file lies in; None of a file apart."""
        if self.is_run:
            return self.uri
        folder = self.surrounding_run()
        return None if folder is None else str(folder)

    def surrounding_run(self) -> Path | None:
        """The run's directory around a local policy file."""
        folders = self.path.resolve().parents[:3]
        return next((folder for folder in folders if RunDir(folder).config_path.is_file()), None)


def fetch(uris: Sequence[str], overrides: Sequence[str], scratch: Path) -> list[Source]:
    """The sources at `uris`; of those in an object store what is read is copied below `scratch`."""
    storage = build(StorageConfig, apply_overrides({}, overrides).get("storage", {}), where="storage")
    return [_fetch(uri, storage, scratch / str(number)) for number, uri in enumerate(uris)]


def _fetch(uri: str, storage: StorageConfig, scratch: Path) -> Source:
    if isinstance(parse_location(uri, what="source"), Path):
        return Source(uri, Path(uri).expanduser())
    is_file = uri.endswith(".safetensors")
    folder, _, name = uri.rpartition("/") if is_file else (uri, "", "")
    remote, local = open_storage(folder, storage), LocalStorage(scratch)
    prefixes = (name,) if is_file else (CONFIG, _POLICY_FILE, f"{CHECKPOINTS}/")
    for prefix in prefixes:
        for key in remote.list(prefix):
            local.write(key, remote.read(key))
    return Source(uri, scratch / name if is_file else scratch)


def read_config(sources: Sequence[Source], overrides: Sequence[str]) -> PipelineConfig:
    """The configuration of all sources, which must agree on model, task and decoding, with overrides laid over it."""
    chosen: dict[str, Any] = {}
    first: Source | None = None
    for source in sources:
        found = _config_of(source)
        if first is not None and (difference := first_difference(_comparable(chosen), _comparable(found))):
            raise UserError(
                f"'{first.uri}' and '{source.uri}' were trained under other settings: {difference}; "
                "allowed: runs that differ in training alone, or one evaluation for each"
            )
        if first is None:
            chosen, first = found, source
    # A run tries these on its validation split, and the policy file holds the best; none is chosen by test problems.
    chosen = chosen | {
        "evaluation": {k: v for k, v in chosen.get("evaluation", {}).items() if k != "policy_temperatures"}
    }
    known = {field.name for field in dataclasses.fields(PipelineConfig)}
    return build(PipelineConfig, apply_overrides({key: chosen[key] for key in chosen if key in known}, overrides))


def read_policies(
    sources: Sequence[Source], checkpoints: str | None, *, distribution: str | None = None
) -> list[Policy]:
    """The policies at `sources`; of a run those that `checkpoints` names, or without it the run's product or its best."""
    policies: list[Policy] = []
    for source in sources:
        if not source.is_run:
            policies.append(_policy(Path(source.uri).stem, source.uri, source.path.read_bytes(), distribution))
            continue
        prefix = f"{Path(source.uri).name} " if len(sources) > 1 else ""
        files = _of_run(source, checkpoints)
        mine = [_policy(prefix + name, where, data, distribution) for name, where, data in files]
        _check_architecture(source, mine, distribution)
        policies += mine
    # One file under two names is decoded once.
    return _distinguished(list({policy.version: policy for policy in reversed(policies)}.values())[::-1])


def _distinguished(policies: list[Policy]) -> list[Policy]:
    """Policies of one name with a piece of their digest in it, so that tables and plots tell them apart."""
    counts = Counter(policy.name.partition("@")[0] for policy in policies)
    return [
        dataclasses.replace(policy, name=f"{name} {digest[:4]}@{digest}") if counts[name] > 1 else policy
        for policy in policies
        for name, _, digest in [policy.name.partition("@")]
    ]


def _check_architecture(source: Source, policies: Sequence[Policy], distribution: str | None) -> None:
    """Refuses a policy in a run's directory that is of another architecture than the run's."""
    loose = {"policy_temperature", "backbone", *(["distribution", "top_k"] if distribution is not None else [])}
    settings = load_yaml(source.run.config_path).get("policy", {})
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


def _config_of(source: Source) -> dict[str, Any]:
    if source.is_run:
        return load_yaml(source.run.config_path)
    if not source.path.is_file():
        raise UserError(
            f"'{source.uri}' is neither a run's directory nor a policy file; allowed: RUN, or FILE.safetensors"
        )
    folder = source.surrounding_run()
    return load_yaml(RunDir(folder).config_path) if folder is not None else {}


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _PLACE_KEYS}


def _of_run(source: Source, checkpoints: str | None) -> list[tuple[str, str, bytes]]:
    """(name, place, policy file) of the checkpoints asked for."""
    run = source.run
    product = run.path / _POLICY_FILE
    if checkpoints is None and product.is_file():
        return [("policy", f"{source.uri}/{_POLICY_FILE}", product.read_bytes())]
    names = run.published("checkpoints")
    if not names:
        raise UserError(f"run '{source.uri}' has no checkpoint; allowed: a run that has saved one")
    steps = {int(name.rpartition("-")[2]): name for name in names}
    found = []
    for step in dict.fromkeys(
        step for word in (checkpoints or "best").split(",") for step in _steps(run, word.strip(), steps)
    ):
        files = _load(run, steps[step])
        found.append(
            (steps[step].rpartition("/")[2], f"{source.uri}/{steps[step]}/{_POLICY_FILE}", files[_POLICY_FILE])
        )
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
        raise UserError(
            f"run '{run.location}' has no checkpoint of update {word}; allowed: {', '.join(map(str, steps))}"
        )
    return step


def _load(run: RunDir, name: str) -> dict[str, bytes]:
    try:
        return run.load(name)
    except TornArtefact as error:
        raise UserError(f"run '{run.location}': {error}; allowed: another checkpoint") from error
