"""Training batches for the tiny dLLM: texts of both tasks under the masks that decoders produce.

Three kinds of masks, because a model trained on independent masks alone has never seen the states that decoding visits:
independent ones at stratified ratios, block-shaped ones (left of the block clean, right of it all masks), and ones that mask
each kind of token at its own rate (chains known up to a point, puzzles with givens). All draws are keyed by (seed, step).

Shapes: `B` rows, `P` prompt tokens, `L` canvas tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rollout_workers.tasks import arithmetic, sudoku
from rollout_workers.tasks.base import Split

BLOCK_LENGTHS = (4, 6, 8, 12, 16, 24)
BLOCK_SHARE = 0.35
TYPED_SHARE = 0.30
ARITHMETIC_CANVAS = 48
SUDOKU_CANVAS = 24
MIN_CHAIN_STEPS = 2
MAX_HARD_GIVENS = 7


@dataclass(frozen=True, slots=True)
class Batch:
    """Clean texts and where they are masked."""

    prompt_BP: Tensor
    canvas_BL: Tensor
    masked_BL: Tensor


class Corpus:
    """Batches by step number; any step can be drawn without the ones before it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> None:
        self._ids = tokenizer.get_vocab()
        self._seed = seed
        self._number_ids = torch.tensor([self._ids[str(number)] for number in range(arithmetic.LIMIT)])
        self._connective_ids = torch.tensor([self._ids[word] for word in arithmetic.CONNECTIVES])
        self._before_value_ids = torch.tensor([self._ids["="], self._ids["<answer>"]])

    def arithmetic(self, step: int, *, batch_size: int) -> Batch:
        """Worded chains, short ones included, from which copying and look-up are learned sooner."""
        rng = random.Random(f"arithmetic/{self._seed}/{step}")
        prompts, canvases = [], []
        for _ in range(batch_size):
            num_steps = rng.randint(MIN_CHAIN_STEPS, arithmetic.MAX_STEPS)
            problem = arithmetic.draw_problem(rng, Split.TRAIN, num_steps=num_steps)
            prompts.append(arithmetic.word_problem(problem, rng))
            canvases.append(arithmetic.word_solution(problem, rng))
        return self._batch(prompts, canvases, ARITHMETIC_CANVAS, rng)

    def sudoku(self, step: int, *, batch_size: int, hard_share: float = 0.0) -> Batch:
        """Puzzles with their completed grids; `hard_share` of them have at most `MAX_HARD_GIVENS` givens."""
        rng = random.Random(f"sudoku/{self._seed}/{step}")
        task = sudoku.Sudoku()
        prompts, canvases = [], []
        for _ in range(batch_size):
            is_hard = hard_share > 0 and rng.random() < hard_share
            num_givens = rng.randint(task.min_givens, MAX_HARD_GIVENS if is_hard else task.max_givens)
            puzzle, solution = sudoku.draw_puzzle(rng, Split.TRAIN, num_givens=num_givens)
            prompts.append(task.pose("", puzzle, solution).prompt)
            canvases.append(sudoku.word_grid(solution))
        return self._batch(prompts, canvases, SUDOKU_CANVAS, rng)

    def _batch(self, prompts: list[str], canvases: list[str], length: int, rng: random.Random) -> Batch:
        prompt_BP = torch.tensor([[self._ids[word] for word in text.split()] for text in prompts])
        canvas_BL = torch.full((len(canvases), length), self._ids["<eos>"])
        for row, text in enumerate(canvases):
            ids = [self._ids[word] for word in text.split()]
            canvas_BL[row, : len(ids)] = torch.tensor(ids)
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        return Batch(prompt_BP, canvas_BL, self._mask(canvas_BL, generator))

    def _mask(self, canvas_BL: Tensor, generator: torch.Generator) -> Tensor:
        B, L = canvas_BL.shape
        order = torch.randperm(B, generator=generator)
        ratio_B1 = ((order + torch.rand(B, generator=generator)) / B).unsqueeze(1)
        draw_BL = torch.rand(B, L, generator=generator)
        iid_BL = draw_BL < ratio_B1
        block_BL = _block_masks(iid_BL, generator)
        typed_BL = draw_BL < self._typed_rates(canvas_BL, generator)
        kind_B1 = torch.rand(B, 1, generator=generator)
        masked_BL = torch.where(kind_B1 < BLOCK_SHARE, block_BL, iid_BL)
        masked_BL = torch.where(kind_B1 > 1 - TYPED_SHARE, typed_BL, masked_BL)
        empty_B = ~masked_BL.any(1)
        masked_BL[empty_B, torch.randint(L, (int(empty_B.sum()),), generator=generator)] = True
        return masked_BL

    def _typed_rates(self, canvas_BL: Tensor, generator: torch.Generator) -> Tensor:
        """Masking rates that differ by kind of token; values are clean left of a random point and masked right of it."""
        B, L = canvas_BL.shape
        before_BL = torch.cat([torch.zeros_like(canvas_BL[:, :1]), canvas_BL[:, :-1]], 1)
        is_number_BL = torch.isin(canvas_BL, self._number_ids)
        if L == ARITHMETIC_CANVAS:
            is_value_BL = is_number_BL & torch.isin(before_BL, self._before_value_ids)
            known_B1 = torch.randint(L, (B, 1), generator=generator)
            value_rate_BL = (torch.arange(L) >= known_B1).float()
        else:
            is_value_BL = is_number_BL
            value_rate_BL = torch.rand(B, 1, generator=generator).expand(B, L)
        is_connective_BL = torch.isin(canvas_BL, self._connective_ids)
        # Rates of the other kinds: often all clean or all masked, as decoders leave them.
        rates = torch.rand(2, B, 1, generator=generator).mul(2).sub(0.5).clamp(0, 1)
        other_rate_BL = torch.where(is_connective_BL, rates[0], rates[1])
        return torch.where(is_value_BL, value_rate_BL, other_rate_BL)


def _block_masks(iid_BL: Tensor, generator: torch.Generator) -> Tensor:
    """Inside one random block per row the independent mask; left of it clean, right of it all masked."""
    B, L = iid_BL.shape
    lengths = torch.tensor([length for length in BLOCK_LENGTHS if L % length == 0])
    length_B = lengths[torch.randint(len(lengths), (B,), generator=generator)]
    start_B = (torch.rand(B, generator=generator) * (L // length_B)).long() * length_B
    position_L = torch.arange(L)
    after_BL = position_L >= (start_B + length_B).unsqueeze(1)
    inside_BL = (position_L >= start_B.unsqueeze(1)) & ~after_BL
    return after_BL | (inside_BL & iid_BL)
