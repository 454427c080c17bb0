"""A small real evaluation, decoded in this process without Ray, for whatever reads results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cluster.metrics import TimeStates
from evaluation.arms import LEARNED
from evaluation.conditions import conditions_of, directory_settings
from evaluation.config import EvaluationConfig
from evaluation.outputs import Context, write_outputs
from evaluation.results_dir import ResultsDir
from evaluation.runner import Suite, evaluate
from policy.factory import make_swept_heuristic
from rollout_workers.config import DecodeConfig, ModelConfig, RewardConfig, TaskConfig
from rollout_workers.engine import SCHEDULING
from rollout_workers.lease import Lease, LeaseSummary
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.rewards import RewardFunction
from rollout_workers.rollout import DecodeSettings, Rollout
from rollout_workers.tasks import make_task
from rollout_workers.tasks.stream import Pick
from tests.fakes.policies import lively_policy
from tests.fakes.records import arm_of

LENGTHS = {"sudoku": 24, "arithmetic": 48}


class InlinePool:
    """A rollout pool of one actor: this process."""

    def __init__(self) -> None:
        self._rollout = Rollout(
            load_model("tiny"), load_tokenizer("tiny"), DecodeSettings(canvas_length=24),
            RewardFunction({"multiplicative": 1.0}, alpha=1.0), tasks={name: make_task(name) for name in LENGTHS},
            clock=TimeStates(SCHEDULING),
        )  # fmt: skip
        self._policy = lively_policy(seed=1, initial_logit=-1.0)

    def run(
        self, leases: Sequence[Lease], *, on_failure: Callable[[Lease, str], None] | None = None
    ) -> Iterator[tuple[LeaseSummary, None]]:
        for lease in leases:
            spec = lease.unmasker
            unmasker = self._policy if spec.heuristic is None else make_swept_heuristic(spec.heuristic, spec.parameter)
            yield self._rollout.run(lease, unmasker)[0], None


def write_evaluation(place: Path, *, tasks: Sequence[str] = tuple(LENGTHS), num: int = 6) -> ResultsDir:
    """A results directory with two thresholds, a random order and a policy on `num` problems of each task."""
    model, decode, reward = ModelConfig(), DecodeConfig(), RewardConfig()
    config = EvaluationConfig(num_examples=num, seeds=(0, 1), num_traced=2)
    lengths = {name: LENGTHS[name] for name in tasks}
    posed = dict.fromkeys(tasks, TaskConfig())
    settings = directory_settings({"": model}, posed, decode, reward, config, canvas_lengths=lengths, run_seed=0)
    results = ResultsDir(str(place))
    results.claim(settings)
    suites = [
        Suite(
            [arm_of("threshold", 0.9, length), arm_of("threshold", 0.5, length), arm_of("threshold", 0.9, 12),
             arm_of("random", 4, length), arm_of(LEARNED, None, length)],
            [Pick(name, index) for index in range(num)],
            length,
        )
        for name, length in lengths.items()
    ]  # fmt: skip
    conditions = conditions_of({"": model}, posed, decode, reward, config, versions={"": 1}, run_seed=0)
    outcome = evaluate(InlinePool(), suites, config, conditions, results)
    write_outputs(results, outcome.records, Context(alpha=1.0, settings=settings, evaluation={"seeds": [0, 1]}))
    return results


def add_training(run: Path) -> None:
    """Makes the folder above an evaluation that of a training run with a history."""
    lines = [
        {"step": step, "values": {"reward": 0.2 + 0.02 * step, "accuracy": 0.5, "nfe": 12.0 - step,
                                  **({"validation_reward": 0.02 * step} if step % 4 == 0 else {})}}
        for step in range(9)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
