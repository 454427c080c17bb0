"""Shadows of a real Llama: nothing else changes, and each is the model's opinion of a masked token beside the block as masks."""

from __future__ import annotations

import pytest
import torch

from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.base import ModelError
from tests.fakes.models import MASK_ID, random_llama, small_spec


def batch() -> tuple[torch.Tensor, ...]:
    prompt = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    canvas = torch.tensor([[4, MASK_ID, 6, 7, MASK_ID, MASK_ID], [9, 8, MASK_ID, 5, 4, 3]])
    shadow = torch.tensor([[True] * 3 + [False] * 3, [False] * 2 + [True] * 4])
    return prompt, torch.tensor([2, 4]), canvas, shadow


def test_predictions_do_not_see_the_shadows() -> None:
    model = random_llama(seed=3)
    prompt, length, canvas, shadow = batch()
    wanted = canvas == MASK_ID
    plain = model.predict(prompt, length, canvas, wanted, with_log_probs=True)
    beside = model.predict(prompt, length, canvas, wanted, with_log_probs=True, shadow_BL=shadow)
    assert plain.log_probs_NV is not None
    assert beside.log_probs_NV is not None
    assert torch.allclose(plain.log_probs_NV, beside.log_probs_NV, atol=1e-12)
    assert beside.shadow_M is not None
    assert len(beside.shadow_M) == 7


def test_shadows_are_those_of_one_forward_pass_written_out() -> None:
    model = random_llama(seed=4)
    prompt, length, canvas, shadow = batch()
    found = model.predict(prompt, length, canvas, canvas == MASK_ID, shadow_BL=shadow).shadow_M
    assert found is not None
    expected = []
    for row in range(2):
        real = prompt[row, 4 - int(length[row]) :].tolist() + canvas[row].tolist()
        own = [int(length[row]) + i for i in shadow[row].nonzero().flatten().tolist()]
        S, W = len(real), len(own)
        sees = torch.zeros(S + W, S + W, dtype=torch.bool)
        sees[:, :S] = True
        for w, slot in enumerate(own):
            sees[S + w, slot] = False
            sees[S + w, S:] = True
        hidden = model.model.model(
            input_ids=torch.tensor([real + [MASK_ID] * W]),
            attention_mask=sees[None, None],
            position_ids=torch.tensor([list(range(S)) + own]),
        ).last_hidden_state[0]
        for w, slot in enumerate(own):
            logits = model.model.lm_head(hidden[S + w])
            logits[MASK_ID] = -torch.inf
            expected.append(float(logits.softmax(0)[real[slot]]))
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_a_shadow_does_not_see_its_own_token_and_sees_all_others() -> None:
    model = random_llama(seed=5)
    prompt, length, canvas, shadow = batch()
    before = model.predict(prompt, length, canvas, canvas == MASK_ID, shadow_BL=shadow).shadow_M
    changed = canvas.clone()
    changed[0, 0], changed[1, 0] = 11, 12
    after = model.predict(prompt, length, changed, canvas == MASK_ID, shadow_BL=shadow).shadow_M
    assert before is not None
    assert after is not None
    # Row 0 changed inside its block: the others see it. Row 1 changed outside of its block.
    assert bool(((before - after).abs() > 1e-9)[[2, 3, 4, 5, 6]].sum() >= 4)
    one = torch.tensor([True] + [False] * 5).repeat(2, 1)
    kept = [
        model.predict(prompt, length, c, c == MASK_ID, with_log_probs=True, shadow_BL=one) for c in (canvas, changed)
    ]
    swapped = canvas.clone()
    swapped[0, 0] = 11
    mine = model.predict(prompt, length, swapped, swapped == MASK_ID, shadow_BL=one).shadow_M
    assert mine is not None
    assert kept[1].shadow_M is not None
    assert float(mine[0]) == pytest.approx(float(kept[1].shadow_M[0]), abs=1e-12)


def test_a_model_that_predicts_from_the_left_has_none() -> None:
    shifted = BackboneDLLM(random_llama(seed=1).model, small_spec(), is_shifted=True)
    prompt, length, canvas, shadow = batch()
    with pytest.raises(
        ModelError, match="predicts each token from the place to its left; allowed: sampler wino with others"
    ):
        shifted.predict(prompt, length, canvas, canvas == MASK_ID, shadow_BL=shadow)
