"""The real harness on a task of local files, with the shipped model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import UserError
from evaluation.decoder import Decoder
from rollout_workers.grading.answers import last_answer
from rollout_workers.tasks import Split, make_task

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from evaluation.lm_eval_adapter import NAME, DllmUnmasking

TASK = """
task: tiny_arithmetic
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: {output_type}
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
{choices}
generation_kwargs: {{until: ["</answer>"], do_sample: false}}
filter_list:
  - name: answer
    filter:
      - function: regex
        regex_pattern: "<answer> (\\\\d+)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
NUM_PROBLEMS = 6


@pytest.fixture
def examples(tmp_path: Path) -> list[tuple[str, str]]:
    task = make_task("arithmetic")
    found = [task.example(Split.TEST, index) for index in range(NUM_PROBLEMS)]
    rows = [json.dumps({"prompt": example.prompt, "answer": example.answer}) for example in found]
    (tmp_path / "problems.jsonl").write_text("\n".join(rows) + "\n")
    text = TASK.format(file=tmp_path / "problems.jsonl", output_type="generate_until", choices="")
    (tmp_path / "tiny_arithmetic.yaml").write_text(text)
    return [(example.prompt, example.answer) for example in found]


def test_the_harness_scores_what_our_decoder_writes(
    tmp_path: Path, examples: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model = DllmUnmasking(model="tiny", sampler="threshold=0.9", block_length=16, batch_size="3")
    results = simple_evaluate(
        model=model, tasks=["tiny_arithmetic"], task_manager=TaskManager(include_path=str(tmp_path)), bootstrap_iters=0
    )
    ours = Decoder("tiny", sampler="threshold=0.9", block_length=16)([prompt for prompt, _ in examples])
    right = [last_answer(each.text) == answer for each, (_, answer) in zip(ours, examples, strict=True)]
    assert sum(right) / len(right) >= 0.5
    assert results["results"]["tiny_arithmetic"]["exact_match,answer"] == pytest.approx(sum(right) / len(right))
    assert model.num_passes == [answer.nfe for answer in ours]
    texts = [sample["resps"][0][0] for sample in results["samples"]["tiny_arithmetic"]]
    assert texts == [answer.text.split("</answer>")[0] for answer in ours]


def test_likelihoods_and_unknown_arguments_are_refused_in_one_line() -> None:
    model = DllmUnmasking(model="tiny")
    request = Instance("loglikelihood", {}, ("so", "plus"), 0, metadata=("lambada", 0, 1))
    for refuse in (model.loglikelihood, model.loglikelihood_rolling):
        with pytest.raises(UserError, match=r"task 'lambada' asks for likelihoods, .*allowed with dllm_unmasking"):
            refuse([request])
    with pytest.raises(UserError, match="unknown parameter 'kll' of heuristic 'klass'"):
        DllmUnmasking.create_from_arg_string("model=tiny,sampler=klass(tau=0.9,kll=0.01),block_length=16")
    with pytest.raises(UserError, match=r"--model_args has 'samplr' \(value 'x'\); allowed: model, policy, sampler"):
        DllmUnmasking(samplr="x")
    with pytest.raises(UserError, match=r"--model_args has block_length='x'; allowed: an integer"):
        DllmUnmasking(block_length="x")
    with pytest.raises(UserError, match="no chat template"):
        model.apply_chat_template([{"role": "user", "content": "so"}])


def test_the_device_of_the_model_arguments_counts_and_the_harness_s_default_only_where_it_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[dict[str, object]] = []
    monkeypatch.setattr(DllmUnmasking, "__init__", lambda self, **settings: made.append(settings))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    DllmUnmasking.create_from_arg_string("model=tiny,device=meta", {"device": "cuda:0", "batch_size": None})
    DllmUnmasking.create_from_arg_obj({"model": "tiny"}, {"device": "cuda:0", "batch_size": 4})
    DllmUnmasking.create_from_arg_string("model=tiny,sampler=klass(tau=0.9, kl=0.01),block_length=16")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    DllmUnmasking.create_from_arg_obj({"model": "tiny"}, {"device": "cuda:0"})
    assert made == [
        {"device": "meta", "model": "tiny"},
        {"device": "cpu", "batch_size": 4, "model": "tiny"},
        {"model": "tiny", "sampler": "klass(tau=0.9, kl=0.01)", "block_length": 16},
        {"device": "cuda:0", "model": "tiny"},
    ]


@pytest.mark.slow
def test_its_command_line(tmp_path: Path, examples: list[tuple[str, str]]) -> None:
    command = [sys.executable, "-m", "evaluation.lm_eval_adapter", "--model", NAME, "--tasks", "tiny_arithmetic"]
    options = ["--include_path", str(tmp_path), "--model_args", "model=tiny,sampler=low_confidence=4,block_length=16"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "exact_match" in done.stdout
