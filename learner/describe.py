"""What follows from a configuration: batch arithmetic that users should not have to do."""

from __future__ import annotations

from evaluation.arms import check_cached, heuristic_arms
from learner.config import RunConfig
from learner.experts import check_experts, read_initial_policy
from rollout_workers.hosting import section_of, spread
from rollout_workers.tasks import make_tasks


def derived_arithmetic(config: RunConfig) -> str:
    """A few lines of YAML comments with the derived numbers; a UserError for whatever is wrong but for the model and the data."""
    longest = max(task.canvas_length for task in make_tasks(config.task_configs).values())
    canvas, block = config.decode.lengths(longest, "decode")
    check_cached(heuristic_arms(config.evaluation, canvas), config.decode)
    check_experts(config, block_length=block)
    read_initial_policy(config)
    learner, prompts = config.learner, config.learner.prompts_per_step
    num_experts = len(learner.steering.parameters)
    samples = f"{learner.group_size} samples"
    members = f"({samples} + {num_experts} experts)" if num_experts else samples
    rows = prompts * (learner.group_size + num_experts)
    imitated = learner.imitation.num_steps * prompts * learner.imitation.group_size
    lines = [
        f"canvas: {canvas} tokens in blocks of {block}"
        if block < canvas
        else f"canvas: {canvas} tokens, full diffusion",
        f"rows per update: {prompts} prompts x {members} = {rows}",
        f"leases per update: {_leases(config)}, over {config.rollout.num_workers} rollout actors",
        f"optimiser steps: {learner.num_updates} updates x {learner.num_iterations} iterations "
        f"= {learner.num_optimizer_steps}",
        f"training prompts: {learner.num_updates * prompts}, rows: {learner.num_steps * rows + imitated}",
        f"validation: every {config.checkpoint.every} updates on {config.checkpoint.validation_examples} problems",
    ]
    if len(config.model_configs) > 1:
        hosted = spread([section_of(name) for name in config.model_configs], config.rollout.num_workers)
        lines.append(f"rollout actors host: {'; '.join(' and '.join(models) for models in hosted)}")
    return "\n".join(["# derived:", *(f"#   {line}" for line in lines)])


def _leases(config: RunConfig) -> str:
    """Of the policy, and of the experts; each of several models may have one more that is not full."""
    learner, rollout, more = config.learner, config.rollout, len(config.model_configs) - 1
    rows = rollout.lease_groups * learner.group_size
    at_most = "at most " if more else ""
    own = f"{at_most}{-(-learner.prompts_per_step // rollout.lease_groups) + more} of {rows} rows"
    tapering = ", the last in ever smaller parts" if rollout.taper_leases else ""
    if not learner.steering.parameters:
        return own + tapering
    experts = f"{len(learner.steering.parameters)} x {-(-learner.prompts_per_step // rows) + more} of experts"
    return f"{own}, and {experts}{tapering}"
