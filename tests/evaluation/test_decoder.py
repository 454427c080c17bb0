from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import UserError
from evaluation import decoder as decoder_module
from evaluation import generate, samplers
from evaluation.decoder import Canvas, Decoder
from policy.config import BackboneShape, PolicyConfig
from policy.factory import HEURISTICS, make_network
from policy.weights import to_bytes
from rollout_workers.models.options import LoadOptions
from rollout_workers.resources import ModelResources
from rollout_workers.tasks import Split, make_task
from tests.fakes.policies import SMALL, lively_policy

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = [make_task("arithmetic").example(Split.TEST, index).prompt for index in range(3)]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder("tiny", sampler="threshold=0.5", block_length=16, dtype="float64")


def test_prompts_decode_as_they_do_alone_and_are_watched(decoder: Decoder) -> None:
    seen: list[Canvas] = []
    together = decoder(PROMPTS, on_pass=seen.append)
    for number, answer in enumerate(together):
        alone = decoder([PROMPTS[number]])[0]
        assert (alone.text, alone.nfe, alone.order) == (answer.text, answer.nfe, answer.order)
        mine = [canvas for canvas in seen if canvas.number == number]
        assert [canvas.nfe for canvas in mine] == list(range(1, answer.nfe + 1))
        assert tuple(decoder.tokenizer.pieces(mine[-1].tokens_L.tolist())) == answer.pieces
        np.testing.assert_array_equal(mine[-1].confidences_L, np.array(answer.confidences, np.float32))
        assert min(answer.confidences) > 0
        assert "<answer>" in answer.text
        assert answer.status == "clean"
        assert answer.seconds > 0


def test_watching_takes_no_time_of_the_answer(decoder: Decoder) -> None:
    started = time.perf_counter()
    answer = decoder(PROMPTS[:1], on_pass=lambda canvas: time.sleep(0.2))[0]
    assert answer.seconds <= time.perf_counter() - started - 0.2 * (answer.nfe - 1)


def test_the_answer_of_the_default_prompt_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    task = make_task("arithmetic")
    assert answer["prompt"] == generate.default_prompts()[0]
    assert task.grade(task.example(Split.TEST, 0), answer["text"]).kind == "correct"
    assert answer["nfe"] == max(answer["order"]) < 48


def test_without_a_terminal_the_text_and_its_cost_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([PROMPTS[1], "--sampler", "left_to_right=24", "--block-length", "24"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("2 passes, ")


def test_a_canvas_in_colours(decoder: Decoder) -> None:
    tokenizer = decoder.tokenizer
    tokens = np.array([*tokenizer.encode_text("so plus"), tokenizer.mask_id, tokenizer.eos_id])
    text = generate.canvas_text(Canvas(0, 3, tokens, np.array([1.0, 0.5, 0.0, 0.9], np.float32)), tokenizer)
    assert text.plain == "  3  so plus ░ · "
    assert [str(span.style) for span in text.spans] == ["green3", "dark_orange", "grey50", "grey50"]


def test_a_trained_policy_decodes(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    path.write_bytes(to_bytes(lively_policy(seed=1, num_confidences=2).network))
    first, again = (Decoder(policy=path, seed=3)(PROMPTS[:2]) for _ in range(2))
    other = Decoder(policy=path, seed=4)(PROMPTS[:2])
    assert [each.order for each in first] == [each.order for each in again]
    assert [each.order for each in first] != [each.order for each in other]


def test_kept_keys_and_values_answer_in_as_many_passes(decoder: Decoder) -> None:
    settings = dict(sampler="low_confidence=2", block_length=16)
    kept, fresh = Decoder(**settings, cache="dual"), Decoder(**settings, cache="dual", cache_refresh=1)
    answers = Decoder(**settings)(PROMPTS)
    assert [each.text for each in fresh(PROMPTS)] == [each.text for each in answers]
    assert [each.nfe for each in kept(PROMPTS)] == [each.nfe for each in answers]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cache": "dual", "sampler": "wino"}, "cache is 'dual'; allowed: 'none' with a sampler that"),
        ({"cache": "prefix", "sampler": "info_gain"}, "cache is 'prefix'; allowed: 'none' with a sampler that"),
        ({"cache": "dual", "options": LoadOptions(compile=True)}, "allowed: 'none' where model 'tiny' is compiled"),
        ({"policy": "nowhere.safetensors"}, "'nowhere.safetensors' cannot be read"),
    ],
)  # fmt: skip
def test_what_needs_no_weights_is_refused_before_they_are_loaded(
    settings: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(decoder_module, "load_model")
    with pytest.raises(UserError, match=says):
        Decoder(**settings)


def bad_policy(folder: Path, **settings: Any) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "policy.safetensors"
    path.write_bytes(to_bytes(make_network(PolicyConfig(**(SMALL | settings)), seed=0)))
    return str(path)


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hidden = dict(network="dit_hidden", backbone=BackboneShape(64, 4, 128))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"abc")
    for arguments, quoted in [
        (["--sampler", "treshold=0.9"], "did you mean 'threshold'?"),
        (["--sampler", "threshold=1.5"], "'tau' of heuristic 'threshold' is 1.5; allowed: a number in [0, 1]"),
        (["--sampler", "threshold", "--policy", "p"], "policy is 'p' and sampler is 'threshold'; allowed: one of the two"),
        (["--policy", str(tmp_path / "none")], "cannot be read (No such file or directory); allowed: a policy.safetensors"),
        (["--policy", str(torn)], "torn.safetensors': not a readable safetensors file"),
        (["--policy", bad_policy(tmp_path / "", num_confidences=4000)], "reads 4000 confidences per position; allowed: fewer than"),
        (["--block-length", "7"], "'block_length' is 7; allowed: a divisor of the canvas length 48"),
        (["--canvas-length", "0"], "--canvas-length is 0; allowed: an integer >= 1"),
        (["--model", "nowhere"], "nowhere"),
        (["--model", "some/model"], "no prompt for model 'some/model'"),
        (["how old is Zebulon ?"], "prompt word 'old' is not in the model's vocabulary"),
        (["--sampler", "adablock"], "delimiter '\\n' is 0 tokens of model 'tiny'; allowed: a single token"),
        (["--sampler", "apd"], "parameter 'model' of heuristic 'apd' is ''; allowed: the folder or hub id of a causal model"),
        (["--sampler", "smc", "--eos", "stop"], "eos is 'stop'; allowed: 'full'"),
        (["--sampler", "wino", "--cache", "dual"], "cache is 'dual'; allowed: 'none' with a sampler that"),
        (["--cache", "dual", "--cache-refresh", "0"], "--cache-refresh is 0; allowed: an integer >= 1"),
        (["--policy", bad_policy(tmp_path / "canvas", scope="canvas"), "--cache", "dual"], "whose scope is 'canvas'"),
    ]:  # fmt: skip
        prompts = [] if "--model" in arguments or arguments[0].startswith("how") else [PROMPTS[0]]
        assert generate.main([*prompts, *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert quoted in error
    path = bad_policy(tmp_path, **hidden)
    assert generate.main([PROMPTS[0], "--policy", path]) == 2
    assert "'policy.backbone.hidden_size' is 64; allowed: the model's, " in capsys.readouterr().err


def test_samplers_that_ask_for_facts_of_the_model_run_on_the_shipped_one() -> None:
    for sampler in ("adablock(delimiter=., tau=0.6)", "pc=4", "wino", "threshold(eos=last)", "threshold(eos=never)"):
        answer = Decoder("tiny", sampler=sampler, block_length=16)(PROMPTS[:1])[0]
        assert answer.status == "clean"
        assert ("never" in sampler) == (answer.text.count("</answer>") != 1 or "<eos>" not in answer.pieces)


def test_background_frequencies(decoder: Decoder, tmp_path: Path) -> None:
    resources = ModelResources(decoder._model.spec, decoder.tokenizer, name="tiny")
    shares = resources.token_frequencies("")
    ids = decoder.tokenizer.vocabulary()
    assert shares[ids["<eos>"]] > shares[ids["="]] > shares[ids["Ann"]] > 0
    file = tmp_path / "counts.json"
    file.write_text(json.dumps({"counts": {"so": 3, "=": 1}}))
    assert resources.token_frequencies(str(file))[[ids["so"], ids["="], ids["Ann"]]].tolist() == [0.75, 0.25, 0.25]
    for text, message in (("{}", "cannot be read"), ('{"counts": {"zzz": 1}}', "token 'zzz' is not in the model")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            ModelResources(decoder._model.spec, decoder.tokenizer).token_frequencies(str(tmp_path / "bad.json"))
    with pytest.raises(UserError, match=r"background 'nowhere.json' is no file; allowed"):
        Decoder("tiny", sampler="pc(background=nowhere.json)")


def test_the_list_of_samplers_is_the_documented_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert samplers.main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in HEURISTICS)
    assert samplers.main(["--markdown"]) == 0
    table = capsys.readouterr().out
    assert table.count("\n") == len(HEURISTICS) + 2
    assert table in (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
