"""Decode prompts with a trained policy or any sampler, in a few lines:

    from evaluation.decoder import Decoder

    decoder = Decoder("tiny", policy="runs/tiny/policy.safetensors")
    for answer in decoder(["Ann has 4 pens . ..."]):
        answer.text, answer.nfe, answer.seconds

Prompts of one call are decoded together, and none influences another. Shapes: `B` live rows, `L` canvas positions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.errors import UserError
from policy.factory import make_learned, make_swept_heuristic
from policy.inference import InferenceConfig
from policy.noise import row_key
from policy.unmasker import Unmasker
from policy.weights import WeightsError, from_bytes
from rollout_workers.caching import CacheSettings
from rollout_workers.config import CacheMode, check_block_length
from rollout_workers.engine import Engine, EosPolicy, Step, check_needs
from rollout_workers.models.backoff import BackingOff
from rollout_workers.models.base import ModelError, ModelSpec
from rollout_workers.models.load import check_model, load_model, load_tokenizer
from rollout_workers.models.options import NO_OPTIONS, LoadOptions
from rollout_workers.resources import ModelResources
from rollout_workers.sequence import Sequence as Row
from rollout_workers.tasks import make_task
from rollout_workers.tokenizer import DllmTokenizer

DEFAULT_SAMPLER = "threshold=0.9"
DEFAULT_CANVAS = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """One decoded prompt."""

    prompt: str
    text: str
    nfe: int
    """Forward passes, those that a sampler makes ahead included."""
    seconds: float
    """From the first pass of the call to this row's last."""
    status: str
    pieces: tuple[str, ...]
    """Text of each canvas position."""
    order: tuple[int, ...]
    """The pass at which each position was committed; 0 for given tokens, -1 where it is still masked."""
    confidences: tuple[float, ...]
    """The model's confidence in each position when it was committed."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """One row after one pass, for those who watch."""

    number: int
    """Of the prompt."""
    nfe: int
    tokens_L: NDArray[np.int64]
    confidences_L: NDArray[np.float32]
    """Of committed positions."""


class Decoder:
    """A model and a sampler, ready for prompts. Bad settings are UserErrors of one line.

    Args:
        model: 'tiny', a folder or a hub id.
        policy: file of a trained policy; decodes with it instead of `sampler`.
        sampler: a heuristic, as `threshold=0.9` or `klass(tau=0.9, kl=0.01)`.
        canvas_length: L in tokens; None is the tiny model's own, or 256.
        block_length: None is the whole canvas.
        policy_temperature: another one than the policy's own.
        inference: how the policy decides.
        token_temperature: 0 takes the most likely tokens.
        eos: `full` decodes the whole canvas, `stop` ends a row at its end of text.
        cache: `prefix` or `dual` keep keys and values between passes, which is approximate.
        cache_refresh: passes within a block from one that computes everything to the next; None: once per block.
        seed: of everything that is drawn.
        num_slots: most rows per forward pass.
        is_raw: prompts are taken as they stand, without the model's chat template.
        dtype, device, options: of the model.
    """

    def __init__(
        self,
        model: str = "tiny",
        *,
        policy: str | Path | None = None,
        sampler: str | None = None,
        canvas_length: int | None = None,
        block_length: int | None = None,
        policy_temperature: float | None = None,
        inference: InferenceConfig | None = None,
        token_temperature: float = 0.0,
        eos: EosPolicy = "full",
        cache: CacheMode = "none",
        cache_refresh: int | None = None,
        seed: int = 0,
        num_slots: int = 32,
        is_raw: bool = False,
        dtype: str = "float32",
        device: str = "cpu",
        options: LoadOptions = NO_OPTIONS,
    ) -> None:
        if policy is not None and sampler is not None:
            raise UserError(f"policy is '{policy}' and sampler is {sampler!r}; allowed: one of the two")
        self.canvas_length = canvas_length or (
            make_task("arithmetic").canvas_length if model == "tiny" else DEFAULT_CANVAS
        )
        self.block_length = block_length or self.canvas_length
        check_block_length(self.block_length, self.canvas_length, "block_length")
        try:
            self.tokenizer: DllmTokenizer = load_tokenizer(model, options)
            # All that can be refused without the weights is, before these are loaded.
            spec, kept = check_model(model, options), CacheSettings(cache, cache_refresh)
            if policy is None:
                resources = ModelResources(
                    spec, self.tokenizer, name=model, options=options, dtype=dtype, device=device
                )
                unmasker = make_swept_heuristic(sampler or DEFAULT_SAMPLER, {}, resources=resources)
            else:
                unmasker = load_policy(policy, spec, device=device, temperature=policy_temperature, inference=inference)
            check_needs(unmasker.needs, spec, eos=eos, cache=kept)
            if cache != "none" and options.compile:
                raise UserError(f"cache is {cache!r}; allowed: 'none' where model '{model}' is compiled")
            self._model = load_model(model, dtype=dtype, device=device, options=options)
            self._engine = Engine(
                BackingOff(self._model),
                unmasker,
                num_slots=num_slots,
                token_temperature=token_temperature,
                eos=eos,
                cache=kept,
            )
        except ModelError as error:
            raise UserError(str(error)) from error
        except ValueError as error:
            raise error if isinstance(error, UserError) else UserError(str(error)) from error
        self.model_name = model
        self._seed = seed
        self._is_raw = is_raw

    def __call__(self, prompts: Sequence[str], *, on_pass: Callable[[Canvas], None] | None = None) -> list[Answer]:
        """The answers in the order of `prompts`; `on_pass` is told of each row after each of its passes."""
        rows = [self._row(number, prompt) for number, prompt in enumerate(prompts)]
        watcher = _Watcher(rows, on_pass)
        self._engine.decode(rows, tracer=watcher)
        return [self._answer(prompt, row, watcher) for prompt, row in zip(prompts, rows, strict=True)]

    def _row(self, number: int, prompt: str) -> Row:
        try:
            ids = self.tokenizer.encode_text(prompt) if self._is_raw else self.tokenizer.encode_prompt(prompt)
        except ValueError as error:
            raise UserError(str(error)) from error
        limit = self._model.spec.num_positions
        if limit is not None and len(ids) + self.canvas_length > limit:
            raise UserError(
                f"prompt {number + 1} has {len(ids)} tokens; allowed: {limit - self.canvas_length} beside a canvas of "
                f"{self.canvas_length} in a model of {limit} positions"
            )
        key = row_key(run_seed=self._seed, example_id=prompt, sample_index=number, weight_version=0)
        canvas = self.tokenizer.encode_canvas(None, self.canvas_length)
        return Row(f"prompt/{number}", ids, canvas, self.block_length, key)

    def _answer(self, prompt: str, row: Row, watcher: _Watcher) -> Answer:
        tokens = row.tokens_L.tolist()
        return Answer(
            prompt=prompt,
            text=self.tokenizer.decode_canvas(tokens),
            nfe=row.nfe,
            seconds=watcher.seconds[id(row)],
            status=str(row.status),
            pieces=tuple(self.tokenizer.pieces(tokens)),
            order=tuple(row.order_L.tolist()),
            confidences=tuple(watcher.confidences[id(row)].tolist()),
        )


def load_policy(
    path: str | Path,
    spec: ModelSpec,
    *,
    device: str = "cpu",
    temperature: float | None = None,
    inference: InferenceConfig | None = None,
) -> Unmasker:
    """The policy of a file, for a model; a UserError where there is none or it was trained for another kind of model."""
    try:
        network = from_bytes(Path(path).read_bytes(), where=f"policy '{path}'").to(device)
    except OSError as error:
        raise UserError(f"policy '{path}' cannot be read ({error.strerror}); allowed: a policy.safetensors") from error
    except WeightsError as error:
        raise UserError(str(error)) from error
    config = network.config
    if config.num_confidences >= spec.vocabulary_size:
        raise UserError(
            f"policy '{path}' reads {config.num_confidences} confidences per position; "
            f"allowed: fewer than the {spec.vocabulary_size} tokens of model '{spec.name}'"
        )
    try:
        config.for_backbone(spec.backbone)
        return make_learned(network, temperature=temperature, inference=inference)
    except ValueError as error:
        raise UserError(f"policy '{path}' does not fit model '{spec.name}': {error}") from error


class _Watcher:
    """Keeps the confidences of what is committed, and tells of each pass."""

    def __init__(self, rows: Sequence[Row], on_pass: Callable[[Canvas], None] | None) -> None:
        self._number_of = {id(row): number for number, row in enumerate(rows)}
        self._on_pass = on_pass
        self._started = time.perf_counter()
        self.confidences = {id(row): np.zeros(len(row.canvas_ids), np.float32) for row in rows}
        self.seconds = {id(row): 0.0 for row in rows}

    def observe(self, step: Step) -> None:
        """See `rollout_workers.engine.Watcher`."""
        seconds = time.perf_counter() - self._started
        rows, decision = step.rows, step.decision
        columns = (
            rows.canvas_after(decision, step.predicted_BL),
            decision.commit_BL,
            step.observation.confidences_BLK[:, :, 0],
            step.nfe_B,
        )
        arrays = [column.cpu().numpy() for column in columns]
        for row, canvas_L, commit_L, confidence_L, nfe in zip(rows.sequences, *arrays, strict=True):
            kept_L = self.confidences[id(row)]
            kept_L[commit_L] = confidence_L[commit_L]
            self.seconds[id(row)] = seconds
            if self._on_pass is not None:
                started = time.perf_counter()
                self._on_pass(Canvas(self._number_of[id(row)], int(nfe), canvas_L, kept_L.copy()))
                # Those who watch take time that is not the decoder's.
                self._started += time.perf_counter() - started
