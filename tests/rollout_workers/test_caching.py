"""Decoding with kept keys and values against the one-row oracle.

In a model of one layer keys and values depend on nothing but their own tokens, so a pass that keeps some is a pass over a canvas
that shows, where nothing was computed, the tokens of the last time something was.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from policy.factory import make_heuristic
from policy.observation import Needs
from policy.scope import Scope
from rollout_workers.caching import CacheSettings, check_cache
from rollout_workers.engine import Engine
from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.base import ModelError, Prediction
from tests.fakes.models import HashModel, random_llama
from tests.fakes.policies import lively_policy
from tests.rollout_workers.oracle import Row, Sampler, decode_row
from tests.rollout_workers.test_engine_oracle import Mixed, check_row, random_row, sequence_of

HEURISTICS = (("random", 2), ("low_confidence", 1), ("low_confidence", 3), ("threshold", 0.3), ("threshold", 0.7))


def samplers() -> list[Mixed]:
    found = [Mixed(f"{kind} {value}", Sampler(kind, value), make_heuristic(kind, value)) for kind, value in HEURISTICS]
    unmasker = lively_policy(seed=1, scope="block", initial_logit=-1.0, num_confidences=2)
    return [*found, Mixed("learned", Sampler("learned", network=unmasker.network), unmasker)]


class StaleCanvas:
    """One row's view of a model of one layer whose keys and values are kept."""

    def __init__(self, model: BackboneDLLM, settings: CacheSettings, row: Row) -> None:
        self.spec, self.device = model.spec, model.device
        self._model, self._settings, self._row = model, settings, row
        self._seen: list[int] = []
        self._block, self._age = -1, 0

    def predict(
        self, prompt_BP: Tensor, length_B: Tensor, canvas_BL: Tensor, wanted_BL: Tensor, **options: object
    ) -> Prediction:
        canvas = canvas_BL[0].tolist()
        block = canvas.index(self.spec.mask_id) // self._row.block_length
        refresh = self._settings.refresh
        is_full = block != self._block or (refresh is not None and self._age >= refresh)
        self._age = 1 if is_full else self._age + 1
        self._block = block
        first, last = block * self._row.block_length, (block + 1) * self._row.block_length
        if is_full:
            first, last = 0, len(canvas)
        elif self._settings.mode == "prefix":
            last = len(canvas)
        # A shifted model predicts the block's first token from the one before it, which is computed for that.
        if self._model.is_shifted and first > 0 and wanted_BL[0, first]:
            first -= 1
        self._seen = [canvas[i] if first <= i < last else self._seen[i] for i in range(len(canvas))]
        return self._model.predict(prompt_BP, length_B, torch.tensor([self._seen]), wanted_BL, **options)


@pytest.mark.parametrize("is_shifted", [False, True])
@pytest.mark.parametrize("refresh", [None, 1, 3])
@pytest.mark.parametrize("mode", ["prefix", "dual"])
def test_one_layer_decodes_as_if_the_canvas_were_stale(mode, refresh, is_shifted):
    model = random_llama(seed=3, num_layers=1, is_shifted=is_shifted)
    settings, rng = CacheSettings(mode, refresh), random.Random(f"{mode}{refresh}{is_shifted}")
    *heuristics, learned = samplers()
    for mixed in (rng.choice(heuristics), learned):
        rows = [random_row(rng, length=12, vocabulary_size=24) for _ in range(3)]
        # Without a prompt a shifted model predicts its first two positions from the same state: a tie.
        rows = [replace(row, prompt=row.prompt or (5,)) for row in rows]
        expected = [decode_row(StaleCanvas(model, settings, row), mixed.sampler, row) for row in rows]
        for num_slots in (1, 4):
            order = rng.sample(range(len(rows)), len(rows))
            engine = Engine(model, mixed.unmasker, num_slots=num_slots, cache=settings)
            decoded = engine.decode([sequence_of(rows[i], i) for i in order], record=True)
            for place, i in enumerate(order):
                if not decoded.sequences[place].num_near_ties:
                    check_row(decoded, place, expected[i], f"{mixed.name}, {num_slots} slots, {rows[i]}")


def test_what_is_kept_does_change_decisions():
    model, rng = random_llama(seed=3), random.Random(0)
    rows = [replace(random_row(rng, length=12, vocabulary_size=24), block_length=6) for _ in range(24)]
    outcomes = {}
    for settings in (CacheSettings(), CacheSettings("dual", 1), CacheSettings("dual")):
        engine = Engine(model, make_heuristic("threshold", 0.5), num_slots=5, cache=settings)
        decoded = engine.decode([sequence_of(row, number) for number, row in enumerate(rows)])
        outcomes[settings] = [sequence.tokens_L.tolist() for sequence in decoded.sequences]
    full, always_fresh, kept = outcomes.values()
    assert full == always_fresh, "with a full pass every time nothing is approximate"
    assert full != kept


@pytest.mark.parametrize("mode", ["prefix", "dual"])
def test_a_row_decodes_alone_as_in_any_mix(mode):
    model, rng = random_llama(seed=5, num_layers=3), random.Random(7)
    rows = [random_row(rng, length=12, vocabulary_size=24) for _ in range(15)]
    unmasker, settings = make_heuristic("low_confidence", 2), CacheSettings(mode, 4)
    together = Engine(model, unmasker, num_slots=7, cache=settings).decode(
        [sequence_of(row, number) for number, row in enumerate(rows)]
    )
    for number, row in enumerate(rows):
        alone = Engine(model, unmasker, cache=settings).decode([sequence_of(row)]).sequences[0]
        assert together.sequences[number].tokens_L.tolist() == alone.tokens_L.tolist()
        assert together.sequences[number].order_L.tolist() == alone.order_L.tolist()


@pytest.mark.parametrize(
    ("mode", "needs", "words"),
    [
        ("dual", Needs(scope=Scope.MASKED), "cache is 'dual'; allowed: 'none', 'prefix' with .* scope is 'masked'"),
        ("prefix", Needs(scope=Scope.CANVAS), "cache is 'prefix'; allowed: 'none' with .* scope is 'canvas'"),
        ("prefix", Needs(lookahead=True), "allowed: 'none' with a sampler that"),
        ("dual", Needs(own_blocks=True), "allowed: 'none' with a sampler that"),
    ],
)
def test_what_cannot_keep_anything_is_refused(mode, needs, words):
    with pytest.raises(ValueError, match=words):
        check_cache(CacheSettings(mode), needs, random_llama(seed=0).spec)


def test_a_model_without_a_place_for_them_is_refused():
    with pytest.raises(ModelError, match="model 'fake' keeps no keys and values"):
        Engine(HashModel(), make_heuristic("random", 1), cache=CacheSettings("prefix"))
