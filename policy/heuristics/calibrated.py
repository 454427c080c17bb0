"""PC-Sampler (arXiv 2508.13021): confidence, calibrated by how common a token is anyway, and weighted towards the left.

Shapes: `B` rows, `L` canvas positions, `V` vocabulary.
"""

from __future__ import annotations

import torch

from policy.heuristics.choice import top_k
from policy.heuristics.resources import Resources
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import Decision, deterministic

_RARE = 1e-9
"""Added to a frequency before its logarithm, as the release does."""


class Calibrated:
    """Commits the k positions with the largest exp(-`decay` offset) min(-p ln f, `clip`).

    p is the probability of the predicted token, f its frequency in a background corpus; the offset counts from the block's start.
    """

    needs = Needs(scope=Scope.BLOCK)

    def __init__(self, *, k: int, decay: float, clip: float, background: str, resources: Resources) -> None:
        self._k = k
        self._decay = decay
        self._clip = clip
        self._surprise_V = -(resources.token_frequencies(background).double() + _RARE).log()

    def decide(self, observation: Observation) -> Decision:
        rows, token_ids_BL = observation.context, observation.token_ids_BL
        assert token_ids_BL is not None, "the engine fills them"
        surprise_BL = self._surprise_V.to(token_ids_BL.device)[token_ids_BL.clamp(min=0)]
        content_BL = (observation.confidences_BLK[:, :, 0].double() * surprise_BL).clamp(max=self._clip)
        position_L = torch.arange(content_BL.shape[1], device=content_BL.device)
        offset_BL = position_L - rows.window_BL.int().argmax(1, keepdim=True)
        score_BL = torch.exp(-self._decay * offset_BL.double()) * content_BL
        return deterministic(*top_k(score_BL, observation.eligible_BL, self._k))
