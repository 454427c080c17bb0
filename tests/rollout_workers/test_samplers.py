"""Every sampler against its one-row-at-a-time version: same tokens, order, NFE and status, in any mix."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from policy.factory import HEURISTICS, make_heuristic
from rollout_workers.engine import Decoded, Engine, Step
from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.base import FrozenDLLM
from rollout_workers.trace import Tracer
from tests.fakes.models import EOS_ID, MASK_ID, HashModel, SpyModel, random_llama
from tests.fakes.second_device import DEVICE, second_device
from tests.rollout_workers import sampler_oracles as oracle
from tests.rollout_workers.oracle import Row
from tests.rollout_workers.test_engine_oracle import random_row, sequence_of

DELIMITER_ID = 7
VOCABULARY = 24
FREQUENCIES = [(1 + i * 7 % 23) / 300 for i in range(VOCABULARY)]


class CausalHash:
    """A causal model: the hash of what stands before."""

    def __init__(self) -> None:
        self._model = HashModel(eos_bonus=0.0)
        self.num_texts = 0

    def log_probs(self, texts: list[list[int]], first: list[int]) -> list[Tensor]:
        self.num_texts += len(texts)
        return [
            torch.stack([self.next(text[:i]) for i in range(start, len(text))])
            for text, start in zip(texts, first, strict=True)
        ]

    def next(self, before: list[int]) -> Tensor:
        one = torch.ones(1, 1, dtype=torch.bool)
        prompt, length = torch.tensor([before], dtype=torch.int64), torch.tensor([len(before)])
        seen = self._model.predict(prompt, length, torch.tensor([[MASK_ID]]), one, with_log_probs=True)
        assert seen.log_probs_NV is not None
        return seen.log_probs_NV[0]


class Facts:
    """What samplers know of the hash model."""

    eos_ids = (EOS_ID, 5)

    def __init__(self) -> None:
        self.causal = CausalHash()

    def token_id(self, text: str) -> int:
        return {".": DELIMITER_ID}[text]

    def token_frequencies(self, source: str) -> Tensor:
        return torch.tensor(FREQUENCIES)

    def second_model(self, name: str) -> CausalHash:
        return self.causal


def apd(view: oracle.Pass, ratio: float, lookahead: int, causal: CausalHash) -> oracle.Chosen:
    candidates = view.eligible[:lookahead]
    accepted = candidates[:1]
    if len(candidates) > 1:
        view.extra += 1
    for i in candidates[1:]:
        canvas = [view.seen[j].token if j in view.eligible else view.canvas[j] for j in range(i)]
        other = causal.next([*view.row.prompt, *canvas]).tolist()
        pairs = zip(view.seen[i].log_probs, other, strict=True)
        product = [ratio * a + (1 - ratio) * b if a > -1e9 else -1e99 for a, b in pairs]
        if product.index(max(product)) != view.seen[i].token:
            break
        accepted.append(i)
    return oracle.take(view, accepted)


@dataclass
class Case:
    """One sampler at one setting, as the registry and as the oracle know it."""

    name: str
    entry: dict[str, Any]
    rule: Any
    known: dict[str, Any] = field(default_factory=dict)
    """What the rule is told that the entry says otherwise or not at all."""
    banned: tuple[int, ...] = ()
    sharpness: float = 2.0

    @property
    def label(self) -> str:
        return f"{self.name} {self.entry}"

    def parameters(self) -> dict[str, Any]:
        given = {each.name: each.default for each in HEURISTICS[self.name].parameters} | self.entry
        unknown = ("eos", "delimiter", "background", "model")
        return {key: value for key, value in given.items() if key not in unknown} | self.known


FACTS = Facts()
CASES = [
    *(Case("random", {"k": k}, oracle.random) for k in (1, 3)),
    Case("low_confidence", {"k": 2}, oracle.low_confidence),
    Case("margin", {"k": 2}, oracle.margin),
    Case("entropy", {"k": 3}, oracle.entropy),
    Case("left_to_right", {"k": 2}, oracle.left_to_right),
    *(Case("threshold", {"tau": tau}, oracle.threshold) for tau in (0.0, 0.4, 0.9)),
    *(Case("factor", {"factor": factor}, oracle.factor) for factor in (0.5, 1.5)),
    *(
        Case(f"eb_{proxy}", {"gamma": gamma}, oracle.eb, {"proxy": proxy}, sharpness=4.0)
        for proxy in ("entropy", "confidence", "margin")
        for gamma in (0.0, 0.3, 2.0)
    ),
    *(Case("dus", {"base": base}, oracle.dus) for base in (2, 3)),
    *(Case("hierarchical", {"tau": tau, "low": low}, oracle.hierarchical) for tau, low in ((0.6, 0.3), (0.9, 0.1))),
    *(Case("credit", {"tau": tau, "alpha": alpha}, oracle.credit) for tau, alpha in ((0.5, 0.7), (0.7, 3.0))),
    *(
        Case("klass", {"tau": tau, "kl": kl, "history": history, "k": k}, oracle.klass)
        for tau, kl, history, k in ((0.3, 2.0, 1, 1), (0.2, 3.0, 2, 2), (0.1, 5.0, 3, 1), (0.9, 0.01, 2, 1))
    ),
    *(
        Case("pc", {"k": k, "decay": decay}, oracle.pc, {"frequency": FREQUENCIES})
        for k, decay in ((1, 0.25), (2, 0.0), (3, 1.0))
    ),
    *(
        Case(
            "adablock",
            {"tau": tau, "delimiter_tau": at, "delimiter": "."},
            oracle.adablock,
            {"delimiter_id": DELIMITER_ID},
        )
        for tau, at in ((0.4, 0.05), (0.6, 0.3), (0.0, 0.0))
    ),
    *(
        Case("info_gain", {"tau": tau, "candidates": num}, oracle.info_gain, sharpness=3.0)
        for tau, num in ((0.8, 4), (0.3, 3), (1.0, 1))
    ),
    *(Case("smc", {"tau": tau, "particles": num}, oracle.smc) for tau, num in ((0.5, 3), (0.2, 4), (0.9, 1))),
    *(
        Case("wino", {"tau": tau, "tau_back": back}, oracle.wino, sharpness=3.0)
        for tau, back in ((0.3, 0.9), (0.1, 1.0), (0.6, 0.2), (0.0, 0.5))
    ),
    *(
        Case(
            "apd", {"ratio": ratio, "lookahead": ahead, "model": "causal"}, apd, {"causal": FACTS.causal}, sharpness=4.0
        )
        for ratio, ahead in ((0.9, 100), (1.0, 3), (0.7, 4), (0.0, 100))
    ),
    *(
        Case(name, {**entry, "eos": "last"}, partial(oracle.eos_last, rule=rule, eos_ids=Facts.eos_ids), known)
        for name, entry, rule, known in (
            ("threshold", {"tau": 0.5}, oracle.threshold, {}),
            ("low_confidence", {"k": 2}, oracle.low_confidence, {}),
            ("eb_margin", {"gamma": 1.0}, oracle.eb, {"proxy": "margin"}),
            ("hierarchical", {}, oracle.hierarchical, {}),
        )
    ),
    Case("threshold", {"tau": 0.5, "eos": "never"}, oracle.threshold, banned=(EOS_ID,)),
    Case("info_gain", {"candidates": 3, "eos": "never"}, oracle.info_gain, banned=(EOS_ID,)),
]


def decoded_by(case: Case, rows: list[Row], *, num_slots: int, model: FrozenDLLM | None = None) -> Decoded:
    unmasker = make_heuristic(case.name, case.entry, resources=FACTS)
    engine = Engine(model or HashModel(sharpness=case.sharpness), unmasker, num_slots=num_slots)
    return engine.decode([sequence_of(row, number) for number, row in enumerate(rows)])


def test_every_sampler_has_a_case() -> None:
    assert {case.name for case in CASES} == set(HEURISTICS)


def check(case: Case, rng: random.Random, *, length: int, num_rows: int, slots: tuple[int, ...]) -> None:
    """Rows of one canvas length against the oracle, in another order at each number of slots.

    Where the sampler itself says that a comparison was too close to call, the row may go the other way.
    """
    model = HashModel(sharpness=case.sharpness)
    rows = [random_row(rng, length=length, vocabulary_size=VOCABULARY) for _ in range(num_rows)]
    expected = [oracle.decode_with(model, case.rule, row, banned=case.banned, **case.parameters()) for row in rows]
    for num_slots in slots:
        arrival = rng.sample(range(len(rows)), len(rows))
        decoded = decoded_by(case, [rows[i] for i in arrival], num_slots=num_slots)
        for sequence, i in zip(decoded.sequences, arrival, strict=True):
            where = f"{num_slots} slots, {rows[i]}"
            if sequence.num_near_ties and sequence.tokens_L.tolist() != expected[i].tokens:
                continue
            assert sequence.tokens_L.tolist() == expected[i].tokens, where
            assert sequence.order_L.tolist() == expected[i].order, where
            assert (sequence.nfe, sequence.status) == (expected[i].nfe, expected[i].status), where


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_a_sampler_decodes_as_its_oracle_says_in_every_mix(case: Case) -> None:
    rng = random.Random(case.label)
    check(case, rng, length=12, num_rows=4, slots=(1, 3))
    check(case, rng, length=16, num_rows=2, slots=(2,))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.sampled_from(CASES), st.integers(0, 10**9), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9))
def test_hundreds_of_mixes(case: Case, seed: int, length: int, num_rows: int, num_slots: int) -> None:
    check(case, random.Random(seed), length=length, num_rows=num_rows, slots=(num_slots,))


def full(length: int, block: int, key: int = 3) -> Row:
    return Row((5, 9), (MASK_ID,) * length, block, key)


def nfe_of(name: str, entry: dict[str, Any], row: Row, *, sharpness: float = 2.0) -> int:
    sequence = decoded_by(Case(name, entry, None, sharpness=sharpness), [row], num_slots=1).sequences[0]
    assert sequence.status == "clean"
    return sequence.nfe


@pytest.mark.parametrize("name", ["eb_entropy", "eb_confidence", "eb_margin"])
def test_without_allowed_entropy_one_token_is_committed_per_pass(name: str) -> None:
    assert nfe_of(name, {"gamma": 0.0}, full(16, 8)) == 16
    assert nfe_of(name, {"gamma": 1e-9}, full(16, 16)) == 16
    assert nfe_of(name, {"gamma": 1e9}, full(16, 8)) == 2


def test_limits_of_the_rules_give_one_token_or_one_block_per_pass() -> None:
    assert nfe_of("factor", {"factor": 1e-9}, full(16, 8)) == 16
    assert nfe_of("threshold", {"tau": 0.0}, full(24, 6)) == 4
    assert nfe_of("threshold", {"tau": 1.0}, full(24, 6)) == 24
    assert nfe_of("hierarchical", {"tau": 0.0, "low": 0.0}, full(24, 6)) == 4
    assert nfe_of("credit", {"tau": 0.0}, full(24, 6)) == 4
    assert nfe_of("apd", {"ratio": 1.0, "model": "causal"}, full(24, 6)) == 4 * 2
    assert nfe_of("info_gain", {"tau": 0.0}, full(24, 6)) == 4
    # A divergence that is always small and a confidence that is always enough: after one pass of its own a block is done.
    assert nfe_of("klass", {"tau": 0.0, "kl": 1e9, "history": 2}, full(24, 6)) == 2 + 1 + 3 * 2


def test_the_dilated_schedule_of_eight() -> None:
    decoded = decoded_by(Case("dus", {}, None), [full(16, 8)], num_slots=1).sequences[0]
    assert decoded.order_L.tolist() == [1, 3, 2, 3, 1, 3, 2, 3, 4, 6, 5, 6, 4, 6, 5, 6]


def test_wino_masks_tokens_again_and_ends_within_one_decision_per_position() -> None:
    watched = Watch()
    unmasker = make_heuristic("wino", {"tau": 0.0, "tau_back": 1.0})
    engine = Engine(HashModel(), unmasker, num_slots=4)
    rows = [sequence_of(full(24, block, key)) for key, block in enumerate((24, 12, 8, 6, 4, 3, 2, 1))]
    decoded = engine.decode(rows, tracer=watched)
    assert {sequence.status for sequence in decoded.sequences} == {"clean"}
    assert all(sequence.nfe <= 24 for sequence in decoded.sequences)
    assert watched.num_remasked > 20


def test_given_tokens_are_never_revised() -> None:
    given_ids = (9, MASK_ID, 11, MASK_ID, MASK_ID, 3, MASK_ID, MASK_ID)
    for name, entry in (("wino", {"tau": 0.0, "tau_back": 1.0}), ("smc", {"tau": 0.2}), ("threshold", {"tau": 0.3})):
        tokens = decoded_by(Case(name, entry, None), [Row((), given_ids, 8, 4)], num_slots=1).sequences[0].tokens_L
        assert [tokens[i] for i in (0, 2, 5)] == [9, 11, 3]


class Watch:
    """Counts what a decode masks again."""

    num_remasked = 0

    def observe(self, step: Step) -> None:
        remask_BL = step.decision.remask_BL
        self.num_remasked += 0 if remask_BL is None else int(remask_BL.sum())


def test_passes_ahead_count_in_nfe_and_in_the_work_done() -> None:
    spy = SpyModel(HashModel(sharpness=3.0))
    for name, entry in (("info_gain", {"tau": 1.0, "candidates": 4}), ("smc", {"tau": 0.5, "particles": 3})):
        spy.calls.clear()
        rows = [full(12, block, key) for key, block in enumerate((12, 6, 4))]
        decoded = decoded_by(Case(name, entry, None), rows, num_slots=2, model=spy)
        num_canvases = sum(len(call.canvas_BL) for call in spy.calls)
        assert sum(sequence.nfe for sequence in decoded.sequences) == num_canvases == decoded.stats.num_row_forwards
        assert decoded.stats.num_row_forwards > 1.5 * sum(12 for _ in rows) or name == "smc"


def test_a_traced_decision_says_how_many_passes_led_to_it() -> None:
    sequence = sequence_of(full(12, 6, 3))
    tracer = Tracer([sequence])
    Engine(HashModel(sharpness=3.0), make_heuristic("info_gain", {"tau": 1.0, "candidates": 4})).decode(
        [sequence], tracer=tracer
    )
    numbers = [each.nfe for each in tracer.passes(sequence)]
    assert numbers[-1] == sequence.nfe > len(numbers)
    committed = [max(sequence.order_L[each.commit_L]) for each in tracer.passes(sequence)]
    assert numbers == committed, "as in the order of unmasking"


def test_canvases_of_one_look_ahead_are_one_serial_pass() -> None:
    sequence = sequence_of(full(12, 6, 3))
    Engine(HashModel(sharpness=3.0), make_heuristic("info_gain", {"tau": 1.0, "candidates": 4})).decode([sequence])
    num_decisions = len({number for number in sequence.order_L})
    assert num_decisions < sequence.num_serial <= 2 * num_decisions < sequence.nfe
    plain = sequence_of(full(12, 6, 3))
    Engine(HashModel(sharpness=3.0), make_heuristic("threshold", 0.9)).decode([plain])
    assert plain.num_serial == plain.nfe


def test_a_causal_pass_counts_too() -> None:
    facts = Facts()
    unmasker = make_heuristic("apd", {"ratio": 0.9, "model": "causal"}, resources=facts)
    spy = SpyModel(HashModel(sharpness=4.0))
    decoded = Engine(spy, unmasker, num_slots=4).decode([sequence_of(full(12, 6, key)) for key in range(5)])
    num_rows = sum(len(call.canvas_BL) for call in spy.calls)
    assert sum(sequence.nfe for sequence in decoded.sequences) == num_rows + facts.causal.num_texts
    assert facts.causal.num_texts > 5


def test_several_canvases_per_row_do_not_go_with_stopping_at_the_end_of_text() -> None:
    with pytest.raises(ValueError, match=r"eos is 'stop'; allowed: 'full'"):
        Engine(HashModel(), make_heuristic("smc", {}), eos="stop")


def test_the_end_of_text_comes_last_or_never() -> None:
    rows = [full(16, 16, key) for key in range(12)]
    num_ends = {}
    for eos in ("allow", "last", "never"):
        decoded = decoded_by(Case("threshold", {"tau": 0.3, "eos": eos}, None), rows, num_slots=5)
        num_ends[eos] = sum(sequence.tokens_L.tolist().count(EOS_ID) for sequence in decoded.sequences)
    assert num_ends["allow"] > 2 * num_ends["last"]
    assert num_ends["never"] == 0
    # Where the model sees nothing but the end, it is committed all the same.
    certain = HashModel(eos_bonus=100.0)
    for eos in ("allow", "last"):
        case = Case("threshold", {"tau": 0.3, "eos": eos}, None)
        sequence = decoded_by(case, [full(6, 6)], num_slots=1, model=certain).sequences[0]
        assert sequence.tokens_L.tolist() == [EOS_ID] * 6
        assert sequence.nfe == (1 if eos == "allow" else 6)


class FactsThere(Facts):
    """The same facts on the second device."""

    def token_frequencies(self, source: str) -> Tensor:
        return super().token_frequencies(source).to(DEVICE)

    def second_model(self, name: str) -> CausalHash:
        here = super().second_model(name)
        there = CausalHash()
        there.log_probs = lambda *given: [each.to(DEVICE) for each in here.log_probs(*given)]
        return there


@pytest.mark.parametrize("case", {case.name: case for case in CASES}.values(), ids=lambda case: case.name)
def test_no_sampler_mixes_its_device_with_the_host(case: Case) -> None:
    rows = [Row([5, 6, 7, 8][: 1 + number], [MASK_ID] * 8, 4, key=number) for number in range(3)]

    def decode(model: BackboneDLLM, facts: Facts) -> list[tuple[int, list[int], list[int]]]:
        model.spec = replace(model.spec, can_shadow=True)
        engine = Engine(model, make_heuristic(case.name, case.entry, resources=facts), num_slots=2)
        decoded = engine.decode([sequence_of(row, number) for number, row in enumerate(rows)])
        return [(row.nfe, row.tokens_L.tolist(), row.order_L.tolist()) for row in decoded.sequences]

    expected = decode(random_llama(seed=2), FACTS)
    with second_device():
        model = random_llama(seed=2)
        found = decode(BackboneDLLM(model.model.to(DEVICE), model.spec), FactsThere())
    assert found == expected
