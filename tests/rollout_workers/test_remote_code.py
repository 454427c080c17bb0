"""Models that run their own code: off unless asked for, pinned, held to the self-checks, and equal to a plain forward pass."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import dynamic_module_utils

from policy.config import BackboneShape
from policy.factory import make_heuristic
from rollout_workers.engine import Engine
from rollout_workers.models import remote_code
from rollout_workers.models.base import FrozenDLLM, ModelError, Prediction
from rollout_workers.models.load import check_model, load_model, load_tokenizer
from rollout_workers.models.options import LoadOptions
from rollout_workers.models.reduction import Reduction, reduce_logits
from rollout_workers.sequence import Sequence, SequenceStatus
from tests.fakes.remote import toy_logits, write_toy

REMOTE = LoadOptions(remote_code=True)


@pytest.fixture(autouse=True, scope="module")
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Code is copied to a folder of the test, not of the user; an import of the usual folder is forgotten meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        for name in [
            name
            for name in sys.modules
            if name.partition(".")[0] == dynamic_module_utils.TRANSFORMERS_DYNAMIC_MODULE_NAME
        ]:
            patch.delitem(sys.modules, name)
        patch.syspath_prepend(dynamic_module_utils.HF_MODULES_CACHE)
        yield


PROMPTS = ([5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16])


def predict(model: FrozenDLLM, **options: Any) -> Prediction:
    width = max(map(len, PROMPTS))
    prompt_BP = torch.tensor([[3] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    canvas_BL = torch.full((3, 6), model.spec.mask_id)
    canvas_BL[:, 2] = 20
    lengths = torch.tensor([len(prompt) for prompt in PROMPTS])
    return model.predict(prompt_BP, lengths, canvas_BL, canvas_BL == model.spec.mask_id, num_confidences=2, **options)


def expected(model: FrozenDLLM, tensors: dict[str, torch.Tensor], *, is_shifted: bool) -> Prediction:
    rows = []
    mask = model.spec.mask_id
    for prompt in PROMPTS:
        logits_SV = toy_logits([*prompt, mask, mask, 20, mask, mask, mask], tensors)
        wanted = torch.tensor([0, 1, 3, 4, 5]) + len(prompt) - int(is_shifted)
        rows.append(logits_SV[wanted])
    logits_NV = torch.cat(rows)
    assert model.spec.num_tokens is not None
    logits_NV[:, model.spec.num_tokens :] = -torch.inf
    return reduce_logits(logits_NV, mask, Reduction(2, with_entropy=True))


@pytest.mark.parametrize("returns", ["logits", "hidden"])
@pytest.mark.parametrize("logit_shift", [False, True])
@pytest.mark.parametrize("rows_at_once", [1, 2, 100])
def test_predictions_are_those_of_a_plain_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returns: str, logit_shift: bool, rows_at_once: int
) -> None:
    tensors = write_toy(tmp_path, returns=returns)
    model = load_model(str(tmp_path), dtype="float64", options=LoadOptions(remote_code=True, logit_shift=logit_shift))
    monkeypatch.setattr(remote_code, "FORWARD_BYTES", rows_at_once * 4 * 12 * model.spec.vocabulary_size)
    got, want = predict(model, with_entropy=True), expected(model, tensors, is_shifted=logit_shift)
    assert torch.equal(got.token_ids_N, want.token_ids_N)
    torch.testing.assert_close(got.confidences_NK, want.confidences_NK, atol=1e-9, rtol=0)
    torch.testing.assert_close(got.log_odds_N, want.log_odds_N, atol=1e-9, rtol=0)
    torch.testing.assert_close(got.entropy_N, want.entropy_N, atol=1e-9, rtol=0)


def test_no_more_rows_are_computed_at_once_than_their_logits_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(tmp_path)
    model = load_model(str(tmp_path), options=REMOTE)
    assert isinstance(model, remote_code.RemoteCodeDLLM)
    sizes: list[int] = []
    model.model.head.register_forward_hook(lambda head, inputs, logits: sizes.append(len(logits)))
    monkeypatch.setattr(remote_code, "FORWARD_BYTES", 2 * 4 * 12 * model.spec.vocabulary_size)
    predict(model, token_temperature=1.0, token_uniforms_N=torch.linspace(0, 1, 15))
    assert sizes == [2, 1]


@pytest.mark.parametrize(
    ("said", "shape"),
    [
        ({}, None),
        ({"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32}, BackboneShape(16, 4, 32)),
        ({"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": "32"}, None),
        ({"hidden_size": 18, "num_attention_heads": 4, "intermediate_size": 32}, None),
    ],
)
def test_policies_over_hidden_states_learn_the_shape_of_the_blocks_from_the_config(
    tmp_path: Path, said: dict[str, object], shape: BackboneShape | None
) -> None:
    write_toy(tmp_path, returns="hidden")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    assert check_model(str(tmp_path), REMOTE).backbone == shape


def test_hidden_states_come_from_a_model_that_shows_them(tmp_path: Path) -> None:
    tensors = write_toy(tmp_path, returns="hidden")
    got = predict(load_model(str(tmp_path), options=REMOTE), with_hidden=True)
    assert got.hidden_ND is not None
    assert got.hidden_ND.shape == (15, tensors["head.weight"].shape[1])
    write_toy(tmp_path / "logits")
    with pytest.raises(ModelError, match="logits only"):
        predict(load_model(str(tmp_path / "logits"), options=REMOTE), with_hidden=True)


def test_the_engine_decodes_with_it(tmp_path: Path) -> None:
    write_toy(tmp_path)
    model, tokenizer = load_model(str(tmp_path), options=REMOTE), load_tokenizer(str(tmp_path), REMOTE)
    rows = [Sequence(f"x/{i}", prompt, [tokenizer.mask_id] * 8, 4, i) for i, prompt in enumerate(PROMPTS)]
    Engine(model, make_heuristic("threshold", 0.9), num_slots=2).decode(rows)
    assert {row.status for row in rows} == {SequenceStatus.CLEAN}


def test_the_spec_is_the_checkpoints_own(tmp_path: Path) -> None:
    write_toy(tmp_path)
    spec, tokenizer = check_model(str(tmp_path), REMOTE), load_tokenizer(str(tmp_path), REMOTE)
    assert (spec.mask_id, spec.eos_id, spec.pad_id, spec.num_positions) == (2, 1, 0, 512)
    assert spec.num_tokens == tokenizer.num_tokens == spec.vocabulary_size - 7
    assert load_model(str(tmp_path), options=REMOTE).spec == spec


@pytest.mark.parametrize(
    ("config", "tokenizer", "option", "outcome"),
    [
        (2, "<mask>", None, 2),
        (..., "<mask>", None, 2),
        (2, None, None, 2),
        (..., None, 2, 2),
        (2, "<mask>", 2, 2),
        (..., None, None, "neither config.json nor its tokenizer says mask_token_id; needed: model.mask_token_id=ID"),
        (5, "<mask>", None, "mask_token_id is 5 in config.json and 2 in its tokenizer"),
        (2, None, 4, "mask_token_id is 2 in config.json and 4 in model.mask_token_id"),
        ("two", None, None, "mask_token_id is 'two' in config.json; needed: an integer"),
        ([2], None, 2, "mask_token_id is [2] in config.json and 2 in model.mask_token_id"),
        (500, None, None, "self-check 'vocabulary' failed: its mask id 500"),
    ],
)
def test_all_who_know_the_mask_id_must_agree(
    tmp_path: Path, config: Any, tokenizer: str | None, option: int | None, outcome: int | str
) -> None:
    write_toy(tmp_path, mask_token_id=config)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token": tokenizer}))
    options = LoadOptions(remote_code=True, mask_token_id=option)
    if isinstance(outcome, int):
        assert check_model(str(tmp_path), options).mask_id == outcome
        return
    with pytest.raises(ModelError) as caught:
        check_model(str(tmp_path), options)
    assert outcome in str(caught.value)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "padding": ({"honours_mask": False}, "self-check 'padding' failed: padding moves confidences .* attention_mask"),
    "causal": ({"sees": "left"}, "self-check 'sight' failed"),
    "block-causal": ({"sees": "blocks"}, "self-check 'sight' failed"),
    "a known block-causal type": ({"model_type": "sdar"}, "config.json says model_type is 'sdar': .* block-causal"),
    "no head": ({"returns": "nothing"}, "neither logits nor last_hidden_state"),
    "code of another version": ({"sees": "nothing"}, "its own code fails: TypeError: this needs transformers 4.38"),
    "no code": ({"auto_map": ...}, "config.json says auto_map is None; needed for model.remote_code"),
    "code without a model": (
        {"auto_map": {"AutoConfig": "configuration_toy.ToyConfig"}},
        "needed for model.remote_code",
    ),
    "code of another repository": (
        {"auto_map": {"AutoModel": "someone/else--modeling_toy.ToyModel"}},
        "config.json takes its code from another repository, 'someone/else--modeling_toy.ToyModel'",
    ),
    "code that is not there": (
        {"auto_map": {"AutoConfig": "configuration_toy.ToyConfig", "AutoModel": "modeling_none.ToyModel"}},
        "its own code fails: OSError",
    ),
    "wrong vocabulary": (
        {"vocab_size": 99},
        r"model.safetensors holds '(embed|head).weight' as \[.*\]; its code and config need \[99, 16\]",
    ),
}


@pytest.mark.parametrize("problem", BAD)
def test_code_that_does_not_fit_is_one_line(tmp_path: Path, problem: str) -> None:
    config, pattern = BAD[problem]
    write_toy(tmp_path, **config)
    with pytest.raises(ModelError, match=pattern) as caught:
        load_model(str(tmp_path), options=REMOTE)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_the_code_lacks_are_refused(tmp_path: Path) -> None:
    tensors = write_toy(tmp_path)
    del tensors["mix.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="its weights lack 1 tensors that its code needs, the first: 'mix"):
        load_model(str(tmp_path), options=REMOTE)


def test_nothing_runs_without_the_option(tmp_path: Path) -> None:
    write_toy(tmp_path)
    (tmp_path / "modeling_toy.py").write_text("raise SystemExit('this code was run')\n")
    for use in (load_model, load_tokenizer, check_model):
        with pytest.raises(ModelError, match=r"model_type is 'toy_dllm'; .*model\.remote_code=true") as caught:
            use(str(tmp_path))
        assert str(tmp_path) in str(caught.value)


def test_settings_that_do_not_go_with_a_family_are_refused() -> None:
    for options, pattern in (
        (LoadOptions(logit_shift=True), "model.logit_shift is true"),
        (LoadOptions(mask_token_id=5), "model.mask_token_id is 5, config.json says mask_token_id is 2"),
        (LoadOptions(revision="main"), "model.revision is 'main', but model 'tiny' is a folder"),
    ):
        with pytest.raises(ModelError, match=pattern):
            check_model("tiny", options)
