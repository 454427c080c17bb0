"""Properties of the engine that hold for every model, unmasker and mix of rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.metrics import TimeStates
from policy.config import BackboneShape
from policy.factory import make_heuristic
from policy.learned import score_steps
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import Decision
from rollout_workers.engine import FORWARD, POLICY, SCHEDULING, Decoded, Engine
from rollout_workers.models.load import load_model
from rollout_workers.sequence import NEVER, Sequence, SequenceStatus
from tests.fakes.models import EOS_ID, MASK_ID, HashModel, SpyModel, small_spec
from tests.fakes.policies import lively_policy

LENGTH = 12
BLOCKS = (1, 2, 3, 4, 6, 12)
quick = settings(max_examples=settings.default.max_examples // 3, derandomize=True)


def make_sequence(prompt: list[int], canvas: list[int], block: int, key: int = 0, limit: int | None = None) -> Sequence:
    return Sequence("x/test/0", prompt, canvas, block, key, step_limit=limit)


tokens = st.integers(3, 23)
canvases = st.lists(st.one_of(st.just(MASK_ID), st.just(MASK_ID), tokens), min_size=LENGTH, max_size=LENGTH)
rows = st.builds(
    make_sequence, st.lists(tokens, max_size=6), canvases, st.sampled_from(BLOCKS), st.integers(-(2**63), 2**63 - 1)
)
mixes = st.lists(rows, min_size=1, max_size=7)
slots = st.sampled_from((1, 2, 3, 8))
POLICIES = [
    lively_policy(seed=seed, scope=scope, num_confidences=1 + seed, initial_logit=-1.0)
    for seed, scope in enumerate(Scope)
]
unmaskers = st.one_of(
    st.builds(make_heuristic, st.sampled_from(("random", "low_confidence")), st.integers(1, 5)),
    st.builds(make_heuristic, st.just("threshold"), st.floats(0, 1)),
    st.sampled_from(POLICIES),
)


def decode(sequences: list[Sequence], unmasker: object, *, num_slots: int = 8, **options: object) -> Decoded:
    model = options.pop("model", None) or HashModel(eos_bonus=0.0)
    return Engine(model, unmasker, num_slots=num_slots, **options).decode(sequences, record=True)


def steps_of(decoded: Decoded, row: int):
    return decoded.steps.select(slice(decoded.offsets[row], decoded.offsets[row + 1]))


def num_masks(sequence: Sequence) -> int:
    return sequence.canvas_ids.count(MASK_ID)


@quick
@given(mixes, unmaskers, slots, st.sampled_from((0.0, 1.0)))
def test_rows_end_clean_and_nothing_given_or_committed_ever_changes(sequences, unmasker, num_slots, temperature):
    decoded = decode(sequences, unmasker, num_slots=num_slots, token_temperature=temperature)
    for row, sequence in enumerate(decoded.sequences):
        assert sequence.status is SequenceStatus.CLEAN
        assert MASK_ID not in sequence.tokens_L
        given_L = np.array(sequence.canvas_ids) != MASK_ID
        assert (sequence.tokens_L[given_L] == np.array(sequence.canvas_ids)[given_L]).all()
        assert (sequence.order_L[given_L] == 0).all()
        assert (sequence.order_L[~given_L] >= 1).all()
        assert decoded.offsets[row + 1] - decoded.offsets[row] == sequence.nfe
        assert sequence.nfe <= num_masks(sequence)
        assert sequence.order_L.max(initial=0) == sequence.nfe
    assert decoded.stats.num_row_forwards == sum(sequence.nfe for sequence in decoded.sequences)


@quick
@given(mixes, unmaskers, slots)
def test_only_the_block_of_the_leftmost_mask_is_eligible_and_only_eligible_positions_commit(
    sequences, unmasker, num_slots
):
    decoded = decode(sequences, unmasker, num_slots=num_slots)
    for row, sequence in enumerate(decoded.sequences):
        if not sequence.nfe:
            continue
        steps = steps_of(decoded, row)
        masked_L = np.array(sequence.canvas_ids) == MASK_ID
        for n in range(len(steps)):
            assert (steps.masked_NL[n] == masked_L).all()
            block = int(masked_L.argmax()) // sequence.block_length
            window_L = np.arange(LENGTH) // sequence.block_length == block
            assert (steps.eligible_NL[n] == (masked_L & window_L)).all()
            assert not (steps.committed_NL[n] & ~steps.eligible_NL[n]).any()
            assert steps.committed_NL[n].any()
            masked_L = masked_L & ~steps.committed_NL[n]
        assert not masked_L.any()
        np.testing.assert_array_equal(steps.time_N, np.arange(sequence.nfe, dtype=np.float32) / np.float32(LENGTH))


@quick
@given(mixes, unmaskers)
def test_positions_that_were_not_asked_for_report_a_confidence_of_one(sequences, unmasker):
    decoded = decode(sequences, unmasker)
    if decoded.steps is None:
        return
    steps, scope = decoded.steps, unmasker.needs.scope
    wanted_NL = {Scope.BLOCK: steps.eligible_NL, Scope.MASKED: steps.masked_NL}.get(
        scope, np.ones_like(steps.masked_NL)
    )
    rest = steps.confidences_NLK[~wanted_NL]
    assert (rest[:, 0] == 1).all()
    assert (rest[:, 1:] == 0).all()
    asked = steps.confidences_NLK[wanted_NL]
    assert ((asked[:, 0] < 1) & (asked[:, 0] > 0)).all()
    assert (np.diff(asked, axis=1) <= 0).all()


@quick
@given(mixes, unmaskers, slots)
def test_a_row_alone_decodes_as_in_any_mix(sequences, unmasker, num_slots):
    copies = [make_sequence(s.prompt_ids, s.canvas_ids, s.block_length, s.key) for s in sequences]
    together = decode(sequences, unmasker, num_slots=num_slots)
    for row, copy in enumerate(copies):
        alone = decode([copy], unmasker)
        mixed, lone = together.sequences[row], alone.sequences[0]
        if unmasker in POLICIES and mixed.num_near_ties:
            continue
        assert mixed.tokens_L.tolist() == lone.tokens_L.tolist()
        assert mixed.order_L.tolist() == lone.order_L.tolist()
        assert (mixed.nfe, mixed.status) == (lone.nfe, lone.status)
        if lone.nfe:
            ours, theirs = steps_of(together, row), alone.steps
            np.testing.assert_array_equal(ours.flags_NL, theirs.flags_NL)
            np.testing.assert_array_equal(ours.confidences_NLK, theirs.confidences_NLK)
            np.testing.assert_allclose(ours.log_prob_N, theirs.log_prob_N, atol=1e-5)


@quick
@given(mixes, slots)
def test_one_most_confident_token_per_pass_takes_one_pass_per_mask(sequences, num_slots):
    for sequence in decode(sequences, make_heuristic("low_confidence", 1), num_slots=num_slots).sequences:
        assert sequence.nfe == num_masks(sequence)
        assert sorted(order for order in sequence.order_L if order) == list(range(1, sequence.nfe + 1))


@quick
@given(mixes, slots)
def test_a_threshold_of_zero_takes_one_pass_per_block_with_masks(sequences, num_slots):
    for sequence in decode(sequences, make_heuristic("threshold", 0.0), num_slots=num_slots).sequences:
        starts = range(0, LENGTH, sequence.block_length)
        blocks = [sequence.canvas_ids[start : start + sequence.block_length] for start in starts]
        assert sequence.nfe == sum(MASK_ID in block for block in blocks)


@quick
@given(mixes, unmaskers, slots)
def test_only_live_rows_are_computed(sequences, unmasker, num_slots):
    model = SpyModel(HashModel())
    decoded = decode(sequences, unmasker, num_slots=num_slots, model=model)
    sizes = [len(call.canvas_BL) for call in model.calls]
    stats = decoded.stats
    assert sum(sequence.nfe for sequence in decoded.sequences) == stats.num_row_forwards
    assert sum(sizes) == stats.num_row_forwards - stats.num_shared_first_passes
    assert max(sizes, default=0) <= num_slots
    assert len(sizes) <= stats.num_row_forwards
    for call in model.calls:
        assert (call.canvas_BL == MASK_ID).any(1).all()
        assert call.wanted_BL.any(1).all()
        # No wider than the longest live prompt.
        assert call.prompt_BP.shape[1] == int(call.prompt_length_B.max())


def test_committed_tokens_never_change_between_passes():
    model = SpyModel(HashModel(eos_bonus=0.0))
    sequence = make_sequence([4, 5], [MASK_ID] * LENGTH, 6)
    decode([sequence], make_heuristic("random", 2), model=model, token_temperature=1.0)
    canvases_TL = np.array([call.canvas_BL[0].numpy() for call in model.calls] + [sequence.tokens_L])
    assert len(canvases_TL) == 7
    for before_L, after_L in pairwise(canvases_TL):
        written_L = before_L != MASK_ID
        assert (after_L[written_L] == before_L[written_L]).all()
        assert (after_L == MASK_ID).sum() == (before_L == MASK_ID).sum() - 2


def test_waiting_rows_enter_as_soon_as_a_row_leaves():
    model = SpyModel(HashModel())
    short = [make_sequence([], [MASK_ID] * 2 + [7 + key] * 10, 12, key) for key in range(4)]
    long = make_sequence([], [MASK_ID] * 12, 12, 9)
    decoded = decode([long, *short], make_heuristic("low_confidence", 1), num_slots=2, model=model)
    assert [len(call.canvas_BL) for call in model.calls] == [2] * 8 + [1] * 4
    assert decoded.stats.num_queued_steps == 6
    assert decoded.stats.num_queued_row_forwards == 12


def test_plain_bernoulli_that_hardly_commits_ends_at_the_step_limit_and_says_so():
    unmasker = lively_policy(spread=0.0, distribution="bernoulli", initial_logit=-6.0)
    sequences = [make_sequence([3], [MASK_ID] * LENGTH, LENGTH, key) for key in range(20)]
    for row, sequence in enumerate((decoded := decode(sequences, unmasker)).sequences):
        assert sequence.status is SequenceStatus.STEP_LIMIT
        assert sequence.nfe == LENGTH
        left_L = sequence.tokens_L == MASK_ID
        assert left_L.any()
        assert ((sequence.order_L == NEVER) == left_L).all()
        # A pass that commits nothing is still charged.
        assert len(steps_of(decoded, row)) == LENGTH
    assert any(not steps_of(decoded, row).committed_NL[0].any() for row in range(20))


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_a_step_limit_leaves_the_rest_masked(limit):
    sequence = make_sequence([3], [MASK_ID] * LENGTH, LENGTH, limit=limit)
    decode([sequence], make_heuristic("low_confidence", 1))
    assert (sequence.status, sequence.nfe) == (SequenceStatus.STEP_LIMIT, limit)
    assert (sequence.tokens_L == MASK_ID).sum() == LENGTH - limit


def test_a_row_that_finishes_at_its_step_limit_is_clean():
    sequence = make_sequence([3], [MASK_ID] * LENGTH, LENGTH, limit=LENGTH)
    decode([sequence], make_heuristic("low_confidence", 1))
    assert sequence.status is SequenceStatus.CLEAN


def test_rows_that_start_clean_cost_nothing():
    model = SpyModel(HashModel())
    sequences = [make_sequence([3], [5] * LENGTH, 4, key) for key in range(5)]
    decoded = decode(sequences, make_heuristic("random", 1), num_slots=2, model=model)
    assert model.calls == []
    assert decoded.steps is None
    assert decoded.offsets.tolist() == [0] * 6
    assert {(s.status, s.nfe, tuple(s.tokens_L)) for s in sequences} == {(SequenceStatus.CLEAN, 0, (5,) * LENGTH)}


def test_stopping_at_the_end_of_text_saves_passes():
    def run(eos: str) -> list[Sequence]:
        sequences = [make_sequence([3], [MASK_ID] * LENGTH, 3, key) for key in range(30)]
        return list(
            decode(sequences, make_heuristic("low_confidence", 1), eos=eos, model=HashModel(eos_bonus=5.0)).sequences
        )

    full, stop = run("full"), run("stop")
    assert {s.status for s in full} == {SequenceStatus.CLEAN}
    stopped = [s for s in stop if s.status is SequenceStatus.EOS_STOP]
    assert stopped
    assert sum(s.nfe for s in stop) < sum(s.nfe for s in full)
    for sequence in stopped:
        first = sequence.tokens_L.tolist().index(EOS_ID)
        assert (sequence.order_L[: first + 1] > 0).all()
        filled_L = sequence.order_L == NEVER
        assert (sequence.tokens_L[filled_L] == EOS_ID).all()
        assert filled_L.any()


def test_the_end_of_a_turn_stops_a_row_too():
    end_of_turn = 7
    spec = replace(small_spec(), end_of_turn_id=end_of_turn)
    canvas = [5, 6, end_of_turn, *[MASK_ID] * (LENGTH - 3)]
    for ids, nfe, status in ((spec, 0, SequenceStatus.EOS_STOP), (small_spec(), LENGTH - 3, SequenceStatus.CLEAN)):
        sequence = make_sequence([3], canvas, LENGTH)
        model = HashModel(ids, eos_bonus=-9.0)
        decode([sequence], make_heuristic("low_confidence", 1), eos="stop", model=model)
        assert (sequence.status, sequence.nfe) == (status, nfe)


class Watcher:
    """Another unmasker that asks for everything, with what it saw kept."""

    def __init__(self, scope: Scope) -> None:
        self.needs = Needs(scope=scope, num_confidences=2, entropy=True, margin=True)
        self.seen: list[Observation] = []
        self._unmasker = make_heuristic("low_confidence", 2)

    def decide(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        return self._unmasker.decide(observation)


@pytest.mark.parametrize("scope", list(Scope))
def test_entropy_and_margin_are_seen_where_they_were_asked_for(scope):
    watcher = Watcher(scope)
    decode([make_sequence([3], [MASK_ID] * LENGTH, 4, key) for key in range(3)], watcher, num_slots=2)
    for seen in watcher.seen:
        assert seen.entropy_BL.dtype == seen.margin_BL.dtype == torch.float32
        wanted_BL = {
            Scope.BLOCK: seen.eligible_BL, Scope.MASKED: seen.masked_BL, Scope.CANVAS: torch.ones_like(seen.masked_BL)
        }[scope]  # fmt: skip
        assert (seen.entropy_BL[wanted_BL] > 0).all()
        assert (seen.entropy_BL[~wanted_BL] == 0).all()
        assert (seen.margin_BL[~wanted_BL] == 1).all()
        two_BLK = seen.confidences_BLK
        torch.testing.assert_close(seen.margin_BL, two_BLK[:, :, 0] - two_BLK[:, :, 1], atol=1e-6, rtol=0)


def test_nobody_pays_for_what_nobody_needs():
    model = HashModel()
    observations = Watcher(Scope.BLOCK)
    observations.needs = Needs()
    decode([make_sequence([3], [MASK_ID] * LENGTH, 4)], observations, model=model)
    assert {(seen.entropy_BL, seen.margin_BL) for seen in observations.seen} == {(None, None)}


@pytest.mark.parametrize(
    "policy_settings",
    [
        {},
        {"distribution": "bernoulli", "policy_temperature": 0.5},
        {"distribution": "dpls", "num_confidences": 4},
        {"distribution": "dpls", "dpls_likelihood": "set"},
        {"distribution": "top_k", "top_k": 3},
        {"network": "dit_hidden", "backbone": BackboneShape(128, 4, 32), "spread": 0.02},
        {"network": "upo", "distribution": "categorical", "backbone": BackboneShape(128, 4, 32), "spread": 0.02},
    ],
)
def test_recorded_log_probs_score_again_to_the_same(policy_settings):
    unmasker = lively_policy(seed=3, **policy_settings)
    sequences = [make_sequence([5] * (n % 4), [MASK_ID] * 24, 24 // (1 + n % 3), n) for n in range(5)]
    decoded = decode(sequences, unmasker, num_slots=3, model=load_model("tiny", dtype="float32"))
    with torch.no_grad():
        scored = score_steps(unmasker.network, unmasker.distribution, decoded.steps)
        log_prob_N, entropy_N = scored.log_prob_N, scored.entropy_N
    assert len(log_prob_N) == sum(sequence.nfe for sequence in sequences)
    assert np.abs(np.exp(log_prob_N.numpy() - decoded.steps.log_prob_N) - 1).max() < 1e-4
    assert (decoded.steps.log_prob_N <= 1e-6).all()
    assert (entropy_N >= 0).all()


def test_without_recording_there_are_no_steps_and_the_rows_are_the_same():
    one, two = make_sequence([4], [MASK_ID] * LENGTH, 6), make_sequence([4], [MASK_ID] * LENGTH, 6)
    engine = Engine(HashModel(), POLICIES[0])
    assert engine.decode([one]).steps is None
    engine.decode([two], record=True)
    assert one.tokens_L.tolist() == two.tokens_L.tolist()


def test_no_rows_at_all():
    decoded = decode([], make_heuristic("random", 1))
    assert decoded.sequences == ()
    assert decoded.steps is None


@pytest.mark.parametrize("block", [0, -1, 5, 13, 24])
def test_a_block_length_that_does_not_divide_the_canvas_is_refused(block):
    with pytest.raises(ValueError, match=rf"block_length {block} .*divisor of {LENGTH}"):
        make_sequence([], [MASK_ID] * LENGTH, block)


def test_rows_of_different_canvas_lengths_are_refused():
    sequences = [make_sequence([], [MASK_ID] * 4, 4), make_sequence([], [MASK_ID] * 6, 6)]
    with pytest.raises(ValueError, match=r"\[4, 6\]"):
        decode(sequences, make_heuristic("random", 1))


def test_no_slots_are_refused():
    with pytest.raises(ValueError, match="num_slots must be >= 1, got 0"):
        decode([make_sequence([], [MASK_ID] * 4, 4)], make_heuristic("random", 1), num_slots=0)


def test_time_goes_to_exclusive_states():
    clock = TimeStates(SCHEDULING)
    decode([make_sequence([], [MASK_ID] * 12, 4)], make_heuristic("random", 1), clock=clock)
    seconds = clock.take()
    assert set(seconds) == {FORWARD, POLICY, SCHEDULING}
    assert all(value > 0 for value in seconds.values())
