"""Rows: what one sequence is, and the stacked state of those that are live.

A `Sequence` owns its row's prompt, canvas, block length, key and, once it has ended, its outcome. While it is live its state
lies in `LiveRows`, one tensor row each; retiring writes the outcome back, and no decode state outlives it. What the host has to
know of them it knows without asking the device, but for one wait per step (`LiveRows.read`).

Shapes: `B` live rows, `P` longest live prompt, `L` canvas positions.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from policy.transfer import to_device, to_host, wait_for
from policy.unmasker import Decision
from rollout_workers.caching import CachedRows

NEVER = -1
"""Commit order of a position that is still masked."""


class SequenceStatus(StrEnum):
    """Where a row is, or how it ended."""

    WAITING = "waiting"
    LIVE = "live"
    CLEAN = "clean"
    """No mask is left."""
    EOS_STOP = "eos_stop"
    """Everything before an end-of-text was committed, and the option `eos: stop` filled the rest."""
    STEP_LIMIT = "step_limit"
    """Masks were left at the step cap."""


@dataclass(slots=True)
class Sequence:
    """One row to decode."""

    example_id: str
    prompt_ids: Many[int]
    canvas_ids: Many[int]
    """Mask ids where the model writes, given tokens elsewhere."""
    block_length: int
    key: int
    """The row's noise key (`policy.noise.row_key`)."""
    group: int = 0
    sample: int = 0
    weight_version: int = 0
    step_limit: int | None = None
    """Decisions at most; None means one per canvas position. Only samplers that look ahead make more passes than decisions."""

    status: SequenceStatus = SequenceStatus.WAITING
    nfe: int = 0
    num_serial: int = 0
    """Forward passes one after another: those that its sampler asked for in one batch count once."""
    num_near_ties: int = 0
    tokens_L: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    order_L: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))

    def __post_init__(self) -> None:
        L = len(self.canvas_ids)
        if not 1 <= self.block_length <= L or L % self.block_length:
            raise ValueError(f"block_length {self.block_length} does not divide the canvas; allowed: a divisor of {L}")


class Outcomes(NamedTuple):
    """What rows have come to, on the host."""

    canvas_BL: NDArray[np.int64]
    order_BL: NDArray[np.int64]
    nfe_B: NDArray[np.int64]
    num_near_ties_B: NDArray[np.int64]
    num_serial_B: NDArray[np.int64]

    def and_then(self, more: Outcomes) -> Outcomes:
        """These rows, and behind them those."""
        return Outcomes(*(np.concatenate(pair) for pair in zip(self, more, strict=True)))

    def at(self, index: NDArray[np.int64]) -> Outcomes:
        """The rows with these numbers."""
        return Outcomes(*(column[index] for column in self))


class LiveRows:
    """The stacked state of the rows that are being decoded.

    `block_length_B`, `prompt_length_B`, `step_limit_B`, `num_steps_B` and `on_host` are the host's, the rest is on the device.
    """

    def __init__(
        self,
        *,
        mask_id: int,
        pad_id: int,
        canvas_length: int,
        device: torch.device,
        cached: CachedRows | None = None,
    ) -> None:
        """`cached` is told which rows come and go."""
        self.cached = cached
        self.sequences: list[Sequence] = []
        self.mask_id, self._pad_id, self.device = mask_id, pad_id, device
        self.prompt_BP = self._empty(0, 0)
        self.prompt_length_B = _integers([])
        self.canvas_BL = self._empty(0, canvas_length)
        self.order_BL = self._empty(0, canvas_length)
        self.block_length_B = _integers([])
        self.nfe_B = self._empty(0)
        self.key_B = self._empty(0)
        self.step_limit_B = _integers([])
        self.num_near_ties_B = self._empty(0)
        self.num_serial_B = self._empty(0)
        self.num_steps_B = _integers([])
        """Decisions; NFE counts passes."""
        no_tokens, none = np.zeros((0, canvas_length), np.int64), np.zeros(0, np.int64)
        self.on_host = Outcomes(no_tokens, no_tokens, none, none, none)
        self.memory: list[object] = []
        """What each row's sampler remembers of it (`policy.unmasker`); None before its first decision."""

    def _empty(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.int64, device=self.device)

    def __len__(self) -> int:
        return len(self.sequences)

    def read(self) -> None:
        """Waits for the device, and has `on_host` say what it says."""
        columns = (self.canvas_BL, self.order_BL, self.nfe_B, self.num_near_ties_B, self.num_serial_B)
        copies = [to_host(column) for column in columns]
        wait_for(self.device)
        self.on_host = Outcomes(*(copy.numpy() for copy in copies))

    def masked_BL(self) -> NDArray[np.bool_]:
        """On the host: still to be written."""
        masked_BL: NDArray[np.bool_] = self.on_host.canvas_BL == self.mask_id
        return masked_BL

    def is_mask(self, canvas_NL: Tensor) -> Tensor:
        """bool: where canvases hold the mask token."""
        return canvas_NL == self.mask_id

    def written_BL(self) -> Tensor:
        """bool: committed while decoding."""
        return self.order_BL > 0

    def block_window_BL(self, masked_BL: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """On the host: the row's current block, the one that holds its leftmost mask."""
        block_L = np.arange(masked_BL.shape[1]) // self.block_length_B[:, None]
        window_BL: NDArray[np.bool_] = block_L == (masked_BL.argmax(1) // self.block_length_B)[:, None]
        return window_BL

    def admit(self, sequences: list[Sequence]) -> None:
        """Adds rows at the end."""
        if not sequences:
            return
        width = max(self.prompt_BP.shape[1], *(len(sequence.prompt_ids) for sequence in sequences))
        rows = [[self._pad_id] * (width - len(s.prompt_ids)) + list(s.prompt_ids) for s in sequences]
        old_BP = F.pad(self.prompt_BP, (width - self.prompt_BP.shape[1], 0), value=self._pad_id)
        canvas = _integers([list(sequence.canvas_ids) for sequence in sequences])
        order = np.where(canvas == self.mask_id, NEVER, 0)
        none_yet = np.zeros(len(sequences), np.int64)
        self.prompt_BP = torch.cat([old_BP, self._there(_integers(rows))])
        self.canvas_BL = torch.cat([self.canvas_BL, self._there(canvas)])
        self.order_BL = torch.cat([self.order_BL, self._there(order)])
        self.prompt_length_B = np.concatenate([self.prompt_length_B, _integers([len(s.prompt_ids) for s in sequences])])
        self.block_length_B = np.concatenate([self.block_length_B, _integers([s.block_length for s in sequences])])
        self.key_B = torch.cat([self.key_B, self._there(_integers([s.key for s in sequences]))])
        limits = [len(s.canvas_ids) if s.step_limit is None else s.step_limit for s in sequences]
        self.step_limit_B = np.concatenate([self.step_limit_B, _integers(limits)])
        self.num_steps_B = np.concatenate([self.num_steps_B, none_yet])
        self.nfe_B = torch.cat([self.nfe_B, self._there(none_yet)])
        self.num_near_ties_B = torch.cat([self.num_near_ties_B, self._there(none_yet)])
        self.num_serial_B = torch.cat([self.num_serial_B, self._there(none_yet)])
        self.on_host = self.on_host.and_then(Outcomes(canvas, order, none_yet, none_yet, none_yet))
        self.memory.extend([None] * len(sequences))
        if self.cached is not None:
            self.cached.append(len(sequences))
        for sequence in sequences:
            sequence.status = SequenceStatus.LIVE
        self.sequences.extend(sequences)

    def canvas_after(self, decision: Decision, token_ids_BL: Tensor) -> Tensor:
        """`[B, L]` the canvases once `decision` is applied."""
        canvas_BL = torch.where(decision.commit_BL, token_ids_BL, self.canvas_BL)
        return canvas_BL if decision.remask_BL is None else canvas_BL.masked_fill(decision.remask_BL, self.mask_id)

    def apply(self, decision: Decision, token_ids_BL: Tensor, num_passes_B: Tensor, num_serial_B: Tensor) -> None:
        """Commits and masks again what was decided, and keeps what is remembered.

        `num_passes_B` are the forward passes that led to it, `num_serial_B` those of them that came one after another.
        """
        self.nfe_B = self.nfe_B + num_passes_B
        self.num_serial_B = self.num_serial_B + num_serial_B
        self.num_steps_B = self.num_steps_B + 1
        self.canvas_BL = self.canvas_after(decision, token_ids_BL)
        self.order_BL = torch.where(decision.commit_BL, self.nfe_B.unsqueeze(1), self.order_BL)
        if decision.remask_BL is not None:
            self.order_BL = self.order_BL.masked_fill(decision.remask_BL, NEVER)
        self.num_near_ties_B = self.num_near_ties_B + decision.num_near_ties_B
        if decision.memory is not None:
            self.memory = list(decision.memory)

    def retire(self, ended: dict[int, SequenceStatus]) -> None:
        """Writes the outcome of the rows in `ended` into their sequences, as `on_host` has it, and drops them."""
        if not ended:
            return
        columns = self.on_host.at(_integers(sorted(ended)))
        for row, tokens_L, order_L, nfe, near, serial in zip(sorted(ended), *columns, strict=True):
            sequence = self.sequences[row]
            sequence.status = ended[row]
            sequence.tokens_L = tokens_L.astype(np.int32)
            sequence.order_L = order_L.astype(np.int16)
            sequence.nfe, sequence.num_near_ties, sequence.num_serial = int(nfe), int(near), int(serial)
        left = [row for row in range(len(self)) if row not in ended]
        self.sequences = [self.sequences[row] for row in left]
        self.memory = [self.memory[row] for row in left]
        self._keep(_integers(left))

    def _keep(self, host_index: NDArray[np.int64]) -> None:
        index = self._there(host_index)
        width = max((len(sequence.prompt_ids) for sequence in self.sequences), default=0)
        self.prompt_BP = self.prompt_BP[index][:, self.prompt_BP.shape[1] - width :]
        self.prompt_length_B = self.prompt_length_B[host_index]
        self.canvas_BL = self.canvas_BL[index]
        self.order_BL = self.order_BL[index]
        self.block_length_B = self.block_length_B[host_index]
        self.nfe_B = self.nfe_B[index]
        self.key_B = self.key_B[index]
        self.step_limit_B = self.step_limit_B[host_index]
        self.num_near_ties_B = self.num_near_ties_B[index]
        self.num_serial_B = self.num_serial_B[index]
        self.num_steps_B = self.num_steps_B[host_index]
        self.on_host = self.on_host.at(host_index)
        if self.cached is not None:
            self.cached.keep(torch.from_numpy(host_index), self.device)

    def _there(self, values: NDArray[np.int64]) -> Tensor:
        return to_device(values, self.device)


def _integers(values: Many[int] | Many[Many[int]]) -> NDArray[np.int64]:
    return np.array(values, np.int64)
