"""The tiny dLLM's word-level tokenizer, built from the words of its tasks."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rollout_workers.tasks import MASK, arithmetic, sudoku

EOS = "<eos>"
PAD = "<pad>"
UNKNOWN = "<unk>"
FRAME = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def vocabulary() -> list[str]:
    """Every token, special ones first, in a fixed order."""
    numbers = [str(number) for number in range(arithmetic.LIMIT)]
    return list(dict.fromkeys([PAD, EOS, MASK, UNKNOWN, *FRAME, *numbers, *arithmetic.WORDS, *sudoku.WORDS]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that splits on white space and knows `vocabulary()`."""
    words = vocabulary()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, mask_token=MASK, unk_token=UNKNOWN
    )
