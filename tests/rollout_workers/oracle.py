"""A slow, obvious decoder: one row at a time, no padding, no batch, plain Python over positions.

It shares with the engine only the model's `predict`, the noise and the policy network, never any decoding logic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from policy.noise import Stream, uniforms
from rollout_workers.models.base import FrozenDLLM


@dataclass(frozen=True)
class Sampler:
    """What to decode with: `random`, `low_confidence`, `threshold` at `value`, or `learned` with `network`."""

    kind: str
    value: float = 0.0
    network: Any = None


@dataclass(frozen=True)
class Row:
    """One row to decode."""

    prompt: tuple[int, ...]
    canvas: tuple[int, ...]
    block_length: int
    key: int
    step_limit: int | None = None


@dataclass
class Step:
    """One decision."""

    masked: list[bool]
    eligible: list[bool]
    committed: list[bool]
    confidences: list[list[float]]
    time: float
    log_prob: float


@dataclass
class Outcome:
    """How a row ended."""

    tokens: list[int]
    order: list[int]
    status: str
    nfe: int
    steps: list[Step] = field(default_factory=list)


def noise(key: int, nfe: int, length: int, stream: Stream) -> list[float]:
    return uniforms(torch.tensor([key]), torch.tensor([nfe]), length, stream)[0].tolist()


@torch.no_grad()
def decode_row(
    model: FrozenDLLM, sampler: Sampler, row: Row, *, token_temperature: float = 0.0, eos: str = "full"
) -> Outcome:
    mask, end = model.spec.mask_id, model.spec.eos_id
    canvas, L = list(row.canvas), len(row.canvas)
    limit = L if row.step_limit is None else row.step_limit
    order = [-1 if token == mask else 0 for token in canvas]
    out = Outcome(canvas, order, "", 0)
    while True:
        if mask not in canvas:
            out.status = "clean"
            return out
        leftmost = canvas.index(mask)
        if eos == "stop" and end in canvas[:leftmost]:
            for i in range(L):
                if canvas[i] == mask:
                    canvas[i] = end
            out.status = "eos_stop"
            return out
        if out.nfe >= limit:
            out.status = "step_limit"
            return out
        masked = [token == mask for token in canvas]
        block = leftmost // row.block_length
        eligible = [masked[i] and i // row.block_length == block for i in range(L)]
        wanted = _wanted(sampler, masked, eligible)
        predicted, confidences, log_odds = _predict(model, sampler, row, canvas, wanted, out.nfe, token_temperature)
        time = float(np.float32(out.nfe) / np.float32(L))
        committed, log_prob = _decide(sampler, row, masked, eligible, confidences, log_odds, time, out.nfe)
        out.steps.append(Step(masked, eligible, committed, confidences, time, log_prob))
        out.nfe += 1
        for i in range(L):
            if committed[i]:
                canvas[i] = predicted[i]
                order[i] = out.nfe


def _wanted(sampler: Sampler, masked: list[bool], eligible: list[bool]) -> list[bool]:
    if sampler.kind != "learned" or sampler.network.config.scope == "block":
        return eligible
    return masked if sampler.network.config.scope == "masked" else [True] * len(masked)


def _predict(
    model: FrozenDLLM,
    sampler: Sampler,
    row: Row,
    canvas: list[int],
    wanted: list[bool],
    nfe: int,
    token_temperature: float,
) -> tuple[list[int], list[list[float]], list[float]]:
    L = len(canvas)
    K = sampler.network.config.num_confidences if sampler.kind == "learned" else 1
    asked = [i for i in range(L) if wanted[i]]
    draws = None
    if token_temperature > 0:
        all_draws = noise(row.key, nfe, L, Stream.TOKEN)
        draws = torch.tensor([all_draws[i] for i in asked])
    prediction = model.predict(
        torch.tensor([row.prompt], dtype=torch.int64),
        torch.tensor([len(row.prompt)]),
        torch.tensor([canvas]),
        torch.tensor([wanted]),
        num_confidences=K,
        token_temperature=token_temperature,
        token_uniforms_N=draws,
    )
    predicted = list(canvas)
    confidences = [[1.0] + [0.0] * (K - 1) for _ in range(L)]
    log_odds = [math.inf] * L
    for n, i in enumerate(asked):
        predicted[i] = int(prediction.token_ids_N[n])
        confidences[i] = [float(np.float32(float(p))) for p in prediction.confidences_NK[n]]
        log_odds[i] = float(prediction.log_odds_N[n])
    return predicted, confidences, log_odds


def _decide(
    sampler: Sampler,
    row: Row,
    masked: list[bool],
    eligible: list[bool],
    confidences: list[list[float]],
    log_odds: list[float],
    time: float,
    nfe: int,
) -> tuple[list[bool], float]:
    L = len(masked)
    candidates = [i for i in range(L) if eligible[i]]
    if sampler.kind == "learned":
        return _draw(sampler.network, row, masked, eligible, confidences, time, nfe)
    if sampler.kind == "random":
        draws = noise(row.key, nfe, L, Stream.POLICY)
        chosen = sorted(candidates, key=lambda i: (-draws[i], i))[: int(sampler.value)]
    elif sampler.kind == "low_confidence":
        chosen = sorted(candidates, key=lambda i: (-log_odds[i], i))[: int(sampler.value)]
    else:
        chosen = [i for i in candidates if np.float32(confidences[i][0]) >= np.float32(sampler.value)]
        if not chosen:
            chosen = [min(candidates, key=lambda i: (-log_odds[i], i))]
    return [i in chosen for i in range(L)], 0.0


def _draw(
    network: Any,
    row: Row,
    masked: list[bool],
    eligible: list[bool],
    confidences: list[list[float]],
    time: float,
    nfe: int,
) -> tuple[list[bool], float]:
    L, config = len(masked), network.config
    logits = network(
        torch.tensor([masked]), torch.tensor([eligible]), torch.tensor([confidences]), torch.tensor([time])
    )[0].tolist()
    candidates = [i for i in range(L) if eligible[i]]
    p = {i: 1 / (1 + math.exp(-logits[i] / config.policy_temperature)) for i in candidates}
    draws = noise(row.key, nfe, L, Stream.POLICY)
    chosen = {i for i in candidates if draws[i] < p[i]}
    best = min(candidates, key=lambda i: (-logits[i], i))
    is_argmax = config.distribution == "bernoulli_argmax"
    if is_argmax and not chosen:
        chosen = {best}
    probability = math.prod(p[i] if i in chosen else 1 - p[i] for i in candidates)
    if is_argmax and chosen == {best}:
        probability += math.prod(1 - p[i] for i in candidates)
    return [i in chosen for i in range(L)], math.log(probability)
