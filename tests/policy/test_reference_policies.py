from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from policy.candidates import most_confident
from policy.factory import HEURISTICS, make_heuristic
from policy.reference_policies import FAMILY_OF_DISTRIBUTION, REFERENCES, Reference, check_reference, make_reference
from tests.policy.observations import random_observation, with_confidence

SEED = st.integers(0, 1000)
PARAMETERS: dict[str, float | None] = {
    "threshold": 0.6, "soft_threshold": 0.6, "factor": 1.1, "softmax_confidence": 0.05, "max_confidence": None, "top_k": 2,
}  # fmt: skip


def reference_of(name: str) -> Reference:
    return make_reference(name, PARAMETERS[name], vocabulary_size=10)


def token_probabilities(seed: int, vocabulary_size: int, *, sharpness: float = 3.0) -> Tensor:
    """`[4, 6, V]` float32, largest first."""
    logits = sharpness * torch.randn(4, 6, vocabulary_size, generator=torch.Generator().manual_seed(seed))
    return logits.softmax(2).sort(2, descending=True).values


def eligible_of(seed: int) -> Tensor:
    eligible = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed + 1)) < 0.6
    eligible[0], eligible[1] = False, True
    return eligible


@pytest.mark.parametrize("name", REFERENCES)
@given(seed=SEED)
def test_probabilities_are_what_their_family_says_and_lie_in_the_eligible_set(name: str, seed: int) -> None:
    confidences, eligible = token_probabilities(seed, 10)[:, :, :3], eligible_of(seed)
    reference = reference_of(name)
    found = reference.probabilities(confidences, eligible)
    assert reference.family == REFERENCES[name].family
    assert found.shape == eligible.shape
    assert found.dtype == torch.float32
    assert bool((found[~eligible] == 0).all())
    if name == "soft_threshold":
        assert bool(((found[eligible] >= 0.05 - 1e-6) & (found[eligible] <= 0.95 + 1e-6)).all())
    elif reference.family == "parallel":
        assert set(found[eligible].tolist()) <= {float(torch.tensor(p)) for p in (0.05, 0.95)}
    else:
        assert torch.allclose(found.sum(1), eligible.any(1).float())
        assert bool((found >= 0).all())


@pytest.mark.parametrize("name", REFERENCES)
@given(seed=SEED)
def test_what_is_not_eligible_and_the_rest_of_the_batch_have_no_influence(name: str, seed: int) -> None:
    confidences, eligible = token_probabilities(seed, 10)[:, :, :3], eligible_of(seed)
    reference = reference_of(name)
    found = reference.probabilities(confidences, eligible)
    other = torch.where(eligible.unsqueeze(2), confidences, torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(reference.probabilities(other, eligible), found)
    for row in range(4):
        alone = reference.probabilities(confidences[row : row + 1], eligible[row : row + 1])[0]
        assert torch.allclose(alone, found[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "value"), [("threshold", 0.0), ("threshold", 0.5), ("threshold", 1.0),
                                             ("factor", 0.4), ("factor", 1.1), ("factor", 3.0)])  # fmt: skip
@given(seed=SEED, grid=st.sampled_from([4, 1000]))
def test_a_parallel_reference_is_the_smoothed_set_of_its_heuristic(
    name: str, value: float, seed: int, grid: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.randint(0, grid + 1, (5, 7), generator=generator) / grid
    observation = with_confidence(random_observation(5, 7, seed=seed), confidence)
    committed = make_heuristic(name, value).decide(observation).commit_BL
    expected = torch.where(committed, 0.9, 0.1) * observation.eligible_BL
    reference = make_reference(name, value, smoothing=0.1)
    assert torch.allclose(reference.probabilities(observation.confidences_BLK, observation.eligible_BL), expected)


def test_a_soft_threshold_tries_both_around_it_and_is_bounded() -> None:
    confidences = torch.tensor([[[0.9], [0.5], [0.99], [1.0], [1e-9], [0.9]]])
    eligible = torch.tensor([[True] * 5 + [False]])
    found = make_reference("soft_threshold", 0.9, smoothing=0.02).probabilities(confidences, eligible)
    # Odds of 1 against 9, and of 99 against 9.
    expected = torch.tensor([[0.5, 1 / 10, 99 / 108, 0.98, 0.02, 0.0]])
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_most_confident_position_is_in_where_none_passes() -> None:
    confidences = torch.tensor([[[0.2], [0.4], [0.3]], [[1.0], [0.4], [1.0]]])
    eligible = torch.tensor([[True, True, True], [True, True, False]])
    for name, value in (("threshold", 0.9), ("factor", 0.1)):
        found = make_reference(name, value, smoothing=0.25).probabilities(confidences, eligible)
        assert found.tolist() == [[0.25, 0.75, 0.25], [0.75, 0.25, 0.0]]


@given(SEED, st.sampled_from([0.05, 0.3, 2.0]))
def test_softmax_confidence_over_the_whole_vocabulary_is_the_full_sum(seed: int, tau: float) -> None:
    probabilities, eligible = token_probabilities(seed, 9), eligible_of(seed)
    weight = (probabilities.double() / tau).exp().sum(2) * eligible
    expected = weight / weight.sum(1, keepdim=True).clamp(min=1e-300)
    found = make_reference("softmax_confidence", tau, vocabulary_size=9).probabilities(probabilities, eligible)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-7)


@given(SEED, st.integers(1, 8))
def test_what_is_not_recorded_is_taken_to_be_shared_evenly(seed: int, num_recorded: int) -> None:
    probabilities, eligible = token_probabilities(seed, 9), eligible_of(seed)
    even = probabilities.clone()
    even[:, :, num_recorded:] = probabilities[:, :, num_recorded:].mean(2, keepdim=True)
    reference = make_reference("softmax_confidence", 0.2, vocabulary_size=9)
    found = reference.probabilities(probabilities[:, :, :num_recorded], eligible)
    assert torch.allclose(found, reference.probabilities(even, eligible), rtol=1e-4, atol=1e-6)


def test_eight_of_many_tokens_are_nearly_the_full_sum() -> None:
    probabilities, eligible = token_probabilities(0, 5000, sharpness=5.0), eligible_of(0)
    reference = make_reference("softmax_confidence", 0.05, vocabulary_size=5000)
    found, full = (reference.probabilities(p, eligible) for p in (probabilities[:, :, :8], probabilities))
    assert (found - full).abs().max() < 0.01


def test_max_confidence_is_the_argmax_and_ties_share_it() -> None:
    confidences = torch.tensor([[[0.5], [0.7], [0.7], [0.9]], [[0.1], [0.3], [0.2], [1.0]]])
    eligible = torch.tensor([[True, True, True, False]] * 2)
    assert reference_of("max_confidence").probabilities(confidences, eligible).tolist() == [
        [0, 0.5, 0.5, 0],
        [0, 1, 0, 0],
    ]


@given(SEED, st.integers(1, 8))
def test_top_k_is_uniform_over_the_candidates_of_a_policy(seed: int, k: int) -> None:
    confidences, eligible = token_probabilities(seed, 10)[:, :, :1], eligible_of(seed)
    found = make_reference("top_k", float(k)).probabilities(confidences, eligible)
    assert torch.equal(found > 0, most_confident(confidences, eligible, k))
    share = 1 / eligible.sum(1, keepdim=True).clamp(min=1, max=k)
    assert torch.allclose(found[found > 0], share.expand_as(found)[found > 0])


@pytest.mark.parametrize(("name", "value", "allowed"), [
    ("threshold", 1.5, "tau, a number in [0, 1],"), ("threshold", None, "tau, a number in [0, 1],"),
    ("threshold", math.nan, "tau, a number in [0, 1],"), ("factor", 0.0, "factor, a number > 0,"),
    ("factor", math.inf, "factor, a number > 0,"), ("softmax_confidence", 0, "tau, a number > 0,"),
    ("max_confidence", 0.5, "null"), ("top_k", 0, "k, an integer >= 1,"), ("top_k", 1.5, "k, an integer >= 1,"),
    ("top_k", True, "k, an integer >= 1,"), ("top_k", "2", "k, an integer >= 1,"),
])  # fmt: skip
def test_a_parameter_that_a_reference_does_not_take_is_quoted(name: str, value: float | None, allowed: str) -> None:
    with pytest.raises(ValueError, match="allowed") as caught:
        make_reference(name, value, vocabulary_size=10)
    assert str(caught.value) == f"the parameter is {value!r}; allowed: {allowed} with reference {name!r}"
    distribution = "bernoulli" if REFERENCES[name].family == "parallel" else "categorical"
    with pytest.raises(ValueError, match="allowed") as caught:
        check_reference(name, value, distribution, where="learner.regulariser")
    assert str(caught.value) == (
        f"config key 'learner.regulariser.parameter' is {value!r}; allowed: {allowed} with reference {name!r}"
    )


def test_other_mistakes_of_making_a_reference() -> None:
    with pytest.raises(
        ValueError, match=r"^unknown reference 'random'; allowed: threshold, soft_threshold, factor, softmax_conf"
    ):
        make_reference("random", 1)
    with pytest.raises(ValueError, match=r"^smoothing of reference 'factor' is 0\.5; allowed: a number in \(0, 0\.5\)"):
        make_reference("factor", 1.0, smoothing=0.5)
    with pytest.raises(
        ValueError, match=r"^vocabulary size of reference 'softmax_confidence' is None; allowed: an int"
    ):
        make_reference("softmax_confidence", 0.05)


def test_a_distribution_is_compared_with_references_of_its_family_alone() -> None:
    for distribution in ("bernoulli", "bernoulli_argmax", "categorical", "dpls", "top_k"):
        for name, kind in REFERENCES.items():
            if FAMILY_OF_DISTRIBUTION.get(distribution) == kind.family:
                check_reference(name, PARAMETERS[name], distribution)
            else:
                with pytest.raises(ValueError, match=f"reference' is {name!r}; allowed: .*{distribution!r}"):
                    check_reference(name, PARAMETERS[name], distribution)


@pytest.mark.parametrize("name", sorted(set(HEURISTICS) - set(REFERENCES)))
def test_heuristics_without_probabilities_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="allowed") as caught:
        check_reference(name, 1, "bernoulli", where="regulariser")
    assert str(caught.value) == (
        f"config key 'regulariser.reference' is {name!r}; "
        "allowed: 'threshold', 'soft_threshold', 'factor' with distribution 'bernoulli'"
    )
    with pytest.raises(ValueError, match="allowed: no reference with distribution 'dpls', but with 'bernoulli', "):
        check_reference(name, 1, "dpls")


def test_settings_are_checked_without_torch() -> None:
    code = [
        "import sys",
        "sys.modules['torch'] = None",
        "from policy.reference_policies import check_reference",
        "check_reference('top_k', 5.0, 'categorical')",
    ]
    subprocess.run([sys.executable, "-c", "; ".join(code)], check=True)
