from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from policy.factory import make_heuristic
from policy.heuristics.choice import top_k
from policy.heuristics.ordered import Entropy, LowConfidence, Margin, RandomOrder
from policy.heuristics.thresholds import Factor, Threshold
from policy.observation import Observation
from policy.unmasker import Unmasker
from tests.policy.observations import random_observation, rows_of, with_confidence


def observed(
    confidence: list[list[float]], eligible: list[list[bool]], *, keys: list[int] | None = None
) -> Observation:
    confidence_BL, eligible_BL = torch.tensor(confidence), torch.tensor(eligible)
    num_rows = len(confidence_BL)
    return Observation(
        masked_BL=eligible_BL,
        eligible_BL=eligible_BL,
        confidences_BLK=confidence_BL.unsqueeze(2),
        log_odds_BL=torch.logit(confidence_BL, eps=1e-9),
        nfe_B=torch.zeros(num_rows, dtype=torch.int64),
        time_B=torch.zeros(num_rows),
        keys_B=torch.tensor(keys or list(range(num_rows))),
    )


def commits(unmasker: Unmasker, observation: Observation) -> list[list[int]]:
    decision = unmasker.decide(observation)
    assert decision.log_prob_B.tolist() == [0] * len(decision.commit_BL)
    return [row.nonzero().flatten().tolist() for row in decision.commit_BL]


ALL = [True] * 4


@pytest.mark.parametrize("tau", [0.5, 0.9, 0.99, 0.1, 1.0])
def test_a_confidence_of_exactly_tau_is_enough(tau: float) -> None:
    below = math.nextafter(float(torch.tensor(tau)), 0) - 1e-5
    observation = observed([[tau, below, 1.0, tau]], [ALL])
    assert commits(Threshold(tau=tau), observation) == [[0, 2, 3]]


def test_the_threshold_falls_back_row_by_row_to_the_most_confident_position() -> None:
    observation = observed(
        [[0.1, 0.95, 0.2, 0.91], [0.1, 0.3, 0.8, 0.2], [0.99, 0.3, 0.3, 0.2], [0.9, 0.9, 0.9, 0.9]],
        [ALL, ALL, [False, True, True, True], [False] * 4],
    )
    # Row 2 has a confident position outside its block, and the tie goes to the left; row 3 has nothing left.
    assert commits(Threshold(tau=0.9), observation) == [[1, 3], [2], [1], []]


def test_the_fallback_tells_confidences_apart_that_both_round_to_one() -> None:
    observation = observed([[1.0, 1.0, 0.5, 0.5]], [[True, True, False, False]])
    # float32 log-odds stay exact where p does not.
    log_odds = torch.tensor([[20.0, 25.0, 0.0, 0.0]])
    sharper = Observation(
        **{name: getattr(observation, name) for name in Observation.__slots__} | {"log_odds_BL": log_odds}
    )
    assert commits(LowConfidence(k=1), sharper) == [[1]]


@given(st.integers(0, 1000))
def test_tau_zero_commits_the_whole_eligible_set_at_once(seed: int) -> None:
    observation = random_observation(4, 7, seed=seed)
    assert torch.equal(Threshold(tau=0.0).decide(observation).commit_BL, observation.eligible_BL)


def naive_best(score: Tensor, eligible: Tensor, k: int) -> list[list[int]]:
    result = []
    for scores, mask in zip(score.tolist(), eligible.tolist(), strict=True):
        members = [i for i, is_eligible in enumerate(mask) if is_eligible]
        result.append(sorted(sorted(members, key=lambda i: (-scores[i], i))[:k]))
    return result


@given(st.integers(0, 1000), st.integers(1, 12))
def test_low_confidence_takes_the_k_most_confident_and_ties_go_left(seed: int, k: int) -> None:
    observation = random_observation(4, 7, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(1, 5, (4, 7), generator=generator) / 5  # many ties
    observation = with_confidence(observation, coarse)
    assert commits(LowConfidence(k=k), observation) == naive_best(coarse, observation.eligible_BL, k)


def test_fewer_eligible_positions_than_k_are_all_committed() -> None:
    observation = observed([[0.2, 0.9, 0.1, 0.4]] * 3, [[True, False, False, True], [False] * 4, ALL])
    assert commits(LowConfidence(k=3), observation) == [[0, 3], [], [0, 1, 3]]
    assert commits(RandomOrder(k=99), observation) == [[0, 3], [], [0, 1, 2, 3]]


@given(st.integers(0, 10_000), st.integers(1, 9))
def test_random_order_takes_exactly_k_eligible_positions(seed: int, k: int) -> None:
    observation = random_observation(5, 8, seed=seed)
    decision = RandomOrder(k=k).decide(observation)
    expected = observation.eligible_BL.sum(1).clamp(max=k)
    assert torch.equal(decision.commit_BL.sum(1), expected)
    assert not bool((decision.commit_BL & ~observation.eligible_BL).any())


@pytest.mark.parametrize("k", [1, 2])
def test_random_order_is_uniform_over_sets_and_differs_between_keys_and_steps(k: int) -> None:
    num_rows = 20_000
    eligible = [True, True, False, True, True]
    observation = observed([[0.9, 0.1, 0.9, 0.5, 0.5]] * num_rows, [eligible] * num_rows)
    committed = RandomOrder(k=k).decide(observation).commit_BL
    codes = (committed.long() * 2 ** torch.arange(5)).sum(1)
    cells, counts = codes.unique(return_counts=True)
    assert len(cells) == math.comb(4, k)
    expected = num_rows / len(cells)
    assert ((counts - expected) ** 2 / expected).sum() < len(cells) + 5 * math.sqrt(2 * len(cells))


@pytest.mark.parametrize(("name", "value"), [("random", 2), ("low_confidence", 3), ("threshold", 0.6), ("factor", 1.1)])
@given(seed=st.integers(0, 1000))
def test_decisions_stay_inside_the_eligible_set_and_ignore_the_rest_of_the_batch(
    name: str, value: float, seed: int
) -> None:
    observation = random_observation(5, 9, seed=seed)
    unmasker = make_heuristic(name, value)
    together = unmasker.decide(observation)
    assert not bool((together.commit_BL & ~observation.eligible_BL).any())
    assert bool(together.commit_BL.any(1).all())
    for row in range(5):
        alone = unmasker.decide(rows_of(observation, torch.tensor([row])))
        assert torch.equal(alone.commit_BL[0], together.commit_BL[row])
        assert alone.num_near_ties_B[0] == together.num_near_ties_B[row]


def naive_factor(confidence: list[float], eligible: list[bool], factor: float) -> list[int]:
    """Fast-dLLM's rule, one n after another."""
    members = sorted((i for i, is_eligible in enumerate(eligible) if is_eligible), key=lambda i: (-confidence[i], i))
    fitting = [n for n in range(1, len(members) + 1) if (n + 1) * (1 - confidence[members[n - 1]]) < factor]
    return sorted(members[: max(fitting, default=1)])


@given(st.integers(0, 1000), st.floats(0.01, 9.0), st.sampled_from([3, 10, 1000]))
def test_the_factor_rule_takes_the_largest_set_within_the_bound_and_ties_go_left(
    seed: int, factor: float, grid: int
) -> None:
    observation = random_observation(4, 7, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, grid + 1, (4, 7), generator=generator) / grid  # many ties where the grid is coarse
    observation = with_confidence(observation, coarse)
    expected = [
        naive_factor(*row, factor) for row in zip(coarse.tolist(), observation.eligible_BL.tolist(), strict=True)
    ]
    assert commits(Factor(factor=factor), observation) == expected


def test_the_factor_rule_is_strict_and_always_commits_one() -> None:
    # 2 (1 - 0.75) = 0.5, 3 (1 - 0.75) = 0.75, 4 (1 - 0.75) = 1, exactly.
    rows = [[0.75, 0.75, 0.75, 0.25]] * 2
    observation = observed(rows, [ALL, [False] * 4])
    assert commits(Factor(factor=1.0), observation) == [[0, 1], []]
    assert commits(Factor(factor=1.0001), observation) == [[0, 1, 2], []]
    assert commits(Factor(factor=0.1), observation) == [[0], []]
    assert commits(Factor(factor=1e-12), observed([[0.5, 1.0, 1.0, 1.0]], [ALL])) == [[1, 2, 3]]


def test_near_ties_of_the_factor_rule() -> None:
    def near(confidence: list[float], factor: float, eligible: list[bool] = ALL) -> int:
        return int(Factor(factor=factor).decide(observed([confidence], [eligible])).num_near_ties_B)

    assert near([0.9, 0.6, 0.3, 0.1], 1.0) == 0
    assert near([0.3, 0.3, 0.2, 0.1], 1.0) == 1  # forced, and contested
    assert near([0.5, 0.3, 0.2, 0.1], 1.0) == 0  # at its bound, but the first is committed either way
    assert near([0.9, 0.6666667, 0.3, 0.1], 1.0) == 1  # the second is at its bound
    assert near([0.9, 0.7, 0.7, 0.1], 1.0) == 1  # the second is in, the third as confident and out
    assert near([0.9, 0.7, 0.7, 0.1], 1.0, [True, True, False, True]) == 0
    assert near([0.9, 0.7, 0.7, 0.1], 1.0, [False] * 4) == 0


def test_near_ties_are_counted_where_a_choice_could_go_the_other_way() -> None:
    score = torch.tensor([[3.0, 2.0, 2.0, 1.0]] * 3)
    eligible = torch.tensor([ALL, ALL, [True, True, False, False]])
    assert top_k(score, eligible, 1)[1].tolist() == [0, 0, 0]
    assert top_k(score, eligible, 2)[1].tolist() == [1, 1, 0]
    assert top_k(score, eligible, 3)[1].tolist() == [0, 0, 0]
    assert top_k(score, eligible, 4)[1].tolist() == [0, 0, 0]
    observation = observed([[0.5, 0.5, 0.9, 0.2], [0.3, 0.3, 0.1, 0.1]], [[True, False, True, True], ALL])
    assert Threshold(tau=0.5).decide(observation).num_near_ties_B.tolist() == [1, 1]


def block_nfe(unmasker: Unmasker, *, length: int, block: int) -> int:
    """Passes to clean a canvas block by block."""
    masked, passes = torch.ones(1, length, dtype=torch.bool), 0
    confidence = torch.rand(1, length, generator=torch.Generator().manual_seed(3))
    while bool(masked.any()):
        start = int(masked[0].nonzero()[0]) // block * block
        window = torch.zeros_like(masked)
        window[:, start : start + block] = True
        observation = observed(confidence.tolist(), (masked & window).tolist())
        masked = masked & ~unmasker.decide(observation).commit_BL
        passes += 1
    return passes


def test_oracles_of_the_number_of_forward_passes() -> None:
    # algorithms.md 7.5
    assert block_nfe(Threshold(tau=0.0), length=24, block=8) == 3
    assert block_nfe(LowConfidence(k=1), length=24, block=8) == 24
    assert block_nfe(RandomOrder(k=1), length=24, block=8) == 24
    assert block_nfe(LowConfidence(k=3), length=24, block=8) == 3 * math.ceil(8 / 3)
    assert block_nfe(Factor(factor=1e-6), length=24, block=8) == 24
    assert block_nfe(Factor(factor=9.0), length=24, block=8) == 3


def test_margin_and_entropy_order_by_what_the_model_says_of_all_tokens_and_not_by_confidence() -> None:
    observation = replace(
        observed([[0.9, 0.5, 0.6, 0.7], [0.9, 0.5, 0.6, 0.7]], [ALL, [False, True, True, True]]),
        margin_BL=torch.tensor([[0.1, 0.45, 0.2, 0.45], [0.9, 0.1, 0.2, 0.3]]),
        entropy_BL=torch.tensor([[2.0, 0.3, 1.0, 0.3], [0.1, 1.0, 0.8, 0.5]]),
    )
    for unmasker in (Margin(k=1), Entropy(k=1)):
        # Ties go to the left, positions outside the block do not count.
        assert commits(unmasker, observation) == [[1], [3]]
    assert commits(Margin(k=3), observation) == [[1, 2, 3], [1, 2, 3]]
    assert Margin(k=1).needs.margin
    assert Entropy(k=1).needs.entropy
