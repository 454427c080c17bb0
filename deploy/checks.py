"""Why a run could not work on a cluster, said before anything is applied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from cluster.errors import UserError
from deploy.config import DeployConfig
from deploy.kustomize import Workload
from learner.config import RunConfig
from rollout_workers.config import TaskConfig
from rollout_workers.hosting import section_of, task_of

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
        _check_devices(run)
        _check_sandbox(run)


def _local_paths(run: RunConfig) -> Iterator[tuple[str, str]]:
    """Settings that name a file or folder of this machine."""
    for name, model in run.model_configs.items():
        if model.name != "tiny" and not _HUB_ID.fullmatch(model.name):
            yield from _relative(f"{section_of(name)}.name", model.name)
    yield from _relative("learner.initial_policy", run.learner.initial_policy)
    for task, settings in run.task_settings.items():
        yield from _relative(f"task_settings.{task}.train", settings.train)
        yield from _relative(f"task_settings.{task}.test", settings.test)


def _relative(key: str, path: str | None) -> Iterator[tuple[str, str]]:
    if path is not None and not PurePosixPath(path).is_absolute() and "://" not in path:
        yield key, path


def _check_devices(run: RunConfig) -> None:
    """GPUs of Ray's are paid for: they go with a device of CUDA. The converse is checked with the configuration."""
    rollout, learner = run.rollout, run.learner
    devices = [
        (f"{section_of(name)}.device", model.device, "rollout.gpus_per_worker", rollout.gpus_per_worker)
        for name, model in run.model_configs.items()
    ]
    for key, device, gpus_key, gpus in [
        *devices,
        ("learner.device", learner.device, "learner.gpus_per_rank", learner.gpus_per_rank),
    ]:
        if not device.startswith("cuda") and gpus > 0:
            raise UserError(f"config key '{key}' is {device!r}, but {gpus_key} is {gpus:g}; allowed: cuda, or no GPUs")


def _check_sandbox(run: RunConfig) -> None:
    for task in sorted({task_of(name) for name in run.task_weights} & CODE_TASKS):
        if run.task_settings.get(task, TaskConfig()).sandbox == "namespaces":
            raise UserError(
                f"config key 'task_settings.{task}.sandbox' is 'namespaces', which the pods' security profile forbids; allowed on "
                "a cluster: process (docs/sandbox.md)"
            )
