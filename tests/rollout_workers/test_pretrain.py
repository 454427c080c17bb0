"""Pretraining: interrupted and resumed, it gives bitwise the weights of an uninterrupted run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.models.tiny.corpus import Corpus
from rollout_workers.models.tiny.pretrain import Pretraining, Recipe, build_model, learning_rate_share
from rollout_workers.models.tiny.vocabulary import build_tokenizer

RECIPE = Recipe(
    num_steps=6, hidden_size=16, num_layers=1, num_heads=2, feed_forward_size=16, arithmetic_rows=3, sudoku_rows=3,
    learning_rate=0.5, seed=4,
)  # fmt: skip
CORPUS = Corpus(build_tokenizer(), seed=RECIPE.seed)


def train(training: Pretraining, num_steps: int) -> dict[str, torch.Tensor]:
    for _ in range(num_steps):
        losses = training.train_step(CORPUS)
        assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    return {name: value.clone() for name, value in training.model.state_dict().items()}


def test_three_and_three_steps_are_bitwise_six(tmp_path):
    whole = train(Pretraining(RECIPE, tmp_path / "whole"), 6)
    first = Pretraining(RECIPE, tmp_path / "cut")
    train(first, 2)
    first.save()
    train(first, 1)
    first.save()
    assert len(list((tmp_path / "cut").glob("state-*.safetensors"))) == 1
    train(first, 1)  # lost with the process
    second = Pretraining(RECIPE, tmp_path / "cut")
    second.resume()
    assert second.step == 3
    resumed = train(second, 3)
    fresh = build_model(RECIPE).state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
        assert not torch.equal(value, fresh[name]) or value.numel() == 1, name


def test_a_state_of_another_recipe_is_refused(tmp_path):
    Pretraining(RECIPE, tmp_path).save()
    with pytest.raises(SystemExit, match="another recipe"):
        Pretraining(replace(RECIPE, seed=5), tmp_path).resume()


def test_the_exported_folder_loads_as_the_trained_model(tmp_path):
    training = Pretraining(RECIPE, tmp_path)
    weights = train(training, 1)
    folder = training.export()
    loaded = load_model(str(folder))
    assert all(torch.equal(weights[name], value) for name, value in loaded.model.state_dict().items())
    assert load_tokenizer(str(folder)).mask_id == loaded.spec.mask_id


def test_the_learning_rate_warms_up_and_falls():
    shares = [learning_rate_share(step, 1000) for step in range(1000)]
    assert shares[0] < 0.01
    assert max(shares) == pytest.approx(1.0)
    assert shares[200:] == sorted(shares[200:], reverse=True)
    assert shares[-1] == pytest.approx(0.05, abs=1e-3)
