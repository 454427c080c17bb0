"""What a row looked like before each pass, for replays: canvas, the model's guesses, their confidences, and what was committed.

Watching changes nothing about how a row is decoded. Shapes: `B` live rows, `L` canvas positions, `T` passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from policy.observation import Observation
from policy.unmasker import Decision
from rollout_workers.sequence import LiveRows, Sequence

NOT_ASKED = -1
"""Guess of a position that the unmasker did not ask the model for."""


@dataclass(frozen=True, slots=True)
class TracedPass:
    """One forward pass of one row."""

    canvas_L: NDArray[np.int32]
    """Token ids before the pass."""
    guess_L: NDArray[np.int32]
    """The model's token where it was asked for one, else `NOT_ASKED`."""
    confidence_L: NDArray[np.float32]
    """Probability of the guess; meaningless where none was asked for."""
    commit_L: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RowTrace:
    """One decoded row, pass by pass."""

    prompt: str
    passes: tuple[TracedPass, ...]
    final_L: NDArray[np.int32]
    mask_id: int
    pieces: Mapping[int, str]
    """Token id -> its text, for every id that occurs."""


class Tracer:
    """Watches some rows of one decode."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self._passes: dict[int, list[TracedPass]] = {id(sequence): [] for sequence in sequences}

    def observe(
        self, rows: LiveRows, wanted_BL: Tensor, predicted_BL: Tensor, observation: Observation, decision: Decision
    ) -> None:
        """One step of the engine, before its commits are applied."""
        watched = [b for b, sequence in enumerate(rows.sequences) if id(sequence) in self._passes]
        if not watched:
            return
        columns = (rows.canvas_BL, predicted_BL, wanted_BL, observation.confidences_BLK[:, :, 0], decision.commit_BL)
        arrays = [column[watched].cpu().numpy() for column in columns]
        for b, canvas_L, predicted_L, wanted_L, confidence_L, commit_L in zip(watched, *arrays, strict=True):
            self._passes[id(rows.sequences[b])].append(
                TracedPass(
                    canvas_L.astype(np.int32),
                    np.where(wanted_L, predicted_L, NOT_ASKED).astype(np.int32),
                    confidence_L.astype(np.float32),
                    commit_L,
                )
            )

    def passes(self, sequence: Sequence) -> tuple[TracedPass, ...]:
        """Those of `sequence`, in time order."""
        return tuple(self._passes[id(sequence)])
