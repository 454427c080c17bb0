"""Settings of the final evaluation: how many held-out problems and which heuristics at which parameters and blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.config import setting
from cluster.errors import UserError
from policy.inference import InferenceConfig
from rollout_workers.config import DecodeConfig, ModelConfig, RewardConfig, RolloutConfig, TaskConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """The sweep that a trained policy is compared with."""

    num_examples: int = setting(512, help="held-out problems, the same for every sampler", minimum=0)
    block_lengths: tuple[int, ...] = setting(
        (), help="blocks of the heuristics; empty: the canvas and its halves", minimum=1
    )
    heuristics: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Heuristic name -> values of its parameter."""
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
    job_address: str | None = setting(None, help="Jobs API for them (http://HOST:8265); null: RAY_API_SERVER_ADDRESS")

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
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ray_address: str | None = None

    @property
    def task_configs(self) -> dict[str, TaskConfig]:
        """Task name -> how it is posed, for every task evaluated."""
        names = [self.task] if isinstance(self.task, str) else list(self.task)
        return {name: self.task_settings.get(name, TaskConfig()) for name in names}
