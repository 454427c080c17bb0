"""Every distribution by a name, all outcomes of a row, and their probabilities straight from the definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations, product

import torch
from torch import Tensor

from policy.distributions import Bernoulli, BernoulliArgmax, Categorical, Dpls, SetDistribution, TopK

STOP = 0.4
K = 2

KINDS: dict[str, Callable[[float], SetDistribution]] = {
    "bernoulli": lambda temperature: Bernoulli(temperature=temperature),
    "bernoulli_argmax": lambda temperature: BernoulliArgmax(temperature=temperature),
    "dpls_order": lambda temperature: Dpls(stop_logit=STOP, temperature=temperature),
    "dpls_set": lambda temperature: Dpls(stop_logit=STOP, likelihood="set", temperature=temperature),
    "top_k": lambda temperature: TopK(k=K, temperature=temperature),
    "categorical": lambda temperature: Categorical(temperature=temperature),
}


def ranks(order: tuple[int, ...], length: int) -> list[int]:
    """The order of choice as one rank per position."""
    return [order.index(i) + 1 if i in order else 0 for i in range(length)]


def orders(eligible: list[bool], sizes: range) -> list[tuple[int, ...]]:
    members = [i for i, is_eligible in enumerate(eligible) if is_eligible]
    return [order for size in sizes for order in permutations(members, size)]


def outcomes(kind: str, eligible: list[bool]) -> list[list[int]]:
    """Everything that may be drawn, as ranks or as 0 and 1."""
    L, size = len(eligible), sum(eligible)
    if kind == "top_k":
        return [ranks(order, L) for order in orders(eligible, range(min(K, size), min(K, size) + 1))]
    if kind == "dpls_order":
        return [ranks(order, L) for order in orders(eligible, range(min(1, size), size + 1))]
    subsets = [list(bits) for bits in product(*[(0, 1) if s else (0,) for s in eligible])]
    if kind == "categorical":
        return [bits for bits in subsets if sum(bits) == min(1, size)]
    return subsets if kind == "bernoulli" else [bits for bits in subsets if any(bits) or size == 0]


def probability(kind: str, logits: list[float], eligible: list[bool], outcome: list[int], temperature: float) -> float:
    """The probability of one outcome, choice by choice."""
    u = [logit / temperature for logit in logits]
    members = [i for i, is_eligible in enumerate(eligible) if is_eligible]
    chosen = tuple(sorted((i for i, rank in enumerate(outcome) if rank), key=lambda i: outcome[i]))
    if kind == "dpls_set":
        return sum(dpls_order(u, members, order) for order in permutations(chosen)) if chosen else float(not members)
    if kind == "dpls_order":
        return dpls_order(u, members, chosen) if chosen else float(not members)
    if kind in ("top_k", "categorical"):
        return choices(u, members, chosen)
    p = {i: 1 / (1 + math.exp(-u[i])) for i in members}
    natural = math.prod(p[i] if outcome[i] else 1 - p[i] for i in members)
    if kind == "bernoulli" or not members:
        return natural
    best = max(members, key=lambda i: (u[i], -i))
    nothing = math.prod(1 - p[i] for i in members)
    return (natural + (nothing if chosen == (best,) else 0.0)) if chosen else 0.0


def choices(u: list[float], members: list[int], order: tuple[int, ...], stop: float | None = None) -> float:
    """Softmax draws without replacement, one after another; with `stop` among what may be drawn."""
    left, p = list(members), 1.0
    for i in order:
        p *= math.exp(u[i]) / (sum(math.exp(u[j]) for j in left) + (0.0 if stop is None else math.exp(stop)))
        left.remove(i)
    return p


def dpls_order(u: list[float], members: list[int], order: tuple[int, ...], stop: float = STOP) -> float:
    """The first by softmax, then the others until STOP."""
    rest = [i for i in members if i != order[0]]
    left = [i for i in rest if i not in order]
    ends = math.exp(stop) / (sum(math.exp(u[j]) for j in left) + math.exp(stop))
    return choices(u, members, order[:1]) * choices(u, rest, order[1:], stop) * ends


def outcome_tensor(distribution: SetDistribution, rows: list[list[int]]) -> Tensor:
    """Rows of outcomes in the form that the distribution gives them."""
    return torch.tensor(rows, dtype=torch.int16 if distribution.is_ordered else torch.bool)


def log_probs(
    distribution: SetDistribution, logits: list[float], eligible: list[bool], rows: list[list[int]]
) -> Tensor:
    """`[n]` float64 log-probabilities of outcomes of one row."""
    n = len(rows)
    return distribution.log_prob(
        torch.tensor([logits] * n, dtype=torch.float64),
        torch.tensor([eligible] * n),
        outcome_tensor(distribution, rows),
    )
