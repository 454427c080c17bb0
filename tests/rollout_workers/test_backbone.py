"""The reduction over the vocabulary, and the bidirectional backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rollout_workers.models import reduction
from rollout_workers.models.load import load_model
from rollout_workers.models.reduction import Reduction, reduce_logits
from tests.fakes.models import MASK_ID, random_llama


def random_logits(num: int = 40, vocabulary_size: int = 11, *, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.randn(num, vocabulary_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4).to(
        dtype
    )


def without_mask(logits_NV: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    """Probabilities in plain numpy, the mask id left out."""
    x = logits_NV.double().numpy() / temperature
    x[:, MASK_ID] = -np.inf
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_tokens_confidences_and_log_odds(dtype, tolerance):
    logits = random_logits(dtype=dtype)
    p = without_mask(logits)
    got = reduce_logits(logits.clone(), MASK_ID, Reduction(3, 0.0, None))
    assert got.confidences_NK.dtype == got.log_odds_N.dtype == dtype
    np.testing.assert_array_equal(got.token_ids_N, p.argmax(1))
    np.testing.assert_allclose(got.confidences_NK, -np.sort(-p, axis=1)[:, :3], atol=tolerance)
    top = p.max(1)
    np.testing.assert_allclose(got.log_odds_N, np.log(top / (1 - top)), atol=2e-4 if dtype == torch.float32 else 1e-9)


def test_bfloat16_logits_are_reduced_in_float32():
    logits = random_logits(dtype=torch.bfloat16)
    got = reduce_logits(logits.clone(), MASK_ID, Reduction(1, 0.0, None))
    assert got.confidences_NK.dtype == torch.float32
    np.testing.assert_allclose(got.confidences_NK[:, 0], without_mask(logits).max(1), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_odds_stay_exact_where_the_probability_rounds_to_one(dtype):
    logits = torch.tensor([[60.0, 0.0, 99.0, 0.0], [50.0, 0.0, 99.0, -5.0]], dtype=dtype)
    got = reduce_logits(logits, MASK_ID, Reduction(1, 0.0, None))
    assert (got.confidences_NK == 1).all()
    expected = [60 - np.log(2), 50 - np.log1p(np.exp(-5))]
    np.testing.assert_allclose(got.log_odds_N, expected, rtol=1e-6)


ALL = Reduction(2, with_entropy=True, with_margin=True)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)]
)
def test_entropies_and_margins(dtype, tolerance):
    logits = random_logits(dtype=dtype)
    p = without_mask(logits)
    got = reduce_logits(logits.clone(), MASK_ID, ALL)
    assert got.entropy_N.dtype == got.margin_N.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    np.testing.assert_allclose(got.entropy_N, -(p * np.log(np.where(p > 0, p, 1))).sum(1), atol=4 * tolerance)
    ordered = -np.sort(-p, axis=1)
    np.testing.assert_allclose(got.margin_N, ordered[:, 0] - ordered[:, 1], atol=tolerance)


def test_what_was_not_asked_for_is_absent_and_changes_nothing():
    few = reduce_logits(random_logits(), MASK_ID, Reduction(1))
    many = reduce_logits(random_logits(), MASK_ID, Reduction(1, with_entropy=True, with_margin=True))
    assert few.entropy_N is few.margin_N is few.hidden_ND is None
    assert many.confidences_NK.shape == few.confidences_NK.shape == (40, 1)
    for name in ("token_ids_N", "confidences_NK", "log_odds_N"):
        assert torch.equal(getattr(few, name), getattr(many, name))


def test_entropy_and_margin_of_a_certain_and_of_a_uniform_prediction():
    logits = torch.tensor([[300.0, 0.0, 9.0, -torch.inf, 0.0], [1.0, 1.0, 9.0, 1.0, -torch.inf]])
    got = reduce_logits(logits, MASK_ID, ALL)
    np.testing.assert_allclose(got.entropy_N, [0, np.log(3)], atol=1e-6)
    np.testing.assert_allclose(got.margin_N, [1, 0], atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 3.0])
def test_the_mask_id_is_never_chosen_however_likely(temperature):
    logits = random_logits()
    logits[:, MASK_ID] = 100.0
    p = without_mask(logits)
    uniforms = torch.linspace(0, 1, len(logits))
    got = reduce_logits(logits.clone(), MASK_ID, Reduction(2, temperature, uniforms))
    assert (got.token_ids_N != MASK_ID).all()
    np.testing.assert_allclose(got.confidences_NK[:, 0], p.max(1), atol=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_sampled_tokens_follow_the_tempered_distribution(temperature):
    num = 20_000
    one = random_logits(1)
    uniforms = (torch.arange(num) + 0.5) / num
    got = reduce_logits(one.repeat(num, 1), MASK_ID, Reduction(1, temperature, uniforms))
    counts = np.bincount(got.token_ids_N, minlength=one.shape[1]) / num
    np.testing.assert_allclose(counts, without_mask(one, temperature)[0], atol=2 / num)
    # Confidences are those of the untempered distribution.
    np.testing.assert_allclose(got.confidences_NK[:, 0], without_mask(one).max(), atol=1e-12)


def predict(
    model, *, num_confidences: int = 2, temperature: float = 0.0, wanted: torch.Tensor | None = None, **options
):
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(3, 20, (4, 6), generator=generator)
    canvas = torch.full((4, 12), MASK_ID)
    canvas[:, ::3] = torch.randint(3, 20, (4, 4), generator=generator)
    wanted = (canvas == MASK_ID) if wanted is None else wanted
    uniforms = torch.rand(int(wanted.sum()), generator=generator)
    return model.predict(
        prompt, torch.tensor([6, 6, 6, 6]), canvas, wanted,
        num_confidences=num_confidences, token_temperature=temperature, token_uniforms_N=uniforms, **options,
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("chunk", [1, 5, 31])
def test_chunks_give_the_same_as_one_piece(monkeypatch, chunk, temperature):
    model = random_llama(seed=0)
    options = {"temperature": temperature, "with_entropy": True, "with_margin": True, "with_hidden": True}
    whole = predict(model, **options)
    monkeypatch.setattr(reduction, "LOGITS_BYTES", chunk * 4 * model.spec.vocabulary_size)
    pieces = predict(model, **options)
    assert torch.equal(whole.token_ids_N, pieces.token_ids_N)
    assert torch.equal(whole.hidden_ND, pieces.hidden_ND)
    for name in ("confidences_NK", "log_odds_N", "entropy_N", "margin_N"):
        torch.testing.assert_close(getattr(whole, name), getattr(pieces, name), atol=1e-10, rtol=0)


def test_no_more_logits_exist_at_once_than_allowed(monkeypatch):
    model = random_llama(seed=0)
    sizes: list[int] = []
    monkeypatch.setattr(reduction, "LOGITS_BYTES", 7 * 4 * model.spec.vocabulary_size)
    model.model.lm_head.register_forward_hook(lambda head, inputs, logits: sizes.append(len(logits)))
    predict(model)
    assert sizes == [7, 7, 7, 7, 4]


@pytest.mark.parametrize("is_shifted", [False, True])
@pytest.mark.parametrize(("dtype", "expected"), [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_hidden_states_are_those_that_a_position_is_predicted_from(is_shifted, dtype, expected):
    model = random_llama(seed=0, dtype=dtype)
    model.is_shifted = is_shifted
    got = predict(model, with_hidden=True)
    assert got.hidden_ND.dtype == expected
    logits = model.model.lm_head(got.hidden_ND.to(dtype))
    again = reduce_logits(logits, MASK_ID, Reduction(2))
    torch.testing.assert_close(again.confidences_NK, got.confidences_NK, atol=1e-6, rtol=0)


def test_asking_for_nothing_gives_nothing():
    got = predict(random_llama(seed=0), num_confidences=3, wanted=torch.zeros(4, 12, dtype=torch.bool))
    assert got.token_ids_N.shape == (0,)
    assert got.confidences_NK.shape == (0, 3)


def test_positions_come_out_in_row_major_order():
    model = random_llama(seed=0)
    everywhere = predict(model, wanted=torch.ones(4, 12, dtype=torch.bool)).confidences_NK[:, 0].view(4, 12)
    wanted = torch.rand(4, 12, generator=torch.Generator().manual_seed(5)) < 0.4
    some = predict(model, wanted=wanted).confidences_NK[:, 0]
    torch.testing.assert_close(some, everywhere[wanted], atol=1e-12, rtol=0)


@pytest.mark.parametrize("is_shifted", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("num_padded", [0, 4])
def test_the_last_block_of_wanted_positions_is_that_of_all(num_padded, num_layers, is_shifted):
    model = random_llama(seed=0, num_layers=num_layers, is_shifted=is_shifted)
    generator = torch.Generator().manual_seed(2)
    prompt, canvas = (torch.randint(3, 20, (3, length), generator=generator) for length in (6, 12))
    lengths = torch.tensor([6, 6 - num_padded, 5 if num_padded else 6])
    wanted = torch.rand(3, 12, generator=generator) < torch.tensor([[0.2], [0.8], [0.0]])
    got = model.predict(prompt, lengths, canvas, wanted, num_confidences=3, with_hidden=True)
    expected = []
    for row, length in enumerate(lengths.tolist()):
        # The whole row through transformers' own code.
        logits = model.raw_logits(torch.cat([prompt[row, 6 - length :], canvas[row]]))
        for position in wanted[row].nonzero().flatten().tolist():
            expected.append(logits[length + position - int(is_shifted)])
    again = reduce_logits(torch.stack(expected), MASK_ID, Reduction(3))
    torch.testing.assert_close(got.confidences_NK, again.confidences_NK, atol=1e-12, rtol=0)
    torch.testing.assert_close(got.log_odds_N, again.log_odds_N, atol=1e-9, rtol=0)
    assert torch.equal(got.token_ids_N, again.token_ids_N)


def test_every_token_attends_to_every_other():
    model = random_llama(seed=0)
    prompt, length = torch.tensor([[5, 6, 7]]), torch.tensor([3])
    canvas = torch.full((1, 8), MASK_ID)
    first = torch.zeros(1, 8, dtype=torch.bool)
    first[0, 0] = True
    before = model.predict(prompt, length, canvas, first).log_odds_N
    canvas[0, -1] = 9
    assert not torch.equal(before, model.predict(prompt, length, canvas, first).log_odds_N)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_a_padded_row_predicts_as_a_lone_one(dtype, tolerance):
    model = load_model("tiny", dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 81, (length,), generator=generator) for length in (1, 4, 17, 30)]
    canvas = torch.full((4, 24), model.spec.mask_id)
    wanted = torch.ones(4, 24, dtype=torch.bool)
    padded = torch.stack([torch.cat([torch.randint(0, 81, (30 - len(p),), generator=generator), p]) for p in prompts])
    together = model.predict(padded, torch.tensor([len(p) for p in prompts]), canvas, wanted)
    for row, prompt in enumerate(prompts):
        lone = model.predict(prompt.unsqueeze(0), torch.tensor([len(prompt)]), canvas[:1], wanted[:1])
        part = slice(row * 24, (row + 1) * 24)
        torch.testing.assert_close(together.log_odds_N[part], lone.log_odds_N, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(together.confidences_NK[part], lone.confidences_NK, atol=tolerance, rtol=0)
