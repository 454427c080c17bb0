"""One run from start to finish: checks, Ray, training, final evaluation, table and plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray.actor import ActorHandle

from cluster.config import to_dict
from cluster.errors import ExitCode, UserError
from cluster.logs import get_logger, setup_logging
from cluster.metrics import read_jsonl
from cluster.run_dir import RunDir
from cluster.runtime import start_actors, start_ray, stop_ray
from cluster.storage import atomic_write
from cluster.weight_store import WeightRecord, WeightStore, start_weight_store
from evaluation.report import write_results
from evaluation.results import Arm, ExampleRecord, RecordFile
from evaluation.runner import evaluate, heuristic_arms, learned_arm, validation_rewards
from learner.actor import LEARNER_CPUS, start_learner
from learner.checkpoint import POLICY_FILE
from learner.config import RESULT_NEUTRAL, RunConfig
from learner.display import Display
from learner.loop import STORE_DEADLINE_S, StopRequested, TrainingLoop, best_policy
from policy.weights import fingerprint, from_bytes, to_bytes
from rollout_workers.models.base import ModelError
from rollout_workers.models.load import check_model
from rollout_workers.pool import RolloutPool
from rollout_workers.rollout import DecodeSettings
from rollout_workers.tasks import Split, make_task
from rollout_workers.worker import WorkerSpec, start_worker

logger = get_logger(__name__)


def run(config: RunConfig, *, resume: bool, should_stop: Callable[[], bool]) -> int:
    """Trains and evaluates; returns the exit code. Mistakes of the user are `UserError`s raised before anything is written."""
    canvas_length, block_length = config.decode.lengths(make_task(config.task).canvas_length, "decode")
    arms = heuristic_arms(config.evaluation, canvas_length)
    try:
        check_model(config.model.name)
    except ModelError as error:
        raise UserError(f"config key 'model.name': {error}") from error
    run_dir = RunDir.open(Path(config.run_dir), to_dict(config), resume=resume, ignore=RESULT_NEUTRAL)
    checkpoint = _newest_checkpoint(run_dir)
    setup_logging(file=run_dir.log_path)
    for reason in checkpoint.skipped if checkpoint is not None else ():
        logger.warning("a newer checkpoint was skipped: %s", reason)
    started_here = start_ray(address=config.ray_address, num_cpus=_local_cpus(config))
    services = None
    try:
        with Display() as display:
            services = _Services(config, canvas_length)
            loop = TrainingLoop(
                config,
                run_dir,
                pool=services.pool,
                learner=services.learner,
                store=services.store,
                block_length=block_length,
                should_stop=should_stop,
                on_report=display.update,
            )
            if checkpoint is not None:
                loop.resume(checkpoint.name, checkpoint.files)
                logger.info("resumed from %s", checkpoint.name)
            loop.run()
            name, policy_file = best_policy(run_dir, loop.progress)
            logger.info("evaluating %s, the best on the validation split", name)
            services.publish(config.learner.num_steps + 1, policy_file)
            learned = _choose_temperature(config, services.pool, block_length)
            _write_policy(run_dir, policy_file, learned.parameter)
            records = _final_evaluation(config, run_dir, services.pool, [learned, *arms], display, should_stop)
        write_results(
            run_dir,
            records,
            [learned, *arms],
            alpha=config.reward.alpha,
            canvas_length=canvas_length,
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
    return ExitCode.FINISHED


def _choose_temperature(config: RunConfig, pool: RolloutPool, block_length: int) -> Arm:
    """The learned policy at the temperature with the best reward on the validation split."""
    arms = [learned_arm(block_length, temperature) for temperature in config.evaluation.policy_temperatures]
    if not arms:
        return learned_arm(block_length)
    rewards = validation_rewards(
        pool,
        arms,
        config.evaluation,
        task=config.task,
        num_examples=config.checkpoint.validation_examples,
        run_seed=config.seed,
        weight_version=config.learner.num_steps + 1,
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
    arms: Sequence[Arm],
    display: Display,
    should_stop: Callable[[], bool],
) -> list[ExampleRecord]:
    """All arms on the test split, the learned one with the weights published last; raises StopRequested when asked to stop."""

    def on_progress(done: int, total: int) -> None:
        display.evaluation(done, total)
        if should_stop():
            raise StopRequested("stopped during the evaluation; what was decoded is kept")

    return evaluate(
        pool,
        arms,
        config.evaluation,
        task=config.task,
        split=Split.TEST,
        run_seed=config.seed,
        weight_version=config.learner.num_steps + 1,
        record_file=RecordFile(run_dir.evaluation_path / "records.jsonl"),
        on_progress=on_progress,
    )


def _local_cpus(config: RunConfig) -> int:
    """Logical CPUs of a local Ray: what the actors ask for, whatever the machine has, so that a laptop never waits for a slot."""
    return math.ceil(config.rollout.cpus_per_worker * config.rollout.num_workers + LEARNER_CPUS) + 1


class _Services:
    """The run's actors: rollout workers, the learner and the weight store."""

    def __init__(self, config: RunConfig, canvas_length: int) -> None:
        self._fingerprint = fingerprint(config.policy)
        rollout = config.rollout
        spec = WorkerSpec(
            model=config.model,
            settings=DecodeSettings(
                canvas_length=canvas_length,
                num_slots=config.decode.num_slots,
                token_temperature=config.decode.token_temperature,
                eos=config.decode.eos,
            ),
            reward=config.reward,
            torch_threads=rollout.torch_threads,
            fingerprint=self._fingerprint,
            weights_deadline_s=STORE_DEADLINE_S,
        )
        self.store: WeightStore = start_weight_store()
        self.learner = start_actors(
            [lambda: start_learner(config.policy, config.learner, config.seed)],
            deadline_s=rollout.start_deadline_s,
            what="learner",
            request={"CPU": LEARNER_CPUS},
        )[0]

        def new_worker() -> ActorHandle:
            return start_worker(spec, self.store, rollout)

        actors = start_actors(
            [new_worker] * rollout.num_workers,
            deadline_s=rollout.start_deadline_s,
            what="rollout actors",
            request={
                "CPU": rollout.cpus_per_worker * rollout.num_workers,
                "GPU": rollout.gpus_per_worker * rollout.num_workers,
            },
        )
        self.pool = RolloutPool(
            actors,
            replace=new_worker,
            max_replacements=rollout.max_replacements,
            lease_deadline_s=rollout.lease_deadline_s,
        )

    def close(self) -> None:
        """Ends every actor of the run."""
        self.pool.close()
        ray.kill(self.learner)
        ray.kill(self.store.actor)

    def publish(self, version: int, weights: bytes) -> None:
        self.store.publish(WeightRecord.make(version, weights, self._fingerprint), timeout_s=STORE_DEADLINE_S)


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """The newest whole checkpoint, and why newer ones were skipped."""

    name: str
    files: dict[str, bytes]
    skipped: list[str]


def _newest_checkpoint(run_dir: RunDir) -> _Checkpoint | None:
    """None for a run without any checkpoint; a UserError where all are torn."""
    latest = run_dir.latest("checkpoints")
    if latest is not None:
        return _Checkpoint(*latest)
    if names := run_dir.published("checkpoints"):
        raise UserError(
            f"run directory '{run_dir.path}' has only torn checkpoints ({', '.join(names)}); nothing was changed; "
            "allowed: restore one of them, or another run_dir"
        )
    return None
