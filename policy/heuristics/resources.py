"""What some samplers must know of the model beside its predictions; its loader fills this in.

Shapes: `V` vocabulary, `S` tokens of one text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class SecondModel(Protocol):
    """A causal language model over the same vocabulary as the dLLM."""

    def log_probs(self, texts: Sequence[Sequence[int]], first: Sequence[int]) -> list[Tensor]:
        """For each text the log-probabilities `[S - first, V]` at its places from `first` (at least 1) on, given those before."""
        ...


class Resources(Protocol):
    """Ids, statistics and further models; each raises a ValueError of one line where the model has no such thing."""

    eos_ids: tuple[int, ...]
    """What ends an answer: end of text first, then end of turn where there is one."""

    def token_id(self, text: str) -> int:
        """The id of the token that is written `text`."""
        ...

    def token_frequencies(self, source: str) -> Tensor:
        """`[V]` shares of the tokens in a background corpus; `source` is a file, or empty for the model's own."""
        ...

    def second_model(self, name: str) -> SecondModel:
        """The causal model of that name or folder."""
        ...
