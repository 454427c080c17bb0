"""One run from start to finish: checks, Ray, training, final evaluation, table and plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.config import to_dict
from cluster.errors import ExitCode, StopRequested, UserError
from cluster.logs import get_logger, setup_logging
from cluster.metrics import read_jsonl
from cluster.run_dir import RunDir
from cluster.run_home import open_run
from cluster.runtime import start_ray, stop_ray
from cluster.storage import atomic_write
from evaluation.report import write_results
from evaluation.results import Arm, ExampleRecord, RecordFile
from evaluation.runner import evaluate, heuristic_arms, learned_arm, validation_rewards
from learner.checkpoint import POLICY_FILE, check_checkpoint
from learner.config import RESULT_NEUTRAL, RunConfig
from learner.display import Display, print_alarms
from learner.experts import check_experts, read_initial_policy
from learner.loop import TrainingLoop, best_policy
from learner.services import Services, local_cpus
from learner.watch import Alarm
from policy.weights import from_bytes, to_bytes
from rollout_workers.config import ModelConfig
from rollout_workers.hosting import model_of, section_of
from rollout_workers.models.base import ModelError, ModelSpec
from rollout_workers.models.load import check_model, load_tokenizer
from rollout_workers.pool import RolloutPool
from rollout_workers.problems import Problems, ProblemSet, PromptLimit
from rollout_workers.tasks import Split, Task, make_tasks
from rollout_workers.tasks.stream import Pick

logger = get_logger(__name__)


def run(
    config: RunConfig,
    *,
    resume: bool | None = None,
    should_stop: Callable[[], bool],
    on_started: Callable[[], None] = lambda: None,
) -> int:
    """Trains and evaluates; returns the exit code. Mistakes of the user are `UserError`s raised before anything is written.

    With `resume` there must be a run in the run directory, with False none that has gone on; None goes on where there is one.
    """
    plan = _plan(config)
    held = to_dict(plan.config)
    with open_run(config.run_dir, held, resume=resume, ignore=RESULT_NEUTRAL, storage=config.storage) as home:

        def should_end() -> bool:
            home.lease.check()
            return should_stop()

        return _run(plan, home.run_dir, should_stop=should_end, on_started=on_started)


def _run(plan: _Plan, run_dir: RunDir, *, should_stop: Callable[[], bool], on_started: Callable[[], None]) -> int:
    """The run in a directory that is ours; returns the exit code."""
    config, arms = plan.config, plan.arms
    checkpoint = _newest_checkpoint(run_dir, config)
    setup_logging(file=run_dir.log_path)
    for reason in checkpoint.skipped if checkpoint is not None else ():
        logger.warning("a newer checkpoint was skipped: %s", reason)
    started_here = start_ray(address=config.ray_address, num_cpus=local_cpus(config))
    on_started()
    services = None
    alarms: list[Alarm] = []
    try:
        with Display() as display:
            services = Services(
                config,
                plan.canvas_length,
                vocabulary_size=plan.vocabulary_size,
                initial=plan.initial_policy,
                should_stop=should_stop,
            )
            loop = TrainingLoop(
                config,
                run_dir,
                pool=services.pool,
                learner=services.learner,
                publish=services.publish,
                problems=plan.problems,
                canvas_length=plan.canvas_length,
                block_length=plan.block_length,
                on_report=display.update,
                on_alarm=alarms.append,
            )
            if checkpoint is not None:
                loop.resume(checkpoint.name, checkpoint.files)
                logger.info("resumed from %s", checkpoint.name)
            loop.run()
            name, policy_file = best_policy(run_dir, loop.progress)
            logger.info("evaluating %s, the best on the validation split", name)
            services.publish(config.learner.num_updates + 1, policy_file)
            learned = _choose_temperature(config, services.pool, plan.problems.validation, plan.block_length)
            _write_policy(run_dir, policy_file, learned.parameter)
            records = _final_evaluation(config, run_dir, services.pool, plan.problems.test, [learned, *arms], display)
        write_results(
            run_dir,
            records,
            [learned, *arms],
            alpha=config.reward.alpha,
            canvas_length=plan.canvas_length,
            history=read_jsonl(run_dir.metrics_path),
            policy_name=name,
        )
    except StopRequested as stop:
        logger.warning("%s; go on with: --resume", stop)
        return ExitCode.RESUMABLE
    except ModelError as error:
        raise UserError(f"config key 'model.name': {str(error).strip().splitlines()[-1]}") from error
    finally:
        if services is not None:
            services.close()
        if started_here:
            stop_ray()
        print_alarms(alarms)
    return ExitCode.FINISHED


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that a run does, found to be possible before anything is written."""

    config: RunConfig
    """With what the policy takes from the model filled in."""
    vocabulary_size: int
    canvas_length: int
    block_length: int
    arms: list[Arm]
    """The heuristics that the policy is compared with."""
    initial_policy: bytes | None
    problems: Problems


def _plan(config: RunConfig) -> _Plan:
    models = {name: _check_model(name, model) for name, model in config.model_configs.items()}
    config = _for_models(config, models)
    tasks = make_tasks(config.task_configs)
    task_length = max(task.canvas_length for task in tasks.values())
    canvas_length, block_length = config.decode.lengths(task_length, "decode")
    arms = heuristic_arms(config.evaluation, canvas_length)
    check_experts(config, block_length=block_length)
    initial_policy = read_initial_policy(config)
    problems = _choose_problems(config, models, tasks, canvas_length)
    vocabulary_size = _vocabulary_size(config, models)
    return _Plan(config, vocabulary_size, canvas_length, block_length, arms, initial_policy, problems)


def _check_model(name: str, model: ModelConfig) -> ModelSpec:
    try:
        return check_model(model.name, model.options)
    except ModelError as error:
        raise UserError(f"config key '{section_of(name)}.name': {error}") from error


def _for_models(config: RunConfig, models: Mapping[str, ModelSpec]) -> RunConfig:
    """The configuration with what the policy takes from the first model filled in; it must fit all of them."""
    policy = config.policy
    try:
        for model in models.values():
            policy = policy.for_backbone(model.backbone)
    except ValueError as error:
        raise UserError(str(error)) from error
    return replace(config, policy=policy)


def _vocabulary_size(config: RunConfig, models: Mapping[str, ModelSpec]) -> int:
    """Of the models; a UserError where they differ and a reference policy depends on it."""
    sizes = {section_of(name): model.vocabulary_size for name, model in models.items()}
    if len(set(sizes.values())) > 1 and config.learner.uses_reference:
        found = ", ".join(f"{section} has {size}" for section, size in sizes.items())
        raise UserError(
            f"config key 'learner.regulariser.reference' is {config.learner.regulariser.reference!r}; "
            f"allowed: models with equally large vocabularies ({found})"
        )
    return max(sizes.values())


def _choose_problems(
    config: RunConfig, models: Mapping[str, ModelSpec], tasks: Mapping[str, Task], canvas_length: int
) -> Problems:
    """The problems of every phase, none with a longer prompt than its model has positions for beside the canvas."""
    decode = config.decode
    limits = {}
    for name, model in config.model_configs.items():
        positions = models[name].num_positions
        room = None if positions is None else positions - canvas_length
        given = [each for each in (room, decode.max_prompt_length) if each is not None]
        tokenizer = load_tokenizer(model.name, model.options)
        limits[name] = PromptLimit(tokenizer, min(given, default=None), decode.long_prompts)
    by_task = {task: limits[model_of(task)] for task in tasks}
    return ProblemSet(tasks, config.task_weights, config.seed, by_task).choose(
        num_validation=config.checkpoint.validation_examples, num_test=config.evaluation.num_examples
    )


def _choose_temperature(config: RunConfig, pool: RolloutPool, picks: Sequence[Pick], block_length: int) -> Arm:
    """The learned policy at the temperature with the best reward on the validation split."""
    # What draws neither decisions nor tokens is the same under every noise seed.
    is_random = config.evaluation.inference.draws or config.decode.token_temperature > 0
    temperatures = config.evaluation.policy_temperatures
    arms = [learned_arm(block_length, temperature, is_random=is_random) for temperature in temperatures]
    if not arms:
        return learned_arm(block_length, is_random=is_random)
    rewards = validation_rewards(
        pool,
        arms,
        config.evaluation,
        picks=picks,
        run_seed=config.seed,
        weight_version=config.learner.num_updates + 1,
    )
    best = max(arms, key=rewards.__getitem__)
    figures = ", ".join(f"{arm.parameter:g}: {reward:.4f}" for arm, reward in rewards.items())
    logger.info("policy temperature %g has the best reward on the validation split (%s)", best.parameter, figures)
    return best


def _write_policy(run_dir: RunDir, policy_file: bytes, temperature: float | None) -> None:
    """The run's product: the best policy, with the temperature that it is evaluated at."""
    path = run_dir.path / POLICY_FILE
    network = from_bytes(policy_file, where=str(path))
    if temperature is not None:
        network.config = replace(network.config, policy_temperature=temperature)
    atomic_write(path, to_bytes(network))


def _final_evaluation(
    config: RunConfig,
    run_dir: RunDir,
    pool: RolloutPool,
    picks: Sequence[Pick],
    arms: Sequence[Arm],
    display: Display,
) -> list[ExampleRecord]:
    """All arms on the test split, the learned one with the weights published last."""
    return evaluate(
        pool,
        arms,
        config.evaluation,
        picks=picks,
        split=Split.TEST,
        run_seed=config.seed,
        weight_version=config.learner.num_updates + 1,
        record_file=RecordFile(run_dir.evaluation_path / "records.jsonl"),
        on_progress=display.evaluation,
    )


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """The newest whole checkpoint, and why newer ones were skipped."""

    name: str
    files: dict[str, bytes]
    skipped: list[str]


def _newest_checkpoint(run_dir: RunDir, config: RunConfig) -> _Checkpoint | None:
    """None for a run without any checkpoint; a UserError where all are torn, or the newest whole one is of no such run."""
    latest = run_dir.latest("checkpoints")
    if latest is not None:
        checkpoint = _Checkpoint(*latest)
        check_checkpoint(checkpoint.files, config.policy, where=f"{run_dir.location}/{checkpoint.name}")
        return checkpoint
    if names := run_dir.published("checkpoints"):
        raise UserError(
            f"run directory '{run_dir.location}' has only torn checkpoints ({', '.join(names)}); nothing was changed; "
            "allowed: restore one of them, or another run_dir"
        )
    return None
