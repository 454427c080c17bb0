"""Random observations and recorded steps for tests."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from policy.observation import Observation
from policy.recording import pack_step
from policy.trajectory import PackedSteps
from policy.unmasker import Decision


def random_observation(num_rows: int, length: int, *, num_confidences: int = 1, seed: int = 0) -> Observation:
    """Rows with their own masks, block windows, clocks and keys; the first row has a single eligible position."""
    generator = torch.Generator().manual_seed(seed)
    masked_BL = torch.rand(num_rows, length, generator=generator) < 0.7
    masked_BL[:, 0] = True
    eligible_BL = masked_BL & (torch.rand(num_rows, length, generator=generator) < 0.7)
    eligible_BL[:, 0] = True
    eligible_BL[0, 1:] = False
    sharp_BLK = torch.rand(num_rows, length, num_confidences, generator=generator).sort(2, descending=True).values
    confidences_BLK = sharp_BLK / sharp_BLK.sum(2, keepdim=True).clamp(min=1)
    nfe_B = torch.randint(0, length, (num_rows,), generator=generator)
    return Observation(
        masked_BL=masked_BL,
        eligible_BL=eligible_BL,
        confidences_BLK=confidences_BLK,
        log_odds_BL=torch.logit(confidences_BLK[:, :, 0], eps=1e-9),
        nfe_B=nfe_B,
        time_B=nfe_B / length,
        keys_B=torch.randint(-(2**62), 2**62, (num_rows,), generator=generator),
    )


def with_hidden(observation: Observation, hidden_size: int, *, scale: float = 3.0, seed: int = 0) -> Observation:
    """The same rows with random hidden states at their masked positions."""
    generator = torch.Generator().manual_seed(seed)
    hidden_BLD = scale * torch.randn(*observation.masked_BL.shape, hidden_size, generator=generator)
    return replace(observation, hidden_BLD=hidden_BLD * observation.masked_BL.unsqueeze(2))


def rows_of(observation: Observation, index: Tensor) -> Observation:
    """Only the rows at `index`, in its order."""
    columns = {field.name: getattr(observation, field.name) for field in fields(observation)}
    return replace(observation, **{name: None if value is None else value[index] for name, value in columns.items()})


def with_confidence(observation: Observation, confidence_BL: Tensor) -> Observation:
    """The same rows at other top-1 confidences."""
    return replace(
        observation, confidences_BLK=confidence_BL.unsqueeze(2), log_odds_BL=torch.logit(confidence_BL, eps=1e-9)
    )


def record(observation: Observation, decision: Decision) -> PackedSteps:
    """One packed step per row."""
    return pack_step(observation, decision)
