"""From a lease to graded, packed trajectories: everything a rollout actor does, without Ray.

A lease names the work completely (examples, samples, weight version, seed), and the engine drains before the next lease, so what a
lease produces depends on nothing but the lease: it may be run anywhere and more than once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace

from cluster.logs import get_logger
from cluster.metrics import TimeStates
from policy.noise import row_key
from policy.trajectory import TrajectoryBatch, TrajectoryRow
from policy.unmasker import Unmasker
from rollout_workers.caching import NO_CACHE, CacheSettings
from rollout_workers.config import DecodeConfig
from rollout_workers.engine import SCHEDULING, Engine, EosPolicy
from rollout_workers.grader import GRADING, LeaseGrader
from rollout_workers.lease import Lease, LeaseSummary, RowTrace
from rollout_workers.models.backoff import BackingOff
from rollout_workers.models.base import FrozenDLLM
from rollout_workers.rewards import RewardFunction
from rollout_workers.sequence import Sequence
from rollout_workers.slots import fitting_slots
from rollout_workers.tasks.base import Example, Task
from rollout_workers.tokenizer import DllmTokenizer
from rollout_workers.trace import Tracer

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """How rows are decoded, for training and evaluation alike."""

    canvas_length: int
    num_slots: int | None = 32
    """None: as many as fit into memory (`rollout_workers.slots`)."""
    token_temperature: float = 0.0
    eos: EosPolicy = "full"
    cache: CacheSettings = NO_CACHE

    @staticmethod
    def of(config: DecodeConfig, canvas_length: int) -> DecodeSettings:
        """As configured."""
        return DecodeSettings(
            canvas_length,
            config.num_slots,
            config.token_temperature,
            config.eos,
            CacheSettings(config.cache, config.cache_refresh),
        )


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
    examples: Many[Example],
    tokenizer: DllmTokenizer,
    *,
    canvas_length: int,
    block_length: int,
    num_samples: int = 1,
) -> list[Sequence]:
    """`num_samples` rows per example, keyed as those of seed 0: for measurements outside of any run."""
    return [
        pose(
            example,
            tokenizer,
            canvas_length=canvas_length,
            block_length=block_length,
            key=row_key(run_seed=0, example_id=example.id, sample_index=sample, weight_version=0),
            sample=sample,
        )
        for example in examples
        for sample in range(num_samples)
    ]


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
        self._model = BackingOff(model)
        self._tokenizer = tokenizer
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._grader = LeaseGrader(reward, canvas_length=settings.canvas_length, tasks=tasks, clock=clock)
        self._num_leases = 0
        self._num_slots = settings.num_slots

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
        with self._clock.state(SCHEDULING):
            examples, sequences = self._rows(lease, canvas_length)
        traced = {group.group for group in lease.groups if group.trace}
        tracer = Tracer([sequence for sequence in sequences if sequence.group in traced]) if traced else None
        engine = Engine(
            self._model,
            unmasker,
            num_slots=self._slots(unmasker, sequences, canvas_length),
            token_temperature=settings.token_temperature,
            eos=settings.eos,
            cache=settings.cache,
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
            response_lengths=tuple(self._response_length(row) for row in rows),
            serial_passes=tuple(sequence.num_serial for sequence in sequences), traces=traces, is_warm_up=is_warm_up,
        )  # fmt: skip
        return summary, trajectories

    def _slots(self, unmasker: Unmasker, sequences: Many[Sequence], canvas_length: int) -> int:
        """As configured, or found once, with the rows of the first lease for a measure."""
        if self._num_slots is None:
            longest = max((len(sequence.prompt_ids) for sequence in sequences), default=0)
            self._num_slots = fitting_slots(
                self._model, unmasker.needs, prompt_length=longest, canvas_length=canvas_length
            )
            logger.info(
                "%d rows of up to %d tokens per forward pass (decode.num_slots=%d sets it)",
                self._num_slots,
                longest + canvas_length,
                self._num_slots,
            )
        return self._num_slots

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
            posed = pose(
                example,
                self._tokenizer,
                canvas_length=canvas_length,
                block_length=lease.block_length,
                key=0,
                group=request.group,
            )
            for sample in range(request.first_sample, request.first_sample + request.num_samples):
                key = row_key(
                    run_seed=lease.run_seed,
                    example_id=example.id,
                    sample_index=sample,
                    weight_version=lease.weight_version,
                )
                examples.append(example)
                sequences.append(replace(posed, key=key, sample=sample))
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
