"""The whole loop with a LLaDA checkpoint at the real vocabulary size, on a mixture of two data sets from local files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import ExitCode
from learner.main import main
from tests.fakes.real_size import write_data, write_llada_of_real_vocabulary

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_gsm8k_and_kodcode_with_llada(ray_local: None, tmp_path: Path) -> None:
    write_llada_of_real_vocabulary(tmp_path / "llada")
    files = write_data(tmp_path)
    run = tmp_path / "run"
    settings = [
        f"run_dir={run}", f"model.name={tmp_path / 'llada'}", "task={gsm8k: 1, kodcode: 1}",
        f"task_settings.gsm8k.train={files['gsm8k']}", f"task_settings.gsm8k.test={files['gsm8k']}",
        f"task_settings.kodcode.train={files['kodcode']}", "decode.canvas_length=16", "decode.block_length=8",
        "learner.num_steps=2", "learner.prompts_per_step=4", "learner.group_size=2", "rollout.num_workers=1",
        "reward.terms={additive: 1, correctness: 0}",
        "checkpoint.every=2", "checkpoint.samples_every=1", "checkpoint.validation_examples=4",
        "evaluation.num_examples=2", "evaluation.heuristics={threshold: [0.0]}", "evaluation.block_lengths=[16]",
        "evaluation.policy_temperatures=[]", "policy.hidden_size=16", "policy.feed_forward_size=16", "policy.initial_logit=0.0",
    ]  # fmt: skip
    # The same file as training and test data: its problems are the test set's, and nothing would be left to train on.
    assert main(["tiny", *settings]) == ExitCode.USER_ERROR
    settings = [each for each in settings if not each.startswith("task_settings.gsm8k.test")]
    assert not run.exists()
    settings.append(f"task_settings.gsm8k.test={tmp_path / 'gsm8k_test.jsonl'}")
    assert main(["tiny", *settings]) == ExitCode.FINISHED
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    values = lines[1]["values"]
    assert {"reward_gsm8k", "accuracy_kodcode"} <= values.keys()
    assert values["grader_error_share"] == 0
    assert values["first_ratio_gap"] < 1e-4
    records = [json.loads(line) for line in (run / "evaluation" / "records.jsonl").read_text().splitlines()]
    assert {record["example_id"].split("/")[0] for record in records} == {"gsm8k", "kodcode"}
    assert len({record["prompt_hash"] for record in records}) == len({record["example_id"] for record in records}) == 3
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert all(sample["prompt_hash"] for sample in samples)
