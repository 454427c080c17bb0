"""All that an evaluation will do, found to be possible before an actor starts: model, problems, arms and policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import build, load_yaml, to_dict
from cluster.errors import UserError
from evaluation.arms import Arm, check_arms, check_cached, halves, heuristic_arms, learned_arm
from evaluation.conditions import directory_settings
from evaluation.config import EvaluationConfig, PipelineConfig
from evaluation.runner import Suite
from evaluation.sources import Policy
from rollout_workers.config import DecodeConfig, ModelConfig, check_block_length, check_model_devices
from rollout_workers.hosting import model_of, section_of, task_of
from rollout_workers.models.base import ModelError, ModelSpec
from rollout_workers.models.load import check_model, load_tokenizer
from rollout_workers.problems import ProblemSet, PromptLimit
from rollout_workers.tasks import Task, make_tasks

PAPER_TASKS = ("gsm8k", "math", "humaneval", "mbpp")
"""What `--tasks all` is."""
NO_BASELINES = "none"
_PRESET_FOLDER = Path(__file__).parent / "presets"
_QUICK_EXAMPLES = 16


@dataclass(frozen=True, slots=True)
class Preparation:
    """A checked evaluation."""

    config: PipelineConfig
    policies: Sequence[Policy]
    suites: Sequence[Suite]
    canvas_lengths: Mapping[str, int]

    @property
    def settings(self) -> dict[str, Any]:
        """What the results directory belongs to."""
        config = self.config
        return directory_settings(
            config.model_configs, config.task_configs, config.decode, config.reward, config.evaluation,
            canvas_lengths=self.canvas_lengths, run_seed=config.seed,
        )  # fmt: skip


def presets() -> list[str]:
    """Names of the shipped sweeps."""
    return sorted(path.stem for path in _PRESET_FOLDER.glob("*.yaml"))


def with_options(
    config: PipelineConfig,
    *,
    tasks: str | None,
    baselines: str | None,
    seeds: Sequence[int] | None,
    temperatures: Sequence[float] | None,
    num_examples: int | None,
    quick: bool,
) -> PipelineConfig:
    """The configuration with the command line's options laid over it."""
    if tasks is not None:
        names = PAPER_TASKS if tasks == "all" else tuple(name.strip() for name in tasks.split(","))
        wanted = {task_of(name) for name in names}
        kept = {name: config.task_settings[name] for name in config.task_settings if name in wanted}
        config = dataclasses.replace(config, task=dict.fromkeys(names, 1.0), task_settings=kept)
    evaluation = config.evaluation
    if baselines is not None:
        evaluation = _with_baselines(evaluation, baselines)
    changes = {"seeds": seeds, "policy_temperatures": temperatures, "num_examples": num_examples}
    changed = {key: to_dict(value) for key, value in changes.items() if value is not None}
    evaluation = build(EvaluationConfig, {**to_dict(evaluation), **changed}, where="evaluation")
    return dataclasses.replace(config, evaluation=_quick(evaluation) if quick else evaluation)


def _with_baselines(evaluation: EvaluationConfig, baselines: str) -> EvaluationConfig:
    if baselines == NO_BASELINES:
        return dataclasses.replace(evaluation, heuristics={})
    is_preset = baselines in presets()
    if not is_preset and not baselines.endswith((".yaml", ".yml")):
        raise UserError(
            f"--baselines is {baselines!r}; allowed: {', '.join([*presets(), NO_BASELINES])}, or a .yaml file"
        )
    sweep = load_yaml(_PRESET_FOLDER / f"{baselines}.yaml" if is_preset else baselines)
    return build(EvaluationConfig, {**to_dict(evaluation), **sweep}, where=baselines)


def _quick(evaluation: EvaluationConfig) -> EvaluationConfig:
    """A look at everything: few problems, one seed, the ends and the middle of every parameter's range."""
    return dataclasses.replace(
        evaluation,
        num_examples=min(evaluation.num_examples, _QUICK_EXAMPLES),
        seeds=evaluation.seeds[:1],
        heuristics={
            name: tuple(values[place] for place in sorted({0, len(values) // 2, len(values) - 1}))
            for name, values in evaluation.heuristics.items()
            if values
        },
        num_traced=min(evaluation.num_traced, 2),
    )


def prepare(
    config: PipelineConfig, policies: Sequence[Policy], *, own_canvases: bool, quick: bool = False
) -> Preparation:
    """The checked evaluation; UserError for whatever is wrong with it.

    With `own_canvases` each task has its own canvas length, without it all share the longest, as they do in training. `quick`
    leaves the shortest and the longest block length.
    """
    specs = {name: _check_model(name, model) for name, model in config.model_configs.items()}
    for spec in specs.values():
        _check_policies(policies, spec)
    config.decode.check_models(config.model_configs)
    check_model_devices(config.model_configs, config.rollout)
    for policy in policies:
        config.decode.check_scope(policy.config.scope, f"{policy.where}: its scope")
        try:
            config.evaluation.inference.check(policy.config, where="evaluation.inference")
        except ValueError as error:
            raise UserError(f"{error} ({policy.where})") from error
    tasks = make_tasks(config.task_configs)
    longest = max(task.canvas_length for task in tasks.values())
    lengths = {
        name: config.decode.canvas_length or (task.canvas_length if own_canvases else longest)
        for name, task in tasks.items()
    }
    _check_blocks(config.evaluation, set(lengths.values()))
    suites = [_suite(config, policies, name, task, lengths[name], specs, quick=quick) for name, task in tasks.items()]
    if not any(suite.arms for suite in suites):
        raise UserError(
            "there is nothing to evaluate: no policy and no baseline; allowed: RUN, FILE.safetensors or --baselines"
        )
    return Preparation(config, policies, suites, lengths)


def _suite(
    config: PipelineConfig,
    policies: Sequence[Policy],
    name: str,
    task: Task,
    length: int,
    specs: Mapping[str, ModelSpec],
    *,
    quick: bool,
) -> Suite:
    evaluation, model = config.evaluation, model_of(name)
    limit = prompt_limit(config.model_configs[model], config.decode, specs[model], length)
    picks = ProblemSet({name: task}, {name: 1.0}, config.seed, {name: limit}).test(evaluation.num_examples)
    if not picks:
        raise UserError(
            f"task {name!r} has no test problem to pose (evaluation.num_examples = {evaluation.num_examples}); "
            "allowed: a task with at least one, and num_examples >= 1"
        )
    blocks = sorted(block for block in evaluation.block_lengths or halves(length) if length % block == 0)
    if quick and blocks:
        blocks = list(dict.fromkeys((blocks[0], blocks[-1])))
    arms = heuristic_arms(dataclasses.replace(evaluation, block_lengths=tuple(blocks)), length)
    check_cached(arms, config.decode)
    check_arms(arms, config.model_configs[model], specs[model], config.decode)
    _, block = config.decode.lengths(length, "decode")
    return Suite([*_learned_arms(config, policies, block), *arms], picks, length)


def _learned_arms(config: PipelineConfig, policies: Sequence[Policy], block_length: int) -> list[Arm]:
    return [
        learned_arm(block_length, temperature, policy=policy.name, inference=config.evaluation.inference)
        for policy in policies
        for temperature in config.evaluation.policy_temperatures or (policy.config.policy_temperature,)
    ]


def _check_blocks(evaluation: EvaluationConfig, lengths: set[int]) -> None:
    """Block lengths may fit some canvases only, but each must fit one, and each canvas must have one."""
    if not evaluation.heuristics or not evaluation.block_lengths:
        return
    for block in evaluation.block_lengths:
        if not any(length % block == 0 for length in lengths):
            check_block_length(block, max(lengths), "evaluation.block_lengths")
    for length in lengths:
        if not any(length % block == 0 for block in evaluation.block_lengths):
            check_block_length(evaluation.block_lengths[0], length, "evaluation.block_lengths")


def _check_model(name: str, model: ModelConfig) -> ModelSpec:
    try:
        return check_model(model.name, model.options)
    except ModelError as error:
        raise UserError(f"config key '{section_of(name)}.name': {error}") from error


def _check_policies(policies: Sequence[Policy], spec: ModelSpec) -> None:
    """Refuses a policy that this model cannot feed: other hidden states, or more confidences than it has tokens."""
    for policy in policies:
        if policy.config.num_confidences > spec.vocabulary_size:
            raise UserError(
                f"{policy.where} reads the {policy.config.num_confidences} largest probabilities of a position (K); "
                f"allowed with this model: K <= {spec.vocabulary_size}, its vocabulary"
            )
        try:
            policy.config.for_backbone(spec.backbone)
        except ValueError as error:
            raise UserError(f"{policy.where} was trained for another model: {error}") from error


def prompt_limit(model: ModelConfig, decode: DecodeConfig, spec: ModelSpec, canvas_length: int) -> PromptLimit:
    """How long prompts may be: what the model has positions for beside the canvas, or the configured maximum."""
    room = None if spec.num_positions is None else spec.num_positions - canvas_length
    given = [each for each in (room, decode.max_prompt_length) if each is not None]
    tokenizer = load_tokenizer(model.name, model.options)
    return PromptLimit(tokenizer, min(given, default=None), decode.long_prompts)
