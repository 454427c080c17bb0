"""What a row looked like before each pass, for replays: canvas, the model's guesses, their confidences, and what was committed.

Watching changes nothing about how a row is decoded. Shapes: `B` live rows, `L` canvas positions, `T` passes.
"""

from __future__ import annotations

import numpy as np

from rollout_workers.engine import Step
from rollout_workers.lease import NOT_ASKED, TracedPass
from rollout_workers.sequence import Sequence


class Tracer:
    """Watches some rows of one decode."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self._passes: dict[int, list[TracedPass]] = {id(sequence): [] for sequence in sequences}

    def observe(self, step: Step) -> None:
        """See `rollout_workers.engine.Watcher`."""
        rows = step.rows
        watched = [b for b, sequence in enumerate(rows.sequences) if id(sequence) in self._passes]
        if not watched:
            return
        confidence_BL = step.observation.confidences_BLK[:, :, 0]
        columns = (
            rows.canvas_BL,
            step.predicted_BL,
            step.wanted_BL,
            confidence_BL,
            step.decision.commit_BL,
            step.nfe_B,
        )
        arrays = [column[watched].cpu().numpy() for column in columns]
        for b, canvas_L, predicted_L, wanted_L, confidence_L, commit_L, nfe in zip(watched, *arrays, strict=True):
            self._passes[id(rows.sequences[b])].append(
                TracedPass(
                    canvas_L.astype(np.int32),
                    np.where(wanted_L, predicted_L, NOT_ASKED).astype(np.int32),
                    confidence_L.astype(np.float32),
                    commit_L,
                    int(nfe),
                )
            )

    def passes(self, sequence: Sequence) -> tuple[TracedPass, ...]:
        """Those of `sequence`, in time order."""
        return tuple(self._passes[id(sequence)])
