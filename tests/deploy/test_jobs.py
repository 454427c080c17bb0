"""Runs as jobs of a real Ray with dashboard, agents and tokens, watched by a real Prometheus."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.metrics import read_jsonl
from tests.deploy.prometheus import Prometheus, prometheus
from tests.deploy.ray_head import RayHead, ray_head
from tests.deploy.test_monitoring import own_series, queries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TOKEN = "a-token-of-forty-two-characters-at-the-least"
SMALL = (
    "learner.prompts_per_step=4", "learner.group_size=4", "rollout.lease_groups=2", "checkpoint.every=2",
    "checkpoint.validation_examples=8", "evaluation.num_examples=8", "evaluation.lease_examples=8",
    "evaluation.policy_temperatures=[]", "evaluation.block_lengths=[48]", "evaluation.heuristics={threshold: [0.9]}",
)  # fmt: skip
_WAIT_S = 600.0


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head(token=TOKEN) as started:
        yield started


@pytest.fixture
def server(head: RayHead, tmp_path: Path) -> Iterator[Prometheus]:
    with prometheus(tmp_path, head.targets, token=TOKEN) as started:
        yield started


def submit(head: RayHead, name: str, *command: str, working_dir: str | None = None, wait: bool = True) -> str:
    options = ["--submission-id", name, "--metadata-json", json.dumps({"run": name})]
    options += [] if working_dir is None else ["--working-dir", working_dir]
    options += [] if wait else ["--no-wait"]
    done = head.command(
        "ray", "job", "submit", "--address", head.dashboard, *options, "--", *command, timeout_s=_WAIT_S
    )  # fmt: skip
    return f"{done.stdout}{done.stderr}"


def info(head: RayHead, name: str) -> dict[str, Any]:
    """What the Jobs API says of a job."""
    request = urllib.request.Request(f"{head.dashboard}/api/jobs/{name}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def logs(head: RayHead, name: str) -> str:
    return head.command("ray", "job", "logs", "--address", head.dashboard, name).stdout


def until(true, what: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not true():
        assert time.monotonic() < deadline, f"waited {_WAIT_S:g} s for {what}"
        time.sleep(1)


def training(path: Path, num_steps: int) -> list[str]:
    return ["python", "-m", "learner.main", "tiny", *SMALL, f"learner.num_steps={num_steps}", f"run_dir={path}"]


def test_from_a_checkout(head, tmp_path):
    run = tmp_path / "run"
    submit(head, "from-checkout", *training(run, 2), "evaluation.job_every=2", working_dir=".")
    text = logs(head, "from-checkout")
    job = info(head, "from-checkout")
    assert (job["status"], job["metadata"]["run"]) == ("SUCCEEDED", "from-checkout"), text
    assert re.search(r"update 2/2 +reward", text)
    lines = [line for line in text.splitlines() if "update " in line]
    assert not [line for line in lines if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", line)], "control characters"
    assert [line["step"] for line in read_jsonl(run / "metrics.jsonl")] == [0, 1, 2]
    assert (run / "evaluation" / "summary.csv").is_file()
    # The learner submitted an evaluation as a job of its own, which runs on the same checkout.
    (evaluation,) = re.findall(r"evaluation of update 2 submitted as job (\S+)", text)
    until(lambda: info(head, evaluation)["status"] in ("SUCCEEDED", "FAILED", "STOPPED"), "the evaluation's end")
    assert info(head, evaluation)["status"] == "SUCCEEDED", logs(head, evaluation)
    assert (run / "jobs" / "step-000002" / "summary.csv").is_file()


def test_installed_watched_stopped_and_resumed(head, server, tmp_path):
    run = tmp_path / "run"
    submit(head, "first", *training(run, 10_000), wait=False)
    empty = {query: "" for query in queries()}

    def all_panels_show_something() -> bool:
        for query in list(empty):
            if server.query(fill_in(query)):
                del empty[query]
        return not empty

    try:
        until(all_panels_show_something, f"panels, still empty: {list(empty)}")
    finally:
        stopped = head.command("ray", "job", "stop", "--address", head.dashboard, "first", timeout_s=_WAIT_S)
    assert stopped.returncode == 0, stopped.stderr
    assert info(head, "first")["status"] == "STOPPED"
    assert "saving a checkpoint" in logs(head, "first")
    saved = sorted((run / "checkpoints").iterdir())[-1]
    step = int(re.sub(r"\D", "", saved.name))
    assert step > 0

    submit(head, "second", *training(run, step + 2))
    # Another number of updates is another run: that is refused, and nothing is lost.
    assert "exit code 2" in info(head, "second")["message"]
    assert "learner.num_steps" in logs(head, "second")

    submit(head, "third", *training(run, 10_000), wait=False)
    until(lambda: f"update {step + 1}/" in logs(head, "third"), "the first update after the resume")
    head.command("ray", "job", "stop", "--address", head.dashboard, "third", timeout_s=_WAIT_S)
    steps = [line["step"] for line in read_jsonl(run / "metrics.jsonl")]
    assert steps == list(range(len(steps)))
    assert len(steps) > step + 1


def test_a_mistake_in_the_config_fails_the_job_with_its_line(head, tmp_path):
    text = submit(head, "mistake", *training(tmp_path / "run", 2), "learner.num_step=3")
    assert "did you mean 'learner.num_steps'" in text
    assert "exit code 2" in info(head, "mistake")["message"]


def fill_in(query: str) -> str:
    """A dashboard's query as Grafana sends it with everything selected."""
    for name, value in {"$cluster": ".*", "$job": ".*", "$__rate_interval": "30s"}.items():
        query = query.replace(name, value)
    assert own_series(query) or "ray_" in query
    return query
