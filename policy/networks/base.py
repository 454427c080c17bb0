"""What every policy network is: features of some rows in, one logit per canvas position out.

Shapes: `N` rows or packed steps, `L` canvas positions, `K` confidences per position, `D` hidden size of the dLLM.
"""

from __future__ import annotations

from torch import Tensor, nn

from policy.config import PolicyConfig
from policy.used_positions import UsedPositions


class PolicyNetwork(nn.Module):
    """A network that its settings describe completely: `config` and the state dict are all that a policy file holds."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config

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
        """`[N, L]` raw logits u, 0 where they are not used.

        Args:
            masked_NL: bool, the position holds the mask token.
            eligible_NL: bool, masked and inside the row's current block.
            confidences_NLK: top-K token probabilities, largest first.
            time_N: NFE / L.
            hidden_NLD: hidden states in any float type, 0 where nothing was asked for; of networks that read them
                (`config.reads_hidden`), None for the others.
            used: the positions whose logits are used; None is all.
            uncertain: the positions that something was asked for; None if they are not known. What networks compute alike of all
                others is then computed once.
        """
        raise NotImplementedError
