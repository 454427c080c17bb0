"""An evaluation as a job of a real Ray: the same command is the same job, and a failed job runs again."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from cluster.errors import ExitCode
from evaluation.records import read_records
from tests.deploy.ray_head import RayHead, ray_head
from tests.fakes.runs import make_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as started:
        yield started


def pipeline(head: RayHead, *words: object) -> tuple[int, str]:
    done = head.command(
        sys.executable, "-m", "evaluation.pipeline", *map(str, words), "--submit", "--address", head.dashboard, "--wait",
        timeout_s=500,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_the_same_command_is_the_same_job(head, tmp_path):
    run = make_run(tmp_path / "run").path
    words = (run, "--checkpoints", "best,last", "--save-path", tmp_path / "results", "rollout.num_workers=1",
             "evaluation.block_lengths=[12, 24]")  # fmt: skip
    code, text = pipeline(head, *words)
    assert code == ExitCode.FINISHED, text
    assert len(read_records(tmp_path / "results" / "records.jsonl")) == 4 * (2 + 2)
    assert (tmp_path / "results" / "report.html").is_file()
    (job,) = set(re.findall(r"job +(eval-results-\w+)", text))
    written = (tmp_path / "results" / "manifest.json").stat().st_mtime_ns
    code, again = pipeline(head, *words)
    assert code == ExitCode.FINISHED
    assert f"{job} (was submitted before)" in again
    assert (tmp_path / "results" / "manifest.json").stat().st_mtime_ns == written


def test_a_failed_job_gives_its_exit_code_and_runs_again(head, tmp_path):
    run = make_run(tmp_path / "run").path
    # More than the cluster has, which only the job finds out.
    code, text = pipeline(head, run, "--save-path", tmp_path / "results", "rollout.gpus_per_worker=1")
    assert code == ExitCode.CRASH
    assert "too little GPU" in text
    code, text = pipeline(head, run, "--save-path", tmp_path / "results", "rollout.gpus_per_worker=1")
    assert code == ExitCode.CRASH
    assert "was submitted before" not in text
