"""Prompts, templates and canvases as token ids, and canvases back as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rollout_workers.tasks.base import MASK


class DllmTokenizer:
    """A Hugging Face tokenizer with the canvas conventions of this project."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        for name in ("eos_token", "mask_token"):
            if getattr(tokenizer, name) is None:
                raise ValueError(f"the tokenizer has no {name}")
        self._tokenizer = tokenizer
        self.eos_id = int(tokenizer.eos_token_id)
        self.mask_id = int(tokenizer.mask_token_id)

    @staticmethod
    def from_folder(folder: Path) -> DllmTokenizer:
        """The tokenizer of a model folder; no network and no remote code."""
        return DllmTokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True))

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt; a word outside the vocabulary is a `ValueError` that quotes it."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        unknown = self._tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            word = next(word for word in text.split() if self._tokenizer.convert_tokens_to_ids(word) == unknown)
            raise ValueError(f"prompt word {word!r} is not in the model's vocabulary")
        return list(ids)

    def encode_canvas(self, template: str | None, length: int) -> list[int]:
        """A canvas of `length` ids: all masks, or the template with its masks, filled up with end-of-text."""
        if template is None:
            return [self.mask_id] * length
        ids = self.encode_prompt(template.replace(MASK, self._tokenizer.mask_token))
        if len(ids) > length:
            raise ValueError(f"a template of {len(ids)} tokens does not fit a canvas of {length}")
        return ids + [self.eos_id] * (length - len(ids))

    def decode_canvas(self, ids: Sequence[int]) -> str:
        """The text up to the first end-of-text, without special tokens (a leftover mask decodes to nothing)."""
        kept = list(ids[: ids.index(self.eos_id)]) if self.eos_id in ids else list(ids)
        return str(self._tokenizer.decode(kept, skip_special_tokens=True))

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """One string per id, special tokens included."""
        return [str(token) for token in self._tokenizer.convert_ids_to_tokens(list(ids))]
