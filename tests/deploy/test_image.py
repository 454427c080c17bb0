"""The container file: linted, pinned, without root, and its commands run where nothing is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.kustomize import build

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
INSTRUCTIONS = re.sub(r"\\\n", " ", DOCKERFILE.read_text()).splitlines()


def _stages() -> dict[str, list[str]]:
    """Instructions by stage."""
    stages: dict[str, list[str]] = {}
    for line in INSTRUCTIONS:
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            stages[match[2]] = [line]
        elif stages and line and not line.startswith("#"):
            stages[next(reversed(stages))].append(line)
    return stages


def _pin(name: str) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{name}=="))


def test_linted():
    program = shutil.which("hadolint")
    assert program is not None, "hadolint comes with the extra test"
    done = subprocess.run(
        [program, "--failure-threshold", "info", str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_one_version_of_ray_everywhere():
    assert f"ARG RAY_VERSION={_pin('ray')}" in INSTRUCTIONS
    for overlay in ("cpu", "single-gpu", "multi-gpu"):
        [cluster] = [each for each in build(overlay, "cluster") if each["kind"] == "RayCluster"]
        assert cluster["spec"]["rayVersion"] == _pin("ray")


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_targets_are_pinned_and_without_root(target):
    stage = _stages()[target]
    assert stage[0].startswith("FROM rayproject/ray:${RAY_VERSION}-py311-")
    users = [line for line in stage if line.startswith("USER ")]
    assert users == ["USER 1000:100"]
    installs = [line for line in stage if "pip install" in line]
    assert all("-c /home/ray/constraints.txt" in line or "--no-deps" in line for line in installs)
    # The dependencies come first, so that a change of the code leaves their layer alone.
    assert ["-r " in line for line in installs] == [True, False]


def test_the_context_is_the_package_alone():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    assert "**" in lines
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert kept == packages | {"pyproject.toml", "constraints.txt", "LICENSE", "README.md"}


def test_requirements_are_those_of_the_project():
    command = [sys.executable, str(ROOT / "deploy" / "requirements.py"), str(ROOT / "pyproject.toml")]
    plain, with_gpu = (
        subprocess.run([*command, *extra], capture_output=True, text=True, check=True).stdout.splitlines()
        for extra in ([], ["gpu"])
    )
    assert with_gpu[: len(plain)] == plain
    assert any(line.startswith("nvidia-ml-py") for line in with_gpu[len(plain) :])
    wrong = subprocess.run([*command, "gpus"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "error: unknown extra 'gpus'; allowed: test, dev, gpu, lm-eval, vllm\n",
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_command_in_an_empty_environment(tmp_path):
    """The RUN lines of `wheel` and `cpu`, with a fresh virtual environment in the place of the image's Python."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    home, source = tmp_path / "ray", tmp_path / "ray" / "source"
    source.mkdir(parents=True)
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    kept = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in files:
        if name.partition("/")[0] in kept:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PIP_EXTRA_INDEX_URL")}
    env |= {"PATH": f"{tmp_path / 'venv' / 'bin'}:{env['PATH']}", "VIRTUAL_ENV": str(tmp_path / "venv")}
    for stage, folder in (("wheel", source), ("cpu", home)):
        for line in _stages()[stage]:
            if line.startswith("COPY --from=wheel"):
                for name in ("cpu.txt", "constraints.txt"):
                    shutil.copy(home / "wheels" / name, home)
            if line.startswith("RUN "):
                command = re.sub(r"--mount=\S+", "", line.removeprefix("RUN ")).replace("/home/ray", str(home))
                done = subprocess.run(
                    command, shell=True, cwd=folder, env=env, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    listed = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", "import learner.main, deploy.kustomize as k; print(k.__file__, k.overlays())"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "site-packages" in listed
    assert "multi-gpu" in listed
