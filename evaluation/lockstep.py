"""The batched decoder that public implementations use, as the baseline of benchmarks.

All rows of a batch stay in one block until the slowest of them has cleaned it, every forward pass computes all rows of the batch,
and the next batch starts when the last row has ended. Decisions are those of the engine: same model, same unmasker, same noise.

Shapes: `B` rows of a batch, `L` canvas positions.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch

from policy.unmasker import Unmasker
from policy.used_positions import UsedPositions
from rollout_workers.models.base import FrozenDLLM
from rollout_workers.sequence import Sequence
from rollout_workers.view import observe


@dataclass(slots=True)
class LockStepStats:
    """Rows computed, and how many of them still had something to decide."""

    num_steps: int = 0
    num_computed_rows: int = 0
    num_live_rows: int = 0


@torch.no_grad()
def decode_lock_step(
    model: FrozenDLLM, unmasker: Unmasker, sequences: Many[Sequence], *, batch_size: int
) -> tuple[list[list[int]], LockStepStats]:
    """Final tokens of all sequences, and what was computed for them."""
    stats = LockStepStats()
    tokens: list[list[int]] = []
    for start in range(0, len(sequences), batch_size):
        tokens.extend(_decode_batch(model, unmasker, sequences[start : start + batch_size], stats))
    return tokens, stats


def _decode_batch(
    model: FrozenDLLM, unmasker: Unmasker, sequences: Many[Sequence], stats: LockStepStats
) -> list[list[int]]:
    spec, needs = model.spec, unmasker.needs
    width = max(len(sequence.prompt_ids) for sequence in sequences)
    prompts = [[spec.pad_id] * (width - len(s.prompt_ids)) + list(s.prompt_ids) for s in sequences]
    prompt_BP = torch.tensor(prompts, device=model.device)
    length_B = torch.tensor([len(sequence.prompt_ids) for sequence in sequences])
    canvas_BL = torch.tensor([list(sequence.canvas_ids) for sequence in sequences], device=model.device)
    keys_B = torch.tensor([sequence.key for sequence in sequences], device=model.device)
    nfe_B = torch.zeros(len(sequences), dtype=torch.int64, device=model.device)
    L, block = canvas_BL.shape[1], sequences[0].block_length
    position_L = torch.arange(L, device=model.device)
    for first in range(0, L, block):
        in_block_L = (position_L >= first) & (position_L < first + block)
        while True:
            masked_BL = canvas_BL == spec.mask_id
            eligible_BL = masked_BL & in_block_L
            live_B = eligible_BL.any(1)
            if not bool(live_B.any()):
                break
            wanted = UsedPositions.where(masked_BL)
            prediction = model.predict(
                prompt_BP,
                length_B,
                canvas_BL,
                masked_BL,
                num_confidences=needs.num_confidences,
                with_entropy=needs.entropy,
                with_margin=needs.margin,
            )
            decision = unmasker.decide(
                observe(prediction, wanted, masked_BL=masked_BL, eligible_BL=eligible_BL, nfe_B=nfe_B, keys_B=keys_B)
            )
            predicted_BL = torch.where(masked_BL, wanted.scattered(prediction.token_ids_N), canvas_BL)
            canvas_BL = torch.where(decision.commit_BL, predicted_BL, canvas_BL)
            nfe_B = nfe_B + live_B.long()
            stats.num_steps += 1
            stats.num_computed_rows += len(sequences)
            stats.num_live_rows += int(live_B.sum())
    return [row.tolist() for row in canvas_BL]
