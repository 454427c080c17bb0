"""Operation counts against what torch itself counts, and a peak that is a rate."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluation.random_models import Shape, random_model
from evaluation.roofline import RowForward, forward_flops, measure_matmul_peak

SHAPES = {
    "llama": Shape(97, 32, 48, 2, 4, 4),
    "grouped": Shape(97, 32, 48, 3, 4, 2),
    "dream": Shape(97, 32, 48, 1, 4, 2, is_dream=True),
}


@pytest.mark.parametrize("name", SHAPES)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    model = random_model(name, SHAPES[name], dtype=torch.float32, device="cpu")
    model.model.set_attn_implementation("eager")  # the counter knows no fused attention on a CPU
    canvas_BL = torch.full((3, 8), model.spec.mask_id)
    wanted_BL = torch.zeros(3, 8, dtype=torch.bool)
    for row in range(3):  # as many of each, so that none is computed beside them
        wanted_BL[row, row : row + 3] = True
    with FlopCounterMode(display=False) as counter:
        model.predict(torch.zeros(3, 5, dtype=torch.int64), torch.tensor([5, 5, 5]), canvas_BL, wanted_BL)
    rows = [RowForward(13, int(wanted)) for wanted in wanted_BL.sum(1)]
    # Rotary angles are a matrix product too, of one column.
    assert forward_flops(model.model.config, rows) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_peak_is_measured() -> None:
    assert measure_matmul_peak(torch.device("cpu"), torch.float32) > 1e9
