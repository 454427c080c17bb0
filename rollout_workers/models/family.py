"""What is particular to one architecture of dLLMs: how its config and its tensor names become those of a maintained backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import LlamaConfig, PreTrainedTokenizerBase, Qwen2Config

from rollout_workers.models.checkpoint import Checkpoint

BackboneConfig = LlamaConfig | Qwen2Config


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture."""

    model_type: str
    """`model_type` of its config.json."""
    tokenizer_class: type[PreTrainedTokenizerBase]
    tokenizer_files: tuple[str, ...]
    mask_token: str
    """Written form of the mask: the tokenizer must give it the config's mask_token_id."""
    end_of_turn: str | None
    """Written form of the token that ends an answer, besides end-of-text; base models may not have it."""
    make_config: Callable[[Checkpoint], BackboneConfig]
    """ModelError for a config that the backbone cannot represent."""
    tensor_name: Callable[[str], str]
    """The backbone's name of a tensor; an unknown one stays as it is and is refused by name."""
    rows_keys: tuple[str, ...]
    """Config keys that say how many rows the embedding and the head have; the first that is there counts."""
    positions_key: str
    """Config key that says how many positions the model was made for."""
    is_shifted: bool
    """Whether the logits that a position is predicted from stand one position to its left."""

    def rows_key(self, checkpoint: Checkpoint) -> str:
        """The config key that counts the head's rows."""
        return next((key for key in self.rows_keys if checkpoint.config.get(key) is not None), self.rows_keys[-1])
