"""The runs of a study, one process each, resumable run by run.

A run is finished when its results are written; a directory without them is resumed. Who ends the wait for a run: its process.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import RunFailure

_POLL_S = 0.5
_STOP_DEADLINE_S = 180.0


@dataclass(frozen=True, slots=True)
class Need:
    """A dLLM that somebody has to make before an arm can run."""

    path: Path
    command: str
    cost: str
    """In words, for whoever has to run the command."""


@dataclass(frozen=True, slots=True)
class StudyArm:
    """One setting of a study."""

    name: str
    """No two arms of a study share it."""
    settings: tuple[str, ...] = ()
    """``key.path=value`` over the study's own."""
    starts_from: str | None = None
    """Name of the arm whose trained policy this one starts from, seed by seed."""
    sweep: tuple[str, ...] = ()
    """Settings of the first seed alone: heuristics, whose figures depend on no training."""
    on: str = ""
    """What its policy is evaluated on, where arms of one study differ in that: rows with another are not to be compared."""
    need: Need | None = None

    @property
    def label(self) -> str:
        """The name among arms that are evaluated on the same: `second` of `second -> sudoku` on `sudoku`."""
        return self.name.removesuffix(f" -> {self.on}")

    @property
    def slug(self) -> str:
        """The name as a directory."""
        return "".join(ch if ch.isalnum() or ch in ".-" else "_" for ch in self.name)


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One arm under one training seed."""

    arm: StudyArm
    seed: int
    path: Path
    settings: tuple[str, ...]
    """The whole command line of `learner.main` but for the run directory."""

    @property
    def log_path(self) -> Path:
        return self.path.with_suffix(".log")

    @property
    def seconds_path(self) -> Path:
        """One line per process that worked on the run: how long."""
        return self.path.with_suffix(".seconds")

    @property
    def is_finished(self) -> bool:
        return (self.path / "evaluation" / "results.json").exists()

    @property
    def seconds(self) -> float:
        """Of all its processes that have ended, so far as they were measured."""
        if not self.seconds_path.exists():
            return 0.0
        return sum(float(line) for line in self.seconds_path.read_text().split())

    def command(self) -> list[str]:
        """Starts the run, or resumes it."""
        resume = ["--resume"] if self.path.exists() else []
        return [sys.executable, "-m", "learner.main", *self.settings, f"run_dir={self.path}", *resume]


def study_runs(
    arms: Sequence[StudyArm], *, preset: str, settings: Sequence[str], seeds: Sequence[int], out: Path
) -> list[StudyRun]:
    """Every arm under every seed, seed by seed so that an unfinished study has whole seeds.

    An arm that starts from another one's policy comes after it in `arms`.
    """
    by_name = {arm.name: arm for arm in arms}

    def path_of(arm: StudyArm, seed: int) -> Path:
        return out / arm.slug / f"seed{seed}"

    runs = []
    for seed in seeds:
        for arm in arms:
            start: list[str] = []
            if arm.starts_from is not None:
                policy = path_of(by_name[arm.starts_from], seed) / "policy.safetensors"
                start = [f"learner.initial_policy={policy}"]
            sweep = arm.sweep if seed == seeds[0] else ()
            line = (preset, *settings, *arm.settings, *sweep, *start, f"seed={seed}")
            runs.append(StudyRun(arm, seed, path_of(arm, seed), line))
    return runs


def execute(run: StudyRun, *, on_poll: Callable[[float], None] = lambda elapsed: None) -> None:
    """Runs or resumes one run to its end; RunFailure with the last line of its log where it fails.

    `on_poll` is told the seconds that the run has taken, earlier processes included. An interrupt reaches the run as SIGTERM, so
    that it leaves a checkpoint, and goes on to the caller.
    """
    run.path.parent.mkdir(parents=True, exist_ok=True)
    before, started = run.seconds, time.monotonic()
    with run.log_path.open("ab") as log:
        process = subprocess.Popen(run.command(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while process.poll() is None:
                on_poll(before + time.monotonic() - started)
                time.sleep(_POLL_S)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=_STOP_DEADLINE_S)
            raise
        finally:
            with run.seconds_path.open("a") as file:
                file.write(f"{time.monotonic() - started:.1f}\n")
    if process.returncode != 0 or not run.is_finished:
        lines = run.log_path.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "nothing in its log"
        raise RunFailure(
            f"arm '{run.arm.name}', seed {run.seed} ended with code {process.returncode}: {last}; all of it: {run.log_path}"
        )
