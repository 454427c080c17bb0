"""What a user says about a model besides its name, dtype and device; plain data that imports neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The `model` settings of the same names."""

    revision: str | None = None
    """Commit, tag or branch of a hub id; a folder has none. Code from a hub id runs at a full commit only."""
    remote_code: bool = False
    """Run the modelling code that the checkpoint brings along."""
    mask_token_id: int | None = None
    """For checkpoints that do not say it; one that does must agree."""
    logit_shift: bool = False
    """`remote_code` only: the logits of a position stand one to its left."""
    compile: bool = False
    """Fuse the operations of all blocks but the last (`rollout_workers.models.compiled`)."""


NO_OPTIONS = LoadOptions()
