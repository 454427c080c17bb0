"""Lets a run go on for long and watches the memory of all its processes and of the object store.

    python -m tests.soak --minutes 30 [--folder runs/soak]

A run of the tiny preset on a Ray of this machine with two rollout actors, a grader, two learner ranks, an archive of its
trajectories, and validation and checkpoints every few updates. Once everything is loaded, every process is looked at every few
seconds. A straight line through the last part of what was seen must not rise by more than `--tolerance` of its level (and
`SLACK_BYTES`): what leaks does, however slowly. Only processes that this command started are looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
from ray._private.internal_api import get_memory_info_reply
from ray.cluster_utils import Cluster
from rich.progress import Progress
from rich.table import Table

from cluster.errors import ExitCode
from cluster.logs import wide_console
from cluster.runtime import HEAD_LIMITS
from tests.chaos import Driver
from tests.fakes.processes import processes_with

MARK = "DLLM_SOAK"
OBJECT_STORE = "object store"
STORE_BYTES = 256 * 2**20
SLACK_BYTES = 8 * 2**20
"""Allocators give memory back in pieces of this size."""
WARM_UP = 0.4
"""Share of the time that comes before the line begins: pools fill, Ray starts spare workers and lets them go."""
START_DEADLINE_S = 300.0
STOP_DEADLINE_S = 120.0
ENDLESS = 1_000_000
"""Updates, of which a soak sees a few thousand."""

SETTINGS = (
    "learner.num_ranks=2", "learner.prompts_per_step=8", "rollout.num_workers=2",
    "rollout.num_graders=1", "rollout.lease_groups=2", "checkpoint.every=5", "checkpoint.validation_examples=32",
    "trajectories.archive=true", "trajectories.every=10", "learner.schedule=constant",
)  # fmt: skip


@dataclass
class Watched:
    """Bytes over time of one process, or of the object store."""

    name: str
    seconds: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def line(self, until_s: float) -> tuple[float, float]:
        """(bytes at the start, bytes at the end) of the straight line through what was seen after the warm-up."""
        seconds, sizes = np.array(self.seconds), np.array(self.sizes, float)
        late = seconds >= WARM_UP * until_s
        slope, base = np.polyfit(seconds[late], sizes[late], 1)
        return float(base + slope * WARM_UP * until_s), float(base + slope * until_s)

    def is_flat(self, until_s: float, tolerance: float) -> bool:
        start, end = self.line(until_s)
        return end - start <= tolerance * start + SLACK_BYTES


class SoakFailed(AssertionError):
    """The run does not begin, or ends by itself."""


def resident_bytes(pid: int) -> int:
    """Resident memory of a process without what it shares with others, as the object store; 0 of one that is gone."""
    try:
        pages = (Path("/proc") / str(pid) / "statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def name_of(pid: int) -> str:
    """What a process is: Ray's title of an actor, the module of a Python process, or its program."""
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    if words[0].startswith("ray::"):
        return words[0]
    if "-m" in words:
        return words[words.index("-m") + 1]
    return next((Path(word).name for word in words[1:] if word.endswith(".py")), Path(words[0]).name)


def watch(
    cluster: Any, process: subprocess.Popen[bytes], mark: str, *, seconds: float, every_s: float
) -> list[Watched]:
    """Looks at everything until the time is over."""
    found: dict[str, Watched] = {}
    started = time.monotonic()
    with Progress() as progress:
        task = progress.add_task("soaking", total=seconds)
        while (now := time.monotonic() - started) < seconds:
            if process.poll() is not None:
                raise SoakFailed(f"the run ended by itself with code {process.returncode}")
            sizes = {f"{pid} {name_of(pid)}": resident_bytes(pid) for pid in _pids(mark)}
            reply = get_memory_info_reply(cluster.global_state)
            sizes[OBJECT_STORE] = reply.store_stats.object_store_bytes_used
            for name, size in sizes.items():
                if size or name == OBJECT_STORE:
                    each = found.setdefault(name, Watched(name))
                    each.seconds.append(now)
                    each.sizes.append(size)
            progress.update(task, completed=now)
            time.sleep(every_s)
    return [each for each in found.values() if each.seconds[-1] > 0.9 * seconds and each.seconds[0] < WARM_UP * seconds]


def _pids(mark: str) -> list[int]:
    pids = [int(line.split()[0]) for line in processes_with({MARK: mark})]
    return [pid for pid in pids if pid != os.getpid()]


def soak(folder: Path, *, seconds: float, every_s: float) -> tuple[list[Watched], int]:
    """What was seen of every process that was there throughout, and the number of updates."""
    mark = uuid.uuid4().hex
    os.environ |= HEAD_LIMITS | {MARK: mark}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 8, "object_store_memory": STORE_BYTES, "include_dashboard": False},
    )
    driver = Driver(folder / "run", cluster.address, ENDLESS, SETTINGS)
    try:
        driver.start()
        _wait_for_updates(driver)
        watched = watch(cluster, driver.running, mark, seconds=seconds, every_s=every_s)
        driver.running.send_signal(signal.SIGTERM)
        code = driver.running.wait(STOP_DEADLINE_S)
        if code != ExitCode.RESUMABLE:
            raise SoakFailed(f"the run was stopped and ended with code {code}, not {int(ExitCode.RESUMABLE)}")
    finally:
        driver.end()
        cluster.shutdown()
    return watched, driver.num_lines


def _wait_for_updates(driver: Driver) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while driver.num_lines < 3:
        if driver.running.poll() is not None or time.monotonic() > deadline:
            raise SoakFailed(f"the run does not begin; see {driver.path}.log")
        time.sleep(0.5)


def growth_table(watched: Sequence[Watched], *, seconds: float, tolerance: float) -> Table:
    """One line for each kind of process (the worst of its kind), largest first."""
    table = Table(
        title=f"memory over {seconds / 60:.0f} minutes, line through the last {1 - WARM_UP:.0%}", title_justify="left"
    )
    for name in ("process", "how many", "MiB at its start", "MiB at its end", "growth", ""):
        table.add_column(name, justify="left" if name in ("process", "") else "right")
    kinds: dict[str, list[Watched]] = defaultdict(list)
    for each in watched:
        kinds[each.name if each.name == OBJECT_STORE else each.name.partition(" ")[2]].append(each)
    for kind, members in sorted(kinds.items(), key=lambda item: -max(each.sizes[-1] for each in item[1])):
        worst = max(members, key=lambda each: each.line(seconds)[1] - each.line(seconds)[0])
        start, end = worst.line(seconds)
        verdict = "flat" if all(each.is_flat(seconds, tolerance) for each in members) else "grows"
        table.add_row(
            kind, str(len(members)), f"{start / 2**20:.1f}", f"{end / 2**20:.1f}", f"{(end - start) / 2**20:+.1f}", verdict,
            style=None if verdict == "flat" else "bold red",
        )  # fmt: skip
    return table


def plot(watched: Sequence[Watched], path: Path) -> None:
    """All lines in one picture."""
    figure = matplotlib.figure.Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for each in watched:
        is_store = each.name == OBJECT_STORE
        label = each.name if is_store or max(each.sizes) > 100 * 2**20 else None
        minutes, sizes = np.array(each.seconds) / 60, np.array(each.sizes) / 2**20
        axes.plot(minutes, sizes, lw=2 if is_store else 1, color="black" if is_store else None, label=label)
    axes.set(
        xlabel="minutes", ylabel="MiB", ylim=(0, None), title="resident memory of each process, and the object store"
    )
    axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every-s", type=float, default=5.0, help="between two looks")
    parser.add_argument("--tolerance", type=float, default=0.05, help="share by which memory may seem to grow")
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        sys.stderr.write(f"error: --folder is '{options.folder}', which is not empty; allowed: a new folder\n")
        return ExitCode.USER_ERROR
    seconds = 60 * options.minutes
    if seconds < 20 * options.every_s:
        sys.stderr.write(
            f"error: --minutes is {options.minutes:g}; allowed: at least 20 looks, {options.every_s / 3:g}\n"
        )
        return ExitCode.USER_ERROR
    watched, num_updates = soak(folder, seconds=seconds, every_s=options.every_s)
    wide_console().print(growth_table(watched, seconds=seconds, tolerance=options.tolerance))
    plot(watched, folder / "soak.png")
    lines = [{"name": each.name, "seconds": each.seconds, "bytes": each.sizes} for each in watched]
    (folder / "soak.json").write_text(json.dumps(lines))
    growing = [each.name for each in watched if not each.is_flat(seconds, options.tolerance)]
    sys.stdout.write(
        f"{num_updates} updates, {len(watched) - 1} processes throughout; "
        f"{'growing: ' + ', '.join(growing) if growing else 'none of them grows, nor does the object store'}; {folder}/soak.png\n"
    )
    return ExitCode.CRASH if growing else ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
