"""Explicit reference policies: probabilities over positions, from what a trajectory records of each step.

A parallel reference gives each position a probability of being committed, independently of the others; a one-token
reference is a distribution over the eligible positions. A policy can be compared with references of its own family. The
heuristics `random` and `low_confidence` are no references: the sets of a given size that they commit are of neither family.

Settings are checked without torch, so it is imported only where a reference is made or used.

Shapes: `N` packed steps, `L` canvas positions, `K` recorded confidences, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from policy.unmasker import Unmasker

Family = Literal["parallel", "one_token"]

FAMILY_OF_DISTRIBUTION: Mapping[str, Family] = {
    "bernoulli": "parallel",
    "bernoulli_argmax": "parallel",
    "categorical": "one_token",
}
"""The policy distributions that can be compared with a reference."""


@dataclass(frozen=True, slots=True)
class ReferenceKind:
    """The family of a reference and what its only parameter may be."""

    family: Family
    parameter: str | None
    """None of references that take none."""
    values: str
    """The allowed values in words."""
    is_value: Callable[[float], bool]

    @property
    def allowed(self) -> str:
        """What a setting may be."""
        return "null" if self.parameter is None else f"{self.parameter}, {self.values},"

    def allows(self, value: float | None) -> bool:
        """Whether `value` can be the parameter."""
        if self.parameter is None or value is None:
            return self.parameter is None and value is None
        return not isinstance(value, bool) and isinstance(value, int | float) and self.is_value(value)


REFERENCES: Mapping[str, ReferenceKind] = {
    "threshold": ReferenceKind("parallel", "tau", "a number in [0, 1]", lambda value: 0 <= value <= 1),
    "soft_threshold": ReferenceKind("parallel", "tau", "a number in (0, 1)", lambda value: 0 < value < 1),
    "factor": ReferenceKind("parallel", "factor", "a number > 0", lambda value: 0 < value < math.inf),
    "softmax_confidence": ReferenceKind("one_token", "tau", "a number > 0", lambda value: 0 < value < math.inf),
    "max_confidence": ReferenceKind("one_token", None, "", lambda value: False),
    "top_k": ReferenceKind("one_token", "k", "an integer >= 1", lambda value: value >= 1 and float(value).is_integer()),
}


class Reference(Protocol):
    """A fixed policy with explicit probabilities."""

    family: Family

    def probabilities(self, confidences_NLK: Tensor, eligible_NL: Tensor) -> Tensor:
        """`[N, L]` of the confidences' type: of committing each position (parallel), or of choosing it (one_token).

        Args:
            confidences_NLK: the K largest token probabilities, largest first.
            eligible_NL: bool, what can be chosen; 0 is returned elsewhere.
        """
        ...


def check_reference(name: str, parameter: float | None, distribution: str, *, where: str = "regulariser") -> None:
    """Raises ValueError unless policies with `distribution` can be compared with reference `name` at `parameter`.

    `where` is the section's dotted name.
    """
    family = FAMILY_OF_DISTRIBUTION.get(distribution)
    names = [repr(other) for other, kind in REFERENCES.items() if kind.family == family]
    if not names:
        raise ValueError(
            f"config key '{where}.reference' is {name!r}; allowed: no reference with distribution {distribution!r}, "
            f"but with {', '.join(map(repr, FAMILY_OF_DISTRIBUTION))}"
        )
    if repr(name) not in names:
        raise ValueError(
            f"config key '{where}.reference' is {name!r}; allowed: {', '.join(names)} with distribution {distribution!r}"
        )
    kind = REFERENCES[name]
    if not kind.allows(parameter):
        raise ValueError(
            f"config key '{where}.parameter' is {parameter!r}; allowed: {kind.allowed} with reference {name!r}"
        )


def make_reference(
    name: str, parameter: float | None, *, smoothing: float = 0.05, vocabulary_size: int | None = None
) -> Reference:
    """The reference `name`; ValueError quotes what is wrong and says what is allowed.

    Args:
        name: a key of `REFERENCES`.
        parameter: tau, factor or k; None where the reference takes none.
        smoothing: of parallel references, whose probabilities are this or 1 minus this.
        vocabulary_size: V, which `softmax_confidence` needs.
    """
    if name not in REFERENCES:
        raise ValueError(f"unknown reference {name!r}; allowed: {', '.join(REFERENCES)}")
    kind = REFERENCES[name]
    if not kind.allows(parameter):
        raise ValueError(f"the parameter is {parameter!r}; allowed: {kind.allowed} with reference {name!r}")
    if name == "max_confidence":
        return MaxConfidence()
    assert parameter is not None
    if name == "top_k":
        return TopK(k=int(parameter))
    if name == "softmax_confidence":
        if vocabulary_size is None or vocabulary_size < 1:
            raise ValueError(f"vocabulary size of reference {name!r} is {vocabulary_size!r}; allowed: an integer >= 1")
        return SoftmaxConfidence(tau=parameter, vocabulary_size=vocabulary_size)
    if not 0 < smoothing < 0.5:
        raise ValueError(f"smoothing of reference {name!r} is {smoothing!r}; allowed: a number in (0, 0.5)")
    if name == "soft_threshold":
        return SoftThreshold(tau=parameter, smoothing=smoothing)
    from policy.heuristics.thresholds import Factor, Threshold

    heuristic = Factor(factor=parameter) if name == "factor" else Threshold(tau=parameter)
    return SmoothedHeuristic(heuristic, smoothing=smoothing)


class SmoothedHeuristic:
    """1 - `smoothing` where a heuristic commits, `smoothing` elsewhere: every set is possible, so no divergence is infinite.

    The heuristic sees what is recorded, the confidences. Confidences that float32 cannot tell apart are ties here, though
    log-odds may have told them apart where one position had to be chosen.
    """

    family: Family = "parallel"

    def __init__(self, heuristic: Unmasker, *, smoothing: float) -> None:
        self._heuristic = heuristic
        self._smoothing = smoothing

    def probabilities(self, confidences_NLK: Tensor, eligible_NL: Tensor) -> Tensor:
        from policy.observation import Observation

        zero_N = eligible_NL.new_zeros(len(eligible_NL)).long()
        observation = Observation(
            masked_BL=eligible_NL,
            eligible_BL=eligible_NL,
            confidences_BLK=confidences_NLK,
            log_odds_BL=confidences_NLK[:, :, 0].logit(),
            nfe_B=zero_N,
            time_B=zero_N.to(confidences_NLK.dtype),
            keys_B=zero_N,
        )
        commit_NL = self._heuristic.decide(observation).commit_BL.to(confidences_NLK.dtype)
        return (self._smoothing + (1 - 2 * self._smoothing) * commit_NL).masked_fill(~eligible_NL, 0.0)


class SoftThreshold:
    """c (1 - tau) / (c (1 - tau) + (1 - c) tau), kept within [`smoothing`, 1 - `smoothing`]: 1/2 at confidence c = tau.

    That is the sigmoid of the difference of their log-odds. Where the heuristic is nearly certain it is too, and around the
    threshold it tries both.
    """

    family: Family = "parallel"

    def __init__(self, *, tau: float, smoothing: float) -> None:
        self._log_odds = math.log(tau) - math.log1p(-tau)
        self._smoothing = smoothing

    def probabilities(self, confidences_NLK: Tensor, eligible_NL: Tensor) -> Tensor:
        soft_NL = (confidences_NLK[:, :, 0].logit() - self._log_odds).sigmoid()
        return soft_NL.clamp(self._smoothing, 1 - self._smoothing).masked_fill(~eligible_NL, 0.0)


class SoftmaxConfidence:
    """g(a) proportional to sum_v exp(p_v(a) / tau) over the whole vocabulary (UPO, arXiv 2510.05725).

    Of the V probabilities the K largest are recorded. The other V - K are taken to share what is left evenly, which makes the
    sum as small as it can be (exp is convex). With K = V it is exact.
    """

    family: Family = "one_token"

    def __init__(self, *, tau: float, vocabulary_size: int) -> None:
        self._tau = tau
        self._vocabulary_size = vocabulary_size

    def probabilities(self, confidences_NLK: Tensor, eligible_NL: Tensor) -> Tensor:
        shown_NLK = confidences_NLK.double()
        score_NL = (shown_NLK / self._tau).logsumexp(2)
        num_hidden = self._vocabulary_size - shown_NLK.shape[2]
        assert num_hidden >= 0, "no position has more token probabilities than there are tokens"
        if num_hidden:
            even_NL = (1 - shown_NLK.sum(2)).clamp(min=0) / num_hidden
            score_NL = score_NL.logaddexp(math.log(num_hidden) + even_NL / self._tau)
        g_NL = score_NL.masked_fill(~eligible_NL, -math.inf).softmax(1)
        return g_NL.masked_fill(~eligible_NL, 0.0).to(confidences_NLK.dtype)


class MaxConfidence:
    """All on the most confident position; equal confidences share it (UPO, arXiv 2510.05725)."""

    family: Family = "one_token"

    def probabilities(self, confidences_NLK: Tensor, eligible_NL: Tensor) -> Tensor:
        confidence_NL = confidences_NLK[:, :, 0].masked_fill(~eligible_NL, -math.inf)
        return _uniform((confidence_NL == confidence_NL.amax(1, keepdim=True)) & eligible_NL, confidences_NLK)


class TopK:
    """Uniform over the `k` most confident positions, all where fewer are eligible, ties to the left (UPO, arXiv 2510.05725).

    They are the candidates of a policy with `num_candidates` = k: with `candidates_only` it puts nothing elsewhere.
    """

    family: Family = "one_token"

    def __init__(self, *, k: int) -> None:
        self._k = k

    def probabilities(self, confidences_NLK: Tensor, eligible_NL: Tensor) -> Tensor:
        from policy.candidates import most_confident

        return _uniform(most_confident(confidences_NLK, eligible_NL, self._k), confidences_NLK)


def _uniform(support_NL: Tensor, like: Tensor) -> Tensor:
    """Uniform over the support of each row, 0 where there is none."""
    weight_NL = support_NL.to(like.dtype)
    return weight_NL / weight_NL.sum(1, keepdim=True).clamp(min=1)
