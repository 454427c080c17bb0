"""A rollout actor whose dLLM is a sleep; this module imports no torch, so that many of them fit on a small machine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle

ROWS_PER_LEASE = 16
CANVAS_LENGTH = 256
DEADLINE_S = 600.0
_STEPS_PER_ROW = 40


class Sleeper:
    """A rollout actor without a dLLM."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        random = np.random.default_rng(0)
        row = (random.integers(0, 99, CANVAS_LENGTH, np.int32), random.integers(0, 40, CANVAS_LENGTH).astype(np.int16))
        self._summary = [(f"task/train/{n}", n, 0, *row, "clean", 0.5, {"reward": 0.5}) for n in range(ROWS_PER_LEASE)]
        steps = ROWS_PER_LEASE * _STEPS_PER_ROW
        self._trajectories = random.random((steps, CANVAS_LENGTH), np.float32)

    def ready(self) -> bool:
        return True

    def run(self, lease: int) -> tuple[Any, Any]:
        time.sleep(self._lease_s)
        return self._summary, self._trajectories

    def pull(self, store: Any, version: int) -> float:
        """Fetches and verifies a version; returns when it was here."""
        store.fetch(version, fingerprint="bench", timeout_s=DEADLINE_S)
        return time.time()


def start_sleeper(lease_s: float) -> ActorHandle:
    """A sleeping actor, which asks for one logical CPU."""
    actor_class: Any = ray.remote(Sleeper)
    actor: ActorHandle = actor_class.options(num_cpus=1, max_restarts=0).remote(lease_s)
    return actor
