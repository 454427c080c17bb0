from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from policy.config import PolicyConfig
from policy.convert import main
from policy.factory import make_network
from policy.scope import Scope
from policy.weights import from_bytes, to_bytes
from tests.policy.test_reference import RAW, checkpoint

SMALL = replace(RAW, hidden_size=16, feed_forward_size=16, time_embed_size=8)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A checkpoint folder as the release saves it."""
    folder = tmp_path / "checkpoint-100"
    folder.mkdir()
    save_file(checkpoint(SMALL), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


def test_both_directions_on_files(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, back = tmp_path / "runs" / "policy.safetensors", tmp_path / "back"
    assert main(["from-reference", str(released), str(policy)]) == 0
    assert from_bytes(policy.read_bytes(), where="here").config == SMALL
    assert main(["to-reference", str(policy), str(back)]) == 0
    assert json.loads((back / "config.json").read_text()) == {"model_type": "policy"}
    before, after = load_file(released / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(value.view(torch.int32), after[name].view(torch.int32)) for name, value in before.items())
    assert main(["to-reference", str(policy), str(tmp_path / "one.safetensors")]) == 0
    assert (tmp_path / "one.safetensors").read_bytes() == (back / "model.safetensors").read_bytes()
    printed = capsys.readouterr()
    assert "parameters, 2 heads, 1 confidences" in printed.out
    assert printed.err == ""
    assert sorted(path.name for path in back.iterdir()) == ["config.json", "model.safetensors"]


def test_flags_say_what_shapes_cannot(released: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.safetensors"
    flags = [
        "--time-embedding",
        "sinusoidal",
        "--scope",
        "masked",
        "--distribution",
        "dpls",
        "--policy-temperature",
        "0.5",
    ]
    assert main(["from-reference", str(released / "model.safetensors"), str(policy), *flags, "--num-heads", "2"]) == 0
    assert from_bytes(policy.read_bytes(), where="here").config == replace(
        SMALL, time_embedding="sinusoidal", scope=Scope.MASKED, distribution="dpls", policy_temperature=0.5
    )


def test_mistakes_are_one_line_and_exit_code_2(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, text, own = tmp_path / "out.safetensors", tmp_path / "text", tmp_path / "own.safetensors"
    text.write_text("no tensors")
    own.write_bytes(
        to_bytes(make_network(PolicyConfig(hidden_size=16, feed_forward_size=16, time_embed_size=8), seed=0))
    )
    for arguments, message in (
        (["from-reference", str(released), str(target), "--num-heads", "4"], "inv_freq' has shape [4]; expected [2]"),
        (["from-reference", str(text), str(target)], "text: not a readable safetensors file"),
        (["from-reference", str(tmp_path / "nowhere"), str(target)], "No such file"),
        (["to-reference", str(released / "model.safetensors"), str(target)], "format is 'pt'; allowed"),
        (["to-reference", str(own), str(target)], "'confidence_features' is 'raw_and_log_odds'; allowed"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    assert not target.exists()


@pytest.mark.parametrize("flag", [["--num-heads", "0"], ["--policy-temperature", "0"], ["--scope", "all"]])
def test_bad_flags_are_refused(released: Path, flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["from-reference", str(released), "out.safetensors", *flag])
    assert caught.value.code == 2
    assert flag[0] in capsys.readouterr().err
