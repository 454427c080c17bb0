"""Compiled blocks: the decisions of the one-row oracle on the model as it is, and no compilation while rows are decoded."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._inductor import config as inductor

from cluster.errors import UserError
from learner.main import resolve
from rollout_workers.models import compiled as module
from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.base import ModelError
from rollout_workers.models.compiled import compiled
from rollout_workers.models.load import load_model
from rollout_workers.models.options import LoadOptions
from tests.fakes.models import MASK_ID, random_llama
from tests.rollout_workers.test_engine_oracle import SAMPLERS, SLOTS, check_mixes, random_row


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are traced and guarded as ever, and then run as they are: seconds instead of a minute."""
    compile_ = torch.compile
    monkeypatch.setattr(module.torch, "compile", lambda f, **options: compile_(f, backend="eager", **options))


def check_decisions(model: BackboneDLLM, twin: BackboneDLLM, *, num_rows: int) -> None:
    rng = random.Random(0)
    for mixed in (SAMPLERS[0], SAMPLERS[8], *SAMPLERS[-6:-3]):
        rows = [random_row(rng, length=12, vocabulary_size=24) for _ in range(num_rows)]
        # Without a prompt all masked positions look the same, and rounding says which is the likeliest.
        rows = [replace(row, prompt=(5, 7, *row.prompt)) for row in rows]
        expected = check_mixes(model, [(mixed, rows, 0.0, "full")], slots=SLOTS, seed=1)
        with torch.compiler.set_stance("fail_on_recompile"):
            assert check_mixes(twin, [(mixed, rows, 0.0, "full")], slots=SLOTS, seed=1) == expected
            many = {name: [each] * 3 for name, each in inputs(num_padded=2).items()}
            got = twin.predict(**{name: torch.cat(each) for name, each in many.items()})
        expected_NK = model.predict(**inputs(num_padded=2)).confidences_NK.repeat(3, 1)
        # The blocks' norms are float32 whatever the dtype.
        torch.testing.assert_close(got.confidences_NK, expected_NK, atol=1e-5, rtol=0)


def inputs(*, num_padded: int) -> dict[str, torch.Tensor]:
    canvas_BL = torch.full((1, 12), MASK_ID)
    return {
        "prompt_BP": torch.arange(3, 12).unsqueeze(0),
        "prompt_length_B": torch.tensor([9 - num_padded]),
        "canvas_BL": canvas_BL,
        "wanted_BL": canvas_BL == MASK_ID,
    }


@pytest.mark.usefixtures("traced_only")
def test_rows_of_any_number_and_length_are_decided_as_the_oracle_does_without_compiling_again() -> None:
    model = random_llama(seed=1, num_layers=3)
    before = dict(model.model.model.named_modules())
    twin = compiled(model)
    check_decisions(model, twin, num_rows=6)
    assert dict(model.model.model.named_modules()) == before
    assert [parameter.data_ptr() for parameter in twin.model.parameters()] == [
        parameter.data_ptr() for parameter in model.model.parameters()
    ]


@pytest.mark.usefixtures("traced_only")
def test_one_process_may_host_many_compiled_models() -> None:
    for seed in range(4):
        model = random_llama(seed=seed, num_layers=3)
        twin = compiled(model)
        with torch.compiler.set_stance("fail_on_recompile"):
            got = twin.predict(**inputs(num_padded=1)).confidences_NK
        torch.testing.assert_close(got, model.predict(**inputs(num_padded=1)).confidences_NK, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_what_the_compiler_makes_of_it_decides_the_same() -> None:
    model = random_llama(seed=1, num_layers=3)
    check_decisions(model, compiled(model), num_rows=12)
    tiny = load_model("tiny", options=LoadOptions(compile=True))
    wide = {
        name: each.repeat(5, 1) if each.dim() > 1 else each.repeat(5) for name, each in inputs(num_padded=0).items()
    }
    torch.testing.assert_close(
        tiny.predict(**wide).confidences_NK, load_model("tiny").predict(**wide).confidences_NK, atol=1e-4, rtol=0
    )


def test_without_a_compiler_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inductor.cpp, "cxx", ("/no/such/compiler",))
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder, inductor.patch(force_disable_caches=True):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", folder)
        with pytest.raises(
            ModelError, match=r"model 'fake' cannot be compiled on cpu \(InvalidCxx.*model\.compile=false"
        ):
            compiled(random_llama(seed=0))


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'fake' has 1 blocks; allowed: model\.compile=false"):
        compiled(random_llama(seed=0, num_layers=1))
    with pytest.raises(UserError, match=r"'model\.compile' is true; allowed: false with model\.remote_code"):
        resolve(["model.compile=true", "model.remote_code=true", "model.name=own/model"])
    with pytest.raises(UserError, match=r"'decode\.cache' is 'prefix'; allowed: 'none' where model 'tiny' is compiled"):
        resolve(["model.compile=true", "decode.cache=prefix"])
