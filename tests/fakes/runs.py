"""Run directories as training leaves them, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.config import dump_yaml
from cluster.run_dir import RunDir
from policy.weights import to_bytes
from tests.fakes.policies import SMALL, lively_policy

CONFIG = {
    "seed": 0,
    "task": "sudoku",
    "policy": dict(SMALL),
    "evaluation": {"num_examples": 4, "heuristics": {"threshold": [0.9]}},
}


def make_run(path: Path, *, steps: tuple[int, ...] = (0, 10, 20), best: int = 10, **config: Any) -> RunDir:
    """A run of small policies with checkpoints after `steps` updates."""
    run = RunDir(path)
    path.mkdir(parents=True)
    run.config_path.write_text(dump_yaml({**CONFIG, "run_dir": str(path), **config}))
    for step in steps:
        files = {
            "policy.safetensors": to_bytes(lively_policy(seed=step).network),
            "state.json": json.dumps({"step": step, "best_step": best}).encode(),
        }
        run.publish(f"checkpoints/step-{step:06d}", files)
    return run
