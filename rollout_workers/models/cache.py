"""Keys and values kept between the passes of a row, so that a pass computes some of its tokens only.

A dLLM's attention is bidirectional: what a token's key and value would be changes with every commit, so kept ones are approximate
(Fast-dLLM, arXiv 2505.22618), and exact only where no token attends to a later block.

    full pass      computes all tokens of a row and keeps their keys and values
    partial pass   computes the tokens at `fresh_BL`; for all others it takes what was kept

Slots are aligned at the right: the last L are the canvas, the prompt ends before them.

Shapes: `B` live rows, `b` rows of one pass, `T` slots, `Q` computed tokens of a row, `S` = P + L tokens, `L` canvas, `H` key heads,
`d` their size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


class KeyValueCache:
    """What is kept of the live rows, one tensor per layer for keys and one for values, `[B, T, H, d]`."""

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._num_rows = 0
        self._num_slots = 0

    def append(self, num_rows: int) -> None:
        """New rows at the end; their first pass must be a full one."""
        self._num_rows += num_rows
        self._map(lambda kept: F.pad(kept, (0, 0, 0, 0, 0, 0, 0, num_rows)))

    def keep(self, index: Tensor) -> None:
        """Drops all rows but those at `index`."""
        self._num_rows = len(index)
        self._map(lambda kept: kept[index])

    def reserve(self, num_slots: int) -> int:
        """Makes room for that many slots; returns how many there are."""
        more, self._num_slots = max(0, num_slots - self._num_slots), max(num_slots, self._num_slots)
        if more:
            self._map(lambda kept: F.pad(kept, (0, 0, 0, 0, more, 0)))
        return self._num_slots

    def layer(self, number: int, like_bHQd: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer; made at its first pass."""
        if number == len(self._layers):
            shape = (self._num_rows, self._num_slots, like_bHQd.shape[1], like_bHQd.shape[3])
            self._layers.append((like_bHQd.new_zeros(shape), like_bHQd.new_zeros(shape)))
        return self._layers[number]

    def _map(self, change: Callable[[Tensor], Tensor]) -> None:
        self._layers = [(change(keys), change(values)) for keys, values in self._layers]


@dataclass(frozen=True, slots=True)
class CachedPass:
    """What each live row computes at one pass; the masks are on the host."""

    cache: KeyValueCache
    full_B: Tensor
    """bool: all of its tokens."""
    fresh_BL: Tensor
    """bool: only these canvas positions, where not all."""


class PassKeys:
    """Some rows' part of one pass, in the place of transformers' own cache: gives attention its keys and values.

    `slot_bQ` are the slots of the computed tokens; None where these are all tokens of the rows.
    """

    def __init__(self, cache: KeyValueCache, row_b: Tensor, slot_bQ: Tensor | None) -> None:
        self._cache = cache
        self._row_b = row_b
        self._slot_bQ = slot_bQ

    def update(self, keys_bHQd: Tensor, values_bHQd: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Keeps what was computed; returns what is attended to."""
        kept = self._cache.layer(layer, keys_bHQd)
        new = (keys_bHQd.transpose(1, 2), values_bHQd.transpose(1, 2))
        if self._slot_bQ is None:
            for kept_BTHd, new_bQHd in zip(kept, new, strict=True):
                kept_BTHd[self._row_b, kept_BTHd.shape[1] - new_bQHd.shape[1] :] = new_bQHd
            return keys_bHQd, values_bHQd
        for kept_BTHd, new_bQHd in zip(kept, new, strict=True):
            kept_BTHd[self._row_b.unsqueeze(1), self._slot_bQ] = new_bQHd
        is_all = len(self._row_b) == len(kept[0])
        keys_bTHd, values_bTHd = kept if is_all else (kept[0][self._row_b], kept[1][self._row_b])
        return keys_bTHd.transpose(1, 2), values_bTHd.transpose(1, 2)

    # What transformers asks a cache when it makes a mask: as if there were none.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0
