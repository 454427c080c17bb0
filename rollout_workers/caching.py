"""Which live rows compute what at a pass, where keys and values are kept (`rollout_workers.models.cache`).

    prefix   a pass computes the row's current block and everything to its right (Fast-dLLM's prefix cache)
    dual     a pass computes the row's current block alone (Fast-dLLM's dual cache)

A row's first pass in every block is a full one, and with `refresh` r so is every r-th pass in a block. NFE counts passes, whatever
they compute.

Shapes: `B` live rows, `L` canvas positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policy.observation import Needs
from policy.transfer import to_device
from rollout_workers.config import SCOPES_WITH_CACHE, CacheMode
from rollout_workers.models.base import ModelError, ModelSpec
from rollout_workers.models.cache import CachedPass, KeyValueCache


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Part of the environment: a policy may be trained in it."""

    mode: CacheMode = "none"
    refresh: int | None = None
    """Passes from one full pass to the next within a block; None: only a block's first pass is full."""


NO_CACHE = CacheSettings()


def check_cache(settings: CacheSettings, needs: Needs, spec: ModelSpec) -> None:
    """Raises a ValueError for an unmasker or a model that cannot do without full passes."""
    if settings.mode == "none":
        return
    if settings.mode not in SCOPES_WITH_CACHE:
        raise ValueError(f"cache is {settings.mode!r}; allowed: 'none', 'prefix', 'dual'")
    if needs.scope not in SCOPES_WITH_CACHE[settings.mode]:
        allowed = ", ".join(repr(mode) for mode, scopes in SCOPES_WITH_CACHE.items() if needs.scope in scopes)
        raise ValueError(
            f"cache is {settings.mode!r}; allowed: {allowed} with an unmasker whose scope is '{needs.scope}'"
        )
    if needs.verified or needs.lookahead or needs.own_blocks or needs.rewrites:
        raise ValueError(
            f"cache is {settings.mode!r}; allowed: 'none' with a sampler that looks beyond its block or revises"
        )
    if not spec.can_cache:
        raise ModelError(f"model '{spec.name}' keeps no keys and values; allowed: cache 'none'")


class CachedRows:
    """Where each live row stands between two full passes."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._cache = KeyValueCache()
        self._block_B = torch.zeros(0, dtype=torch.int64)
        """First position of the block that the row's last pass was in; -1 before its first pass."""
        self._age_B = torch.zeros(0, dtype=torch.int64)
        """Passes since the last full one, itself included."""

    def append(self, num_rows: int) -> None:
        """New rows at the end."""
        self._cache.append(num_rows)
        self._block_B = torch.cat([self._block_B, self._block_B.new_full((num_rows,), -1)])
        self._age_B = torch.cat([self._age_B, self._age_B.new_zeros(num_rows)])

    def keep(self, index: Tensor, device: torch.device) -> None:
        """Drops all rows but those at `index`, which is on the host."""
        self._cache.keep(to_device(index, device))
        self._block_B, self._age_B = self._block_B[index], self._age_B[index]

    def next_pass(self, window_BL: Tensor) -> CachedPass:
        """What to compute for rows whose current blocks are at `window_BL`; all of this is on the host."""
        first_B = window_BL.int().argmax(1)
        full_B = first_B != self._block_B
        if self._settings.refresh is not None:
            full_B |= self._age_B >= self._settings.refresh
        self._block_B, self._age_B = first_B, torch.where(full_B, 1, self._age_B + 1)
        fresh_BL = window_BL
        if self._settings.mode == "prefix":
            fresh_BL = torch.arange(window_BL.shape[1], device=window_BL.device) >= first_B.unsqueeze(1)
        return CachedPass(self._cache, full_B, fresh_BL)
