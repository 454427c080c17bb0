"""From one step's observation and decision to what a trajectory keeps of it.

Nothing here waits for the device: the arrays of a step are filled once it has been waited for.

Hidden states are kept in float16, and deciding reads them through `stored_hidden` too: what is re-scored is what was decided from.

Shapes: `B` rows, `L` canvas positions, `D` hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from policy.observation import Observation
from policy.trajectory import ARGMAX_BIT, COMMITTED_BIT, ELIGIBLE_BIT, MASKED_BIT, PackedSteps
from policy.transfer import to_host
from policy.unmasker import Decision


def hidden_of(observation: Observation) -> Tensor | None:
    """`[B, L, D]` the observed hidden states as `stored_hidden`; None where none were asked for."""
    return None if observation.hidden_BLD is None else stored_hidden(observation.hidden_BLD)


def stored_hidden(hidden_BLD: Tensor) -> Tensor:
    """The hidden states in float16, which is finer than bfloat16; what lies beyond its range is moved to its end."""
    limit = torch.finfo(torch.float16).max
    return hidden_BLD.half().clamp(-limit, limit)


def pack_step(observation: Observation, decision: Decision) -> PackedSteps:
    """One packed step per row; its arrays have no values before `policy.transfer.wait_for`."""
    return PackedSteps(
        _array(observation.confidences_BLK),
        _array(_flags(observation, decision)),
        _array(observation.time_B),
        _array(decision.log_prob_B.float()),
        None if decision.rank_BL is None else _array(decision.rank_BL),
        None if (hidden_BLD := hidden_of(observation)) is None else _array(hidden_BLD),
    )


def _flags(observation: Observation, decision: Decision) -> Tensor:
    """`[B, L]` uint8 as `PackedSteps.flags_NL`."""
    flags_BL = observation.masked_BL.byte() * MASKED_BIT
    flags_BL += observation.eligible_BL.byte() * ELIGIBLE_BIT
    flags_BL += decision.commit_BL.byte() * COMMITTED_BIT
    if decision.argmax_BL is not None:
        flags_BL += decision.argmax_BL.byte() * ARGMAX_BIT
    return flags_BL


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = to_host(tensor).numpy()
    return array
