"""What samplers must know of the loaded model beside its predictions (`policy.heuristics.resources`).

Shapes: `V` vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from policy.factory import make_swept_heuristic
from policy.heuristics.resources import SecondModel
from rollout_workers.caching import CacheSettings
from rollout_workers.engine import EosPolicy, check_needs
from rollout_workers.models.autoregressive import CausalModel, check_causal, load_causal
from rollout_workers.models.base import ModelError, ModelSpec
from rollout_workers.models.hub import model_folder
from rollout_workers.models.load import DTYPES, FAMILIES
from rollout_workers.models.options import NO_OPTIONS, LoadOptions
from rollout_workers.tokenizer import DllmTokenizer

BACKGROUND = "background.json"
"""In a model's folder: {"counts": {token: how often}} in a background corpus."""


class ModelResources:
    """Ids, token frequencies and causal models for one dLLM; what was loaded once is kept."""

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: DllmTokenizer,
        *,
        name: str = "tiny",
        options: LoadOptions = NO_OPTIONS,
        dtype: str = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        self.eos_ids = tuple(each for each in (spec.eos_id, spec.end_of_turn_id) if each is not None)
        self._spec = spec
        self._device = torch.device(device)
        self._tokenizer = tokenizer
        self._name, self._options, self._dtype = name, options, dtype
        self._frequencies: dict[str, Tensor] = {}
        self._causal: dict[str, CausalModel] = {}

    def token_id(self, text: str) -> int:
        """The id of the one token that is written `text`; ValueError where it is none or several."""
        ids = self._tokenizer.ids_of(text)
        if len(ids) != 1:
            raise ValueError(
                f"delimiter {text!r} is {len(ids)} tokens of model '{self._name}'; allowed: a single token"
            )
        return ids[0]

    def token_frequencies(self, source: str) -> Tensor:
        """`[V]` float64 shares in a background corpus; tokens that do not occur count as if they had occurred once."""
        if source not in self._frequencies:
            path = Path(source) if source else model_folder(self._name, self._options) / BACKGROUND
            self._frequencies[source] = self._read(path, source)
        return self._frequencies[source]

    def _read(self, path: Path, source: str) -> Tensor:
        if not path.is_file():
            wanted = f"background {source!r} is no file" if source else f"model '{self._name}' has no {BACKGROUND}"
            raise ModelError(f"{wanted}; allowed: a JSON file of token counts (sampler pc, parameter background)")
        try:
            counts = {self._id(token): int(count) for token, count in json.loads(path.read_text())["counts"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"background '{path}' cannot be read ({error}); needed: {{\"counts\": {{token: count}}}}"
            ) from error
        total = max(1, sum(counts.values()))
        shares_V = torch.full((self._spec.vocabulary_size,), 1 / total, dtype=torch.float64, device=self._device)
        ids = torch.tensor(list(counts), dtype=torch.int64, device=self._device)
        shares_V[ids] = torch.tensor(list(counts.values()), dtype=torch.float64, device=self._device) / total
        return shares_V

    def _id(self, token: str) -> int:
        found = self._tokenizer.vocabulary().get(token)
        if found is None:
            raise ValueError(f"token {token!r} is not in the model's vocabulary")
        return found

    def second_model(self, name: str) -> SecondModel:
        """The causal model of a folder or hub id."""
        if name not in self._causal:
            self._causal[name] = load_causal(
                name, self._spec, self._tokenizer, dtype=DTYPES[self._dtype], device=str(self._device)
            )
        return self._causal[name]


class CheckedResources(ModelResources):
    """For samplers that are made to see whether they can be: a second model is looked for, and not loaded."""

    def second_model(self, name: str) -> SecondModel:
        check_causal(name, self._tokenizer)
        return _NotLoaded()


class _NotLoaded:
    def log_probs(self, texts: Sequence[Sequence[int]], first: Sequence[int]) -> list[Tensor]:
        raise AssertionError("a sampler that is only checked decodes nothing")


def check_sampler(
    name: str, entry: object, spec: ModelSpec, resources: CheckedResources, *, eos: EosPolicy, cache: CacheSettings
) -> None:
    """Raises a ValueError of one line for a heuristic that cannot decode with this model and these settings."""
    needs = make_swept_heuristic(name, entry, resources=resources).needs
    check_needs(needs, spec, eos=eos, cache=cache)
    if needs.verified and not spec.can_shadow:
        allowed = ", ".join(repr(family.model_type) for family in FAMILIES.values() if not family.is_shifted)
        raise ModelError(
            f"model '{spec.name}' cannot verify tokens that it sees; allowed with {name!r}: models of {allowed}"
        )
