"""The engine against the one-row-at-a-time oracle: same tokens, order, NFE, status and decisions, in any mix.

Everything here is float64 unless said, so that equality is exact.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from policy.factory import make_heuristic
from policy.unmasker import Unmasker
from rollout_workers.engine import Decoded, Engine
from rollout_workers.models.base import FrozenDLLM
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.rollout import pose
from rollout_workers.sequence import Sequence
from rollout_workers.tasks import Split, make_task
from tests.fakes.models import EOS_ID, MASK_ID, HashModel, random_llama
from tests.fakes.policies import lively_policy
from tests.rollout_workers.oracle import Outcome, Row, Sampler, decode_row

SLOTS = (1, 3, 64)
LEARNED_SETTINGS = (
    dict(),
    dict(scope="block", initial_logit=0.0),
    dict(scope="canvas", num_confidences=3),
    dict(see_block=True, num_confidences=2, confidence_features="raw", policy_temperature=0.6),
    dict(distribution="bernoulli", initial_logit=-1.0, policy_temperature=1.5),
    dict(time_embedding="legacy", distribution="bernoulli", scope="canvas"),
)
HEURISTICS = (
    ("random", 1), ("random", 2), ("random", 5),
    ("low_confidence", 1), ("low_confidence", 3), ("low_confidence", 1000),
    ("threshold", 0.0), ("threshold", 0.3), ("threshold", 0.7), ("threshold", 0.95), ("threshold", 1.0),
)  # fmt: skip


@dataclass
class Mixed:
    """One sampler, both as the oracle and as the engine know it."""

    name: str
    sampler: Sampler
    unmasker: Unmasker


def samplers() -> list[Mixed]:
    found = [Mixed(f"{kind} {value}", Sampler(kind, value), make_heuristic(kind, value)) for kind, value in HEURISTICS]
    for seed, settings in enumerate(LEARNED_SETTINGS):
        unmasker = lively_policy(seed=seed, **settings)
        found.append(Mixed(f"learned {settings}", Sampler("learned", network=unmasker.network), unmasker))
    return found


SAMPLERS = samplers()


def random_row(rng: random.Random, *, length: int, vocabulary_size: int) -> Row:
    prompt = tuple(rng.randrange(3, vocabulary_size) for _ in range(rng.choice((0, 1, 2, 3, 5, 9))))
    kind = rng.random()
    given = 0.0 if kind < 0.4 else 1.0 if kind > 0.93 else rng.random()
    ids = [token for token in range(vocabulary_size) if token != MASK_ID]
    canvas = tuple(rng.choice(ids) if rng.random() < given else MASK_ID for _ in range(length))
    if MASK_ID in canvas:
        # An end-of-text that was given in front of a mask has a test of its own.
        first = canvas.index(MASK_ID)
        canvas = (*(3 if token == EOS_ID else token for token in canvas[:first]), *canvas[first:])
    limit = None if rng.random() < 0.6 else rng.randrange(1, length + 1)
    blocks = [n for n in range(1, length + 1) if length % n == 0]
    return Row(prompt, canvas, rng.choice(blocks), rng.getrandbits(63) - 2**62, limit)


def sequence_of(row: Row, number: int = 0) -> Sequence:
    return Sequence(
        example_id=f"row/{number}",
        prompt_ids=list(row.prompt),
        canvas_ids=list(row.canvas),
        block_length=row.block_length,
        key=row.key,
        step_limit=row.step_limit,
    )


def engine_results(
    model: FrozenDLLM, mixed: Mixed, rows: list[Row], *, num_slots: int, temperature: float, eos: str
) -> Decoded:
    engine = Engine(model, mixed.unmasker, num_slots=num_slots, token_temperature=temperature, eos=eos)
    return engine.decode([sequence_of(row, number) for number, row in enumerate(rows)], record=True)


def check_row(decoded: Decoded, number: int, expected: Outcome, where: str) -> None:
    sequence = decoded.sequences[number]
    assert sequence.status == expected.status, where
    assert sequence.nfe == expected.nfe, where
    assert sequence.tokens_L.tolist() == expected.tokens, where
    assert sequence.order_L.tolist() == expected.order, where
    assert decoded.offsets is not None
    start, end = decoded.offsets[number], decoded.offsets[number + 1]
    assert end - start == len(expected.steps), where
    if not expected.steps:
        return
    assert decoded.steps is not None
    steps = decoded.steps.select(slice(start, end))
    assert steps.masked_NL.tolist() == [step.masked for step in expected.steps], where
    assert steps.eligible_NL.tolist() == [step.eligible for step in expected.steps], where
    assert steps.committed_NL.tolist() == [step.committed for step in expected.steps], where
    assert steps.time_N.tolist() == [step.time for step in expected.steps], where
    np.testing.assert_allclose(steps.confidences_NLK, [step.confidences for step in expected.steps], atol=2e-7)
    np.testing.assert_allclose(steps.log_prob_N, [step.log_prob for step in expected.steps], rtol=1e-4, atol=1e-4)


def check_mixes(
    model: FrozenDLLM, mixes: list[tuple[Mixed, list[Row], float, str]], *, slots: tuple[int, ...], seed: int
) -> Counter[str]:
    """Compares every row of every mix at every number of slots, in another order each time; returns what was seen."""
    rng, seen = random.Random(seed), Counter()
    for mixed, rows, temperature, eos in mixes:
        expected = [decode_row(model, mixed.sampler, row, token_temperature=temperature, eos=eos) for row in rows]
        for num_slots in slots:
            order = rng.sample(range(len(rows)), len(rows))
            arrived = [rows[i] for i in order]
            decoded = engine_results(model, mixed, arrived, num_slots=num_slots, temperature=temperature, eos=eos)
            for place, i in enumerate(order):
                # A float32 network draws within rounding of its threshold once in about a million draws.
                if mixed.sampler.kind == "learned" and decoded.sequences[place].num_near_ties:
                    seen["near_tie"] += 1
                    continue
                where = f"{mixed.name}, {num_slots} slots, temperature {temperature}, eos {eos}, {rows[i]}"
                check_row(decoded, place, expected[i], where)
                seen[expected[i].status] += 1
                seen["rows"] += 1
    return seen


def random_mixes(
    rng: random.Random, *, num: int, max_rows: int, length: int
) -> list[tuple[Mixed, list[Row], float, str]]:
    mixes = []
    for number in range(num):
        mixed = SAMPLERS[number % len(SAMPLERS)]
        rows = [random_row(rng, length=length, vocabulary_size=24) for _ in range(rng.randint(1, max_rows))]
        mixes.append((mixed, rows, rng.choice((0.0, 0.0, 0.5, 1.3)), rng.choice(("full", "stop"))))
    return mixes


@pytest.mark.parametrize(
    ("num", "max_rows", "least_rows", "least_of_each"),
    [(34, 6, 300, 10), pytest.param(340, 12, 4400, 160, marks=pytest.mark.slow)],
)
def test_hundreds_of_mixes_of_an_exact_model(num, max_rows, least_rows, least_of_each):
    mixes = random_mixes(random.Random(1), num=num, max_rows=max_rows, length=12)
    seen = check_mixes(HashModel(), mixes, slots=SLOTS, seed=2)
    assert seen["rows"] > least_rows
    assert min(seen["clean"], seen["eos_stop"], seen["step_limit"]) > least_of_each
    assert seen["near_tie"] < 0.02 * seen["rows"]


@pytest.mark.parametrize(("seed", "max_rows", "least"), [(0, 4, 90), pytest.param(1, 6, 150, marks=pytest.mark.slow)])
def test_mixes_of_a_real_llama(seed, max_rows, least):
    mixes = random_mixes(random.Random(10 + seed), num=len(SAMPLERS), max_rows=max_rows, length=12)
    seen = check_mixes(random_llama(seed=seed), mixes, slots=SLOTS, seed=seed)
    assert seen["rows"] > least
    assert seen["near_tie"] < 0.02 * seen["rows"]


KINDS = (("arithmetic", 48), ("arithmetic", 8), ("sudoku", 12), ("sudoku_infill", 24), ("sudoku_infill", 6))


def task_rows(*, seed: int, kinds: Iterable[tuple[str, int]] = KINDS) -> list[Row]:
    """Problems of all tasks on one canvas length, at several blocks."""
    rng, tokenizer, rows = random.Random(seed), load_tokenizer("tiny"), []
    for name, block in kinds:
        example = make_task(name).example(Split.TEST, rng.randrange(10_000))
        key = rng.getrandbits(62)
        sequence = pose(example, tokenizer, canvas_length=48, block_length=block, key=key)
        rows.append(Row(tuple(sequence.prompt_ids), tuple(sequence.canvas_ids), block, key))
    return rows


TINY_SAMPLERS = [
    mixed for mixed in SAMPLERS
    if mixed.name in ("random 5", "low_confidence 3", "threshold 0.7", "threshold 0.95")
    or (mixed.sampler.kind == "learned" and mixed.sampler.network.config.distribution == "bernoulli_argmax")
]  # fmt: skip


@pytest.mark.parametrize(("num_kinds", "least"), [(2, 2), pytest.param(5, 4, marks=pytest.mark.slow)])
def test_the_shipped_model_in_float64(num_kinds, least):
    model = load_model("tiny", dtype="float64")
    mixes = [
        (
            mixed,
            task_rows(seed=number, kinds=(KINDS * 2)[number % 5 :][:num_kinds]),
            0.7 if number % 3 == 2 else 0.0,
            "stop" if number % 2 else "full",
        )
        for number, mixed in enumerate(TINY_SAMPLERS)
    ]
    seen = check_mixes(model, mixes, slots=(3,), seed=3)
    assert seen["rows"] >= 0.9 * least * len(mixes)


def test_the_shipped_model_in_float32_but_for_near_ties():
    model = load_model("tiny", dtype="float32")
    num_rows = num_near = num_equal = 0
    for number, mixed in enumerate(TINY_SAMPLERS):
        rows = task_rows(seed=100 + number)[2:]
        expected = [decode_row(model, mixed.sampler, row) for row in rows]
        decoded = engine_results(model, mixed, rows, num_slots=8, temperature=0.0, eos="full")
        for sequence, outcome in zip(decoded.sequences, expected, strict=True):
            is_equal = (sequence.tokens_L.tolist(), sequence.order_L.tolist()) == (outcome.tokens, outcome.order)
            assert is_equal or sequence.num_near_ties > 0, f"{mixed.name}: {sequence.example_id}"
            num_rows, num_near, num_equal = num_rows + 1, num_near + (sequence.num_near_ties > 0), num_equal + is_equal
    assert num_equal >= 0.9 * num_rows
    # Near ties are the exception, or the statement above says nothing.
    assert num_near <= 0.5 * num_rows


def test_ties_go_to_the_leftmost_position():
    class Flat(HashModel):
        """Every token equally likely everywhere."""

        def __init__(self) -> None:
            super().__init__(sharpness=0.0, eos_bonus=0.0)

    row = Row((5,), (MASK_ID,) * 6, 6, 1)
    for kind, value in (("low_confidence", 2), ("threshold", 0.9)):
        mixed = Mixed(kind, Sampler(kind, value), make_heuristic(kind, value))
        decoded = engine_results(Flat(), mixed, [row], num_slots=1, temperature=0.0, eos="full")
        check_row(decoded, 0, decode_row(Flat(), mixed.sampler, row), kind)
        assert decoded.sequences[0].order_L.tolist() == (
            [1, 1, 2, 2, 3, 3] if kind == "low_confidence" else [1, 2, 3, 4, 5, 6]
        )
        assert decoded.sequences[0].num_near_ties > 0


def test_an_end_of_text_that_was_given_stops_a_row_before_its_first_pass():
    row = Row((), (5, EOS_ID, MASK_ID, 7, MASK_ID, MASK_ID), 3, 1)
    mixed = SAMPLERS[0]
    decoded = engine_results(HashModel(), mixed, [row], num_slots=1, temperature=0.0, eos="stop")
    assert decoded.sequences[0].tokens_L.tolist() == [5, EOS_ID, EOS_ID, 7, EOS_ID, EOS_ID]
    assert (decoded.sequences[0].status, decoded.sequences[0].nfe) == ("eos_stop", 0)
    check_row(decoded, 0, decode_row(HashModel(), mixed.sampler, row, eos="stop"), "given eos")
