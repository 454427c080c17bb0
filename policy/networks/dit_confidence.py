"""The confidence policy of arXiv 2512.09106: one adaptive transformer block over token confidences.

Module names follow the reference release's checkpoints. The prompt is invisible to it, positions are those of the canvas.

Shapes: `N` rows or packed steps, `L` canvas positions, `K` confidences per position, `H` hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policy.config import PolicyConfig
from policy.distinct_positions import DistinctPositions
from policy.networks.base import PolicyNetwork
from policy.networks.layers import AdaptiveBlock, position_states, time_embedding
from policy.used_positions import UsedPositions

LOG_ODDS_FLOOR = 1e-6
LOG_ODDS_SCALE = 0.25
"""Keeps the feature's range (about +-14) near that of the raw confidence."""


class ConfidenceDiT(PolicyNetwork):
    """One unmasking logit per position from mask, confidences and time."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        H, E = config.hidden_size, config.time_embed_size
        has_log_odds = config.confidence_features == "raw_and_log_odds"
        num_features = config.num_confidences * (2 if has_log_odds else 1)
        self.time_mlp = nn.Sequential(nn.Linear(E, H), nn.SiLU(), nn.Linear(H, H))
        self.confidence_proj = nn.Linear(num_features, H)
        self.mask_embedding = nn.Embedding(3 if config.see_block else 2, H)
        self.transformer_blocks = nn.ModuleList(
            AdaptiveBlock(H, config.feed_forward_size, config.num_heads) for _ in range(config.num_blocks)
        )
        self.final_norm = nn.LayerNorm(H)
        self.output_proj = nn.Linear(H, 1)
        self._initialise(config.initial_logit)

    def _initialise(self, initial_logit: float) -> None:
        """Conditioning starts at zero and the output bias at `initial_logit`; output weights stay random."""
        for block in self.transformer_blocks:
            assert isinstance(block, AdaptiveBlock)
            nn.init.zeros_(block.ada_conditioning.weight)
            nn.init.zeros_(block.ada_conditioning.bias)
        nn.init.constant_(self.output_proj.bias, initial_logit)

    def forward(
        self,
        masked_NL: Tensor,
        eligible_NL: Tensor,
        confidences_NLK: Tensor,
        time_N: Tensor,
        hidden_NLD: Tensor | None = None,
        used: UsedPositions | None = None,
        uncertain: UsedPositions | None = None,
    ) -> Tensor:
        if not self.config.see_mask:
            masked_NL = torch.ones_like(masked_NL)
        if not self.config.see_time:
            time_N = torch.zeros_like(time_N)
        state_NL = position_states(masked_NL, eligible_NL, see_block=self.config.see_block)
        legacy = self.config.time_embedding == "legacy"
        time_N1E = time_embedding(time_N, self.config.time_embed_size, legacy=legacy)
        condition_NSH = self.mask_embedding.weight + self.time_mlp(time_N1E)
        *blocks, last = self.transformer_blocks
        distinct = None
        if used is not None and uncertain is not None and not blocks:
            distinct = DistinctPositions.of(state_NL, confidences_NLK, condition_NSH.shape[1], uncertain)
            confidences_NLK = distinct.confidences_PK
        x = self.confidence_proj(self._features(confidences_NLK))
        for block in blocks:
            x = block(x, condition_NSH, state_NL)
        x = last(x, condition_NSH, state_NL, used, distinct)
        logits: Tensor = self.output_proj(self.final_norm(x)).squeeze(-1)
        return logits if used is None else used.scattered(logits)

    def _features(self, confidences_NLK: Tensor) -> Tensor:
        if self.config.confidence_features == "raw":
            return confidences_NLK
        log_odds_NLK = torch.logit(confidences_NLK, eps=LOG_ODDS_FLOOR) * LOG_ODDS_SCALE
        return torch.cat([confidences_NLK, log_odds_NLK], -1)
