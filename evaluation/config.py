"""Settings of the final evaluation: how many held-out problems and which heuristics at which parameters and blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.config import setting
from cluster.errors import UserError
from cluster.storage import StorageConfig
from policy.inference import InferenceConfig
from rollout_workers.config import DecodeConfig, ModelConfig, RewardConfig, RolloutConfig, TaskConfig
from rollout_workers.hosting import MAIN, model_of, task_of


@dataclass(frozen=True)
class EvaluationConfig:
    """The sweep that a trained policy is compared with."""

    num_examples: int = setting(512, help="held-out problems, the same for every sampler", minimum=0)
    block_lengths: tuple[int, ...] = setting(
        (), help="blocks of the heuristics; empty: the canvas and its halves", minimum=1
    )
    heuristics: dict[str, tuple[float | dict[str, float | str], ...]] = field(default_factory=dict)
    """Heuristic name -> entries: values of its swept parameter, or mappings of its parameters (docs/samplers.md)."""
    policy_temperatures: tuple[float, ...] = setting(
        (), help="of the learned policy; the best on the validation split is used; empty: as trained", above=0.0
    )
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """How the learned policy decides in the final evaluation."""
    seeds: tuple[int, ...] = setting((0,), help="noise seeds of the random samplers and of the policy")
    lease_examples: int = setting(64, help="problems per lease", minimum=1)
    num_traced: int = setting(
        3, help="problems of each task recorded pass by pass for the report's replay, per sampler", minimum=0
    )

    job_every: int = setting(
        0,
        help="updates between evaluations of the newest checkpoint as Ray jobs beside the training; 0: none",
        minimum=0,
    )
    job_address: str | None = setting(None, help="Jobs API for them (http://HOST:8265); null: of this cluster")

    def validate(self, where: str) -> None:
        if not self.seeds:
            raise UserError(f"config key '{where}.seeds' is []; allowed: at least one seed")


@dataclass(frozen=True)
class PipelineConfig:
    """What an evaluation reads of a run's configuration; the keys mean what they mean there."""

    seed: int = setting(0, minimum=0)
    task: str | dict[str, float] = "arithmetic"
    task_settings: dict[str, TaskConfig] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    models: dict[str, ModelConfig] = field(default_factory=dict)
    storage: StorageConfig = field(default_factory=StorageConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ray_address: str | None = None

    @property
    def task_configs(self) -> dict[str, TaskConfig]:
        """Task name -> how it is posed, for every task evaluated."""
        return {name: self.task_settings.get(task_of(name), TaskConfig()) for name in self._names}

    @property
    def model_configs(self) -> dict[str, ModelConfig]:
        """Name (`rollout_workers.hosting`) -> model, for every model that decodes a task."""
        models = {MAIN: self.model, **self.models}
        for name in self._names:
            if model_of(name) not in models:
                known = ", ".join(self.models) or "none are configured"
                raise UserError(f"config key 'task' is {name!r}; allowed after '@': a name in models ({known})")
        return {name: model for name, model in models.items() if name in {model_of(task) for task in self._names}}

    @property
    def _names(self) -> list[str]:
        return [self.task] if isinstance(self.task, str) else list(self.task)
