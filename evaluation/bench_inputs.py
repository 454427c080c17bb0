"""What the rollouts benchmark decodes: a task's problems by a real model, or random prompts by a model of a real size.

A model with random weights is never sure of anything, so a threshold that means something for trained models means nothing there:
`threshold_for_nfe` finds the one at which rows take about as many passes as trained policies do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from cluster.errors import UserError
from policy.factory import make_heuristic
from policy.noise import row_key
from rollout_workers.engine import Engine
from rollout_workers.models.base import FrozenDLLM
from rollout_workers.sequence import LiveRows, Sequence

_CALIBRATION_ROWS = 8
_BISECTIONS = 10


def check_json(path: str | None) -> None:
    """Raises a UserError for a ``--json`` that could not be written, before anything is measured."""
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise UserError(f"--json is {path!r}; allowed: a file in a folder that exists")


def random_rows(
    num_rows: int,
    *,
    prompt_lengths: tuple[int, int],
    canvas_length: int,
    block_length: int,
    mask_id: int,
    seed: int = 0,
) -> list[Sequence]:
    """Rows with random prompts of random lengths, from the shortest to the longest allowed, and a canvas of masks."""
    generator = torch.Generator().manual_seed(seed)
    shortest, longest = prompt_lengths
    rows = []
    for number in range(num_rows):
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        prompt = torch.randint(0, mask_id - 1, (length,), generator=generator).tolist()
        key = row_key(run_seed=seed, example_id=f"random/{number}", sample_index=0, weight_version=0)
        rows.append(Sequence(f"random/{number}", prompt, [mask_id] * canvas_length, block_length, key))
    return rows


def threshold_for_nfe(
    model: FrozenDLLM, make_rows: Callable[[int], list[Sequence]], block_length: int, target: float
) -> float:
    """The threshold at which a few of the rows take `target` passes on average, by bisection over their own confidences."""
    sequences, spec = make_rows(block_length)[:_CALIBRATION_ROWS], model.spec
    length = len(sequences[0].canvas_ids)
    rows = LiveRows(mask_id=spec.mask_id, pad_id=spec.pad_id, canvas_length=length, device=model.device)
    rows.admit(sequences)
    wanted_BL = torch.ones_like(rows.canvas_BL, dtype=torch.bool)
    prediction = model.predict(rows.prompt_BP, torch.from_numpy(rows.prompt_length_B), rows.canvas_BL, wanted_BL)
    confidences = prediction.confidences_NK[:, 0].float().sort().values
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        threshold = float(torch.quantile(confidences, (low + high) / 2))
        fresh = make_rows(block_length)[:_CALIBRATION_ROWS]
        Engine(model, make_heuristic("threshold", threshold), num_slots=len(fresh)).decode(fresh)
        if sum(row.nfe for row in fresh) / len(fresh) < target:
            low = (low + high) / 2
        else:
            high = (low + high) / 2
    return float(torch.quantile(confidences, high))
