"""Training batches of the tiny dLLM: keyed draws and the shapes of their masks."""

from __future__ import annotations

import pytest
import torch

from rollout_workers.models.tiny import corpus as corpus_module
from rollout_workers.models.tiny.corpus import (
    ARITHMETIC_CANVAS,
    BLOCK_LENGTHS,
    MAX_HARD_GIVENS,
    SUDOKU_CANVAS,
    Batch,
    Corpus,
)
from rollout_workers.models.tiny.vocabulary import build_tokenizer, vocabulary
from rollout_workers.tasks import make_task
from rollout_workers.tasks.base import Example

TOKENIZER = build_tokenizer()
KINDS = ("arithmetic", "sudoku")


def draw(kind: str, step: int, *, seed: int = 0, batch_size: int = 16) -> Batch:
    return getattr(Corpus(TOKENIZER, seed=seed), kind)(step, batch_size=batch_size)


def equal(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("prompt_BP", "canvas_BL", "masked_BL")
    )


@pytest.fixture
def shares(monkeypatch):
    """Sets how often each kind of mask is drawn."""

    def set_shares(*, block: float, typed: float) -> None:
        monkeypatch.setattr(corpus_module, "BLOCK_SHARE", block)
        monkeypatch.setattr(corpus_module, "TYPED_SHARE", typed)

    return set_shares


def test_the_vocabulary_has_no_doubles_and_keeps_its_special_ids():
    words = vocabulary()
    assert len(words) == len(set(words)) == len(TOKENIZER)
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.mask_token_id) == (0, 1, 2)


def test_canvases_are_the_lengths_that_the_tasks_are_posed_with():
    assert make_task("arithmetic").canvas_length == ARITHMETIC_CANVAS
    assert make_task("sudoku").canvas_length == SUDOKU_CANVAS


@pytest.mark.parametrize("kind", KINDS)
class TestBatches:
    def test_they_depend_on_seed_and_step_alone(self, kind):
        corpus = Corpus(TOKENIZER, seed=3)
        later = getattr(corpus, kind)(9, batch_size=16)
        first = getattr(corpus, kind)(2, batch_size=16)
        assert equal(first, draw(kind, 2, seed=3))
        assert equal(later, draw(kind, 9, seed=3))
        assert not equal(first, later)
        assert not equal(first, draw(kind, 2, seed=4))

    def test_texts_are_solutions_of_their_prompts_without_masks_or_unknown_words(self, kind):
        batch = draw(kind, 0)
        assert not torch.isin(batch.canvas_BL, torch.tensor([TOKENIZER.mask_token_id, TOKENIZER.unk_token_id])).any()
        assert (
            batch.canvas_BL.shape
            == batch.masked_BL.shape
            == (16, ARITHMETIC_CANVAS if kind == "arithmetic" else SUDOKU_CANVAS)
        )
        task = make_task(kind)
        for ids in batch.canvas_BL.tolist():
            text = TOKENIZER.decode(ids[: ids.index(TOKENIZER.eos_token_id)])
            body = text.partition("<answer>")[2].partition("</answer>")[0]
            digits = "".join(body.split()).replace("|", "")
            answer = digits if kind == "arithmetic" else f"{'0' * 16} {digits}"
            assert task.grade(Example("x/train/0", "", answer), text).is_correct

    def test_every_row_has_something_to_learn(self, kind):
        for step in range(20):
            assert draw(kind, step, batch_size=32).masked_BL.any(1).all()

    def test_independent_masks_have_stratified_ratios(self, kind, shares):
        shares(block=0.0, typed=0.0)
        B = 256
        for step in range(8):
            share_B = draw(kind, step, batch_size=B).masked_BL.float().mean(1).sort().values
            # Drawn freely, a batch's mean ratio would be off by about 0.018, not 0.005.
            assert abs(float(share_B.mean()) - 0.5) < 0.02
            assert share_B[: B // 8].mean() < 0.15
            assert share_B[-B // 8 :].mean() > 0.85

    def test_block_masks_are_clean_on_the_left_and_all_masked_on_the_right(self, kind, shares):
        shares(block=1.0, typed=0.0)
        masked_BL = draw(kind, 1, batch_size=128).masked_BL
        B, L = masked_BL.shape
        lengths = [length for length in BLOCK_LENGTHS if L % length == 0]
        partly = 0
        for row in masked_BL.tolist():
            fits = [
                (length, start)
                for length in lengths
                for start in range(0, L, length)
                if not any(row[:start]) and all(row[start + length :])
            ]
            # A row whose block drew no mask at all gets one anywhere.
            assert fits or sum(row) == 1, row
            partly += any(any(row[s : s + n]) and not all(row[s : s + n]) for n, s in fits)
        assert partly > B // 2

    def test_typed_masks_mask_whole_kinds_of_tokens(self, kind, shares):
        shares(block=0.0, typed=1.0)
        masked_BL = draw(kind, 1, batch_size=128).masked_BL
        share_B = masked_BL.float().mean(1)
        # Some rows are nearly clean, some nearly all masks, as decoders leave them.
        assert (share_B < 0.3).any()
        assert (share_B > 0.7).any()


def test_hard_puzzles_have_few_givens():
    digits = torch.tensor([TOKENIZER.get_vocab()[str(digit)] for digit in range(1, 5)])

    def num_givens(hard_share: float) -> torch.Tensor:
        batch = Corpus(TOKENIZER, seed=0).sudoku(3, batch_size=64, hard_share=hard_share)
        return torch.isin(batch.prompt_BP, digits).sum(1)

    assert int(num_givens(1.0).max()) == MAX_HARD_GIVENS
    assert int(num_givens(0.0).max()) > MAX_HARD_GIVENS
    assert 0.5 < float((num_givens(0.75) <= MAX_HARD_GIVENS).float().mean()) < 1.0
