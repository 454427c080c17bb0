"""The whole run: every section composed, beside the settings of the learner itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cluster.config import setting
from cluster.errors import UserError
from cluster.storage import StorageConfig, parse_location
from evaluation.config import EvaluationConfig
from learner.compatibility import check_compatible
from learner.watch import WatchConfig
from policy.behaviour import Behaviour
from policy.config import PolicyConfig
from policy.reference_policies import REFERENCES
from rollout_workers.config import DecodeConfig, ModelConfig, RewardConfig, RolloutConfig, TaskConfig
from rollout_workers.hosting import MAIN, model_of, task_of
from rollout_workers.tasks import TASK_NAMES


@dataclass(frozen=True)
class RegulariserConfig:
    """A pull towards an explicit reference policy (arXiv 2510.05725, and its closed form for parallel decisions)."""

    kind: Literal["none", "kl", "cross_entropy", "output_kl"] = setting(
        "none",
        help="per decision KL(policy || reference) or cross-entropy(reference, policy); per trajectory the KL of outputs",
    )
    reference: str = setting("threshold", choices=tuple(REFERENCES))
    parameter: float | None = setting(None, help="of the reference: tau, factor or k")
    smoothing: float = setting(
        0.05, help="of parallel references: probabilities lie in [s, 1 - s]", above=0.0, below=0.5
    )
    coefficient: float = setting(0.0, help="beta, its weight in the objective", minimum=0.0)
    anneal: Literal["constant", "linear"] = setting("constant", help="linear: the coefficient falls to 0 over the run")

    def validate(self, where: str) -> None:
        """A regulariser that is asked for counts."""
        if self.kind != "none" and self.coefficient == 0:
            raise UserError(
                f"config key '{where}.coefficient' is 0; allowed: above 0 with {where}.kind={self.kind} (or kind 'none')"
            )


@dataclass(frozen=True)
class SteeringConfig:
    """Rollouts of a heuristic in every group (arXiv 2512.09106); off without `parameters`."""

    heuristic: str = "threshold"
    parameters: tuple[float, ...] = setting((), help="one expert rollout per prompt for each value")
    block_length: int | None = setting(None, help="of the expert; null is decode.block_length", minimum=1)
    mode: Literal["mixture", "per_decision", "policy_ratio"] = setting(
        "mixture", help="how an expert's decision is scored, see policy.steering"
    )


@dataclass(frozen=True)
class ImitationConfig:
    """Supervised updates before GRPO: a warm start from a heuristic."""

    num_steps: int = setting(0, help="updates on a heuristic's rollouts before the first of GRPO", minimum=0)
    objective: Literal["decisions", "reference"] = setting(
        "decisions", help="likelihood of the heuristic's decisions, or cross-entropy with learner.regulariser.reference"
    )
    heuristic: str = setting("threshold", help="decides what is visited and imitated")
    parameter: float = 0.9
    block_length: int | None = setting(None, help="of the heuristic; null is decode.block_length", minimum=1)
    group_size: int = setting(1, help="rollouts per prompt; more than one only where the heuristic draws", minimum=1)


@dataclass(frozen=True)
class LearnerConfig:
    """GRPO (arXiv 2512.09106) or UPO (arXiv 2510.05725), and its optimiser."""

    num_steps: int = setting(100, help="policy updates, each on fresh rollouts", minimum=0)
    initial_policy: str | None = setting(None, help="policy file to start from, of the same architecture")
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    steering: SteeringConfig = field(default_factory=SteeringConfig)
    regulariser: RegulariserConfig = field(default_factory=RegulariserConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    prompts_per_step: int = setting(16, minimum=1)
    group_size: int = setting(8, help="rollouts per prompt; their mean is the baseline", minimum=2)
    num_iterations: int = setting(2, help="mu: optimiser steps on each batch of rollouts", minimum=1)
    advantage: Literal["mean", "mean_std", "leave_one_out"] = "mean"
    std_floor: float = setting(
        1e-4,
        help="of mean_std: beside the standard deviation that advantages are divided by; the larger, the closer to mean",
        minimum=0.0,
    )
    normaliser: Literal["per_rollout", "per_step", "sum", "constant"] = setting(
        "per_rollout",
        help="weight of a step: 1/(R T), 1/sum T, 1/R or 1/(R L) of R rollouts with T steps on a canvas of L",
    )
    ratio: Literal["step", "trajectory"] = setting(
        "step", help="one importance ratio per decision, or one per trajectory (the output level of UPO)"
    )
    clip_low: float = setting(0.5, above=0.0, maximum=1.0)
    clip_high: float = setting(0.5, above=0.0)
    entropy_bonus: float = setting(
        0.0, help="weight of the decisions' mean entropy in the objective: keeps the policy exploring", minimum=0.0
    )
    entropy_anneal: Literal["constant", "linear"] = setting(
        "constant", help="linear: the bonus falls to 0 over the run"
    )
    learning_rate: float = setting(3e-5, above=0.0)
    warmup_steps: int = setting(0, help="optimiser steps of linear warm-up", minimum=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    adam_beta1: float = setting(0.9, minimum=0.0, below=1.0)
    adam_beta2: float = setting(0.99, minimum=0.0, below=1.0)
    weight_decay: float = setting(0.1, minimum=0.0)
    max_grad_norm: float = setting(0.2, above=0.0)
    micro_batch_steps: int = setting(1024, help="packed decoding steps per forward and backward", minimum=1)
    num_ranks: int = setting(1, help="processes that share each update; gloo on CPUs, NCCL on GPUs", minimum=1)
    device: str = setting("cpu", help="torch device of each rank")
    cpus_per_rank: float = setting(
        0.1, help="logical CPUs; little, because in the synchronous mode the rollout actors wait meanwhile", above=0.0
    )
    gpus_per_rank: float = setting(0.0, minimum=0.0)
    rank_labels: dict[str, str] = setting({}, help="Ray labels that the nodes of ranks must have")
    torch_threads: int = setting(2, help="per rank", minimum=1)
    collective_deadline_s: float = setting(
        60.0, help="for one sum over all ranks: a rank that hangs is found by then", above=0.0
    )
    max_rebuilds: int = setting(3, help="rebuilds of the ranks for one update before the run gives up", minimum=0)
    update_deadline_s: float = setting(600.0, help="for one update", above=0.0)
    max_weight_lag: int = setting(
        0,
        help="0: synchronous and reproducible; k: rollouts of the next k updates run while the learner works, under weights "
        "up to k versions old",
        minimum=0,
    )
    stale_correction: Literal["decoupled", "clip"] = setting(
        "decoupled",
        help="with max_weight_lag > 0: clip around the weights at the update's start and weigh each decision by their probability "
        "over that of the weights that decided, or clip around the latter",
    )
    stale_weight_cap: float = setting(2.0, help="of decoupled: largest such weight", above=0.0)
    max_grader_error_rate: float = setting(
        0.05, help="share of grader errors in a step that stops the run", minimum=0.0
    )

    @property
    def num_updates(self) -> int:
        """All updates of the run, the supervised ones included."""
        return self.imitation.num_steps + self.num_steps

    @property
    def num_optimizer_steps(self) -> int:
        """Planned for the whole run."""
        return self.num_updates * self.num_iterations

    @property
    def behaviour(self) -> Behaviour:
        """How the decisions of experts in a steered group are scored."""
        rows = self.group_size + len(self.steering.parameters)
        return Behaviour(self.steering.mode, self.group_size / rows, 1 / rows)

    @property
    def uses_reference(self) -> bool:
        """Whether anything is learned from the reference policy."""
        imitates = self.imitation.num_steps > 0 and self.imitation.objective == "reference"
        return self.regulariser.kind != "none" or imitates

    @property
    def needs_every_row(self) -> bool:
        """Whether rows without an advantage are learned from too."""
        return self.entropy_bonus > 0 or (self.regulariser.kind != "none" and self.regulariser.coefficient > 0)


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept, and how often the policy is validated."""

    every: int = setting(20, help="updates between checkpoints and validations", minimum=1)
    keep: int = setting(3, help="newest checkpoints kept; the best one always is", minimum=1)
    validation_examples: int = setting(
        256, help="problems of the validation split that choose the best checkpoint", minimum=1
    )
    samples_every: int = setting(
        10, help="updates between sample trajectories in samples.jsonl; the last has some too", minimum=1
    )
    sample_groups: int = setting(1, help="groups of such an update whose best and worst rollout are kept", minimum=1)


@dataclass(frozen=True)
class ArchiveConfig:
    """Which trajectories are kept, as Parquet files."""

    archive: bool = setting(False, help="keep what the learner learned from, in RUN_DIR/trajectories")
    every: int = setting(1, help="updates between archived ones", minimum=1)


@dataclass(frozen=True)
class RunConfig:
    """One training run."""

    run_dir: str = setting("runs/tiny", help="where everything is written: a local path, or s3://BUCKET/PREFIX")
    seed: int = setting(0, minimum=0)
    task: str | dict[str, float] = setting(
        "arithmetic", help="a task, or a mixture: names and their relative weights; TASK@NAME is decoded by models.NAME"
    )
    task_settings: dict[str, TaskConfig] = field(default_factory=dict)
    """Task name -> how it is posed and graded."""
    model: ModelConfig = field(default_factory=ModelConfig)
    models: dict[str, ModelConfig] = field(default_factory=dict)
    """Further dLLMs, by the names that tasks call them; each rollout actor hosts one of all."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trajectories: ArchiveConfig = field(default_factory=ArchiveConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    ray_address: str | None = setting(None, help="null starts a local Ray, or joins the cluster of a Ray job")

    def validate(self, where: str) -> None:
        """Divisions that must come out even."""
        prefix = f"{where}." if where else ""
        parse_location(self.run_dir, what=f"config key '{prefix}run_dir'")
        self._check_tasks(prefix)
        self._check_models(prefix)
        check_compatible(self, prefix)
        if self.evaluation.job_every % self.checkpoint.every:
            raise UserError(
                f"config key '{prefix}evaluation.job_every' is {self.evaluation.job_every}; "
                f"allowed: a multiple of checkpoint.every = {self.checkpoint.every}"
            )

    @property
    def task_weights(self) -> dict[str, float]:
        """Task name -> relative weight, for a single task too."""
        return {self.task: 1.0} if isinstance(self.task, str) else self.task

    @property
    def task_configs(self) -> dict[str, TaskConfig]:
        """Task name -> how it is posed, for every task of this run."""
        return {name: self.task_settings.get(task_of(name), TaskConfig()) for name in self.task_weights}

    @property
    def model_configs(self) -> dict[str, ModelConfig]:
        """Name (`rollout_workers.hosting`) -> model, for every model that decodes a task of this run."""
        used = {model_of(name) for name in self.task_weights}
        return {name: model for name, model in {MAIN: self.model, **self.models}.items() if name in used}

    def _check_tasks(self, prefix: str) -> None:
        if not self.task_weights:
            raise UserError(f"config key '{prefix}task' is {{}}; allowed: one task or more")
        for name, weight in self.task_weights.items():
            if task_of(name) not in TASK_NAMES:
                raise UserError(f"config key '{prefix}task' is {name!r}; allowed: {', '.join(TASK_NAMES)}")
            if name != task_of(name) and model_of(name) not in self.models:
                known = ", ".join(self.models) or "none are configured"
                raise UserError(f"config key '{prefix}task' is {name!r}; allowed after '@': a name in models ({known})")
            if weight <= 0:
                raise UserError(f"config key '{prefix}task.{name}' is {weight:g}; allowed: a number > 0")
        tasks = dict.fromkeys(task_of(name) for name in self.task_weights)
        for name in self.task_settings:
            if name not in tasks:
                raise UserError(
                    f"config key '{prefix}task_settings.{name}' belongs to no task of this run; "
                    f"allowed: {', '.join(tasks)}"
                )

    def _check_models(self, prefix: str) -> None:
        used = self.model_configs
        device = next(iter(used.values())).device
        for name, model in self.models.items():
            if not name.replace("_", "").isalnum():
                raise UserError(f"config key '{prefix}models' has the name {name!r}; allowed: letters, digits and '_'")
            if name not in used:
                raise UserError(
                    f"config key '{prefix}models.{name}' decodes no task of this run; allowed: TASK@{name} in task"
                )
            if model.device != device:
                raise UserError(
                    f"config key '{prefix}models.{name}.device' is {model.device!r}; "
                    f"allowed: {device!r}, the device of the run's other models"
                )


RESULT_NEUTRAL = (
    "run_dir", "storage", "trajectories", "ray_address", "rollout.num_workers", "rollout.min_workers", "rollout.cpus_per_worker",
    "rollout.num_graders", "rollout.cpus_per_grader", "rollout.start_deadline_s", "rollout.lease_deadline_s",
    "rollout.grade_deadline_s", "rollout.weights_deadline_s", "rollout.straggler_factor", "rollout.max_replacements",
    "rollout.worker_labels", "rollout.grader_labels", "learner.rank_labels", "learner.num_ranks", "learner.cpus_per_rank",
    "learner.gpus_per_rank", "learner.collective_deadline_s",
    "learner.max_rebuilds", "learner.update_deadline_s",
)  # fmt: skip
"""Keys that may change between a run and its resumption: no result depends on them, but for float sums on the number of ranks."""
