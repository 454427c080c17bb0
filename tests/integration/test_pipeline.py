"""Evaluations on a real local Ray: the same numbers after any number of kills, and as a job of the Jobs API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from cluster.errors import ExitCode
from evaluation.pipeline import main
from evaluation.records import read_records
from evaluation.results_dir import ResultsDir
from tests.fakes.records import timeless
from tests.fakes.runs import make_run

pytestmark = pytest.mark.ray

SWEEP = ("evaluation.heuristics={threshold: [0.5, 0.9], random: [4]}", "evaluation.block_lengths=[12, 24]",
         "evaluation.num_examples=24", "evaluation.lease_examples=4", "rollout.num_workers=1")  # fmt: skip
NUM_ROWS = 24 * (2 * 2 + 2 * 1 + 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run").path


@pytest.fixture(scope="module")
def undisturbed(ray_local: None, run: Path) -> Path:
    place = run.parent / "undisturbed"
    assert main([str(run), *SWEEP, "--save-path", str(place)]) == ExitCode.FINISHED
    return place


def test_everything_is_written_and_a_second_command_decodes_nothing(undisturbed: Path, run: Path) -> None:
    records = read_records(undisturbed / "records.jsonl")
    assert len({record.key for record in records}) == len(records) == NUM_ROWS
    assert len(ResultsDir(str(undisturbed)).traces()) == 3 * 7
    for name in ("summary.csv", "detailed.csv", "results.json", "manifest.json", "pareto.png", "report.html"):
        assert (undisturbed / name).stat().st_size > 0, name
    shards = {path.name: path.stat().st_mtime_ns for path in (undisturbed / "shards").iterdir()}
    manifest = undisturbed / "manifest.json"
    decoded_on = json.loads(manifest.read_text())["actors"]
    assert len(decoded_on) == 1
    assert main([str(run), *SWEEP, "--save-path", str(undisturbed)]) == ExitCode.FINISHED
    assert json.loads(manifest.read_text())["actors"] == decoded_on
    assert {path.name: path.stat().st_mtime_ns for path in (undisturbed / "shards").iterdir()} == shards


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_three_times_every_example_is_there_once_with_the_same_numbers(undisturbed: Path, run: Path) -> None:
    place = run.parent / "killed"
    command = [sys.executable, "-m", "evaluation.pipeline", str(run), *SWEEP, "--save-path", str(place)]
    for kill in range(3):
        before = num_shards(place)
        with (run.parent / f"killed-{kill}.log").open("w+") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=os.environ | {"RAY_ADDRESS": "local"}
            )
            deadline = time.monotonic() + 600
            while num_shards(place) < before + 4 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            assert process.poll() is None, Path(log.name).read_text()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert before < num_shards(place) < NUM_ROWS // 4, Path(log.name).read_text()
    assert main([str(run), *SWEEP, "--save-path", str(place)]) == ExitCode.FINISHED
    keys = [record.key for path in (place / "shards").iterdir() for record in read_records(path)]
    assert set(Counter(keys).values()) == {1}
    assert timeless(read_records(place / "records.jsonl")) == timeless(read_records(undisturbed / "records.jsonl"))


def num_shards(place: Path) -> int:
    folder = place / "shards"
    return sum(not path.name.startswith(".") for path in folder.iterdir()) if folder.is_dir() else 0
