"""Prompts, templates and canvases as token ids, and canvases back as text."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from cluster.errors import UserError
from rollout_workers.tasks.base import MASK


class DllmTokenizer:
    """A Hugging Face tokenizer with the canvas conventions of this project."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mask_id: int,
        eos_id: int,
        end_of_turn_id: int | None = None,
        use_chat_template: bool | None = None,
    ) -> None:
        """`use_chat_template` None: wrap prompts exactly when the checkpoint has a template; True without one is a ValueError."""
        self._tokenizer = tokenizer
        self.mask_id = mask_id
        self.eos_id = eos_id
        self.end_of_turn_id = end_of_turn_id
        self.num_tokens = max(tokenizer.get_vocab().values()) + 1
        has_template = tokenizer.chat_template is not None
        if use_chat_template and not has_template:
            raise ValueError("its tokenizer has no chat template")
        self.uses_chat_template = has_template if use_chat_template is None else use_chat_template

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text as it stands; a word outside the vocabulary is a `ValueError` that quotes it."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        unknown = self._tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            word = next(word for word in text.split() if self._tokenizer.convert_tokens_to_ids(word) == unknown)
            raise ValueError(f"prompt word {word!r} is not in the model's vocabulary")
        return list(ids)

    def render_prompt(self, text: str, prefill: str = "") -> str:
        """What the model reads: the prompt as a user's turn where the checkpoint brings a chat template, then the prefill."""
        if self.uses_chat_template:
            messages = [{"role": "user", "content": text}]
            text = str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        return text + prefill

    def render_chat(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        """A conversation as the model reads it; a UserError where the checkpoint has no chat template."""
        if not self.uses_chat_template:
            raise UserError("the model's tokenizer has no chat template; allowed: prompts as they stand")
        return str(
            self._tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
        )

    def encode_prompt(self, text: str, prefill: str = "") -> list[int]:
        """Ids of a rendered prompt."""
        return self.encode_text(self.render_prompt(text, prefill))

    def encode_canvas(self, template: str | None, length: int) -> list[int]:
        """A canvas of `length` ids: all masks, or the template with its masks, filled up with end-of-text."""
        if template is None:
            return [self.mask_id] * length
        ids = self.encode_text(template.replace(MASK, self.tokens([self.mask_id])[0]))
        if ids.count(self.mask_id) != template.count(MASK):
            raise UserError(
                f"the tokenizer makes {ids.count(self.mask_id)} mask tokens of a template with {template.count(MASK)} "
                "empty cells; infilling needs one for each"
            )
        if len(ids) > length:
            raise ValueError(f"a template of {len(ids)} tokens does not fit a canvas of {length}")
        return ids + [self.eos_id] * (length - len(ids))

    def decode_canvas(self, ids: Sequence[int]) -> str:
        """The text up to the first end of text or turn, without special tokens (a leftover mask decodes to nothing)."""
        return str(self._tokenizer.decode(list(ids[: self.response_length(ids)]), skip_special_tokens=True))

    def response_length(self, ids: Sequence[int]) -> int:
        """How many tokens stand before the first end of text or turn."""
        ends = (i for i, token in enumerate(ids) if token in (self.eos_id, self.end_of_turn_id))
        return next(ends, len(ids))

    def ids_of(self, text: str) -> list[int]:
        """Ids of a text as it stands; a token of the vocabulary is itself, and words that are none are left out."""
        if text in (vocabulary := self.vocabulary()):
            return [vocabulary[text]]
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return [each for each in ids if each != self._tokenizer.unk_token_id]

    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        return dict(self._tokenizer.get_vocab())

    def special_ids(self) -> set[int]:
        """Ids of the special tokens."""
        return set(self._tokenizer.all_special_ids)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id by itself, special tokens included."""
        return [str(self._tokenizer.decode([token])) for token in ids]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """One string per id, special tokens included."""
        return [str(token) for token in self._tokenizer.convert_ids_to_tokens(list(ids))]
