"""Supervised training alone: a policy, or the head of UPO (arXiv 2510.05725), before any reward.

    python -m learner.pretrain [PRESET|FILE.yaml] [key.path=value ...] [--dry-run] [--resume]

The run of `learner.main` without its GRPO updates: `learner.imitation` says what is imitated, and how long. The policy that
comes out is evaluated like any other; ``learner.initial_policy=RUN_DIR/policy.safetensors learner.imitation.num_steps=0``
starts a run from it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cluster.errors import ExitCode, UserError
from learner.main import main as train
from learner.main import resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    settings = [argument for argument in given if not argument.startswith("-")]
    flags = [argument for argument in given if argument.startswith("-")]
    try:
        imitation = resolve(settings).learner.imitation
        if not {"-h", "--help"} & set(flags) and not imitation.num_steps:
            raise UserError("config key 'learner.imitation.num_steps' is 0; allowed: an integer >= 1 to pretrain")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    return train([*settings, "learner.num_steps=0", *flags])


if __name__ == "__main__":
    sys.exit(main())
