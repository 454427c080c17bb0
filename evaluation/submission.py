"""An evaluation as a Ray job. The job's id names all that decides its results, so the same command is the same job."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import ray

from cluster.config import to_dict
from cluster.errors import ExitCode
from cluster.jobs import job_client, submit_once, wait_for_job
from cluster.logs import console
from evaluation.preparation import Preparation

_JOB_DEADLINE_S = 7 * 24 * 3600.0


def submit(options: argparse.Namespace, prepared: Preparation) -> int:
    """Submits the evaluation of `options`, which `prepared` has checked; returns the exit code."""
    client = job_client(options.address)
    job_id = job_name(prepared, options.save_path)
    runtime_env = {"working_dir": options.working_dir} if options.working_dir else _inherited()
    is_new = submit_once(client, job_id, entrypoint(options), runtime_env=runtime_env)
    console().print(f"job      {job_id}{'' if is_new else ' (was submitted before)'}", soft_wrap=True)
    if not options.wait:
        return ExitCode.FINISHED
    succeeded = wait_for_job(client, job_id, deadline_s=_JOB_DEADLINE_S, on_log=lambda text: _show(text))
    return ExitCode.FINISHED if succeeded else ExitCode.CRASH


def submit_checkpoint(run_dir: str, step: int, *, address: str | None) -> str:
    """Submits the evaluation of a run's checkpoint into `RUN/jobs/step-N`; returns the job's id. Raises UserError."""
    client = job_client(address)
    place = f"{_absolute(run_dir)}/jobs/step-{step:06d}"
    job_id = f"eval-step-{step:06d}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
    words = [
        "python",
        "-m",
        "evaluation.pipeline",
        _absolute(run_dir),
        "--checkpoints",
        str(step),
        "--save-path",
        place,
    ]
    submit_once(client, job_id, shlex.join(words), runtime_env=_inherited())
    return job_id


def _inherited() -> dict[str, object]:
    """A job finds the packages where this process does: in the working directory of its own job, or on its path."""
    own = ray.get_runtime_context().runtime_env if ray.is_initialized() else {}
    inherited: dict[str, object] = {name: own[name] for name in ("working_dir", "env_vars") if own.get(name)}
    path = os.environ.get("PYTHONPATH")
    if path and not inherited:
        inherited["env_vars"] = {"PYTHONPATH": path}
    return inherited


def _show(text: str) -> None:
    sys.stderr.write(text)


def job_name(prepared: Preparation, save_path: str) -> str:
    """`eval-<results directory>-<digest of settings, arms, problems and place>`."""
    what = {
        "settings": prepared.settings,
        "evaluation": to_dict(prepared.config.evaluation),
        "arms": [repr((suite.arms, suite.picks)) for suite in prepared.suites],
        "save_path": _absolute(save_path),
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9]+", "-", save_path.rstrip("/").rpartition("/")[2]).strip("-")
    return f"eval-{name}-{digest}"


def entrypoint(options: argparse.Namespace) -> str:
    """The command that the job runs: the same evaluation with paths that hold in any folder."""
    words: list[str] = ["python", "-m", "evaluation.pipeline"]
    words += [source if "=" in source else _absolute(source) for source in options.sources]
    for name in ("checkpoints", "tasks", "seeds", "policy_temperatures", "distribution", "num_examples"):
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", _text(value)]
    if options.baselines is not None:
        is_file = options.baselines.endswith((".yaml", ".yml"))
        words += ["--baselines", _absolute(options.baselines) if is_file else options.baselines]
    words += ["--quick"] if options.quick else []
    words += ["--save-path", _absolute(options.save_path)]
    return shlex.join(words)


def _text(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())
