"""Kills everything that a run consists of, and compares what comes out with an undisturbed run.

    python -m tests.chaos --kills 50 [--seed 0] [--folder runs/chaos]

A tiny synchronous run on a Ray of three nodes (three raylets on this machine) with two learner ranks, two rollout actors and a
grader. At random moments one process is killed with SIGKILL: a rollout actor, a grader, a learner rank, the weight store, all of a
node, or the driver, which is then started again with --resume. In the end final weights, every metric value and every record of the
evaluation must be those of the undisturbed run: no group is counted twice, none is lost. Only processes of this Ray are touched.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from cluster.errors import ExitCode
from evaluation.records import ExampleRecord, read_records
from tests.fakes.records import timeless

ROOT = Path(__file__).resolve().parent.parent
ACTORS = {
    "rollout actor": "RolloutWorker",
    "grader": "GraderActor",
    "learner rank": "LearnerRank",
    "weight store": "_WeightStoreActor",
}
NODE, DRIVER = "node", "driver"
KINDS = (*ACTORS, NODE, DRIVER)
STORE_BYTES = 80 * 2**20
_PROGRESS_DEADLINE_S = 240.0
_NODES = 2

SETTINGS = (
    "learner.num_ranks=2", "learner.prompts_per_step=4", "learner.group_size=4", "rollout.num_workers=2",
    "rollout.num_graders=1", "rollout.lease_groups=1", "rollout.cpus_per_worker=1", "checkpoint.every=3",
    "checkpoint.samples_every=3", "checkpoint.validation_examples=8", "evaluation.num_examples=8",
    "evaluation.lease_examples=8", "evaluation.policy_temperatures=[1.0]", "evaluation.block_lengths=[48]",
    "evaluation.heuristics={threshold: [0.9]}", "policy.initial_logit=0.0", "learner.collective_deadline_s=20",
)  # fmt: skip


class ChaosFailed(AssertionError):
    """The disturbed run is not the undisturbed one, or does not end."""


@dataclass(frozen=True)
class Outcome:
    """What a run decided."""

    weights: bytes
    metrics: list[tuple[int, dict[str, float]]]
    records: list[ExampleRecord]


@dataclass
class Machines:
    """A Ray with a head, where drivers run, and nodes that come and go."""

    cluster: Any = None
    nodes: list[Any] = field(default_factory=list)

    def __enter__(self) -> Machines:
        arguments = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **arguments})
        for _ in range(_NODES):
            self.add()
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster.shutdown()

    def add(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES))

    def replace(self, node: Any) -> None:
        """All processes of a node die at once, and another machine comes."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        self.add()

    def living(self, class_name: str) -> list[int]:
        """Process ids of the living actors of a class."""
        table = self.cluster.global_state.actor_table(None, actor_state_name="ALIVE")
        return [each["Pid"] for each in table.values() if each["ActorClassName"].split(".")[-1] == class_name]


class Driver:
    """The command of a run, started as often as it takes."""

    def __init__(self, path: Path, address: str, num_steps: int, settings: Sequence[str] = SETTINGS) -> None:
        self.path = path
        self._command = [
            sys.executable, "-m", "learner.main", "tiny", *settings,
            f"learner.num_steps={num_steps}", f"run_dir={path}", f"ray_address={address}",
        ]  # fmt: skip
        self.num_starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the command, with --resume where there is a run already."""
        resume = ["--resume"] if (self.path / "config.yaml").exists() else []
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / f"{self.path.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, *resume], stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
            )
        self.num_starts += 1

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "start comes first"
        return self.process

    @property
    def num_lines(self) -> int:
        path = self.path / "metrics.jsonl"
        return len(path.read_bytes().splitlines()) if path.exists() else 0

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait_until_finished(self) -> None:
        """Resumes the command until it has finished."""
        deadline = time.monotonic() + 2 * _PROGRESS_DEADLINE_S
        while (code := self.running.poll()) != ExitCode.FINISHED:
            if code is not None:
                raise ChaosFailed(f"the driver ended with code {code} by itself; see {self.path}.log")
            if time.monotonic() > deadline:
                raise ChaosFailed(f"the run does not end; see {self.path}.log")
            time.sleep(0.2)

    def outcome(self) -> Outcome:
        lines = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        newest = sorted((self.path / "checkpoints").iterdir())[-1]
        records = timeless(read_records(self.path / "evaluation" / "records.jsonl"))
        weights = (newest / "policy.safetensors").read_bytes()
        return Outcome(weights, [(line["step"], line["values"]) for line in lines], records)


def kill(kind: str, machines: Machines, driver: Driver, draw: random.Random) -> bool:
    """Kills one of a kind; False when there is none at the moment."""
    if kind == DRIVER:
        driver.end()
        driver.start()
        return True
    if kind == NODE:
        machines.replace(draw.choice(machines.nodes))
        return True
    pids = machines.living(ACTORS[kind])
    if not pids:
        return False
    try:
        os.kill(draw.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def disturb(
    machines: Machines, driver: Driver, *, num_kills: int, kinds: Sequence[str], draw: random.Random
) -> Counter[str]:
    """Kills `num_kills` times; between two kills the run must get ahead."""
    killed: Counter[str] = Counter()
    order = [kinds[number % len(kinds)] for number in range(num_kills)]
    draw.shuffle(order)
    for kind in order:
        lines, deadline = driver.num_lines, time.monotonic() + _PROGRESS_DEADLINE_S
        # A driver that is started again drops the lines after its checkpoint first.
        while driver.num_lines == lines:
            if driver.running.poll() is not None:
                if driver.running.returncode == ExitCode.FINISHED:
                    return killed
                raise ChaosFailed(f"the driver ended with code {driver.running.returncode}; see {driver.path}.log")
            if time.monotonic() > deadline:
                raise ChaosFailed(
                    f"no update for {_PROGRESS_DEADLINE_S:g} s after {dict(killed)}; see {driver.path}.log"
                )
            time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 0.6))
        killed[kind] += kill(kind, machines, driver, draw)
    return killed


def chaos(
    folder: Path, *, num_kills: int, seed: int = 0, kinds: Sequence[str] = KINDS, num_steps: int = 0
) -> Counter[str]:
    """Runs twice, once disturbed; returns the kills by kind. Raises ChaosFailed when it makes a difference."""
    num_steps = num_steps or 3 * num_kills + 3
    with Machines() as machines:
        address = machines.cluster.address
        undisturbed, disturbed = (Driver(folder / name, address, num_steps) for name in ("undisturbed", "disturbed"))
        try:
            undisturbed.start()
            undisturbed.wait_until_finished()
            disturbed.start()
            killed = disturb(machines, disturbed, num_kills=num_kills, kinds=kinds, draw=random.Random(seed))
            disturbed.wait_until_finished()
        finally:
            undisturbed.end()
            disturbed.end()
    expected, found = undisturbed.outcome(), disturbed.outcome()
    for name in ("metrics", "records", "weights"):
        if getattr(found, name) != getattr(expected, name):
            raise ChaosFailed(f"{name} differ from the undisturbed run's after {dict(killed)}; see {folder}")
    return killed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"))
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        sys.stderr.write(f"error: --folder is '{options.folder}', which is not empty; allowed: a new folder\n")
        return ExitCode.USER_ERROR
    started = time.monotonic()
    killed = chaos(folder, num_kills=options.kills, seed=options.seed, kinds=options.kinds)
    kills = ", ".join(f"{count} x {kind}" for kind, count in sorted(killed.items()))
    sys.stdout.write(
        f"{sum(killed.values())} kills ({kills}) in {time.monotonic() - started:.0f} s: final weights, metrics and records "
        "equal those of the undisturbed run\n"
    )
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
