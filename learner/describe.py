"""What follows from a configuration: batch arithmetic that users should not have to do."""

from __future__ import annotations

from learner.config import RunConfig


def derived_arithmetic(config: RunConfig) -> str:
    """A few lines of YAML comments with the derived numbers."""
    learner, rollout = config.learner, config.rollout
    rows = learner.prompts_per_step * learner.group_size
    leases = learner.prompts_per_step // rollout.lease_groups
    rows_per_lease = rollout.lease_groups * learner.group_size
    return "\n".join(
        [
            "# derived:",
            f"#   rows per update: {learner.prompts_per_step} prompts x {learner.group_size} samples = {rows}",
            f"#   leases per update: {leases} of {rows_per_lease} rows, over {rollout.num_workers} rollout actors",
            f"#   optimiser steps: {learner.num_updates} updates x {learner.num_iterations} iterations "
            f"= {learner.num_optimizer_steps}",
            f"#   training prompts: {learner.num_updates * learner.prompts_per_step}, rows: {learner.num_updates * rows}",
            f"#   validation: every {config.checkpoint.every} updates on {config.checkpoint.validation_examples} problems",
        ]
    )
