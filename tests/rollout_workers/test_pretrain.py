"""Pretraining: interrupted and resumed, it gives bitwise the weights of an uninterrupted run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.errors import ExitCode, UserError
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.models.tiny import figures, pretrain
from rollout_workers.models.tiny.corpus import Corpus
from rollout_workers.models.tiny.pretrain import (
    EXPORT,
    OUTPUTS,
    RECIPES,
    Pretraining,
    Recipe,
    build_model,
    cut_layers,
    learning_rate,
)
from rollout_workers.models.tiny.vocabulary import build_tokenizer

RECIPE = Recipe(
    num_steps=4,
    num_shallow_steps=1,
    num_shallow_cycles=2,
    hidden_size=16,
    num_layers=2,
    num_shallow_layers=1,
    num_heads=2,
    feed_forward_size=16,
    shallow_feed_forward_size=24,
    arithmetic_rows=3,
    sudoku_rows=3,
    num_puzzle_steps=2,
    puzzle_arithmetic_rows=2,
    puzzle_sudoku_rows=4,
    learning_rate=0.5,
    shallow_learning_rate=0.5,
    seed=4,
)
CORPUS = Corpus(build_tokenizer(), seed=RECIPE.seed)


def train(training: Pretraining, num_steps: int) -> dict[str, torch.Tensor]:
    for _ in range(num_steps):
        losses = training.train_step(CORPUS)
        assert all(torch.isfinite(torch.tensor(value)) for value in losses.values())
    return {name: value.clone() for name, value in training.model.state_dict().items()}


@pytest.mark.parametrize("stop", [3, 4, 5, 6, 7])
def test_interrupted_and_resumed_is_bitwise_uninterrupted(tmp_path, stop):
    # 4 steps of the deep stage, 2 of the shallow one and 2 of puzzles; the stops lie before, at and after the changes.
    whole = train(Pretraining(RECIPE, tmp_path / "whole"), 8)
    first = Pretraining(RECIPE, tmp_path / "cut")
    train(first, stop - 1)
    first.save()
    train(first, 1)
    first.save()
    assert len(list((tmp_path / "cut").glob("state-*.safetensors"))) == 1
    train(first, 1)  # lost with the process
    second = Pretraining(RECIPE, tmp_path / "cut")
    second.resume()
    assert second.step == stop
    resumed = train(second, 8 - stop)
    fresh = build_model(RECIPE, shallow=True).state_dict()
    assert whole.keys() == resumed.keys() == fresh.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
        assert not torch.equal(value, fresh[name]) or value.numel() == 1, name


def test_cutting_layers_keeps_what_the_leading_layers_compute():
    deep, shallow = build_model(RECIPE, shallow=False), build_model(replace(RECIPE, seed=9), shallow=True)
    cut_layers(deep, shallow)
    deep.model.layers = deep.model.layers[:1]
    tokens = torch.arange(12).unsqueeze(0)
    assert torch.allclose(deep(tokens).logits, shallow(tokens).logits, atol=1e-5)


def test_a_state_of_another_recipe_is_refused(tmp_path):
    Pretraining(RECIPE, tmp_path).save()
    with pytest.raises(UserError, match=r"another recipe \('seed': 4 -> 5\); allowed: another --output"):
        Pretraining(replace(RECIPE, seed=5), tmp_path).resume()


@pytest.mark.parametrize("damage", ["state.json", "state-0.safetensors"])
def test_a_damaged_state_is_one_line(tmp_path, damage):
    Pretraining(RECIPE, tmp_path).save()
    (tmp_path / damage).write_bytes((tmp_path / damage).read_bytes()[:20])
    with pytest.raises(UserError, match=r"state\.json' cannot be read .*allowed: a saved state, or another --output"):
        Pretraining(RECIPE, tmp_path).resume()


def test_the_last_stage_is_mostly_puzzles_with_few_givens(monkeypatch):
    asked = []
    draw = CORPUS.sudoku

    def sudoku(step, *, batch_size, hard_share):
        asked.append((batch_size, hard_share))
        return draw(step, batch_size=batch_size, hard_share=hard_share)

    monkeypatch.setattr(CORPUS, "sudoku", sudoku)
    train(Pretraining(RECIPE, Path("unused")), 8)
    assert asked == [(3, 0.0)] * 6 + [(4, 0.75)] * 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "nope"], "'nope'"),
        (["--num-examples", "0"], "--num-examples is 0; allowed: at least 1"),
        (["--sudoku-csv", "nope.csv"], "--sudoku-csv 'nope.csv' cannot be read"),
        (["--sudoku-csv", "other.csv"], "allowed: a CSV file with columns Puzzle and Solution"),
        (["--sudoku-csv", "nine.csv"], "--sudoku-csv 'nine.csv', line 2: '9102200002100320'; allowed: 16 digits"),
    ],
)
def test_figures_that_cannot_be_made_are_one_line(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("nine.csv").write_text("Puzzle,Solution\n9102200002100320,3142243142131324\n")
    assert figures.main(words) == ExitCode.USER_ERROR
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_the_exported_folder_loads_as_the_trained_model(tmp_path):
    training = Pretraining(RECIPE, tmp_path)
    weights = train(training, 1)
    folder = training.export()
    loaded = load_model(str(folder))
    assert all(torch.equal(weights[name], value) for name, value in loaded.model.state_dict().items())
    assert load_tokenizer(str(folder)).mask_id == loaded.spec.mask_id


def test_the_second_recipe_has_another_width_depth_and_seed():
    shipped, second = RECIPES["shipped"], RECIPES["second"]
    assert second.hidden_size != shipped.hidden_size
    assert second.seed != shipped.seed
    depths = [each.num_shallow_layers if each.num_shallow_cycles else each.num_layers for each in (shipped, second)]
    assert depths[0] != depths[1]


def test_the_command_trains_a_recipe_with_overrides_to_where_studies_look_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrain, "report", lambda examiner, **options: None)
    small = {
        "hidden-size": 16,
        "num-heads": 2,
        "feed-forward-size": 16,
        "arithmetic-rows": 2,
        "sudoku-rows": 2,
        "num-steps": 2,
    }
    options = [text for name, value in small.items() for text in (f"--{name}", str(value))]
    words = ["--recipe", "second", *options]
    assert pretrain.main(words) == ExitCode.FINISHED
    model = load_model(str(OUTPUTS["second"] / EXPORT)).model
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (16, RECIPES["second"].num_layers)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert pretrain.main(words) == ExitCode.FINISHED
    again = load_model(str(OUTPUTS["second"] / EXPORT)).model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in again.items())
    assert pretrain.main([*words, "--seed", "9"]) == ExitCode.USER_ERROR


def test_the_learning_rate_warms_up_and_falls_in_each_cycle():
    recipe = Recipe(
        num_steps=1000,
        num_shallow_steps=600,
        num_shallow_cycles=2,
        num_puzzle_steps=700,
        learning_rate=1.0,
        shallow_learning_rate=0.5,
    )
    rates = [learning_rate(recipe, step) for step in range(recipe.total_steps)]
    for stage, peak in (
        (rates[:1000], 1.0),
        (rates[1000:1600], 0.5),
        (rates[1600:2200], 0.5),
        (rates[2200:], 0.5),
    ):
        assert stage[0] < 0.01
        assert max(stage) == pytest.approx(peak)
        assert stage[200:] == sorted(stage[200:], reverse=True)
        assert stage[-1] == pytest.approx(0.05 * peak, abs=1e-3)
