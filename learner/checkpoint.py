"""Checkpoints: everything a run needs to go on exactly where it was, in safetensors and JSON.

Noise is keyed by counters, so besides weights and optimiser only counters are state, and none depends on the number of actors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save

from cluster.config import first_difference
from cluster.errors import UserError
from learner.trainer import Trainer
from policy.config import PolicyConfig
from policy.weights import from_bytes, load_strictly, to_bytes

POLICY_FILE = "policy.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
SCHEMA = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the run is."""

    step: int = 0
    """Updates done; also the version of the weights."""
    task_cursor: Mapping[str, int] = field(default_factory=dict)
    """Task name -> training examples drawn from it."""
    best_step: int = 0
    best_reward: float = float("-inf")
    """Mean validation reward of the best checkpoint; -inf before the first validation."""


def checkpoint_name(step: int) -> str:
    """The artefact name of the checkpoint after `step` updates."""
    return f"checkpoints/step-{step:06d}"


def trainer_files(trainer: Trainer) -> dict[str, bytes]:
    """The trainer's part of a checkpoint."""
    optimizer: dict[str, Any] = trainer.optimizer.state_dict()["state"]
    tensors = {
        f"{index}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for index, state in optimizer.items()
        for name, value in state.items()
    }
    # safetensors refuses an empty mapping; the counter is always there.
    tensors["num_optimizer_steps"] = torch.tensor(trainer.num_optimizer_steps)
    return {POLICY_FILE: to_bytes(trainer.network), OPTIMIZER_FILE: save(tensors)}


def check_checkpoint(files: Mapping[str, bytes], policy: PolicyConfig, *, where: str) -> None:
    """Raises a UserError for a checkpoint that a run of `policy` cannot go on from."""
    allowed = "allowed: a checkpoint of this run, or another run_dir"
    if missing := {POLICY_FILE, OPTIMIZER_FILE, STATE_FILE} - files.keys():
        raise UserError(f"checkpoint '{where}' has no {min(missing)}; {allowed}")
    try:
        found = from_bytes(files[POLICY_FILE], where=POLICY_FILE).config
        read_progress(files[STATE_FILE])
    except ValueError as error:
        raise UserError(f"checkpoint '{where}' cannot be read: {error}; {allowed}") from error
    if difference := first_difference(asdict(found), asdict(policy), where="policy"):
        raise UserError(f"checkpoint '{where}' has a policy of another architecture ({difference}); {allowed}")


def restore_trainer(trainer: Trainer, files: dict[str, bytes], *, where: str) -> None:
    """Loads the trainer's part of a checkpoint."""
    network = from_bytes(files[POLICY_FILE], where=f"{where}/{POLICY_FILE}")
    load_strictly(trainer.network, network.state_dict(), where=f"{where}/{POLICY_FILE}")
    tensors = load(files[OPTIMIZER_FILE])
    trainer.num_optimizer_steps = int(tensors.pop("num_optimizer_steps"))
    state = trainer.optimizer.state_dict()
    state["state"] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state["state"].setdefault(int(index), {})[name] = value
    trainer.optimizer.load_state_dict(state)


def progress_file(progress: Progress) -> bytes:
    """The counters as JSON; infinity is written as null."""
    record = asdict(progress) | {"schema": SCHEMA}
    if record["best_reward"] == float("-inf"):
        record["best_reward"] = None
    return json.dumps(record, indent=1).encode()


def read_progress(data: bytes) -> Progress:
    """What `progress_file` wrote."""
    record = json.loads(data)
    schema = record.pop("schema")
    if schema != SCHEMA:
        raise ValueError(f"checkpoint schema {schema!r} is not supported; this version reads {SCHEMA}")
    if record["best_reward"] is None:
        record["best_reward"] = float("-inf")
    return Progress(**record)
