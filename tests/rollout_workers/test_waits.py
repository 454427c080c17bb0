"""What the engine waits for: once per step, and on a second device nothing is mixed with the host (`tests.fakes.second_device`)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
import torch

from policy.config import BackboneShape
from policy.factory import make_heuristic
from policy.learned import LearnedUnmasker
from policy.unmasker import Unmasker
from rollout_workers import sequence as live_rows
from rollout_workers.caching import CacheSettings
from rollout_workers.engine import Decoded, Engine
from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.sequence import Sequence
from tests.fakes.models import random_llama
from tests.fakes.policies import lively_policy
from tests.fakes.second_device import DEVICE, second_device

LENGTH = 12


def make_rows(mask_id: int) -> list[Sequence]:
    """Prompts of many lengths, some rows twice, so that passes are padded, cut into slices and shared."""
    rows = []
    for number in range(7):
        kind = number // 2
        prompt = [5 + (kind + place) % 18 for place in range(5 * kind % 13)]
        canvas = [mask_id] * LENGTH if kind % 2 else [mask_id] * (LENGTH - 2) + [7, 8]
        rows.append(Sequence(f"x/{number}", prompt, canvas, 4 if kind % 2 else 6, key=number))
    return rows


def _policy(**settings: object) -> LearnedUnmasker:
    return lively_policy(initial_logit=-0.5, **settings)


def on_second_device(model: BackboneDLLM, unmasker: Unmasker) -> BackboneDLLM:
    if isinstance(unmasker, LearnedUnmasker):
        unmasker.network.to(DEVICE)
    return BackboneDLLM(model.model.to(DEVICE), model.spec, is_shifted=model.is_shifted)


POLICIES = {
    "bernoulli": lambda: _policy(distribution="bernoulli"),
    "argmax, blocks seen": lambda: _policy(see_block=True, num_confidences=3),
    "dpls": lambda: _policy(distribution="dpls", scope="canvas"),
    "top-k": lambda: _policy(distribution="top_k", top_k=2),
    "categorical": lambda: _policy(distribution="categorical", candidates_only=True),
    "two blocks": lambda: _policy(num_blocks=2, time_embedding="legacy"),
    "upo": lambda: _policy(network="upo", distribution="categorical", backbone=BackboneShape(16, 2, 24)),
    "hidden": lambda: _policy(network="dit_hidden", backbone=BackboneShape(16, 2, 24)),
    **{
        name: lambda name=name, value=value: make_heuristic(name, value)
        for name, value in {"random": 2, "low_confidence": 2, "threshold": 0.7, "factor": 1.0, "margin": 2, "entropy": 2}.items()
    },
}  # fmt: skip


CASES = [*((make, {}) for make in POLICIES.values()),
         *((POLICIES["bernoulli"], options) for options in ({"token_temperature": 0.8}, {"eos": "stop"}))]  # fmt: skip


@pytest.mark.parametrize(("make", "options"), CASES, ids=[*POLICIES, "drawn tokens", "end of text"])
def test_a_step_waits_for_the_device_once(
    make: Callable[[], Unmasker], options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decode(random_llama(seed=3), make(), options)
    with second_device() as waits:
        unmasker = make()
        model = on_second_device(random_llama(seed=3), unmasker)
        decode(model, unmasker, options, num_rows=1)  # what is made once and kept
        waits.clear()
        waited = count()
        monkeypatch.setattr(live_rows, "wait_for", lambda _: next(waited))
        decoded = decode(model, unmasker, options)
        assert not waits
    assert next(waited) == decoded.stats.num_steps
    assert_same(decoded, expected)


@pytest.mark.parametrize("mode", ["prefix", "dual"])
def test_neither_do_kept_keys_and_values(mode: str) -> None:
    options = {"cache": CacheSettings(mode, refresh=2)}
    expected = decode(random_llama(seed=3), _policy(scope="block"), options)
    with second_device() as waits:
        unmasker = _policy(scope="block")
        model = on_second_device(random_llama(seed=3), unmasker)
        decode(model, unmasker, options, num_rows=1)
        waits.clear()
        decoded = decode(model, unmasker, options)
        assert not waits
    assert_same(decoded, expected)


def decode(
    model: BackboneDLLM, unmasker: Unmasker, options: dict[str, object], *, num_rows: int | None = None
) -> Decoded:
    rows = make_rows(model.spec.mask_id)[:num_rows]
    return Engine(model, unmasker, num_slots=4, **options).decode(rows, record=True)


def assert_same(decoded: Decoded, expected: Decoded) -> None:
    for ours, theirs in zip(decoded.sequences, expected.sequences, strict=True):
        assert ours.status == theirs.status
        assert ours.nfe == theirs.nfe
        np.testing.assert_array_equal(ours.tokens_L, theirs.tokens_L)
        np.testing.assert_array_equal(ours.order_L, theirs.order_L)
    assert decoded.steps is not None
    assert expected.steps is not None
    np.testing.assert_array_equal(decoded.steps.flags_NL, expected.steps.flags_NL)
    # Its attention is not the CPU's fused one.
    np.testing.assert_allclose(decoded.steps.confidences_NLK, expected.steps.confidences_NLK, atol=1e-6)
    np.testing.assert_allclose(decoded.steps.log_prob_N, expected.steps.log_prob_N, atol=1e-4)


def test_the_second_device_tells_of_waits_and_of_mixed_tensors() -> None:
    with second_device() as waits:
        x, mask = torch.arange(4, device=DEVICE), torch.tensor([True, False, True, False]).to(DEVICE, non_blocking=True)
        assert not waits
        for waiting in (
            lambda: x[mask],
            lambda: mask.nonzero(),
            lambda: int(x.max()),
            lambda: bool(mask.any()),
            lambda: x.cpu(),
            lambda: x.tolist(),
            lambda: torch.tensor([1, 2], device=DEVICE),
            lambda: x.masked_select(mask),
        ):
            waiting()
            assert sum(waits.values()) == 1, waits
            waits.clear()
        with pytest.raises(AssertionError, match=r"on meta and on the host"):
            x + torch.arange(4)


@pytest.mark.gpu
def test_cuda_is_waited_for_nowhere_else() -> None:
    device = torch.device("cuda")
    unmasker = _policy(see_block=True)
    unmasker.network.to(device)
    model = random_llama(seed=3, dtype=torch.float32)
    model = BackboneDLLM(model.model.to(device), model.spec)
    expected = decode(model, unmasker, {})
    torch.cuda.set_sync_debug_mode("error")
    try:
        decoded = decode(model, unmasker, {})
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same(decoded, expected)
