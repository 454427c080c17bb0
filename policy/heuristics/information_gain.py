"""Info-Gain (arXiv 2602.18176): commits what leaves the rest least uncertain, found by looking one pass ahead.

Shapes: `B` rows, `L` canvas positions, `N` candidates of all rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policy.heuristics.choice import num_near
from policy.noise import Stream, uniforms
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import NEAR_TIE, Decision, deterministic


class InformationGain:
    """Commits the candidate position i with the largest -H_i - mean H after committing i, over what is then still masked.

    Candidates are the most confident eligible position and up to `candidates` - 1 others, drawn by Gumbel noise over
    confidence / `position_temperature`; each costs one forward pass. Where every eligible confidence is at least `tau`, all are
    committed, and a single candidate is committed without looking.
    """

    needs = Needs(scope=Scope.MASKED, entropy=True, lookahead=True)

    def __init__(self, *, tau: float, candidates: int, position_temperature: float) -> None:
        self._tau = tau
        self._num_candidates = candidates
        self._position_temperature = position_temperature

    def decide(self, observation: Observation) -> Decision:
        eligible_BL, confidence_BL = observation.eligible_BL, observation.confidences_BLK[:, :, 0]
        is_sure_B = ((confidence_BL >= self._tau) | ~eligible_BL).all(1)
        near_B = num_near(confidence_BL, self._tau, eligible_BL)
        candidate_BL = self._candidates(observation) & ~is_sure_B.unsqueeze(1)
        score_BL = torch.full(eligible_BL.shape, -torch.inf, dtype=torch.float64, device=eligible_BL.device)
        score_BL[candidate_BL] = 0.0
        contested_BL = candidate_BL & (candidate_BL.sum(1, keepdim=True) > 1)
        if bool(contested_BL.any()):
            score_BL[contested_BL] = self._scores(observation, contested_BL)
        ordered_BL, order_BL = score_BL.sort(dim=1, descending=True, stable=True)
        best_BL = torch.zeros_like(eligible_BL).scatter_(1, order_BL[:, :1], True)
        commit_BL = torch.where(is_sure_B.unsqueeze(1), eligible_BL, best_BL)
        if ordered_BL.shape[1] > 1:
            near_B = near_B + (ordered_BL[:, 0] - ordered_BL[:, 1] < NEAR_TIE).long()
        return deterministic(commit_BL, near_B)

    def _candidates(self, observation: Observation) -> Tensor:
        """`[B, L]` bool."""
        eligible_BL, confidence_BL = observation.eligible_BL, observation.confidences_BLK[:, :, 0]
        B, L = eligible_BL.shape
        best_B1 = torch.where(eligible_BL, observation.log_odds_BL, -torch.inf).argmax(1, keepdim=True)
        chosen_BL = torch.zeros_like(eligible_BL).scatter_(1, best_B1, True)
        num_draws = self._num_candidates - 1
        if num_draws == 0:
            return chosen_BL
        noise_BM = uniforms(observation.keys_B, observation.nfe_B, num_draws * L, Stream.POLICY)
        gumbel_BNL = -(-noise_BM.double().log()).log().view(B, num_draws, L)
        score_BNL = confidence_BL.double().unsqueeze(1) / self._position_temperature + gumbel_BNL
        drawn_BN = score_BNL.masked_fill(~eligible_BL.unsqueeze(1), -torch.inf).argmax(2)
        return chosen_BL.scatter_(1, drawn_BN, True)

    def _scores(self, observation: Observation, candidate_BL: Tensor) -> Tensor:
        """`[N]` of all candidates, in row-major order."""
        rows, token_ids_BL = observation.context, observation.token_ids_BL
        assert token_ids_BL is not None, "the engine fills them"
        assert observation.entropy_BL is not None, "asked for in `needs`"
        row_N, position_N = candidate_BL.nonzero(as_tuple=True)
        number_N = torch.arange(len(row_N), device=row_N.device)
        canvas_NL, masked_NL = rows.canvas_BL[row_N], observation.masked_BL[row_N]
        canvas_NL[number_N, position_N] = token_ids_BL[row_N, position_N]
        masked_NL[number_N, position_N] = False
        after_NL = rows.lookahead(row_N, canvas_NL, masked_NL).entropy_BL
        assert after_NL is not None, "asked for in `needs`"
        cost_N = observation.entropy_BL[row_N, position_N].double()
        return -cost_N - (after_NL.double() * masked_NL).sum(1) / masked_NL.sum(1)
