"""Turns a run's configuration into manifests for KubeRay, and refuses what could not be scheduled or would be lost.

    python -m deploy.render [PRESET|FILE.yaml] [key.path=value ...] deploy.image=REGISTRY/NAME:TAG --overlay NAME
        [--component NAME ...] [--workload training|cluster|evaluation] [--settings DEPLOY.yaml] [--output FILE] [--dry-run]

`deploy.key=value` and the file of `--settings` are the settings of `deploy.config`; the rest is the run's, as in `learner.main`.
Manifests go to standard output: pipe them to `kubectl apply -f -`. Exit codes: 0, or 2 for a mistake.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from cluster.config import apply_overrides, build, load_yaml
from cluster.errors import ExitCode, RunFailure, UserError
from cluster.storage import atomic_write
from deploy.config import DeployConfig
from deploy.kustomize import COMPONENTS, Workload, overlays
from deploy.manifests import Plan, plan
from deploy.yaml_text import dump_manifests
from learner.main import presets, resolve

_SECTION = "deploy"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.render", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="PRESET|FILE|key=value", help=f"presets: {', '.join(presets())}")
    parser.add_argument("--overlay", required=True, help=", ".join(overlays()))
    parser.add_argument("--component", action="append", default=[], help=", ".join(COMPONENTS))
    parser.add_argument("--workload", choices=get_args(Workload), default="training")
    parser.add_argument("--settings", dest="file", metavar="DEPLOY.yaml", help="settings of the deployment")
    parser.add_argument("--output", type=Path, help="file instead of standard output")
    parser.add_argument("--dry-run", action="store_true", help="print what would run where, and no manifest")
    options = parser.parse_intermixed_args(arguments)
    try:
        own = [setting for setting in options.settings if setting.startswith(f"{_SECTION}.")]
        run = resolve([setting for setting in options.settings if setting not in own])
        deploy = _deploy_config(options.file, own)
        made = plan(run, deploy, overlay=options.overlay, components=options.component, workload=options.workload)
        _write(made, options.output, dry_run=options.dry_run)
    except (UserError, RunFailure) as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.USER_ERROR
    return ExitCode.FINISHED


def _deploy_config(file: str | None, overrides: Sequence[str]) -> DeployConfig:
    data = apply_overrides({_SECTION: load_yaml(file) if file is not None else {}}, overrides)
    return build(DeployConfig, data[_SECTION], where=_SECTION)


def _write(made: Plan, output: Path | None, *, dry_run: bool) -> None:
    text = made.summary() if dry_run else dump_manifests(made.manifests)
    if output is None:
        sys.stdout.write(text)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(output, text.encode())


if __name__ == "__main__":
    sys.exit(main())
