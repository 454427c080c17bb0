"""The decode engine: continuous batching of rows that unmask their canvases.

    loop:  scheduler.admit -> LiveRows          waiting rows enter free slots
           model.predict                        the live rows and no others, cut by prompt length where padding would be much
           unmasker.decide                      which positions each row commits
           LiveRows.retire                      rows whose canvas is clean leave

A step waits for the device once, when its decision has been applied: which rows go on, and where the next pass has to predict, is
worked out on the host. A row's result does not depend on the rows beside it.

NFE of a row = forward passes in which it was live, and those that its sampler asked for beside them.

Shapes: `B` live rows, `L` canvas positions, `K` confidences, `N` packed steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.metrics import TimeStates
from policy.noise import Stream, uniforms
from policy.observation import Needs, Observation, RowContext
from policy.recording import pack_step
from policy.scope import Scope
from policy.trajectory import PackedSteps
from policy.transfer import to_device
from policy.unmasker import Decision, Unmasker
from policy.used_positions import UsedPositions
from rollout_workers.caching import NO_CACHE, CachedRows, CacheSettings, check_cache
from rollout_workers.first_passes import FirstPasses
from rollout_workers.lease import EngineStats
from rollout_workers.models.base import FrozenDLLM, ModelSpec, Prediction
from rollout_workers.scheduler import Scheduler
from rollout_workers.sequence import LiveRows, Sequence, SequenceStatus
from rollout_workers.slices import predict_in_slices, slices_by_length
from rollout_workers.view import FORWARD, RowsAhead, observe, special_arguments, verified

EosPolicy = Literal["full", "stop"]

POLICY, SCHEDULING = "policy", "scheduling"
"""The engine's exclusive time states, beside `FORWARD`."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Ended sequences in the order they were submitted, with their packed decisions if these were recorded."""

    sequences: tuple[Sequence, ...]
    steps: PackedSteps | None
    offsets: NDArray[np.int64] | None
    stats: EngineStats


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the live rows, before its decision is applied."""

    rows: LiveRows
    wanted_BL: Tensor
    """bool, on the host: the positions that were predicted."""
    predicted_BL: Tensor
    """int64: the tokens that would be committed."""
    observation: Observation
    decision: Decision
    nfe_B: Tensor
    """int64: the passes charged once the decision is applied."""


class Watcher(Protocol):
    """Looks on, and changes nothing."""

    def observe(self, step: Step) -> None:
        """Called at every step."""
        ...


class Engine:
    """One model, one unmasker, `num_slots` rows at a time.

    Args:
        model: the frozen dLLM.
        unmasker: decides what to commit.
        num_slots: most rows per forward pass.
        token_temperature: 0 takes the most likely token; confidences are untempered either way.
        eos: `full` decodes the whole canvas; `stop` ends a row once an end of text or turn and all before it are committed.
        cache: whether passes compute only some tokens; a ValueError for an unmasker or a model that cannot do with that.
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
        cache: CacheSettings = NO_CACHE,
        clock: TimeStates | None = None,
    ) -> None:
        check_needs(unmasker.needs, model.spec, eos=eos, cache=cache)
        self._model = model
        self._unmasker = unmasker
        self._num_slots = num_slots
        self._token_temperature = token_temperature
        self._eos = eos
        self._cache = cache
        self._clock = clock or TimeStates(SCHEDULING)

    @torch.inference_mode()
    def decode(self, sequences: Iterable[Sequence], *, record: bool = False, tracer: Watcher | None = None) -> Decoded:
        """Decodes all `sequences`, which share one canvas length, until none is left; a `tracer` watches."""
        submitted = tuple(sequences)
        lengths = {len(sequence.canvas_ids) for sequence in submitted}
        if len(lengths) > 1:
            raise ValueError(f"rows of one decode must share a canvas length, got {sorted(lengths)}")
        spec = self._model.spec
        device = self._model.device
        rows = LiveRows(
            mask_id=spec.mask_id,
            pad_id=spec.pad_id,
            canvas_length=max(lengths, default=0),
            device=device,
            cached=None if self._cache.mode == "none" else CachedRows(self._cache),
        )
        scheduler = Scheduler(submitted, num_slots=self._num_slots)
        recorder = _Recorder(submitted, is_pinned=device.type == "cuda") if record else None
        first_passes = FirstPasses(submitted) if self._shares_first_passes else None
        stats = EngineStats()
        with self._clock.state(SCHEDULING):
            while self._admit(rows, scheduler):
                num_extra = self._step(rows, recorder, tracer, first_passes, stats)
                stats.num_steps += 1
                stats.num_row_forwards += len(rows) + num_extra
                stats.num_slot_forwards += self._num_slots
                if scheduler.num_waiting:
                    stats.num_queued_steps += 1
                    stats.num_queued_row_forwards += len(rows)
                with self._clock.state(FORWARD):
                    rows.read()
                if recorder:
                    recorder.settle()
                rows.retire(self._ended(rows))
            steps, offsets = recorder.packed() if recorder else (None, None)
        return Decoded(submitted, steps, offsets, stats)

    def _admit(self, rows: LiveRows, scheduler: Scheduler) -> bool:
        """Fills the free slots; False when nothing is live any more. Rows that are done on arrival leave at once."""
        while arrivals := scheduler.admit(len(rows)):
            rows.admit(arrivals)
            rows.retire(self._ended(rows))
        return len(rows) > 0

    @property
    def _shares_first_passes(self) -> bool:
        """Whether rows that begin alike are predicted alike, and nothing but the prediction is kept of a pass."""
        return self._unmasker.needs.is_plain and self._token_temperature == 0 and self._cache.mode == "none"

    def _step(
        self,
        rows: LiveRows,
        recorder: _Recorder | None,
        tracer: Watcher | None,
        first_passes: FirstPasses | None,
        stats: EngineStats,
    ) -> int:
        """One decision of every live row; returns the passes beyond one per row."""
        needs, device = self._unmasker.needs, rows.device
        masked_BL = rows.masked_BL()
        window_BL = rows.block_window_BL(masked_BL)
        eligible_BL = masked_BL if needs.own_blocks else masked_BL & window_BL
        wanted_BL = {Scope.BLOCK: eligible_BL, Scope.MASKED: masked_BL, Scope.CANVAS: np.ones_like(masked_BL)}[
            needs.scope
        ]
        with self._clock.state(FORWARD):
            if first_passes is None:
                prediction = self._predict(rows, wanted_BL, window_BL)
            else:
                prediction, num_shared = first_passes.predict(
                    rows.sequences, wanted_BL, lambda chosen: self._predict(rows, wanted_BL, window_BL, chosen)
                )
                stats.num_shared_first_passes += num_shared
        ahead = RowsAhead(self._model, needs, rows, num_slots=self._num_slots, clock=self._clock)
        with self._clock.state(POLICY):
            wanted = UsedPositions.where(wanted_BL, device)
            observation = observe(
                prediction,
                wanted,
                masked_BL=to_device(masked_BL, device),
                eligible_BL=to_device(eligible_BL, device),
                nfe_B=rows.nfe_B,
                keys_B=rows.key_B,
            )
            observation = replace(
                observation,
                make_context=lambda: self._context(rows, window_BL, ahead),
                eligible_on_host_BL=eligible_BL,
                wanted=wanted,
            )
            if prediction.shadow_M is not None:
                window = UsedPositions.where(window_BL, device)
                verified_BL = verified(prediction.shadow_M, window, rows.written_BL())
                observation = replace(observation, verified_BL=verified_BL)
            decision = self._unmasker.decide(observation)
        token_ids_BL = observation.token_ids_BL
        assert token_ids_BL is not None, "`observe` has them"
        predicted_BL = torch.where(token_ids_BL >= 0, token_ids_BL, rows.canvas_BL)
        if decision.token_ids_BL is not None:
            predicted_BL = torch.where(decision.commit_BL, decision.token_ids_BL, predicted_BL)
        extra_B, serial_B = ahead.num_passes_B, 1 + ahead.num_calls_B
        if decision.extra_nfe_B is not None:
            extra_B, serial_B = extra_B + decision.extra_nfe_B, serial_B + decision.extra_nfe_B
        if tracer is not None:
            tracer.observe(
                Step(rows, torch.from_numpy(wanted_BL), predicted_BL, observation, decision, rows.nfe_B + 1 + extra_B)
            )
        rows.apply(decision, predicted_BL, 1 + extra_B, serial_B)
        if recorder:
            recorder.record(rows, observation, decision)
        has_extra = needs.lookahead or decision.extra_nfe_B is not None
        return int(extra_B.sum()) if has_extra else 0

    def _context(self, rows: LiveRows, window_BL: NDArray[np.bool_], ahead: RowsAhead) -> RowContext:
        return RowContext(
            canvas_BL=rows.canvas_BL,
            written_BL=rows.written_BL(),
            window_BL=to_device(window_BL, rows.device),
            block_length_B=to_device(rows.block_length_B, rows.device),
            prompt_BP=rows.prompt_BP,
            prompt_length_B=to_device(rows.prompt_length_B, rows.device),
            memory=tuple(rows.memory),
            lookahead=ahead,
        )

    def _predict(
        self,
        rows: LiveRows,
        wanted_BL: NDArray[np.bool_],
        window_BL: NDArray[np.bool_],
        chosen: list[int] | None = None,
    ) -> Prediction:
        """Predicts the rows with these numbers, or all: in one forward pass, or in several where one would be much padding."""
        needs = self._unmasker.needs
        if needs.verified or rows.cached is not None:
            return self._pass(rows, wanted_BL, window_BL, chosen)
        numbers = range(len(rows)) if chosen is None else chosen
        lengths = [len(rows.sequences[row].prompt_ids) for row in numbers]
        slices = slices_by_length(lengths, wanted_BL.shape[1])
        if len(slices) == 1:
            return self._pass(rows, wanted_BL, window_BL, chosen)
        return predict_in_slices(
            slices,
            wanted_BL if chosen is None else wanted_BL[chosen],
            lambda part: self._pass(rows, wanted_BL, window_BL, [numbers[place] for place in part]),
        )

    def _pass(
        self,
        rows: LiveRows,
        wanted_BL: NDArray[np.bool_],
        window_BL: NDArray[np.bool_],
        chosen: list[int] | None,
    ) -> Prediction:
        """One forward pass over the rows with these numbers, or over all."""
        prompt_BP, prompt_length_B, canvas_BL = rows.prompt_BP, rows.prompt_length_B, rows.canvas_BL
        keys_B, nfe_B = rows.key_B, rows.nfe_B
        if chosen is not None:
            index = to_device(np.array(chosen), rows.device)
            prompt_length_B, wanted_BL = prompt_length_B[chosen], wanted_BL[chosen]
            prompt_BP = prompt_BP[index][:, prompt_BP.shape[1] - int(prompt_length_B.max()) :]
            canvas_BL, keys_B, nfe_B = canvas_BL[index], keys_B[index], nfe_B[index]
        token_uniforms_N = None
        if self._token_temperature > 0:
            uniforms_BL = uniforms(keys_B, nfe_B, wanted_BL.shape[1], Stream.TOKEN)
            token_uniforms_N = UsedPositions.where(wanted_BL, rows.device).of(uniforms_BL)
        needs = self._unmasker.needs
        special = special_arguments(needs)
        if needs.verified:
            special["shadow_BL"] = torch.from_numpy(window_BL)
        if rows.cached is not None:
            special["cached"] = rows.cached.next_pass(torch.from_numpy(window_BL))
        return self._model.predict(
            prompt_BP,
            torch.from_numpy(prompt_length_B),
            canvas_BL,
            torch.from_numpy(wanted_BL),
            num_confidences=needs.num_confidences,
            with_entropy=needs.entropy,
            with_margin=needs.margin,
            with_hidden=needs.hidden,
            token_temperature=self._token_temperature,
            token_uniforms_N=token_uniforms_N,
            **special,
        )

    def _ended(self, rows: LiveRows) -> dict[int, SequenceStatus]:
        """The rows that are done, and how, as far as the host has read them."""
        masked_BL, canvas_BL = rows.masked_BL(), rows.on_host.canvas_BL
        is_clean_B = ~masked_BL.any(1)
        is_limit_B = rows.num_steps_B >= rows.step_limit_B
        is_stop_B = np.zeros_like(is_clean_B)
        if self._eos == "stop":
            spec = self._model.spec
            is_end_BL = canvas_BL == spec.eos_id
            if spec.end_of_turn_id is not None:
                is_end_BL |= canvas_BL == spec.end_of_turn_id
            first_end_B = np.where(is_end_BL.any(1), is_end_BL.argmax(1), masked_BL.shape[1])
            is_stop_B = ~is_clean_B & is_end_BL.any(1) & (masked_BL.argmax(1) > first_end_B)
            filled_BL = np.where(is_stop_B[:, None] & masked_BL, spec.eos_id, canvas_BL)
            rows.on_host = rows.on_host._replace(canvas_BL=filled_BL)
        ended: dict[int, SequenceStatus] = {}
        for row, (clean, stop, limit) in enumerate(np.stack([is_clean_B, is_stop_B, is_limit_B], 1).tolist()):
            if clean:
                ended[row] = SequenceStatus.CLEAN
            elif stop:
                ended[row] = SequenceStatus.EOS_STOP
            elif limit:
                ended[row] = SequenceStatus.STEP_LIMIT
        return ended


def check_needs(needs: Needs, spec: ModelSpec, *, eos: EosPolicy, cache: CacheSettings) -> None:
    """Raises a ValueError for an unmasker or a model that cannot do with these settings."""
    if eos == "stop" and needs.rewrites:
        raise ValueError("eos is 'stop'; allowed: 'full' with a sampler that holds several canvases per row")
    check_cache(cache, needs, spec)


class _Recorder:
    """Collects each step's decisions and packs them by row at the end."""

    def __init__(self, sequences: tuple[Sequence, ...], *, is_pinned: bool) -> None:
        """`is_pinned`: recorded steps lie in pinned memory."""
        self._is_pinned = is_pinned
        self._row_of = {id(sequence): row for row, sequence in enumerate(sequences)}
        self._rows: list[int] = []
        self._parts: list[PackedSteps] = []

    def record(self, rows: LiveRows, observation: Observation, decision: Decision) -> None:
        self._rows.extend(self._row_of[id(sequence)] for sequence in rows.sequences)
        self._parts.append(pack_step(observation, decision))

    def settle(self) -> None:
        """Once the device has been waited for: the last step out of pinned memory, of which there is little."""
        if self._is_pinned:
            last = self._parts[-1]
            self._parts[-1] = last.select(np.arange(len(last)))

    def packed(self) -> tuple[PackedSteps | None, NDArray[np.int64]]:
        """Steps sorted by row, each row's in time order, and the rows' offsets."""
        rows = np.asarray(self._rows, np.int64)
        counts = np.bincount(rows, minlength=len(self._row_of)) if len(rows) else np.zeros(len(self._row_of), np.int64)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if not self._parts:
            return None, offsets
        return PackedSteps.concatenate(self._parts).select(np.argsort(rows, kind="stable")), offsets
