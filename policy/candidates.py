"""The candidates of a step: its few most confident eligible positions.

They are computed from the confidences that a trajectory records, so that deciding and re-scoring see the same ones.

Shapes: `N` rows or packed steps, `L` positions, `K` confidences per position.
"""

from __future__ import annotations

from torch import Tensor

from policy.heuristics.choice import top_k


def most_confident(confidences_NLK: Tensor, eligible_NL: Tensor, num_candidates: int) -> Tensor:
    """`[N, L]` bool: the eligible positions with the largest top-1 probabilities, all where fewer are left, ties to the left."""
    return top_k(confidences_NLK[:, :, 0], eligible_NL, num_candidates)[0]
