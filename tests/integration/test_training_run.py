"""Whole runs on a real local Ray: reproducible, independent of the number of actors, resumable, and robust to a killed actor."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from cluster.errors import ExitCode
from cluster.mirror import RunMirror
from cluster.run_dir import RunDir
from evaluation.arms import temperature_of
from evaluation.records import ExampleRecord, read_records
from learner.archive import archive_file, read_trajectories
from learner.main import resolve
from learner.run import run
from policy.learned import make_distribution, score_steps
from policy.weights import from_bytes
from tests.fakes.processes import living_actors
from tests.fakes.records import timeless
from tests.fakes.s3_server import BUCKET, S3Server

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

ONE_ACTOR = "rollout.num_workers=1"


def train(path: Path, *overrides: str, resume: bool | None = False, should_stop: object = lambda: False) -> int:
    assert callable(should_stop)
    return run(resolve(["tiny", *SMALL, f"run_dir={path}", *overrides]), resume=resume, should_stop=should_stop)


def outcome(path: Path) -> tuple[list[tuple[int, dict[str, float]]], bytes, list[ExampleRecord]]:
    """What a run decided: metric values and the evaluation's records (times aside), and final weights."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    newest = sorted((path / "checkpoints").iterdir())[-1]
    records = timeless(read_records(path / "evaluation" / "records.jsonl"))
    return [(line["step"], line["values"]) for line in lines], (newest / "policy.safetensors").read_bytes(), records


@pytest.fixture(scope="module")
def undisturbed(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert train(path, "rollout.num_workers=2") == ExitCode.FINISHED
    return path


def test_run_writes_everything(undisturbed: Path) -> None:
    for name in ("config.yaml", "metrics.jsonl", "samples.jsonl", "plots/learning.png", "report.html",
                 "evaluation/pareto.png", "evaluation/summary.csv", "evaluation/detailed.csv", "evaluation/results.json",
                 "evaluation/manifest.json"):  # fmt: skip
        assert (undisturbed / name).stat().st_size > 0, name
    steps = [step for step, _ in outcome(undisturbed)[0]]
    assert steps == [0, 1, 2, 3, 4]


def test_policy_file_carries_the_temperature_it_was_evaluated_at(undisturbed: Path) -> None:
    data = (undisturbed / "policy.safetensors").read_bytes()
    temperature = from_bytes(data, where="policy.safetensors").config.policy_temperature
    records = outcome(undisturbed)[2]
    assert {temperature_of(record.arm) for record in records if record.arm.is_learned} == {temperature}
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


KINDS = ["RolloutWorker", "GraderActor", "LearnerRank", "_WeightStoreActor"]


def kill_all(left: list[str]) -> bool:
    """Kills an actor of each kind at once, as soon as there is one of each; never asks the run to stop."""
    pids = [living_actors(kind) for kind in left]
    if left and all(pids):
        left.clear()
        for mine in pids:
            os.kill(mine[0], signal.SIGKILL)
    return False


def kill_one(left: list[str]) -> bool:
    """Kills an actor of the next kind, once there was one of each; never asks the run to stop."""
    pids = {kind: living_actors(kind) for kind in left}
    if left and pids[left[0]] and (left != KINDS or all(pids.values())):
        os.kill(pids[left.pop(0)][0], signal.SIGKILL)
    return False


def num_lines(path: Path) -> int:
    metrics = path / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


@pytest.mark.slow
def test_a_run_on_disk_that_stops_and_resumes_gives_the_same_result(undisturbed: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert train(path, ONE_ACTOR, should_stop=lambda: num_lines(path) >= 3) == ExitCode.RESUMABLE
    assert num_lines(path) == 3
    assert train(path, ONE_ACTOR, resume=True) == ExitCode.FINISHED
    assert outcome(path) == outcome(undisturbed)


@pytest.mark.slow
def test_actors_that_are_killed_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    """In the second step one process each of rollout actors, graders, learner ranks and the weight store is killed."""
    path, left = tmp_path / "run", list(KINDS)
    arguments = ("rollout.num_workers=2", "rollout.num_graders=1")
    killer = lambda: num_lines(path) >= 2 and kill_one(left)  # noqa: E731
    assert train(path, *arguments, should_stop=killer) == ExitCode.FINISHED
    assert not left
    assert outcome(path) == outcome(undisturbed)


def test_a_run_in_s3_that_stops_resumes_and_loses_its_processes_gives_the_same_result(
    undisturbed: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    """One rollout actor instead of two; stopped after an update, and after the resume an actor of each kind is killed."""
    settings = (
        ONE_ACTOR,
        "rollout.num_graders=1",
        f"run_dir=s3://{BUCKET}/runs/whole",
        f"storage.endpoint={s3_server.endpoint}",
        "storage.addressing_style=path",
        f"storage.scratch={tmp_path}",
        "trajectories.archive=true",
    )
    stop = lambda: any(num_lines(path) >= 2 for path in tmp_path.glob("run-*"))  # noqa: E731
    assert train(tmp_path, *settings, resume=None, should_stop=stop) == ExitCode.RESUMABLE
    left = list(KINDS)
    assert train(tmp_path, *settings, resume=None, should_stop=lambda: kill_all(left)) == ExitCode.FINISHED
    assert not left
    run = RunDir(tmp_path / "copy")
    storage = s3_server.storage("runs/whole")
    RunMirror(run, storage).pull()
    assert outcome(run.path) == outcome(undisturbed)
    for name in ("run.log", "samples.jsonl", "policy.safetensors", "report.html", "evaluation/results.json"):
        assert (run.path / name).stat().st_size > 0, name
    # What was archived scores under the weights that decided as it was recorded.
    network = from_bytes(run.load("checkpoints/step-000002")["policy.safetensors"], where="step 2")
    archive = archive_file(tmp_path, 3)
    archive.write_bytes(storage.read(f"trajectories/{archive.name}"))
    batch = read_trajectories(archive)
    assert {row.weight_version for row in batch.rows} == {2}
    with torch.no_grad():
        scored = score_steps(network, make_distribution(network.config), batch.steps).log_prob_N
    assert torch.allclose(scored, torch.from_numpy(batch.steps.log_prob_N), atol=1e-4)
