"""A signal ends a run in order: a checkpoint, an exit code that says so, and no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.errors import ExitCode
from tests.fakes.processes import processes_with
from tests.integration.test_training_run import ONE_ACTOR, SMALL

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_a_resumable_exit_code(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "learner.main",
        "tiny",
        *SMALL,
        ONE_ACTOR,
        f"run_dir={path}",
        "learner.num_steps=1000",
    ]
    mark = {"RUN_OF_TEST": str(path)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | mark
    )
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
    deadline = time.monotonic() + 20
    while (left := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, "nothing of a run outlives it"
