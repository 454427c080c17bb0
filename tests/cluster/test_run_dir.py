from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from cluster.run_dir import MANIFEST, RunDir, TornArtefact

CONFIG: dict[str, Any] = {"learner": {"learning_rate": 0.1, "layers": (1, 2)}, "workers": {"count": 2}}
FILES = {"policy.safetensors": b"weights", "state/counters.json": b"{}"}


class Crash(BaseException):
    pass


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.open(tmp_path / "runs" / "one", CONFIG, resume=False)


def step(number: int) -> str:
    return f"checkpoints/step-{number:06d}"


def test_a_run_is_opened_and_resumed_with_the_same_config(run: RunDir) -> None:
    assert run.config_path.read_text().startswith("learner:")
    RunDir.open(run.path, CONFIG, resume=False)
    run.publish(step(1), FILES)
    again = RunDir.open(run.path, CONFIG, resume=True)
    assert again.load(step(1)) == FILES


def test_another_config_is_refused_and_nothing_changes(run: RunDir) -> None:
    run.publish(step(1), FILES)
    before = snapshot(run.path)
    other = {**CONFIG, "learner": {**CONFIG["learner"], "learning_rate": 0.2}}
    for resume in (False, True):
        with pytest.raises(UserError, match=r"'learner\.learning_rate': 0\.1 -> 0\.2 .*nothing was changed") as caught:
            RunDir.open(run.path, other, resume=resume)
        assert "another run_dir" in str(caught.value)
    assert snapshot(run.path) == before


def test_keys_that_do_not_decide_results_may_differ(run: RunDir) -> None:
    run.publish(step(1), FILES)
    before = snapshot(run.path)
    RunDir.open(run.path, {**CONFIG, "workers": {"count": 9}}, resume=True, ignore=["workers.count", "not.there"])
    RunDir.open(run.path, {"learner": CONFIG["learner"]}, resume=True, ignore=["workers"])
    assert snapshot(run.path) == before


@pytest.mark.parametrize("has", ["metrics", "checkpoint"])
def test_a_run_that_went_on_needs_resume(run: RunDir, has: str) -> None:
    if has == "metrics":
        run.metrics_path.write_text("")
    else:
        run.publish(step(1), FILES)
    before = snapshot(run.path)
    with pytest.raises(UserError, match="allowed: --resume to go on with it, or another run_dir"):
        RunDir.open(run.path, CONFIG, resume=False)
    assert snapshot(run.path) == before


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"not empty and holds no run \(it has 'thesis\.tex'\)"):
        RunDir.open(tmp_path, CONFIG, resume=False)
    with pytest.raises(UserError, match="holds no run to resume"):
        RunDir.open(tmp_path, CONFIG, resume=True)
    with pytest.raises(UserError, match="holds no run to resume"):
        RunDir.open(tmp_path / "new", CONFIG, resume=True)
    with pytest.raises(UserError, match="is a file"):
        RunDir.open(tmp_path / "thesis.tex", CONFIG, resume=False)
    assert snapshot(tmp_path) == {"thesis.tex": b"mine"}


def test_an_unwritable_place_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(UserError, match=f"cannot write '{path}'"):
            RunDir.open(path, CONFIG, resume=False)


def test_a_published_group_loads_and_publishing_it_again_changes_nothing(run: RunDir) -> None:
    folder = run.publish(step(1), FILES)
    inode = folder.stat().st_ino
    manifest = json.loads((folder / MANIFEST).read_bytes())
    assert manifest["files"]["policy.safetensors"]["size"] == 7
    assert run.publish(step(1), FILES).stat().st_ino == inode
    run.publish(step(1), {"other": b"1"})
    assert run.load(step(1)) == {"other": b"1"}
    assert run.published("checkpoints") == [step(1)]
    assert not list(run.checkpoints_path.glob(".*"))


@pytest.mark.parametrize("name", ["../out", "/out", "a//b"])
def test_names_stay_in_the_run_directory(run: RunDir, name: str) -> None:
    with pytest.raises(ValueError, match="not a relative path"):
        run.publish(name, FILES)
    with pytest.raises(ValueError, match="not a relative path"):
        run.publish("checkpoints/x", {name: b""})
    assert run.published("checkpoints") == []


def truncate(folder: Path) -> None:
    (folder / "policy.safetensors").write_bytes(b"wei")


def flip(folder: Path) -> None:
    (folder / "policy.safetensors").write_bytes(b"veights")


def remove(folder: Path) -> None:
    (folder / "state" / "counters.json").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def cut_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes()[:20])


def newer_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"schema": 99, "files": {}}')


@pytest.mark.parametrize(
    ("tear", "reason"),
    [
        (truncate, "policy.safetensors has 3 bytes, the manifest says 7"),
        (flip, "policy.safetensors does not have the sha256 of the manifest"),
        (remove, "state/counters.json is missing"),
        (remove_manifest, "manifest.json is missing"),
        (cut_manifest, "manifest.json is not JSON"),
        (newer_manifest, "manifest.json has schema 99, this version reads 1"),
    ],
)
def test_a_torn_group_is_told_skipped_and_can_be_published_again(run: RunDir, tear: Any, reason: str) -> None:
    run.publish(step(1), {"old": b"1"})
    tear(run.publish(step(2), FILES))
    with pytest.raises(TornArtefact) as caught:
        run.load(step(2))
    assert (caught.value.name, caught.value.reason) == (step(2), reason)
    assert run.latest("checkpoints") == (step(1), {"old": b"1"}, [f"artefact '{step(2)}' is torn: {reason}"])
    run.publish(step(2), FILES)
    assert run.latest("checkpoints/step-") == (step(2), FILES, [])


def test_there_may_be_no_good_group(run: RunDir) -> None:
    assert run.latest("checkpoints") is None
    remove_manifest(run.publish(step(1), FILES))
    assert run.latest("checkpoints") is None
    with pytest.raises(FileNotFoundError):
        run.load(step(2))


@pytest.mark.parametrize("call", range(4))
def test_a_crash_while_publishing_shows_nothing_and_is_cleaned(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Killed at the `call`-th fsync, before the rename, at whatever file that is."""
    run.publish(step(1), {"old": b"1"})
    done, real = 0, os.fsync

    def crash(descriptor: int) -> None:
        nonlocal done
        done += 1
        if done > call:
            raise Crash
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(Crash):
            run.publish(step(2), FILES)
    assert run.published("checkpoints") == [step(1)]
    assert list(run.checkpoints_path.glob(".*"))
    again = RunDir.open(run.path, CONFIG, resume=True)
    assert not list(run.checkpoints_path.glob(".*"))
    assert again.latest("checkpoints") == (step(1), {"old": b"1"}, [])


def test_a_crash_while_replacing_keeps_the_group_that_was_there(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run.publish(step(1), {"old": b"1"})

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("cluster.run_dir.os.rename", crash)
        with pytest.raises(Crash):
            run.publish(step(1), FILES)
    again = RunDir.open(run.path, CONFIG, resume=True)
    assert again.load(step(1)) == {"old": b"1"}
    assert not list(run.checkpoints_path.glob(".*"))


def test_a_failed_publish_leaves_nothing_behind(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    run.publish(step(1), FILES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run.publish(step(2), FILES)
    assert [path.name for path in run.checkpoints_path.iterdir()] == ["step-000001"]


def test_a_crash_before_the_config_was_written_leaves_a_directory_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(Crash):
            RunDir.open(tmp_path / "run", CONFIG, resume=False)
    RunDir.open(tmp_path / "run", CONFIG, resume=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_names_are_ordered_by_number(run: RunDir) -> None:
    for name in ("checkpoints/step-1000000", "checkpoints/step-999999", "checkpoints/best"):
        run.publish(name, FILES)
    ordered = ["checkpoints/step-999999", "checkpoints/step-1000000"]
    assert run.published("checkpoints/step-") == ordered
    assert run.published("checkpoints/") == ["checkpoints/best", *ordered]
    assert run.published("samples") == []


def test_retain_keeps_the_newest_whole_groups_and_the_named_ones(run: RunDir) -> None:
    for number in range(1, 8):
        run.publish(step(number), FILES)
    truncate(run.path / step(7))
    run.retain("checkpoints", 2, always=[step(2)])
    assert run.published("checkpoints") == [step(2), step(5), step(6), step(7)]
    assert not list(run.checkpoints_path.glob(".*"))
    with pytest.raises(ValueError, match="keep is 0"):
        run.retain("checkpoints", 0)
