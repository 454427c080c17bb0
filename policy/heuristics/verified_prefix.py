"""APD, adaptive parallel decoding (arXiv 2506.00413): left to right, as far as a small causal model agrees.

Shapes: `B` rows, `L` canvas positions, `V` vocabulary, `n` eligible positions of one row.
"""

from __future__ import annotations

import torch

from policy.heuristics.choice import by_row
from policy.heuristics.resources import Resources, SecondModel
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import NEAR_TIE, Decision


class VerifiedPrefix:
    """Commits the longest prefix of the next `lookahead` eligible positions that both models together would write, at least one.

    A draft token agrees where it maximises `ratio` log p + (1 - `ratio`) log q, with p of the dLLM and q of the causal model that
    reads the prompt, the canvas and the drafts before it. Tokens are greedy, so the shared Gumbel noise of the paper is 0. One pass
    of the causal model counts as one forward pass; a row with a single candidate needs none.
    """

    needs = Needs(scope=Scope.BLOCK, log_probs=True)

    def __init__(self, *, ratio: float, lookahead: int, model: str, resources: Resources) -> None:
        self._ratio = ratio
        self._lookahead = lookahead
        self._second: SecondModel = resources.second_model(model)

    def decide(self, observation: Observation) -> Decision:
        rows, eligible_BL, token_ids_BL = observation.context, observation.eligible_BL, observation.token_ids_BL
        assert observation.log_probs_NV is not None, "asked for in `needs`"
        assert token_ids_BL is not None, "the engine fills them"
        positions = [mask_L.nonzero().squeeze(1)[: self._lookahead].tolist() for mask_L in eligible_BL]
        asked = [row for row, position in enumerate(positions) if len(position) > 1]
        drafted_BL = torch.where(eligible_BL, token_ids_BL, rows.canvas_BL)
        texts, first = [], []
        for row in asked:
            length = int(rows.prompt_length_B[row])
            prompt = rows.prompt_BP[row, rows.prompt_BP.shape[1] - length :].tolist()
            texts.append(prompt + drafted_BL[row, : positions[row][-1] + 1].tolist())
            # The first candidate is committed anyway, so verifying begins at the second.
            first.append(length + positions[row][1])
        answers = dict(zip(asked, self._second.log_probs(texts, first) if texts else [], strict=True))
        commit_BL = torch.zeros_like(eligible_BL)
        extra_B, near_B = torch.zeros_like(observation.nfe_B), torch.zeros_like(observation.nfe_B)
        for row, log_p_nV in enumerate(by_row(observation.log_probs_NV, eligible_BL)):
            commit_BL[row, positions[row][0]] = True
            if row not in answers:
                continue
            extra_B[row] = 1
            for number, position in enumerate(positions[row][1:], start=1):
                log_q_V = answers[row][position - positions[row][1]].to(log_p_nV)
                # A token that the dLLM excludes stays excluded where `ratio` is 0.
                product_V = self._ratio * log_p_nV[number].clamp(min=-1e30) + (1 - self._ratio) * log_q_V
                product_V = product_V.masked_fill(log_p_nV[number] == -torch.inf, -torch.inf)
                best_2 = product_V.topk(2).values
                near_B[row] += int(best_2[0] - best_2[1] < NEAR_TIE)
                if int(product_V.argmax()) != int(token_ids_BL[row, position]):
                    break
                commit_BL[row, position] = True
        return Decision(commit_BL, torch.zeros(len(near_B), device=near_B.device), near_B, extra_nfe_B=extra_B)
