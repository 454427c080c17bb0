"""What happens to the end of text, orthogonal to the sampler: LLaDA's two options.

`never` (`logits_eos_inf`) forbids the end of text; `last` (`confidence_eos_eot_inf`) makes every position where an end of text or
of turn is predicted the least confident of all, so that it is committed last.

Shapes: `B` rows, `L` canvas positions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from policy.observation import Observation
from policy.unmasker import Decision, Unmasker

EosControl = Literal["allow", "never", "last"]

_UNSURE = 1e6
"""Stands for an entropy beyond all others, and less any log-odds; finite, so that sums of it are no NaN."""


class WithoutEos:
    """Another unmasker, for a model that never predicts the end of text."""

    def __init__(self, unmasker: Unmasker, eos_id: int) -> None:
        self._unmasker = unmasker
        self.needs = replace(unmasker.needs, banned_ids=(eos_id,))

    def decide(self, observation: Observation) -> Decision:
        return self._unmasker.decide(observation)


class EosLast:
    """Another unmasker, to which the model seems least sure wherever it predicts the end of text or turn."""

    def __init__(self, unmasker: Unmasker, eos_ids: tuple[int, ...]) -> None:
        self._unmasker = unmasker
        self._eos_ids = eos_ids
        self.needs = unmasker.needs

    def decide(self, observation: Observation) -> Decision:
        token_ids_BL = observation.token_ids_BL
        assert token_ids_BL is not None, "the engine fills them"
        is_end_BL = torch.zeros_like(observation.masked_BL)
        for eos_id in self._eos_ids:
            is_end_BL |= token_ids_BL == eos_id
        is_end_BL &= observation.masked_BL
        entropy_BL, margin_BL = observation.entropy_BL, observation.margin_BL
        return self._unmasker.decide(
            replace(
                observation,
                confidences_BLK=observation.confidences_BLK.masked_fill(is_end_BL.unsqueeze(2), 0.0),
                log_odds_BL=observation.log_odds_BL.masked_fill(is_end_BL, -_UNSURE),
                entropy_BL=None if entropy_BL is None else entropy_BL.masked_fill(is_end_BL, _UNSURE),
                margin_BL=None if margin_BL is None else margin_BL.masked_fill(is_end_BL, -1.0),
            )
        )
