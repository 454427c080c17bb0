"""From a lease to graded, packed trajectories: everything a rollout actor does, without Ray.

A lease names the work completely (examples, samples, weight version, seed), and the engine drains before the next lease, so what a
lease produces depends on nothing but the lease: it may be run anywhere and more than once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace

from cluster.metrics import TimeStates
from policy.heuristics.parameters import Value
from policy.inference import InferenceConfig
from policy.noise import row_key
from policy.steering import Behaviour
from policy.trajectory import TrajectoryBatch, TrajectoryRow
from policy.unmasker import Unmasker
from rollout_workers.engine import Engine, EngineStats, EosPolicy
from rollout_workers.grader import grade_all
from rollout_workers.grading.answers import Grade
from rollout_workers.hosting import model_of
from rollout_workers.models.base import FrozenDLLM
from rollout_workers.rewards import RewardFunction
from rollout_workers.sequence import Sequence
from rollout_workers.tasks import Example, Split, Task
from rollout_workers.tokenizer import DllmTokenizer
from rollout_workers.trace import RowTrace, Tracer

GRADING = "grading"


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """One prompt to decode `num_samples` times."""

    group: int
    task: str
    split: Split
    index: int
    num_samples: int
    first_sample: int = 0
    """Number of the first sample: above 0 where a step poses one prompt twice, so that no noise is used twice."""
    trace: bool = False
    """Whether its rows are recorded pass by pass, for people to look at."""


@dataclass(frozen=True, slots=True)
class ExpertSpec:
    """A heuristic whose decisions are recorded as the policy would see and score them."""

    heuristic: str
    parameter: float
    block_length: int | None
    """Of the expert alone; None is the policy's."""
    behaviour: Behaviour


@dataclass(frozen=True, slots=True)
class UnmaskerSpec:
    """Which unmasker decodes: a heuristic, the learned policy at a weight version, or an expert that the policy scores."""

    heuristic: str | None = None
    parameter: float | Mapping[str, Value] | None = None
    """Of the heuristic, as in a configuration; of the learned policy its temperature, None for the one it is trained at."""
    weight_version: int = 0
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    """Of the learned policy."""
    expert: ExpertSpec | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Work for one actor: groups to decode under one unmasker, in one batch."""

    id: int
    run_seed: int
    unmasker: UnmaskerSpec
    groups: tuple[GroupRequest, ...]
    block_length: int
    record: bool = True
    """Whether decisions are recorded for the learner."""
    alpha: float | None = None
    """Speed exponent of these rows' rewards; None is the run's."""
    canvas_length: int | None = None
    """None is the actor's (`DecodeSettings`)."""

    @property
    def weight_version(self) -> int:
        return self.unmasker.weight_version

    @property
    def model(self) -> str:
        """The model that all its groups are decoded by (`rollout_workers.hosting`)."""
        return model_of(self.groups[0].task)


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """How rows are decoded, for training and evaluation alike."""

    canvas_length: int
    num_slots: int = 32
    token_temperature: float = 0.0
    eos: EosPolicy = "full"


@dataclass(frozen=True, slots=True)
class LeaseSummary:
    """What became of the rows of one lease, in the lease's order; sequences have one entry per row."""

    lease: Lease
    rows: tuple[TrajectoryRow, ...]
    grades: tuple[Grade, ...]
    texts: tuple[str, ...]
    prompt_hashes: tuple[str, ...]
    rewards: tuple[float, ...]
    reward_terms: tuple[dict[str, float], ...]
    """Term -> what it gave the row, unweighted."""
    stats: EngineStats
    seconds: dict[str, float]
    """The rollout actor's exclusive time states since its previous lease."""
    actor: str = ""
    """Who decoded."""
    response_lengths: tuple[int, ...] = ()
    """Decoded tokens before the first end of text; given ones do not count."""
    traces: Mapping[int, RowTrace] = field(default_factory=dict)
    """Row -> its trace, of the groups that asked for one."""
    is_warm_up: bool = False
    """Whether this was its actor's first lease, whose times are no measure of speed."""


def prompt_hash(example: Example, tokenizer: DllmTokenizer) -> str:
    """Names the prompt as the model reads it, chat template and prefill included: equal for equal prompts alone."""
    text = tokenizer.render_prompt(example.prompt, example.prefill)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def pose(
    example: Example,
    tokenizer: DllmTokenizer,
    *,
    canvas_length: int,
    block_length: int,
    key: int,
    group: int = 0,
    sample: int = 0,
) -> Sequence:
    """The row that decodes `example`."""
    return Sequence(
        example_id=example.id,
        prompt_ids=tokenizer.encode_prompt(example.prompt, example.prefill),
        canvas_ids=tokenizer.encode_canvas(example.template, canvas_length),
        block_length=block_length,
        key=key,
        group=group,
        sample=sample,
    )


def pose_each(
    examples: Many[Example], tokenizer: DllmTokenizer, *, canvas_length: int, block_length: int
) -> list[Sequence]:
    """One row per example, keyed as sample 0 of seed 0: for measurements outside of any run."""
    return [
        pose(
            example,
            tokenizer,
            canvas_length=canvas_length,
            block_length=block_length,
            key=row_key(run_seed=0, example_id=example.id, sample_index=0, weight_version=0),
        )
        for example in examples
    ]


class LeaseGrader:
    """Grades and rewards decoded leases."""

    def __init__(
        self, reward: RewardFunction, *, canvas_length: int, tasks: Mapping[str, Task], clock: TimeStates
    ) -> None:
        self._reward = reward
        self._canvas_length = canvas_length
        self._tasks = tasks
        self._clock = clock

    def grade(self, summary: LeaseSummary) -> LeaseSummary:
        """The summary with grades and rewards."""
        lease = summary.lease
        with self._clock.state(GRADING):
            tasks: list[Task] = []
            examples: list[Example] = []
            for group in lease.groups:
                task = self._tasks[group.task]
                tasks += [task] * group.num_samples
                examples += [task.example(group.split, group.index)] * group.num_samples
            grades = tuple(grade_all(tasks, examples, summary.texts))
        length = lease.canvas_length or self._canvas_length
        rewards = [
            self._reward(grade, row.nfe, length, alpha=lease.alpha)
            for grade, row in zip(grades, summary.rows, strict=True)
        ]
        return replace(
            summary,
            grades=grades,
            rewards=tuple(reward.total for reward in rewards),
            reward_terms=tuple(reward.terms for reward in rewards),
        )


class Rollout:
    """Decodes and grades leases with one frozen model."""

    def __init__(
        self,
        model: FrozenDLLM,
        tokenizer: DllmTokenizer,
        settings: DecodeSettings,
        reward: RewardFunction,
        *,
        tasks: Mapping[str, Task],
        clock: TimeStates,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._grader = LeaseGrader(reward, canvas_length=settings.canvas_length, tasks=tasks, clock=clock)
        self._num_leases = 0

    def run(self, lease: Lease, unmasker: Unmasker) -> tuple[LeaseSummary, TrajectoryBatch | None]:
        """What `decode` gives, graded."""
        summary, trajectories = self._decode(lease, unmasker)
        return replace(self._grader.grade(summary), seconds=self._clock.take()), trajectories

    def decode(self, lease: Lease, unmasker: Unmasker) -> tuple[LeaseSummary, TrajectoryBatch | None]:
        """All rows of `lease` decoded by `unmasker`: their outcomes, not yet graded, and their decisions if the lease wants them
        recorded."""
        summary, trajectories = self._decode(lease, unmasker)
        return replace(summary, seconds=self._clock.take()), trajectories

    def _decode(self, lease: Lease, unmasker: Unmasker) -> tuple[LeaseSummary, TrajectoryBatch | None]:
        assert not lease.record or getattr(unmasker, "is_training", True), "only decisions of training are recorded"
        settings = self._settings
        canvas_length = lease.canvas_length or settings.canvas_length
        examples, sequences = self._rows(lease, canvas_length)
        traced = {group.group for group in lease.groups if group.trace}
        tracer = Tracer([sequence for sequence in sequences if sequence.group in traced]) if traced else None
        engine = Engine(
            self._model,
            unmasker,
            num_slots=settings.num_slots,
            token_temperature=settings.token_temperature,
            eos=settings.eos,
            clock=self._clock,
        )
        decoded = engine.decode(sequences, record=lease.record, tracer=tracer)
        rows = tuple(_wire_row(sequence, lease) for sequence in sequences)
        with self._clock.state(GRADING):
            texts = tuple(self._tokenizer.decode_canvas(sequence.tokens_L.tolist()) for sequence in sequences)
            hash_of = {each.id: prompt_hash(each, self._tokenizer) for each in dict.fromkeys(examples)}
            hashes = tuple(hash_of[example.id] for example in examples)
        trajectories = None
        if decoded.steps is not None and decoded.offsets is not None:
            trajectories = TrajectoryBatch(rows, decoded.steps, decoded.offsets)
        traces = {
            number: self._trace(example, sequence, tracer)
            for number, (example, sequence) in enumerate(zip(examples, sequences, strict=True))
            if tracer is not None and sequence.group in traced
        }
        is_warm_up, self._num_leases = self._num_leases == 0, self._num_leases + 1
        summary = LeaseSummary(
            lease, rows, (), texts, hashes, (), (), decoded.stats, {},
            response_lengths=tuple(self._response_length(row) for row in rows), traces=traces, is_warm_up=is_warm_up,
        )  # fmt: skip
        return summary, trajectories

    def _response_length(self, row: TrajectoryRow) -> int:
        return int((row.order_L[: self._tokenizer.response_length(row.tokens_L.tolist())] > 0).sum())

    def _trace(self, example: Example, sequence: Sequence, tracer: Tracer) -> RowTrace:
        passes = tracer.passes(sequence)
        arrays = [sequence.tokens_L, *(array for each in passes for array in (each.canvas_L, each.guess_L))]
        ids = sorted({int(token) for array in arrays for token in array if token >= 0})
        return RowTrace(
            prompt=self._tokenizer.render_prompt(example.prompt, example.prefill),
            passes=passes,
            final_L=sequence.tokens_L,
            mask_id=self._tokenizer.mask_id,
            pieces=dict(zip(ids, self._tokenizer.pieces(ids), strict=True)),
        )

    def _rows(self, lease: Lease, canvas_length: int) -> tuple[list[Example], list[Sequence]]:
        examples, sequences = [], []
        for request in lease.groups:
            example = self._tasks[request.task].example(request.split, request.index)
            # A task that two models decode poses each of them the same examples, which must not share their noise.
            example = replace(example, id=f"{request.task}/{request.split}/{request.index}")
            for sample in range(request.first_sample, request.first_sample + request.num_samples):
                key = row_key(
                    run_seed=lease.run_seed,
                    example_id=example.id,
                    sample_index=sample,
                    weight_version=lease.weight_version,
                )
                examples.append(example)
                sequences.append(
                    pose(
                        example,
                        self._tokenizer,
                        canvas_length=canvas_length,
                        block_length=lease.block_length,
                        key=key,
                        group=request.group,
                        sample=sample,
                    )
                )
        return examples, sequences


def _wire_row(sequence: Sequence, lease: Lease) -> TrajectoryRow:
    return TrajectoryRow(
        example_id=sequence.example_id,
        group=sequence.group,
        sample=sequence.sample,
        weight_version=lease.weight_version,
        tokens_L=sequence.tokens_L,
        order_L=sequence.order_L,
        status=str(sequence.status),
        nfe=sequence.nfe,
        num_near_ties=sequence.num_near_ties,
        is_expert=lease.unmasker.expert is not None,
    )
