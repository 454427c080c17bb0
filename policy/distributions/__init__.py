"""Distributions over sets of positions, one logit per position: sample, exact log-probability, entropy.

Each has one `scaled` function for the policy temperature, so that sampling and re-scoring cannot disagree.
"""

from __future__ import annotations

from policy.distributions.base import SetDistribution
from policy.distributions.bernoulli import ARGMAX, Bernoulli, BernoulliArgmax
from policy.distributions.categorical import Categorical
from policy.distributions.dpls import Dpls
from policy.distributions.plackett_luce import TopK
from policy.distributions.selection import ExpectedCount, Greedy, Threshold

__all__ = [
    "ARGMAX",
    "Bernoulli",
    "BernoulliArgmax",
    "Categorical",
    "Dpls",
    "ExpectedCount",
    "Greedy",
    "SetDistribution",
    "Threshold",
    "TopK",
]
