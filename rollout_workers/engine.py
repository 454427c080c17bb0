"""The decode engine: continuous batching of rows that unmask their canvases.

    loop:  scheduler.admit -> LiveRows          waiting rows enter free slots
           model.predict                        one forward pass over exactly the live rows
           unmasker.decide                      which positions each row commits
           LiveRows.retire                      rows whose canvas is clean leave

A row's result does not depend on the rows beside it. NFE of a row = forward passes in which it was live.

Shapes: `B` live rows, `L` canvas positions, `K` confidences, `N` packed steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.metrics import TimeStates
from policy.noise import Stream, uniforms
from policy.observation import Observation
from policy.recording import pack_step
from policy.scope import Scope
from policy.trajectory import PackedSteps
from policy.unmasker import Decision, Unmasker
from rollout_workers.models.base import FrozenDLLM, Prediction
from rollout_workers.scheduler import Scheduler
from rollout_workers.sequence import LiveRows, Sequence, SequenceStatus
from rollout_workers.trace import Tracer

EosPolicy = Literal["full", "stop"]

FORWARD, POLICY, SCHEDULING = "forward", "policy", "scheduling"
"""The engine's exclusive time states."""


@dataclass(slots=True)
class EngineStats:
    """Work done by one `decode`."""

    num_steps: int = 0
    num_row_forwards: int = 0
    num_queued_steps: int = 0
    """Steps taken while rows were waiting."""
    num_queued_row_forwards: int = 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """Ended sequences in the order they were submitted, with their packed decisions if these were recorded."""

    sequences: tuple[Sequence, ...]
    steps: PackedSteps | None
    offsets: NDArray[np.int64] | None
    stats: EngineStats


class Engine:
    """One model, one unmasker, `num_slots` rows at a time.

    Args:
        model: the frozen dLLM.
        unmasker: decides what to commit.
        num_slots: most rows per forward pass.
        token_temperature: 0 takes the most likely token; confidences are untempered either way.
        eos: `full` decodes the whole canvas; `stop` ends a row once an end of text or turn and all before it are committed.
        clock: where time goes; its states are `forward`, `policy` and `scheduling`.
    """

    def __init__(
        self,
        model: FrozenDLLM,
        unmasker: Unmasker,
        *,
        num_slots: int = 32,
        token_temperature: float = 0.0,
        eos: EosPolicy = "full",
        clock: TimeStates | None = None,
    ) -> None:
        self._model = model
        self._unmasker = unmasker
        self._num_slots = num_slots
        self._token_temperature = token_temperature
        self._eos = eos
        self._clock = clock or TimeStates(SCHEDULING)

    @torch.no_grad()
    def decode(self, sequences: Iterable[Sequence], *, record: bool = False, tracer: Tracer | None = None) -> Decoded:
        """Decodes all `sequences`, which share one canvas length, until none is left; a `tracer` watches."""
        submitted = tuple(sequences)
        lengths = {len(sequence.canvas_ids) for sequence in submitted}
        if len(lengths) > 1:
            raise ValueError(f"rows of one decode must share a canvas length, got {sorted(lengths)}")
        spec = self._model.spec
        rows = LiveRows(
            mask_id=spec.mask_id, pad_id=spec.pad_id, canvas_length=max(lengths, default=0), device=self._model.device
        )
        scheduler = Scheduler(submitted, num_slots=self._num_slots)
        recorder = _Recorder(submitted) if record else None
        stats = EngineStats()
        with self._clock.state(SCHEDULING):
            while self._admit(rows, scheduler):
                self._step(rows, recorder, tracer)
                stats.num_steps += 1
                stats.num_row_forwards += len(rows)
                if scheduler.num_waiting:
                    stats.num_queued_steps += 1
                    stats.num_queued_row_forwards += len(rows)
                rows.retire(self._ended(rows))
            steps, offsets = recorder.packed() if recorder else (None, None)
        return Decoded(submitted, steps, offsets, stats)

    def _admit(self, rows: LiveRows, scheduler: Scheduler) -> bool:
        """Fills the free slots; False when nothing is live any more. Rows that are done on arrival leave at once."""
        while arrivals := scheduler.admit(len(rows)):
            rows.admit(arrivals)
            rows.retire(self._ended(rows))
        return len(rows) > 0

    def _step(self, rows: LiveRows, recorder: _Recorder | None, tracer: Tracer | None) -> None:
        masked_BL = rows.masked_BL()
        eligible_BL = masked_BL & rows.block_window_BL(masked_BL)
        wanted_BL = {Scope.BLOCK: eligible_BL, Scope.MASKED: masked_BL, Scope.CANVAS: torch.ones_like(masked_BL)}[
            self._unmasker.needs.scope
        ]
        with self._clock.state(FORWARD):
            prediction = self._predict(rows, wanted_BL)
        with self._clock.state(POLICY):
            observation = observe(
                prediction, wanted_BL, masked_BL=masked_BL, eligible_BL=eligible_BL, nfe_B=rows.nfe_B, keys_B=rows.key_B
            )
            decision = self._unmasker.decide(observation)
        predicted_BL = rows.canvas_BL.clone()
        predicted_BL[wanted_BL] = prediction.token_ids_N
        if tracer is not None:
            tracer.observe(rows, wanted_BL, predicted_BL, observation, decision)
        rows.canvas_BL = torch.where(decision.commit_BL, predicted_BL, rows.canvas_BL)
        rows.nfe_B = rows.nfe_B + 1
        rows.order_BL = torch.where(decision.commit_BL, rows.nfe_B.unsqueeze(1), rows.order_BL)
        rows.num_near_ties_B = rows.num_near_ties_B + decision.num_near_ties_B
        if recorder:
            recorder.record(rows, observation, decision)

    def _predict(self, rows: LiveRows, wanted_BL: Tensor) -> Prediction:
        token_uniforms_N = None
        if self._token_temperature > 0:
            token_uniforms_N = uniforms(rows.key_B, rows.nfe_B, wanted_BL.shape[1], Stream.TOKEN)[wanted_BL]
        needs = self._unmasker.needs
        return self._model.predict(
            rows.prompt_BP,
            rows.prompt_length_B,
            rows.canvas_BL,
            wanted_BL,
            num_confidences=needs.num_confidences,
            with_entropy=needs.entropy,
            with_margin=needs.margin,
            with_hidden=needs.hidden,
            token_temperature=self._token_temperature,
            token_uniforms_N=token_uniforms_N,
        )

    def _ended(self, rows: LiveRows) -> dict[int, SequenceStatus]:
        """The rows that are done, and how; this is the step's one synchronisation with the device."""
        masked_BL = rows.masked_BL()
        is_clean_B = ~masked_BL.any(1)
        is_limit_B = rows.nfe_B >= rows.step_limit_B
        is_stop_B = torch.zeros_like(is_clean_B)
        if self._eos == "stop":
            spec = self._model.spec
            is_end_BL = rows.canvas_BL == spec.eos_id
            if spec.end_of_turn_id is not None:
                is_end_BL |= rows.canvas_BL == spec.end_of_turn_id
            first_end_B = torch.where(is_end_BL.any(1), is_end_BL.int().argmax(1), masked_BL.shape[1])
            is_stop_B = ~is_clean_B & is_end_BL.any(1) & (masked_BL.int().argmax(1) > first_end_B)
            rows.canvas_BL = torch.where(is_stop_B.unsqueeze(1) & masked_BL, spec.eos_id, rows.canvas_BL)
        ended: dict[int, SequenceStatus] = {}
        for row, (clean, stop, limit) in enumerate(torch.stack([is_clean_B, is_stop_B, is_limit_B], 1).tolist()):
            if clean:
                ended[row] = SequenceStatus.CLEAN
            elif stop:
                ended[row] = SequenceStatus.EOS_STOP
            elif limit:
                ended[row] = SequenceStatus.STEP_LIMIT
        return ended


def observe(
    prediction: Prediction,
    wanted_BL: Tensor,
    *,
    masked_BL: Tensor,
    eligible_BL: Tensor,
    nfe_B: Tensor,
    keys_B: Tensor,
) -> Observation:
    """Scatters the predictions over the canvas; positions that were not asked for report a certain prediction."""
    B, L = masked_BL.shape
    K = prediction.confidences_NK.shape[1]
    dtype = prediction.confidences_NK.dtype
    confidences_BLK = torch.zeros(B, L, K, dtype=dtype, device=masked_BL.device)
    confidences_BLK[:, :, 0] = 1.0
    confidences_BLK[wanted_BL] = prediction.confidences_NK
    return Observation(
        masked_BL=masked_BL,
        eligible_BL=eligible_BL,
        confidences_BLK=confidences_BLK.float(),
        log_odds_BL=_scatter(prediction.log_odds_N, wanted_BL, torch.inf),
        nfe_B=nfe_B,
        time_B=nfe_B.float() / L,
        keys_B=keys_B,
        entropy_BL=None if prediction.entropy_N is None else _scatter(prediction.entropy_N, wanted_BL, 0.0).float(),
        margin_BL=None if prediction.margin_N is None else _scatter(prediction.margin_N, wanted_BL, 1.0).float(),
        hidden_BLD=None if prediction.hidden_ND is None else _scatter(prediction.hidden_ND, wanted_BL, 0.0).float(),
    )


def _scatter(values_N: Tensor, wanted_BL: Tensor, elsewhere: float) -> Tensor:
    """`[B, L]`, or `[B, L, D]` of vectors, with the values at the wanted positions."""
    shape = (*wanted_BL.shape, *values_N.shape[1:])
    values_BL = torch.full(shape, elsewhere, dtype=values_N.dtype, device=values_N.device)
    values_BL[wanted_BL] = values_N
    return values_BL


class _Recorder:
    """Collects each step's decisions and packs them by row at the end."""

    def __init__(self, sequences: tuple[Sequence, ...]) -> None:
        self._row_of = {id(sequence): row for row, sequence in enumerate(sequences)}
        self._rows: list[int] = []
        self._parts: list[PackedSteps] = []

    def record(self, rows: LiveRows, observation: Observation, decision: Decision) -> None:
        self._rows.extend(self._row_of[id(sequence)] for sequence in rows.sequences)
        self._parts.append(pack_step(observation, decision))

    def packed(self) -> tuple[PackedSteps | None, NDArray[np.int64]]:
        """Steps sorted by row, each row's in time order, and the rows' offsets."""
        rows = np.asarray(self._rows, np.int64)
        counts = np.bincount(rows, minlength=len(self._row_of)) if len(rows) else np.zeros(len(self._row_of), np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if not self._parts:
            return None, offsets
        return PackedSteps.concatenate(self._parts).select(np.argsort(rows, kind="stable")), offsets
