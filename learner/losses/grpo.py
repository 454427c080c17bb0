"""The clipped surrogate of GRPO with one set-level ratio per decoding step (arXiv 2512.09106).

    J = 1/R sum_r 1/T_r sum_t min(rho A_r, clip(rho, 1 - low, 1 + high) A_r),   rho = pi(a_t|s_t) / pi_old(a_t|s_t)

Shapes: `N` packed steps of R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""log rho is cut here before the exponential: beyond, float32 overflows and 0 times infinity would take the weights along."""

Normaliser = Literal["per_rollout", "per_step", "sum", "constant"]


@dataclass(frozen=True, slots=True)
class SurrogateTerms:
    """The loss and what it was made of; sums run over the steps given."""

    loss: Tensor
    """Scalar, -sum_n w_n min(...)."""
    num_clipped: int
    """Steps whose ratio was cut."""
    max_ratio_gap: float
    """max |rho - 1|."""
    sum_kl: float
    """Sum of (rho - 1) - log rho, a non-negative estimate of KL(old || new) per step (Schulman)."""


def step_weights(
    nfe_R: NDArray[np.int64],
    num_rows: int,
    *,
    normaliser: Normaliser,
    num_all_steps: int | None = None,
    canvas_length: int | None = None,
) -> NDArray[np.float32]:
    """`[N]` the weight of each packed step of rows with `nfe_R` steps.

    `per_rollout`: 1 / (R T_r), every rollout counts the same (arXiv 2512.09106); `per_step`: 1 / sum T, every step does;
    `sum`: 1 / R (the release of UPO, arXiv 2510.05725, whose formula has `per_rollout`); `constant`: 1 / (R L) with
    `canvas_length` L (Dr. GRPO, arXiv 2503.20783). `num_rows` is R and `num_all_steps` sum T: of all rows of the update, also of
    those that were filtered out for having no advantage (they would add zero).
    """
    num_steps = int(nfe_R.sum())
    match normaliser:
        case "per_rollout":
            return np.repeat(1.0 / (num_rows * np.maximum(nfe_R, 1)), nfe_R).astype(np.float32)
        case "per_step":
            assert num_all_steps is not None, "the normaliser per step counts all steps"
            return np.full(num_steps, 1.0 / max(1, num_all_steps), np.float32)
        case "sum":
            return np.full(num_steps, 1.0 / num_rows, np.float32)
        case "constant":
            assert canvas_length is not None, "the constant normaliser is the canvas length"
            return np.full(num_steps, 1.0 / (num_rows * canvas_length), np.float32)


def clipped_surrogate(
    log_prob_N: Tensor,
    old_log_prob_N: Tensor,
    advantage_N: Tensor,
    weight_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> SurrogateTerms:
    """The clipped surrogate loss of the given steps; beyond `MAX_LOG_RATIO` a step has no gradient."""
    log_ratio_N = (log_prob_N - old_log_prob_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    surrogate_N = torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N)
    with torch.no_grad():
        is_cut_N = (clipped_N != ratio_N) & (clipped_N * advantage_N < ratio_N * advantage_N)
        gap = (ratio_N - 1).abs().max() if len(ratio_N) else ratio_N.new_zeros(())
        kl = (ratio_N - 1 - log_ratio_N).sum()
    return SurrogateTerms(-(weight_N * surrogate_N).sum(), int(is_cut_N.sum()), float(gap), float(kl))
