"""Arms: one sampler at one setting. `Arm` itself is the identity; nothing else decides whether two decoded rows belong together.

Parameters are carried as canonical JSON (sorted keys, whole numbers without a fraction), so that equal settings are equal text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import UserError
from evaluation.config import EvaluationConfig
from policy.factory import EXPERTS, canonical_name, heuristic_kind, heuristic_parameters, whole_numbers
from policy.inference import InferenceConfig
from rollout_workers.caching import CacheSettings
from rollout_workers.config import DecodeConfig, ModelConfig, check_block_length
from rollout_workers.lease import UnmaskerSpec
from rollout_workers.models.base import ModelSpec
from rollout_workers.models.load import load_tokenizer
from rollout_workers.resources import CheckedResources, check_sampler

LEARNED = "learned"
TEMPERATURE = "policy_temperature"


@dataclass(frozen=True, slots=True, order=True)
class Arm:
    """One sampler at one setting."""

    sampler: str
    parameters: str
    """Canonical JSON of a mapping (`canonical_parameters`); of a learned policy what differs from how it was trained."""
    block_length: int
    policy: str = ""
    """Of a learned policy: which one, where there are several; it names the weights."""
    is_random: bool = field(default=False, compare=False)

    @property
    def values(self) -> dict[str, Any]:
        """The parameters by name."""
        values: dict[str, Any] = json.loads(self.parameters)
        return values

    @property
    def is_learned(self) -> bool:
        return self.sampler == LEARNED

    @property
    def label(self) -> str:
        """For tables and plots, for instance `threshold 0.9` or `learned step-90, T = 0.5`; the block length is not in it."""
        values = self.values
        if self.is_learned:
            name = f"{LEARNED} {self.policy.partition('@')[0]}".rstrip()
            shown = [f"{'T' if key == TEMPERATURE else key} = {_shown(value)}" for key, value in values.items()]
            return ", ".join([name, *shown])
        if len(values) == 1:
            return f"{self.sampler} {_shown(*values.values())}"
        return " ".join([self.sampler, *(f"{key}={_shown(value)}" for key, value in values.items())])


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def canonical_parameters(values: Mapping[str, Any]) -> str:
    """The JSON text of `values` that is equal for equal settings."""
    plain = {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in values.items()}
    return json.dumps(plain, sort_keys=True)


def heuristic_arm(name: str, entry: object, block_length: int) -> Arm:
    """The heuristic `name` at a configuration entry: its swept parameter, and the others that are not at their defaults."""
    values = heuristic_parameters(name, whole_numbers(entry))
    base = canonical_name(name, whole_numbers(entry)).partition("(")[0]
    return Arm(base, canonical_parameters(values), block_length, is_random=heuristic_kind(name).is_random)


def heuristic_arms(config: EvaluationConfig, canvas_length: int, *, key: str = "evaluation") -> list[Arm]:
    """Every heuristic at every parameter and block length; bad names, values and blocks are UserErrors."""
    blocks = config.block_lengths or halves(canvas_length)
    for block in blocks:
        check_block_length(block, canvas_length, f"{key}.block_lengths")
    arms: list[Arm] = []
    for name, entries in config.heuristics.items():
        for entry in entries:
            check_heuristic(name, entry, f"{key}.heuristics.{name}")
            arms.extend(heuristic_arm(name, entry, block) for block in blocks)
    return list(dict.fromkeys(arms))


def check_arms(
    arms: Sequence[Arm], config: ModelConfig, spec: ModelSpec, decode: DecodeConfig, *, key: str = "evaluation"
) -> None:
    """Refuses heuristics that cannot decode with this model and these settings, whatever files and models they ask for."""
    tokenizer = load_tokenizer(config.name, config.options)
    resources = CheckedResources(spec, tokenizer, name=config.name, options=config.options, dtype=config.dtype)
    cache = CacheSettings(decode.cache, decode.cache_refresh)
    for arm in {(arm.sampler, arm.parameters): arm for arm in arms if not arm.is_learned}.values():
        try:
            check_sampler(arm.sampler, arm.values, spec, resources, eos=decode.eos, cache=cache)
        except ValueError as error:
            raise UserError(f"config key '{key}.heuristics.{arm.sampler}': {error}") from error


def check_cached(arms: Sequence[Arm], decode: DecodeConfig) -> None:
    """Refuses heuristics that do not decode where keys and values are kept."""
    for arm in arms:
        if decode.cache != "none" and not arm.is_learned and not heuristic_kind(arm.sampler).is_expert:
            raise UserError(
                f"config key 'evaluation.heuristics' has {arm.sampler!r}; "
                f"allowed with decode.cache={decode.cache}: {', '.join(EXPERTS)}"
            )


def check_heuristic(name: str, entry: object, key: str) -> None:
    """Raises a UserError that names the config key for a heuristic or parameter that there is not."""
    try:
        heuristic_parameters(name, whole_numbers(entry))
    except ValueError as error:
        raise UserError(f"config key '{key}': {error}") from error


def halves(canvas_length: int) -> tuple[int, ...]:
    """The canvas length, its half, its quarter, ... as long as these come out even and are no shorter than 4."""
    blocks = [canvas_length]
    while blocks[-1] % 2 == 0 and blocks[-1] // 2 >= 4:
        blocks.append(blocks[-1] // 2)
    return tuple(blocks)


def learned_arm(
    block_length: int,
    temperature: float | None = None,
    *,
    policy: str = "",
    inference: InferenceConfig | None = None,
) -> Arm:
    """A trained policy at a policy temperature (None: as trained), decoded in blocks of `block_length`."""
    values: dict[str, Any] = {} if temperature is None else {TEMPERATURE: temperature}
    if inference is not None and inference.selection != "draw":
        values["selection"] = inference.selection
    if inference is not None and inference.prob_scale != 1.0:
        values["prob_scale"] = inference.prob_scale
    if inference is not None and inference.forced_argmax:
        values["forced_argmax"] = True
    is_random = inference is None or inference.draws
    return Arm(LEARNED, canonical_parameters(values), block_length, policy, is_random=is_random)


def temperature_of(arm: Arm) -> float | None:
    """The policy temperature of a learned arm; None for the one that it was trained at."""
    temperature: float | None = arm.values.get(TEMPERATURE)
    return temperature


def unmasker_of(arm: Arm, *, weight_version: int, inference: InferenceConfig) -> UnmaskerSpec:
    """What a rollout actor builds for `arm`; a heuristic depends on no weights, so neither may its noise."""
    if arm.is_learned:
        return UnmaskerSpec(parameter=temperature_of(arm), weight_version=weight_version, inference=inference)
    return UnmaskerSpec(heuristic=arm.sampler, parameter=arm.values, inference=inference)
