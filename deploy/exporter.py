"""Serves a run's metrics to Prometheus from its run directory, outside Ray: where nobody scrapes its Ray, or that is gone.

    python -m deploy.exporter RUN_DIR [--port 9464] [--host 127.0.0.1] [--once]

Names are those of docs/metrics.md that follow from `metrics.jsonl` and the checkpoints, without `ray_`. `--once` prints them alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from cluster.config import build, load_yaml
from cluster.errors import ExitCode, UserError
from cluster.metrics import read_jsonl
from cluster.metrics_export import Exporter
from cluster.run_dir import MANIFEST, RunDir
from learner.config import RunConfig
from learner.exported import UpdateExport
from rollout_workers.exported import OF_UPDATES

_POLL_S = 5.0


class RunExport:
    """Follows a run directory."""

    def __init__(self, path: Path, registry: CollectorRegistry) -> None:
        """Raises UserError for a directory that holds no run."""
        self._run_dir = RunDir(path)
        if not self._run_dir.config_path.is_file():
            raise UserError(f"'{path}' holds no run; allowed: the run_dir of a run")
        config = build(RunConfig, load_yaml(self._run_dir.config_path))
        self._export = UpdateExport(config, Exporter(OF_UPDATES, registry=registry))
        self._step = -1

    def follow(self) -> None:
        """Takes in what the run has written since the last time."""
        metrics = self._run_dir.metrics_path
        for line in read_jsonl(metrics):
            if line["step"] > self._step:
                self._step = line["step"]
                self._export.update(self._step, line["values"], line["times"], at=metrics.stat().st_mtime)
        if names := self._run_dir.published("checkpoints"):
            manifest = self._run_dir.path / names[-1] / MANIFEST
            if manifest.is_file():
                self._export.checkpoint(int(names[-1].rpartition("-")[2]), at=manifest.stat().st_mtime)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.exporter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--port", type=int, default=9464)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--once", action="store_true", help="print the metrics and end")
    options = parser.parse_args(arguments)
    registry = CollectorRegistry()
    try:
        export = RunExport(options.run_dir, registry)
        export.follow()
        if options.once:
            sys.stdout.write(generate_latest(registry).decode())
            return ExitCode.FINISHED
        _serve(options.host, options.port, registry)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    try:
        while True:
            time.sleep(_POLL_S)
            export.follow()
    except KeyboardInterrupt:
        return ExitCode.FINISHED


def _serve(host: str, port: int, registry: CollectorRegistry) -> None:
    try:
        start_http_server(port, addr=host, registry=registry)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot serve on {host}:{port} ({error}); allowed: a free port from 1 to 65535") from error


if __name__ == "__main__":
    sys.exit(main())
