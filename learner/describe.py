"""What follows from a configuration: batch arithmetic that users should not have to do."""

from __future__ import annotations

from learner.config import RunConfig


def derived_arithmetic(config: RunConfig) -> str:
    """A few lines of YAML comments with the derived numbers."""
    learner, rollout = config.learner, config.rollout
    prompts, num_experts = learner.prompts_per_step, len(learner.steering.parameters)
    rows_per_prompt = learner.group_size + num_experts
    leases = prompts // rollout.lease_groups
    rows_per_lease = rollout.lease_groups * learner.group_size
    imitated = learner.imitation.num_steps * prompts * learner.imitation.group_size
    expert_leases = f", and {num_experts} x {-(-prompts // rows_per_lease)} of experts" if num_experts else ""
    members = (
        f"({learner.group_size} samples + {num_experts} experts)" if num_experts else f"{learner.group_size} samples"
    )
    return "\n".join(
        [
            "# derived:",
            f"#   rows per update: {prompts} prompts x {members} = {prompts * rows_per_prompt}",
            f"#   leases per update: {leases} of {rows_per_lease} rows{expert_leases}, over {rollout.num_workers} rollout actors",
            f"#   optimiser steps: {learner.num_updates} updates x {learner.num_iterations} iterations "
            f"= {learner.num_optimizer_steps}",
            f"#   training prompts: {learner.num_updates * prompts}, "
            f"rows: {learner.num_steps * prompts * rows_per_prompt + imitated}",
            f"#   validation: every {config.checkpoint.every} updates on {config.checkpoint.validation_examples} problems",
        ]
    )
