"""The user's mistakes: one line that quotes the value and says what is allowed, exit code 2, nothing overwritten."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config import to_dict
from cluster.errors import ExitCode
from cluster.lease import LEASE, RunLease
from cluster.run_dir import RunDir
from cluster.storage import LocalStorage
from learner.checkpoint import OPTIMIZER_FILE, POLICY_FILE, STATE_FILE, Progress, progress_file
from learner.config import RESULT_NEUTRAL
from learner.main import main, resolve
from policy.factory import make_network
from policy.weights import to_bytes
from rollout_workers.models.tiny import CHECKPOINT_DIR


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error of a command that must be refused."""
    assert main(list(arguments)) == ExitCode.USER_ERROR
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def snapshot(path: Path) -> dict[str, bytes]:
    """All files but the lease, which says who drives the run or did last."""
    files = [file for file in path.rglob("*") if file.is_file() and file.name != LEASE]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("override", "quoted", "allowed"),
    [
        ("learner.leraning_rate=0.1", "learner.leraning_rate", "learner.learning_rate"),
        ("lerner.num_steps=1", "lerner", "learner"),
        ("learner.num_steps=many", "'many'", "integer"),
        ("learner.num_steps=-1", "-1", ">= 0"),
        ("learner.group_size=1", "1", ">= 2"),
        ("learner.clip_low=1.5", "1.5", "<= 1"),
        ("decode.block_length=7", "7", "[1, 2, 3, 4, 6, 8, 12, 16, 24, 48]"),
        ("decode.block_length=96", "96", "divisor"),
        ("evaluation.block_lengths=[5]", "5", "divisor"),
        ("evaluation.heuristics={treshold: [0.5]}", "treshold", "threshold"),
        ("evaluation.heuristics={threshold: [1.5]}", "1.5", "[0, 1]"),
        ("task=chess", "chess", "arithmetic"),
        ("policy.hidden_size=63", "63", "multiple"),
        ("rollout.lease_groups=0", "0", ">= 1"),
        ("policy.policy_temperature=0", "0", "> 0"),
    ],
)
def test_bad_setting(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, override: str, quoted: str, allowed: str
) -> None:
    message = refusal(capsys, override, f"run_dir={tmp_path / 'run'}")
    assert quoted in message
    assert allowed in message
    assert not (tmp_path / "run").exists()


def test_unknown_preset(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "tinny")
    assert "'tinny'" in message
    assert "tiny" in message


def test_missing_model_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refusal(capsys, f"model.name={tmp_path / 'nope'}", f"run_dir={tmp_path / 'run'}")
    assert "nope" in message
    assert "'tiny'" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["truncated weights", "no tokenizer", "bad config"])
def test_corrupt_model_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(CHECKPOINT_DIR, folder)
    if damage == "truncated weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "config.json").write_text("{")
    message = refusal(capsys, f"model.name={folder}", f"run_dir={tmp_path / 'run'}")
    assert str(folder) in message
    assert not (tmp_path / "run").exists()


def test_unwritable_run_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    message = refusal(capsys, f"run_dir={tmp_path / 'file' / 'run'}")
    assert str(tmp_path / "file") in message
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def held(tmp_path: Path) -> RunDir:
    """A run directory with one checkpoint of the `tiny` preset."""
    path = tmp_path / "run"
    run_dir = RunDir.open(path, to_dict(resolve(["tiny", f"run_dir={path}"])), resume=False, ignore=RESULT_NEUTRAL)
    network = make_network(resolve(["tiny"]).policy, seed=0)
    files = {POLICY_FILE: to_bytes(network), OPTIMIZER_FILE: b"", STATE_FILE: progress_file(Progress())}
    run_dir.publish("checkpoints/step-000000", files)
    return run_dir


def test_run_directory_of_another_config(capsys: pytest.CaptureFixture[str], held: RunDir) -> None:
    before = snapshot(held.path)
    message = refusal(capsys, f"run_dir={held.path}", "seed=5", "--resume")
    assert "'seed'" in message
    assert "5" in message
    assert snapshot(held.path) == before


def test_run_directory_in_use_without_resume(capsys: pytest.CaptureFixture[str], held: RunDir) -> None:
    before = snapshot(held.path)
    assert "--resume" in refusal(capsys, f"run_dir={held.path}", "--resume=never")
    assert snapshot(held.path) == before


def test_resume_without_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no run to resume" in refusal(capsys, f"run_dir={tmp_path / 'new'}", "--resume")
    assert not (tmp_path / "new").exists()


def test_only_torn_checkpoints(capsys: pytest.CaptureFixture[str], held: RunDir) -> None:
    state = held.checkpoints_path / "step-000000" / STATE_FILE
    state.write_bytes(state.read_bytes()[:-4])
    before = snapshot(held.path)
    message = refusal(capsys, f"run_dir={held.path}", "--resume")
    assert "step-000000" in message
    assert "torn" in message
    assert snapshot(held.path) == before


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_run_that_another_process_drives(
    capsys: pytest.CaptureFixture[str], held: RunDir, resume: tuple[str, ...]
) -> None:
    before = snapshot(held.path)
    with RunLease.acquire(LocalStorage(held.path), where=str(held.path), expiry_s=60.0):
        message = refusal(capsys, f"run_dir={held.path}", *resume)
    assert f"'{held.path}' is in use by" in message
    assert f"process {os.getpid()}" in message
    assert snapshot(held.path) == before


@pytest.mark.parametrize("damage", ["another architecture", "no policy", "another schema"])
def test_a_checkpoint_that_the_run_cannot_go_on_from(
    capsys: pytest.CaptureFixture[str], held: RunDir, damage: str
) -> None:
    name = "checkpoints/step-000000"
    files = held.load(name)
    if damage == "another architecture":
        files[POLICY_FILE] = to_bytes(make_network(replace(resolve(["tiny"]).policy, hidden_size=32), seed=0))
    elif damage == "no policy":
        del files[POLICY_FILE]
    else:
        files[STATE_FILE] = files[STATE_FILE].replace(b'"schema": 2', b'"schema": 1')
    held.publish(name, files)
    before = snapshot(held.path)
    message = refusal(capsys, f"run_dir={held.path}")
    assert f"checkpoint '{held.path}/{name}'" in message
    quoted = {
        "another architecture": "'policy.hidden_size': 32 -> ",
        "no policy": POLICY_FILE,
        "another schema": "schema 1",
    }
    assert quoted[damage] in message
    assert snapshot(held.path) == before


@pytest.mark.parametrize("where", ["s3:/typo", "gs://bucket/run", "s3://Bad_Bucket/run"])
def test_a_run_directory_of_no_known_kind(capsys: pytest.CaptureFixture[str], where: str) -> None:
    message = refusal(capsys, f"run_dir={where}", "--dry-run")
    assert f"config key 'run_dir' is '{where}'" in message
    assert "s3://BUCKET/PREFIX" in message
