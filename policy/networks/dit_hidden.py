"""The hidden-state policy of arXiv 2512.09106: the dLLM's last hidden states through freshly initialised blocks of its own kind.

Built for any dLLM that shows its hidden states, at its size. With LLaDA-8B's (D 4096, 32 heads, feed-forward 12,288; one block,
time embedding 128) it has 302,575,617 parameters: 17,309,696 of the time, 8,192 of the mask embedding, twice 33,562,624 of
conditioning, 218,112,000 of the block, 16,384 of the two norms and 4,097 of the output; the paper speaks of about 300 million.

Shapes: `N` rows or packed steps, `L` canvas positions, `D` hidden size, `E` time embedding size, `S` states of a position.
"""

from __future__ import annotations

from torch import Tensor, nn

from policy.config import PolicyConfig
from policy.networks.backbone_block import BackboneBlock
from policy.networks.base import PolicyNetwork
from policy.networks.layers import per_position, position_states, time_embedding
from policy.used_positions import UsedPositions


class HiddenDiT(PolicyNetwork):
    """One unmasking logit per position from mask, hidden states and time; confidences are not looked at."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        assert config.backbone is not None, "the model's shape is filled in before a network is made"
        D, E = config.backbone.hidden_size, config.time_embed_size
        self.time_mlp = nn.Sequential(nn.Linear(E, D), nn.SiLU(), nn.Linear(D, D))
        self.mask_embedding = nn.Embedding(3 if config.see_block else 2, D)
        self.transformer_blocks = nn.ModuleList(BackboneBlock(config.backbone) for _ in range(config.num_blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(D) for _ in range(config.num_blocks + 1))
        self.ada_conditioning = nn.ModuleList(nn.Linear(D, 2 * D) for _ in range(config.num_blocks + 1))
        self.output_proj = nn.Linear(D, 1)
        for ada in self.ada_conditioning:
            assert isinstance(ada, nn.Linear)
            nn.init.zeros_(ada.weight)
            nn.init.zeros_(ada.bias)
        nn.init.constant_(self.output_proj.bias, config.initial_logit)

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
        assert hidden_NLD is not None, "network 'dit_hidden' reads hidden states"
        config = self.config
        state_NL = position_states(masked_NL, eligible_NL, see_block=config.see_block)
        time_N1E = time_embedding(time_N, config.time_embed_size, legacy=config.time_embedding == "legacy")
        condition_NSD = self.mask_embedding.weight + self.time_mlp(time_N1E)
        x = hidden_NLD.to(condition_NSD.dtype)
        here = None
        for i, (norm, ada) in enumerate(zip(self.norms, self.ada_conditioning, strict=True)):
            scale, shift = per_position(ada(condition_NSD), state_NL, here).chunk(2, -1)
            x = norm(x) * (1 + scale) + shift
            if i < config.num_blocks:
                here = used if i == config.num_blocks - 1 else None
                x = self.transformer_blocks[i](x, here)
        logits: Tensor = self.output_proj(x).squeeze(-1)
        return logits if used is None else used.scattered(logits)
