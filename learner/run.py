"""One run from start to finish: checks, Ray, training, final evaluation, table and plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.config import to_dict
from cluster.errors import DeadlineExceeded, ExitCode, RunFailure, StopRequested, UserError
from cluster.logs import get_logger, setup_logging, wide_console
from cluster.metrics import read_jsonl
from cluster.run_dir import RunDir
from cluster.run_home import open_run
from cluster.runtime import start_ray, stop_ray
from cluster.storage import LocalStorage, atomic_write
from evaluation.arms import Arm, check_arms, check_cached, heuristic_arms, learned_arm, temperature_of
from evaluation.conditions import conditions_of, directory_settings
from evaluation.environment import environment_record
from evaluation.outputs import Context, write_outputs
from evaluation.plots import learning_png
from evaluation.preparation import prompt_limit
from evaluation.report import write_report
from evaluation.results_dir import ResultsDir
from evaluation.runner import Outcome, Suite, evaluate, validation_rewards
from evaluation.submission import submit_checkpoint
from evaluation.tables import breakdown_table
from learner.checkpoint import POLICY_FILE, check_checkpoint
from learner.config import RESULT_NEUTRAL, RunConfig
from learner.display import Display, print_alarms
from learner.experts import check_experts, read_initial_policy
from learner.loop import TrainingLoop, best_policy
from learner.services import STORE_DEADLINE_S, Services, local_cpus
from learner.watch import Alarm
from policy.weights import from_bytes, to_bytes
from rollout_workers.config import ModelConfig
from rollout_workers.hosting import model_of, section_of
from rollout_workers.models.base import ModelError, ModelSpec
from rollout_workers.models.load import check_model
from rollout_workers.pool import RolloutPool
from rollout_workers.problems import Problems, ProblemSet
from rollout_workers.tasks import Task, make_tasks

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
    logger.info("run directory %s; starting Ray", run_dir.location)
    started_here = start_ray(address=config.ray_address, num_cpus=local_cpus(config))
    on_started()
    services = None
    alarms: list[Alarm] = []
    try:
        logger.info(
            "starting %d rollout actors and %d learner ranks, which load their models", config.rollout.num_workers,
            config.learner.num_ranks,
        )  # fmt: skip
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
                on_checkpoint=lambda step: _submit_evaluation(config, step),
            )
            if checkpoint is not None:
                loop.resume(checkpoint.name, checkpoint.files)
                logger.info("resumed from %s", checkpoint.name)
            loop.run()
            name, policy_file = best_policy(run_dir, loop.progress)
            logger.info("evaluating %s, the best on the validation split", name)
            services.publish(config.learner.num_updates + 1, policy_file)
            learned = _choose_temperature(config, services.pool, plan)
            _write_policy(run_dir, policy_file, temperature_of(learned))
            results = ResultsDir(str(run_dir.evaluation_path))
            outcome = _final_evaluation(config, results, services.pool, plan, [learned, *arms], display)
            actors = services.pool.ask_each(environment_record, deadline_s=STORE_DEADLINE_S, what="the actors' devices")
        _write_results(config, run_dir, results, outcome, plan, actors=actors, policy_name=name)
        outcome.raise_failures()
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
    _check_num_confidences(config, models)
    arms = heuristic_arms(config.evaluation, canvas_length)
    check_cached(arms, config.decode)
    for name, model in config.model_configs.items():
        check_arms(arms, model, models[name], config.decode)
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


def _check_num_confidences(config: RunConfig, models: Mapping[str, ModelSpec]) -> None:
    for name, model in models.items():
        most = (model.num_tokens or model.vocabulary_size) - 1
        if config.policy.num_confidences > most:
            raise UserError(
                f"config key 'policy.num_confidences' is {config.policy.num_confidences}; allowed: at most {most}, "
                f"the tokens that model '{config.model_configs[name].name}' predicts"
            )


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
    limits = {}
    for name, model in config.model_configs.items():
        limits[name] = prompt_limit(model, config.decode, models[name], canvas_length)
    by_task = {task: limits[model_of(task)] for task in tasks}
    return ProblemSet(tasks, config.task_weights, config.seed, by_task).choose(
        num_validation=config.checkpoint.validation_examples, num_test=config.evaluation.num_examples
    )


def _submit_evaluation(config: RunConfig, step: int) -> None:
    """An evaluation of the checkpoint of `step` as a job of its own, where one is due; training goes on whatever becomes of it."""
    evaluation = config.evaluation
    if not evaluation.job_every or step % evaluation.job_every:
        return
    try:
        job_id = submit_checkpoint(config.run_dir, step, address=evaluation.job_address)
    except (UserError, RunFailure, DeadlineExceeded) as error:
        logger.warning("the evaluation of update %d was not submitted: %s", step, error)
    else:
        logger.info("evaluation of update %d submitted as job %s", step, job_id)


def _choose_temperature(config: RunConfig, pool: RolloutPool, plan: _Plan) -> Arm:
    """The learned policy at the temperature with the best reward on the validation split."""
    inference = config.evaluation.inference
    arms = [
        learned_arm(plan.block_length, temperature, inference=inference)
        for temperature in config.evaluation.policy_temperatures
    ]
    if not arms:
        return learned_arm(plan.block_length, inference=inference)
    rewards = validation_rewards(
        pool,
        Suite(arms, plan.problems.validation, plan.canvas_length),
        config.evaluation,
        run_seed=config.seed,
        weight_version=config.learner.num_updates + 1,
        draws_tokens=config.decode.token_temperature > 0,
    )
    best = max(arms, key=rewards.__getitem__)
    figures = ", ".join(f"{temperature_of(arm):g}: {reward:.4f}" for arm, reward in rewards.items())
    logger.info("policy temperature %g has the best reward on the validation split (%s)", temperature_of(best), figures)
    return best


def _write_policy(run_dir: RunDir, policy_file: bytes, temperature: float | None) -> None:
    """The run's product: the best policy, with the temperature that it is evaluated at."""
    path = run_dir.path / POLICY_FILE
    network = from_bytes(policy_file, where=str(path))
    if temperature is not None:
        network.config = replace(network.config, policy_temperature=temperature)
    atomic_write(path, to_bytes(network))


def _final_evaluation(
    config: RunConfig, results: ResultsDir, pool: RolloutPool, plan: _Plan, arms: Sequence[Arm], display: Display
) -> Outcome:
    """All arms on the test split, the learned one with the weights published last."""
    results.claim(_directory_settings(config, plan))
    conditions = conditions_of(
        config.model_configs, config.task_configs, config.decode, config.reward, config.evaluation,
        versions={"": config.learner.num_updates + 1}, run_seed=config.seed,
    )  # fmt: skip
    suite = Suite(arms, plan.problems.test, plan.canvas_length)
    return evaluate(pool, [suite], config.evaluation, conditions, results, on_progress=display.evaluation)


def _directory_settings(config: RunConfig, plan: _Plan) -> dict[str, Any]:
    return directory_settings(
        config.model_configs, config.task_configs, config.decode, config.reward, config.evaluation,
        canvas_lengths=dict.fromkeys(config.task_configs, plan.canvas_length), run_seed=config.seed,
    )  # fmt: skip


def _name_of(config: RunConfig) -> str:
    return config.run_dir.rstrip("/").rpartition("/")[2]


def _write_results(
    config: RunConfig,
    run_dir: RunDir,
    results: ResultsDir,
    outcome: Outcome,
    plan: _Plan,
    *,
    actors: Sequence[dict[str, Any]],
    policy_name: str,
) -> None:
    """Tables to the terminal, files to the run directory."""
    history = read_jsonl(run_dir.metrics_path)
    context = Context(
        alpha=config.reward.alpha,
        settings=_directory_settings(config, plan),
        evaluation=to_dict(config.evaluation),
        policies={"": policy_name},
        actors=actors,
    )
    write_outputs(results, outcome.records, context)
    LocalStorage(run_dir.plots_path).write("learning.png", learning_png(history))
    if outcome.records:
        write_report([str(run_dir.path)], str(run_dir.path / "report.html"), names=[_name_of(config)])
    console = wide_console()
    console.print(breakdown_table(history))
    console.print(f"policy   {run_dir.location}/{POLICY_FILE} (of {policy_name})", soft_wrap=True)
    console.print(f"report   {run_dir.location}/report.html", soft_wrap=True)
    console.print(
        f"results  {run_dir.location}/evaluation/ (summary.csv, detailed.csv, results.json, records.jsonl, pareto.png)",
        soft_wrap=True,
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
