"""The policy of UPO (arXiv 2510.05725): one transformer layer over hidden states, then a perceptron over them and a few flags.

    features = [norm(block(hidden)) | candidate flag | mask flag | K largest token probabilities]        D + 2 + K of them
    logit    = three times (linear, layer norm, SiLU) at that width, then a linear layer to one number

It reads the hidden states that every adapter here shows: those that a position is predicted from, of the canvas alone. The release
feeds it the input of LLaDA's last block, prompt included, and may start its layer from that block's weights. The features are in
the trajectory, so learning runs no dLLM.

With LLaDA-8B's shape and K = 8 it has 268,734,865 parameters: 218,112,000 of the block, 4,096 of the norm and 50,618,769 of the
perceptron. The paper says 134 million, half of that, which is what counting 4-bit storage gives (two weights to the element).

Shapes: `N` rows or packed steps, `L` canvas positions, `D` hidden size, `K` confidences per position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policy.candidates import most_confident
from policy.config import PolicyConfig
from policy.networks.backbone_block import NORM_EPS, BackboneBlock
from policy.networks.base import PolicyNetwork
from policy.used_positions import UsedPositions

NUM_HIDDEN_LAYERS = 3


class UpoNetwork(PolicyNetwork):
    """One logit per position, of which `categorical` chooses one; there is no time in it."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        assert config.backbone is not None, "the model's shape is filled in before a network is made"
        D = config.backbone.hidden_size
        width = D + 2 + config.num_confidences
        self.block = BackboneBlock(config.backbone)
        self.final_norm = nn.RMSNorm(D, eps=NORM_EPS)
        layers: list[nn.Module] = []
        for _ in range(NUM_HIDDEN_LAYERS):
            layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.SiLU()]
        self.mlp = nn.Sequential(*layers)
        self.output_proj = nn.Linear(width, 1)

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
        assert hidden_NLD is not None, "network 'upo' reads hidden states"
        h = self.final_norm(self.block(hidden_NLD.to(self.output_proj.weight.dtype), used))
        candidate_NL = most_confident(confidences_NLK, eligible_NL, self.config.num_candidates)
        seen = [torch.stack([candidate_NL, masked_NL], -1), confidences_NLK]
        features = torch.cat([h, *((each if used is None else used.of(each)).to(h.dtype) for each in seen)], -1)
        logits: Tensor = self.output_proj(self.mlp(features)).squeeze(-1)
        return logits if used is None else used.scattered(logits)
