"""Every command of the tutorial is run here, or says what it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.ray_head import ray_head

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"<!-- (.*?) -->\n```bash\n(.*?)```", TEXT, re.DOTALL)
TOKEN = "a-token-of-forty-two-characters-at-the-least"


def test_every_block_is_run_or_says_what_it_needs():
    assert len(BLOCKS) == TEXT.count("```bash")
    assert all(mark in ("run", "run with a head") or mark.startswith("needs ") for mark, _ in BLOCKS)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The tracked files, so that `runs/` and what else the tutorial makes lands elsewhere."""
    folder = tmp_path_factory.mktemp("checkout")
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def run_blocks(mark: str, folder: Path, env: dict[str, str]) -> None:
    for command in [text for each, text in BLOCKS if each == mark]:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=folder, env=env, capture_output=True, text=True, timeout=1500, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_on_one_machine(checkout):
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    run_blocks("run", checkout, env | {"PYTHONPATH": str(checkout)})


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_on_a_ray_cluster(checkout):
    with ray_head(token=TOKEN) as head:
        run_blocks("run with a head", checkout, head.env | {"RAY_ADDRESS": head.dashboard, "PYTHONPATH": str(checkout)})
