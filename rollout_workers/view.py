"""What an unmasker gets to see: predictions scattered over the canvas, and further forward passes where it asks for them.

Shapes: `B` live rows, `L` canvas positions, `K` confidences, `N` canvases of a look ahead.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from cluster.metrics import TimeStates
from policy.observation import Needs, Observation
from policy.used_positions import UsedPositions
from rollout_workers.models.base import FrozenDLLM, Prediction
from rollout_workers.sequence import LiveRows

FORWARD = "forward"
"""The time state of the model's passes, and of the wait for a device that is still at them: what it decides with is in it too."""


def observe(
    prediction: Prediction,
    wanted: UsedPositions,
    *,
    masked_BL: Tensor,
    eligible_BL: Tensor,
    nfe_B: Tensor,
    keys_B: Tensor,
) -> Observation:
    """Scatters the predictions over the canvas; positions that were not asked for report a certain prediction."""
    L = masked_BL.shape[1]
    scatter = wanted.scattered
    confidences_BLK = scatter(prediction.confidences_NK[:, :1], 1.0)
    if prediction.confidences_NK.shape[1] > 1:
        confidences_BLK = torch.cat([confidences_BLK, scatter(prediction.confidences_NK[:, 1:])], 2)
    return Observation(
        masked_BL=masked_BL,
        eligible_BL=eligible_BL,
        confidences_BLK=confidences_BLK.float(),
        log_odds_BL=scatter(prediction.log_odds_N, torch.inf),
        nfe_B=nfe_B,
        time_B=nfe_B.float() / L,
        keys_B=keys_B,
        entropy_BL=None if prediction.entropy_N is None else scatter(prediction.entropy_N, 0.0).float(),
        margin_BL=None if prediction.margin_N is None else scatter(prediction.margin_N, 1.0).float(),
        hidden_BLD=None if prediction.hidden_ND is None else scatter(prediction.hidden_ND, 0.0).float(),
        token_ids_BL=scatter(prediction.token_ids_N, -1),
        log_probs_NV=prediction.log_probs_NV,
    )


def verified(shadow_M: Tensor, window: UsedPositions, written_BL: Tensor) -> Tensor:
    """`[B, L]` float32 probabilities of the written tokens of each row's block; 1 elsewhere."""
    return torch.where(written_BL, window.scattered(shadow_M, 1.0), 1.0).float()


class RowsAhead:
    """Forward passes over other canvases of the live rows, `num_slots` at a time; counts them per row."""

    def __init__(self, model: FrozenDLLM, needs: Needs, rows: LiveRows, *, num_slots: int, clock: TimeStates) -> None:
        self._model = model
        self._needs = needs
        self._rows = rows
        self._num_slots = num_slots
        self._clock = clock
        self.num_passes_B = torch.zeros_like(rows.nfe_B)
        self.num_calls_B = torch.zeros_like(rows.nfe_B)
        """Calls in which a row had a canvas."""

    def __call__(self, row_N: Tensor, canvas_NL: Tensor, wanted_NL: Tensor) -> Observation:
        """See `policy.observation.Lookahead`."""
        self.num_passes_B.index_add_(0, row_N, torch.ones_like(row_N))
        self.num_calls_B += torch.zeros_like(self.num_calls_B).index_fill_(0, row_N, 1)
        chunks = [slice(start, start + self._num_slots) for start in range(0, len(row_N), self._num_slots)]
        parts = [self._look(row_N[chunk], canvas_NL[chunk], wanted_NL[chunk]) for chunk in chunks]
        return _joined(parts)

    def _look(self, row_N: Tensor, canvas_NL: Tensor, wanted_NL: Tensor) -> Observation:
        rows, needs = self._rows, self._needs
        host_row_N, host_wanted_NL = row_N.cpu(), wanted_NL.cpu()
        with self._clock.state(FORWARD):
            prediction = self._model.predict(
                rows.prompt_BP[row_N],
                torch.from_numpy(rows.prompt_length_B[host_row_N.numpy()]),
                canvas_NL,
                host_wanted_NL,
                num_confidences=needs.num_confidences,
                with_entropy=needs.entropy,
                with_margin=needs.margin,
                with_hidden=needs.hidden,
                **special_arguments(needs),
            )
        return observe(
            prediction,
            UsedPositions.where(host_wanted_NL, canvas_NL.device),
            masked_BL=rows.is_mask(canvas_NL),
            eligible_BL=wanted_NL,
            nfe_B=rows.nfe_B[row_N],
            keys_B=rows.key_B[row_N],
        )


def _joined(parts: list[Observation]) -> Observation:
    """All rows of `parts`, in order."""
    columns = {
        each.name: [getattr(part, each.name) for part in parts]
        for each in fields(Observation)
        if each.name != "make_context"
    }
    return Observation(
        **{name: torch.cat(values) for name, values in columns.items() if values[0] is not None}  # type: ignore[arg-type]
    )


def special_arguments(needs: Needs) -> dict[str, Any]:
    """The arguments of `FrozenDLLM.predict` that only some samplers need; none of them otherwise."""
    arguments: dict[str, Any] = {}
    if needs.log_probs:
        arguments["with_log_probs"] = True
    if needs.banned_ids:
        arguments["banned_ids"] = needs.banned_ids
    return arguments
