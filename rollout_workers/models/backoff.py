"""Forward passes that fit into memory: after one that did not, rows are computed half as many at a time, from then on.

Decisions do not change, for a row's prediction does not depend on the rows beside it.

Shapes: see `rollout_workers.models.base`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cluster.logs import get_logger
from rollout_workers.models.base import FrozenDLLM, ModelError, Prediction
from rollout_workers.models.reduction import concatenate

logger = get_logger(__name__)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device's allocator, or the CPU's, had no more to give."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


class BackingOff:
    """Another model, whose batches are halved once when they turn out too large; a second time is a `ModelError`."""

    def __init__(self, model: FrozenDLLM) -> None:
        self._model = model
        self.spec = model.spec
        self.device = model.device
        self.rows_at_once: int | None = None
        """Most rows of one forward pass; None as long as all fitted."""

    def predict(
        self, prompt_BP: Tensor, prompt_length_B: Tensor, canvas_BL: Tensor, wanted_BL: Tensor, **options: Any
    ) -> Prediction:
        """See `FrozenDLLM.predict`."""
        inputs, num_rows = (prompt_BP, prompt_length_B, canvas_BL, wanted_BL), len(canvas_BL)
        if self.rows_at_once is None:
            try:
                return self._model.predict(*inputs, **options)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                # Where keys and values are kept, or shadows stand beside the tokens, a batch cannot be cut here.
                if num_rows == 1 or options.get("cached") is not None or options.get("shadow_BL") is not None:
                    raise self._error(num_rows, error) from error
            self.rows_at_once = -(-num_rows // 2)
            logger.warning(
                "a forward pass of model '%s' over %d rows does not fit into memory: it computes %d at a time from now on "
                "(decode.num_slots=%d avoids that)",
                self.spec.name,
                num_rows,
                self.rows_at_once,
                self.rows_at_once,
            )
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if num_rows <= self.rows_at_once:
            return self._model.predict(*inputs, **options)
        parts, num_done = [], 0
        uniforms_N = options.get("token_uniforms_N")
        for start in range(0, num_rows, self.rows_at_once):
            rows = slice(start, start + self.rows_at_once)
            num_wanted = int(wanted_BL[rows].sum())
            if uniforms_N is not None:
                options["token_uniforms_N"] = uniforms_N[num_done : num_done + num_wanted]
            try:
                parts.append(self._model.predict(*(each[rows] for each in inputs), **options))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise self._error(self.rows_at_once, error) from error
            num_done += num_wanted
        return concatenate(parts)

    def _error(self, num_rows: int, error: BaseException) -> ModelError:
        return ModelError(
            f"model '{self.spec.name}' does not fit into memory with {num_rows} rows at a time; "
            f"allowed: a smaller decode.num_slots or decode.canvas_length, or a larger device ({str(error).splitlines()[0]})"
        )
