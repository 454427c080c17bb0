"""Why a run could not work on a cluster, said before anything is applied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from cluster.config import to_dict
from cluster.errors import UserError
from deploy.config import DeployConfig
from deploy.kustomize import Workload
from learner.config import RunConfig

_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[^/\s]+)+/?")
CODE_TASKS = frozenset({"humaneval", "kodcode", "mbpp"})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def check_run(run: RunConfig, deploy: DeployConfig, *, components: Sequence[str], workload: Workload) -> None:
    """Raises UserError for the first thing that pods could not reach, would lose, or must not do."""
    if not _S3.fullmatch(run.run_dir):
        raise UserError(
            f"config key 'run_dir' is {run.run_dir!r}; allowed on a cluster: s3://BUCKET/PREFIX (a local path ends with its pod)"
        )
    if deploy.storage_secret is None and deploy.service_account is None:
        raise UserError(
            f"config key 'deploy.storage_secret' is null, but run_dir is {run.run_dir!r}; allowed: the name of a Secret with "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or deploy.service_account with a cloud identity"
        )
    if run.ray_address is not None:
        raise UserError(f"config key 'ray_address' is {run.ray_address!r}; allowed on a cluster: null, the job's own")
    if "gcs-redis" in components and deploy.redis_secret is None:
        raise UserError(
            "config key 'deploy.redis_secret' is null; allowed with the component gcs-redis: the name of a Secret with the "
            "key `password`"
        )
    for key, path in _local_paths(run):
        raise UserError(f"config key '{key}' is {path!r}, which no pod has; allowed: an absolute path in the image")
    if workload == "training":
        _check_device(run)
        _check_sandbox(run)


def _local_paths(run: RunConfig) -> Iterator[tuple[str, str]]:
    """Settings that name a file or folder of this machine."""
    name = run.model.name
    if name != "tiny" and not _HUB_ID.fullmatch(name):
        yield from _relative("model.name", name)
    yield from _relative("learner.initial_policy", run.learner.initial_policy)
    for task, settings in to_dict(run.task_settings).items():
        for key in ("train", "test"):
            yield from _relative(f"task_settings.{task}.{key}", settings[key])


def _relative(key: str, path: str | None) -> Iterator[tuple[str, str]]:
    if path is not None and not PurePosixPath(path).is_absolute() and "://" not in path:
        yield key, path


def _check_device(run: RunConfig) -> None:
    wants_gpu = run.model.device.startswith("cuda")
    if wants_gpu and run.rollout.gpus_per_worker == 0:
        raise UserError(
            f"config key 'rollout.gpus_per_worker' is 0, but model.device is {run.model.device!r}; allowed: a number > 0"
        )
    if not wants_gpu and run.rollout.gpus_per_worker > 0:
        raise UserError(
            f"config key 'model.device' is {run.model.device!r}, but rollout.gpus_per_worker is "
            f"{run.rollout.gpus_per_worker:g}; allowed: cuda, or no GPUs"
        )


def _check_sandbox(run: RunConfig) -> None:
    for task in sorted(CODE_TASKS & run.task_configs.keys()):
        if run.task_configs[task].sandbox == "namespaces":
            raise UserError(
                f"config key 'task_settings.{task}.sandbox' is 'namespaces', which the pods' security profile forbids; allowed on "
                "a cluster: process (docs/sandbox.md)"
            )
