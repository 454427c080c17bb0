"""How many rows of a forward pass fit into memory, found by two small passes (`decode.num_slots: null`).

The peak memory of a pass grows in proportion to its rows, so a pass over one row and one over a few tell what any number takes. A
batch that turns out too large all the same is halved (`rollout_workers.models.backoff`).

Shapes: `B` rows, `L` canvas positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from policy.observation import Needs
from rollout_workers.models.base import FrozenDLLM
from rollout_workers.view import special_arguments

CPU_SLOTS = 32
"""On a CPU more rows per pass bring no speed beyond some number, long before memory ends."""
MAX_SLOTS = 1024
PROBED_ROWS = (1, 5)
RESERVE = 0.1
"""Share of the free memory that is left to everything else: rows of other lengths, the policy, fragments."""


def fitting_slots(model: FrozenDLLM, needs: Needs, *, prompt_length: int, canvas_length: int) -> int:
    """Rows with prompts of up to `prompt_length` tokens that one pass may compute on the model's device."""
    if model.device.type != "cuda":
        return CPU_SLOTS

    def peak_bytes(num_rows: int) -> int:
        torch.cuda.synchronize(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        _pass(model, needs, num_rows, prompt_length, canvas_length)
        torch.cuda.synchronize(model.device)
        return torch.cuda.max_memory_allocated(model.device) - before

    # The first pass allocates what later ones share, such as the workspaces of libraries.
    peak_bytes(1)
    free, _ = torch.cuda.mem_get_info(model.device)
    held = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    return slots_within(free + held, peak_bytes)


def slots_within(free_bytes: int, peak_bytes: Callable[[int], int]) -> int:
    """The most rows whose pass stays within `free_bytes` less `RESERVE`, at least one."""
    few, more = PROBED_ROWS
    least, most = peak_bytes(few), peak_bytes(more)
    each = max(1.0, (most - least) / (more - few))
    base = least - few * each
    return max(1, min(MAX_SLOTS, int((free_bytes * (1 - RESERVE) - base) / each)))


def _pass(model: FrozenDLLM, needs: Needs, num_rows: int, prompt_length: int, canvas_length: int) -> None:
    """One pass in which every position is predicted, the most memory that a pass can take."""
    spec, device = model.spec, model.device
    model.predict(
        torch.full((num_rows, prompt_length), spec.eos_id, device=device),
        torch.full((num_rows,), prompt_length, device=device),
        torch.full((num_rows, canvas_length), spec.mask_id, device=device),
        torch.ones(num_rows, canvas_length, dtype=torch.bool, device=device),
        num_confidences=needs.num_confidences,
        with_entropy=needs.entropy,
        with_margin=needs.margin,
        with_hidden=needs.hidden,
        **special_arguments(needs),
    )
