"""Model folders: what is wrong with a bad one is one line that names it; a good one loads as it was saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rollout_workers.models.base import ModelError, Prediction
from rollout_workers.models.load import check_model, load_model, load_tokenizer
from rollout_workers.models.tiny import CHECKPOINT_DIR
from rollout_workers.models.tiny.pretrain import Recipe, build_model
from rollout_workers.models.tiny.vocabulary import build_tokenizer
from tests.fakes.models import EOS_ID, MASK_ID, small_spec

SMALL = Recipe(hidden_size=16, num_layers=1, num_heads=2, feed_forward_size=16)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small good model folder."""
    path = tmp_path / "model"
    build_model(SMALL, shallow=False).save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


def set_config(**values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        config = json.loads((path / "config.json").read_text()) | values
        (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))

    return change


def set_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        tensors = load_file(path / "model.safetensors")
        change(tensors)
        save_file(tensors, path / "model.safetensors")

    return apply


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(data)


def truncate(path: Path) -> None:
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])


NORM = "model.norm.weight"
BAD = {
    "missing folder": (shutil.rmtree, "does not exist"),
    "no config": (lambda path: (path / "config.json").unlink(), "config.json"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "model.safetensors"),
    "no tokenizer": (lambda path: (path / "tokenizer.json").unlink(), "tokenizer.json"),
    "bad JSON": (write("config.json", b"{bad"), "not valid JSON"),
    "binary config": (write("config.json", b"\xff\xfe\x00"), "not valid JSON"),
    "config is a list": (write("config.json", b"[1]"), "config.json"),
    "model type": (set_config(model_type="bert"), "'bert'"),
    "no model type": (set_config(model_type=...), "model_type is None"),
    "no mask id": (set_config(mask_token_id=...), "mask_token_id is None"),
    "several eos ids": (set_config(eos_token_id=[1, 2]), r"eos_token_id is \[1, 2\]"),
    "text vocabulary size": (set_config(vocab_size="many"), "vocab_size is 'many'"),
    "mask id outside": (set_config(mask_token_id=500), "mask_token_id is 500"),
    "pad id outside": (set_config(pad_token_id=500), "500"),
    "impossible heads": (set_config(num_attention_heads=5), "5"),
    "truncated weights": (truncate, "model.safetensors"),
    "empty weights": (write("model.safetensors", b""), "model.safetensors"),
    "text for weights": (
        write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        "model.safetensors",
    ),
    "missing tensor": (set_tensors(lambda tensors: tensors.pop(NORM)), NORM),
    "misshapen tensor": (set_tensors(lambda tensors: tensors.update({NORM: torch.ones(5)})), NORM),
    "extra tensor": (set_tensors(lambda tensors: tensors.update({"foo.weight": torch.ones(5)})), "foo.weight"),
    "weights that are not numbers": (
        set_tensors(lambda tensors: tensors[NORM].fill_(float("nan"))),
        "'numbers' failed",
    ),
}


@pytest.mark.parametrize("problem", BAD)
def test_a_bad_folder_is_one_line_that_names_it_and_the_problem(folder, problem):
    spoil, pattern = BAD[problem]
    spoil(folder)
    with pytest.raises(ModelError, match=pattern) as caught:
        load_model(str(folder))
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"{}", b"{bad"])
def test_a_bad_tokenizer_file_is_one_line(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer") as caught:
        load_tokenizer(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_id_that_is_not_the_tokenizers_is_one_line(folder):
    set_config(mask_token_id=7)(folder)
    with pytest.raises(ModelError, match=f"mask_token_id is 7, its tokenizer gives '<mask>' {MASK_ID}") as caught:
        load_tokenizer(str(folder))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["missing folder", "no config", "bad JSON", "model type", "truncated weights", "empty weights"]
)
def test_checking_a_folder_finds_the_same_without_loading_it(folder, name):
    BAD[name][0](folder)
    with pytest.raises(ModelError, match=BAD[name][1]) as caught:
        check_model(str(folder))
    assert str(folder) in str(caught.value)


def test_a_good_folder_passes_the_check(folder):
    check_model(str(folder))
    check_model("tiny")


def all_predictions(model) -> Prediction:
    prompt = torch.arange(10, 20).unsqueeze(0)
    canvas = torch.full((1, 24), model.spec.mask_id)
    canvas[0, :5] = 9
    return model.predict(prompt, torch.tensor([10]), canvas, canvas == model.spec.mask_id, num_confidences=3)


def test_saving_and_loading_gives_the_same_model(tmp_path, folder):
    loaded = load_model(str(folder))
    loaded.model.save_pretrained(tmp_path / "again")
    build_tokenizer().save_pretrained(tmp_path / "again")
    again = load_model(str(tmp_path / "again"))
    first, second = all_predictions(loaded), all_predictions(again)
    assert torch.equal(first.token_ids_N, second.token_ids_N)
    assert torch.equal(first.confidences_NK, second.confidences_NK)
    assert torch.equal(first.log_odds_N, second.log_odds_N)
    torch.manual_seed(SMALL.seed)
    for name, value in build_model(SMALL, shallow=False).state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_fresh_model_predicts_as_the_loaded_one(folder):
    """Buffers are not in the file: the rotary frequencies made on loading are those of a fresh model."""
    loaded = load_model(str(folder))
    fresh = type(loaded)(build_model(SMALL, shallow=False), loaded.spec)
    assert torch.equal(all_predictions(loaded).log_odds_N, all_predictions(fresh).log_odds_N)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_shipped_model_loads(dtype):
    model, tokenizer = load_model("tiny", dtype=dtype), load_tokenizer("tiny")
    assert (model.spec.mask_id, model.spec.eos_id) == (tokenizer.mask_id, tokenizer.eos_id)
    assert model.spec.vocabulary_size == len(build_tokenizer())
    assert all(not parameter.requires_grad for parameter in model.model.parameters())
    assert {parameter.dtype for parameter in model.model.parameters()} == {getattr(torch, dtype)}


def test_the_shipped_model_is_small_and_its_tokenizer_is_the_built_one():
    assert sum(path.stat().st_size for path in CHECKPOINT_DIR.iterdir()) < 20e6
    num = sum(parameter.numel() for parameter in load_model("tiny").model.parameters())
    assert 0.2e6 <= num <= 4e6
    built = build_tokenizer().get_vocab()
    assert json.loads((CHECKPOINT_DIR / "tokenizer.json").read_text())["model"]["vocab"] == built


def test_the_tokenizer_quotes_a_word_that_it_does_not_know():
    with pytest.raises(ValueError, match="'zebra'"):
        load_tokenizer("tiny").encode_prompt("how many zebra now ?")


def test_canvases_from_templates():
    tokenizer = load_tokenizer("tiny")
    assert tokenizer.encode_canvas(None, 3) == [MASK_ID] * 3
    ids = tokenizer.encode_canvas("<answer> <mask> 3 </answer>", 6)
    assert [i == MASK_ID for i in ids] == [False, True, False, False, False, False]
    assert ids[4:] == [EOS_ID] * 2
    with pytest.raises(ValueError, match=r"4 tokens does not fit a canvas of 3"):
        tokenizer.encode_canvas("<answer> <mask> 3 </answer>", 3)


def test_canvases_end_at_the_first_end_of_text():
    tokenizer = load_tokenizer("tiny")
    body = tokenizer.encode_prompt("<answer> 3 </answer>")
    later = tokenizer.encode_prompt("<answer> 4 </answer>")
    assert tokenizer.decode_canvas([*body, EOS_ID, *later]) == "<answer> 3 </answer>"
    assert tokenizer.decode_canvas([body[0], MASK_ID, *body[1:]]) == "<answer> 3 </answer>"
    assert tokenizer.decode_canvas([EOS_ID]) == ""
    assert tokenizer.tokens([MASK_ID, EOS_ID, body[1]]) == ["<mask>", "<eos>", "3"]
    assert small_spec().mask_id == tokenizer.mask_id
