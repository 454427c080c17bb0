"""UPO's output level (arXiv 2510.05725): the policy as a distribution over whole trajectories.

S = sum_n log pi(a_n|s_n) is the log-probability of a trajectory: given the frozen model, decisions decide the output.
S_old is that of the policy that decided, S_ref that of the reference policy.

Shapes: `N` packed steps, `R` trajectories.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.losses.grpo import SurrogateTerms, clipped_surrogate

MAX_LOG_RATIO = 10.0
"""|S - S_old| is cut here before the exponential (the release's); beyond there is no gradient."""
RATIO_RANGE = (0.5, 2.0)
"""The importance ratio of `output_kl` is cut here (the release's)."""


def trajectory_sums(values_N: Tensor, offsets_R: Tensor) -> Tensor:
    """`[R]` float64 sums of each trajectory's steps, `offsets_R[r]:offsets_R[r + 1]`; `offsets_R` has R + 1 entries.

    In float64, because sums of hundreds of steps are subtracted from one another.
    """
    num_steps_R = offsets_R.diff()
    row_N = torch.arange(len(num_steps_R), device=values_N.device).repeat_interleave(num_steps_R)
    return values_N.new_zeros(len(num_steps_R), dtype=torch.float64).index_add(0, row_N, values_N.double())


def output_surrogate(
    sum_R: Tensor, old_sum_R: Tensor, advantage_R: Tensor, *, num_rows: int, clip_low: float, clip_high: float
) -> SurrogateTerms:
    """L_output: the clipped surrogate with one ratio per trajectory.

        J = 1/R sum_r min(rho_r A_r, clip(rho_r, 1 - low, 1 + high) A_r),   rho_r = exp(clamp(S - S_old, -10, 10))

    At S = S_old its gradient is that of the surrogate per step with the normaliser `sum` (Proposition 1).

    Args:
        sum_R: S under the present weights.
        old_sum_R: S_old.
        advantage_R: of each trajectory.
        num_rows: all rows of the update, also those that are not given because they have no advantage.
        clip_low: as of `clipped_surrogate`.
        clip_high: as of `clipped_surrogate`.

    Returns:
        The terms of `clipped_surrogate`, over trajectories instead of steps.
    """
    log_ratio_R = (sum_R - old_sum_R).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    weight_R = torch.full_like(log_ratio_R, 1.0 / num_rows)
    return clipped_surrogate(
        log_ratio_R, torch.zeros_like(log_ratio_R), advantage_R, weight_R, clip_low=clip_low, clip_high=clip_high
    )


def output_kl(sum_R: Tensor, old_sum_R: Tensor, reference_sum_R: Tensor) -> Tensor:
    """L_KL: `[R]` terms whose mean over the old policy's trajectories has the gradient of KL(p || p_ref).

        term = sg[clamp(exp(S - S_old), 0.5, 2) (1 + S - S_ref)] S

    grad KL(p || p_ref) = E_p[(1 + S - S_ref) grad S], and the ratio turns the mean over p_old into one over p: unbiased as
    far as no ratio is cut. The values of the terms say nothing.
    """
    with torch.no_grad():
        ratio_R = (sum_R - old_sum_R).exp().clamp(*RATIO_RANGE)
        coefficient_R = ratio_R * (1 + sum_R - reference_sum_R)
    return coefficient_R * sum_R
