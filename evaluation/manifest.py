"""What an evaluation was made with: code, libraries, drivers, device, command line and settings, and the checksums of its files."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation.environment import environment_record

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("cluster", "policy", "rollout_workers", "evaluation", "learner")
_GIT_DEADLINE_S = 10.0


def code_record() -> dict[str, Any]:
    """The commit and whether the tree differs from it (null outside a git checkout), and a digest of the source as it ran."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes())
    commit = _git("rev-parse", "HEAD") if (_ROOT / ".git").exists() else None
    changed = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "has_changes": None if changed is None else bool(changed), "source": digest.hexdigest()}


def _git(*arguments: str) -> str | None:
    """The output of a git command in the checkout; None without git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=_GIT_DEADLINE_S, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def manifest(
    settings: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    actors: list[dict[str, Any]],
) -> dict[str, Any]:
    """The document; `settings` are those of the results directory, `evaluation` the sweep, `actors` what the actors ran on."""
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "code": code_record(),
        "driver": environment_record(),
        "actors": actors,
        "settings": dict(settings),
        "evaluation": dict(evaluation),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    }
