"""Hand-made samplers, one family per file. Ties go to the leftmost position, all rules hold per row, none keeps anything."""

from __future__ import annotations

from policy.heuristics.choice import top_k
from policy.heuristics.ordered import Entropy, LeftToRight, LowConfidence, Margin, RandomOrder
from policy.heuristics.thresholds import Factor, Threshold

__all__ = ["Entropy", "Factor", "LeftToRight", "LowConfidence", "Margin", "RandomOrder", "Threshold", "top_k"]
