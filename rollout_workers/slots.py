"""How many rows of a forward pass fit into memory, found by four small passes (`decode.num_slots: null`).

The peak memory of a pass is the larger of two lines. One is that of the layers: in proportion to the rows, and seen in passes that
predict one position per row. The other is that of the head, in pieces of limited size (`models.reduction`): it grows until a piece
is full and then hardly at all, so it is seen in passes that predict every position of as many rows as fill one. A batch that turns
out too large all the same is halved (`rollout_workers.models.backoff`).

Shapes: `B` rows, `L` canvas positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from policy.observation import Needs
from rollout_workers.models.base import FrozenDLLM
from rollout_workers.models.reduction import positions_at_once
from rollout_workers.view import special_arguments

CPU_SLOTS = 32
"""On a CPU more rows per pass bring no speed beyond some number, long before memory ends."""
MAX_SLOTS = 1024
PROBED_ROWS = (1, 5)
"""Of the passes that predict one position per row."""
MAX_FILLING_ROWS = 8
"""No more rows are probed to fill a piece of the head: of small vocabularies, whose pieces are of no weight."""
RESERVE = 0.1
"""Share of the free memory that is left to everything else: rows of other lengths, the policy, fragments."""


def fitting_slots(model: FrozenDLLM, needs: Needs, *, prompt_length: int, canvas_length: int) -> int:
    """Rows with prompts of up to `prompt_length` tokens that one pass may compute on the model's device."""
    if model.device.type != "cuda":
        return CPU_SLOTS

    def peak_bytes(num_rows: int, num_wanted: int) -> int:
        torch.cuda.synchronize(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        _pass(model, needs, num_rows, prompt_length, canvas_length, num_wanted)
        torch.cuda.synchronize(model.device)
        return torch.cuda.max_memory_allocated(model.device) - before

    # The first pass allocates what later ones share, such as the workspaces of libraries.
    peak_bytes(1, canvas_length)
    free, _ = torch.cuda.mem_get_info(model.device)
    held = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    filling = -(-positions_at_once(model.spec.vocabulary_size) // canvas_length)
    return slots_within(
        free + held,
        layers=lambda num_rows: peak_bytes(num_rows, 1),
        head=lambda num_rows: peak_bytes(num_rows, canvas_length),
        filling_rows=min(MAX_FILLING_ROWS, filling),
    )


def slots_within(
    free_bytes: int, *, layers: Callable[[int], int], head: Callable[[int], int], filling_rows: int
) -> int:
    """The most rows whose pass stays within `free_bytes` less `RESERVE`, at least one.

    Args:
        free_bytes: of the device.
        layers: peak bytes of a pass over so many rows with one position of each predicted.
        head: the same with all positions predicted.
        filling_rows: rows whose positions fill a piece of the head.
    """
    lines = (_line(layers, *PROBED_ROWS), _line(head, filling_rows, 2 * filling_rows))
    fitting = (int((free_bytes * (1 - RESERVE) - base) / each) for base, each in lines)
    return max(1, min(MAX_SLOTS, *fitting))


def _line(peak_bytes: Callable[[int], int], few: int, more: int) -> tuple[float, float]:
    """(base, bytes per row) of the straight line through two peaks."""
    least, most = peak_bytes(few), peak_bytes(more)
    each = max(1.0, (most - least) / (more - few))
    return least - few * each, each


def _pass(
    model: FrozenDLLM, needs: Needs, num_rows: int, prompt_length: int, canvas_length: int, num_wanted: int
) -> None:
    """One pass in which the last `num_wanted` positions of each row are predicted."""
    spec, device = model.spec, model.device
    wanted_BL = torch.zeros(num_rows, canvas_length, dtype=torch.bool, device=device)
    wanted_BL[:, -num_wanted:] = True
    model.predict(
        torch.full((num_rows, prompt_length), spec.eos_id, device=device),
        torch.full((num_rows,), prompt_length, device=device),
        torch.full((num_rows, canvas_length), spec.mask_id, device=device),
        wanted_BL,
        num_confidences=needs.num_confidences,
        with_entropy=needs.entropy,
        with_margin=needs.margin,
        with_hidden=needs.hidden,
        **special_arguments(needs),
    )
