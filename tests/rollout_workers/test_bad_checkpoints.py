"""LLaDA and Dream folders that cannot be used: one line that names the folder, the file and the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from rollout_workers.models.base import ModelError
from rollout_workers.models.load import check_model, load_model
from tests.fakes.checkpoints import write_dream, write_llada

WRITERS: dict[str, Callable[..., dict[str, Tensor]]] = {"llada": write_llada, "dream": write_dream}


def set_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def drop_shard(folder: Path) -> None:
    next(folder.glob("model-00002*")).unlink()


def cut_shard(folder: Path) -> None:
    path = next(folder.glob("model-00001*"))
    path.write_bytes(path.read_bytes()[:-100])


def lose_tensor(folder: Path) -> None:
    path = next(folder.glob("model-00001*"))
    tensors = load_file(path)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, path)


def rename_tensor(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name, file = next(iter(index["weight_map"].items()))
    tensors = load_file(folder / file)
    tensors["transformer.h.0.weight"] = tensors.pop(name)
    save_file(tensors, folder / file)
    index["weight_map"]["transformer.h.0.weight"] = index["weight_map"].pop(name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def rewrite_index(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {name: change(file) for name, file in index["weight_map"].items()}
    path.write_text(json.dumps(index))


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing shard": (drop_shard, "model-00002-of-00002"),
    "torn shard": (cut_shard, "model-00001-of-00002.safetensors cannot be read"),
    "tensor not in its shard": (lose_tensor, "does not hold it"),
    "tensor of another architecture": (
        rename_tensor,
        "'transformer.h.0.weight', which this architecture does not have",
    ),
    "index without a map": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),  # type: ignore[dict-item,return-value]
        "weight_map",
    ),
    "shard outside the folder": (
        lambda folder: rewrite_index(folder, lambda file: f"../{file}"),
        "names '../model-0000.-of-00002.safetensors'",
    ),
    "mask id of another model": (set_config(mask_token_id=5), "mask_token_id is 5, its tokenizer gives"),
    "small vocabulary": (
        set_config(vocab_size=128, embedding_size=128),
        "config.json says mask_token_id is .* vocab_size = 128",
    ),
    "large vocabulary": (
        set_config(vocab_size=384, embedding_size=384),
        r"model-0000.-of-00002.safetensors holds '.*' with 320 rows, config.json says (vocab|embedding)_size is 384",
    ),
    "wrong width": (
        set_config(mlp_hidden_size=64, intermediate_size=64),
        r"model-0000.-of-00002.safetensors holds '.*' as \[.*48.*\]; its config needs \[.*64.*\]",
    ),
    "mixture of experts": (
        set_config(num_experts=64),
        "num_experts is 64: there is no adapter .* model.remote_code=true",
    ),
    "block-causal": (set_config(model_type="llada2_moe"), "block-causal"),
    "unknown architecture": (
        set_config(model_type="gpt2"),
        "config.json says model_type is 'gpt2'; allowed: 'llama', 'llada', 'Dream'; its own code runs with model.remote_code=true",
    ),
}


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("problem", BAD)
def test_a_bad_folder_is_one_line(tmp_path: Path, family: str, problem: str) -> None:
    WRITERS[family](tmp_path)
    spoil, pattern = BAD[problem]
    spoil(tmp_path)
    with pytest.raises(ModelError, match=pattern) as caught:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("alibi", True), ("layer_norm_type", "default"), ("include_qkv_bias", True), ("rope", False)]
)
def test_a_llada_feature_that_llama_lacks_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    write_llada(tmp_path, **{key: value})
    with pytest.raises(ModelError, match=f"{key} is {value!r}; allowed:"):
        load_model(str(tmp_path))


def test_a_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    write_dream(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ModelError, match=r"has no merges.txt"):
        check_model(str(tmp_path))
