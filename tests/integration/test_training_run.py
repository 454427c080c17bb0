"""Whole runs on a real local Ray: reproducible, independent of the number of actors, resumable, and robust to a killed actor."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from cluster.errors import ExitCode
from evaluation.arms import LEARNED, temperature_of
from evaluation.records import ExampleRecord, read_records
from learner.main import resolve
from learner.run import run
from policy.weights import from_bytes

pytestmark = pytest.mark.ray

SMALL = (
    "learner.num_steps=4",
    "learner.prompts_per_step=8",
    "learner.group_size=4",
    "rollout.lease_groups=2",
    "checkpoint.every=2",
    "checkpoint.samples_every=2",
    "checkpoint.validation_examples=16",
    "evaluation.num_examples=16",
    "evaluation.lease_examples=16",
    "evaluation.policy_temperatures=[1.0, 0.5]",
    "evaluation.block_lengths=[48]",
    "evaluation.heuristics={threshold: [0.9]}",
    "policy.initial_logit=0.0",
)


def train(path: Path, *overrides: str, resume: bool = False, should_stop: object = lambda: False) -> int:
    assert callable(should_stop)
    return run(resolve(["tiny", *SMALL, f"run_dir={path}", *overrides]), resume=resume, should_stop=should_stop)


def outcome(path: Path) -> tuple[list[tuple[int, dict[str, float]]], bytes, list[ExampleRecord]]:
    """What a run decided: metric values and the evaluation's records (times aside), and final weights."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    newest = sorted((path / "checkpoints").iterdir())[-1]
    records = [
        dataclasses.replace(record, seconds=0.0, is_warm_up=False)
        for record in read_records(path / "evaluation" / "records.jsonl")
    ]
    return [(line["step"], line["values"]) for line in lines], (newest / "policy.safetensors").read_bytes(), records


@pytest.fixture(scope="module")
def undisturbed(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert train(path, "rollout.num_workers=2") == ExitCode.FINISHED
    return path


def test_run_writes_everything(undisturbed: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl", "samples.jsonl", "plots/learning.png", "evaluation/pareto.png",
                 "evaluation/summary.csv", "evaluation/detailed.csv", "evaluation/results.json",
                 "evaluation/manifest.json"):  # fmt: skip
        assert (undisturbed / name).stat().st_size > 0, name
    steps = [step for step, _ in outcome(undisturbed)[0]]
    assert steps == [0, 1, 2, 3, 4]


def test_policy_file_carries_the_temperature_it_was_evaluated_at(undisturbed: Path) -> None:
    data = (undisturbed / "policy.safetensors").read_bytes()
    temperature = from_bytes(data, where="policy.safetensors").config.policy_temperature
    records = outcome(undisturbed)[2]
    assert {temperature_of(record.arm) for record in records if record.sampler == LEARNED} == {temperature}
    best = json.loads((undisturbed / "evaluation" / "results.json").read_text())["policies"][""]
    trained, product = load((undisturbed / best / "policy.safetensors").read_bytes()), load(data)
    assert trained.keys() == product.keys()
    assert all(torch.equal(trained[name], product[name]) for name in trained)


def test_first_update_reproduces_behaviour_log_probs(undisturbed: Path) -> None:
    gaps = [values["first_ratio_gap"] for _, values in outcome(undisturbed)[0] if "first_ratio_gap" in values]
    assert gaps
    assert max(gaps) < 1e-4


def test_times_add_up_to_wall_clock(undisturbed: Path) -> None:
    lines = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        assert line["times"]["waiting"] > -0.05
        assert line["times"]["forward"] > 0


def test_same_result_with_one_actor(undisturbed: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "run", "rollout.num_workers=1") == ExitCode.FINISHED
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def test_stop_and_resume_gives_the_same_result(undisturbed: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    calls = iter(range(1000))
    assert train(path, should_stop=lambda: next(calls) >= 9) == ExitCode.RESUMABLE
    assert 0 < len((path / "metrics.jsonl").read_text().splitlines()) < 5
    assert train(path, resume=True) == ExitCode.FINISHED
    assert outcome(path) == outcome(undisturbed)


def test_killed_actor_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    killed: list[int] = []

    def kill_once() -> bool:
        """Called after each lease: kills one rollout actor's process in the second step."""
        lines = path / "metrics.jsonl"
        if not killed and lines.exists() and len(lines.read_text().splitlines()) >= 2:
            listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
            workers = [int(line.split()[0]) for line in listed.splitlines() if "ray::RolloutWorker" in line]
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])
        return False

    assert train(path, "rollout.num_workers=2", should_stop=kill_once) == ExitCode.FINISHED
    assert killed
    assert outcome(path) == outcome(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_a_resumable_exit_code(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-m", "learner.main", "tiny", *SMALL, f"run_dir={path}", "learner.num_steps=1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and process.poll() is None:
            if (path / "metrics.jsonl").exists() and len((path / "metrics.jsonl").read_text().splitlines()) >= 2:
                break
            time.sleep(0.2)
        process.send_signal(number)
        output, _ = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == ExitCode.RESUMABLE, output
    assert "--resume" in output
    assert any((path / "checkpoints").iterdir())
