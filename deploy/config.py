"""Settings of a deployment on KubeRay, beside those of the run; secrets appear by name only."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.config import setting
from cluster.errors import UserError

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_IMAGE = re.compile(
    r"(?:(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@sha256:(?P<digest>[0-9a-f]{64}))?"
)
_MEMORY = re.compile(r"[1-9][0-9]*(?:Mi|Gi|Ti)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL|ACCESS_KEY|API_KEY")
MAX_NAME = 47
"""Characters of a RayJob's name: KubeRay makes the names of clusters and services from it."""


@dataclass(frozen=True)
class DeployConfig:
    """One deployment."""

    image: str = setting(help="of every pod, with a tag or a digest: REGISTRY/NAME:TAG")
    name: str | None = setting(None, help="of the RayJob; null is the last part of run_dir")
    namespace: str | None = setting(None, help="null is the one that kubectl applies to")
    storage_secret: str | None = setting(
        None, help="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for a run_dir in S3"
    )
    service_account: str | None = setting(
        None, help="account whose cloud identity may write the bucket, instead of a Secret"
    )
    hub_secret: str | None = setting(None, help="Secret with HF_TOKEN, for gated models and data sets")
    image_pull_secret: str | None = None
    environment: dict[str, str | int | float] = setting(
        {}, help="plain variables of all pods but the graders'; never a secret"
    )
    cpus: int | None = setting(None, help="of a rollout pod; null is the overlay's", minimum=1)
    memory: str | None = setting(None, help="of a rollout pod, like 64Gi; null is the overlay's")
    gpus: int | None = setting(None, help="of a rollout pod; null is the overlay's", minimum=1)
    max_rollout_pods: int | None = setting(None, help="null is the overlay's", minimum=1)
    max_learner_pods: int | None = setting(None, help="with one rank each; null is as many as ranks", minimum=1)
    save_path: str | None = setting(None, help="of an evaluation's results; null is run_dir with /evaluations after it")
    queue: str | None = setting(None, help="of the components kueue and volcano; null is dllm-unmasking")
    redis_address: str | None = setting(None, help="HOST:PORT, for the component gcs-redis; null is redis:6379")
    redis_secret: str | None = setting(None, help="Secret with the key `password`, for the component gcs-redis")
    deadline_hours: float = setting(72.0, help="after which a run ends as failed", above=0.0)
    retries: int = setting(4, help="fresh clusters for a run that failed", minimum=0)

    def validate(self, where: str) -> None:
        """References that an API server or a registry would refuse."""
        match = _IMAGE.fullmatch(self.image)
        if match is None or not (match["tag"] or match["digest"]) or (match["tag"] == "latest" and not match["digest"]):
            raise UserError(
                f"config key '{where}.image' is {self.image!r}; allowed: an image reference with a tag other than latest, or "
                "with a digest: REGISTRY/NAME:TAG"
            )
        if self.name is not None:
            check_name(self.name, f"config key '{where}.name'")
        for key in (
            "namespace",
            "storage_secret",
            "service_account",
            "hub_secret",
            "image_pull_secret",
            "redis_secret",
        ):
            value = getattr(self, key)
            if value is not None and (len(value) > 253 or not _SUBDOMAIN.fullmatch(value)):
                raise UserError(
                    f"config key '{where}.{key}' is {value!r}; allowed: a Kubernetes name (lower-case letters, digits, - and .)"
                )
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            raise UserError(f"config key '{where}.memory' is {self.memory!r}; allowed: a quantity like 64Gi")
        for name in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise UserError(
                    f"config key '{where}.environment' has {name!r}; allowed: names of environment variables"
                )
            if _SECRET.search(name.upper()):
                raise UserError(
                    f"config key '{where}.environment.{name}' looks like a secret; allowed: a Kubernetes Secret by its name "
                    f"({where}.storage_secret, {where}.hub_secret)"
                )


def check_name(name: str, what: str) -> None:
    """Refuses names that KubeRay cannot use."""
    if len(name) > MAX_NAME or not _LABEL.fullmatch(name):
        raise UserError(
            f"{what} is {name!r}; allowed: at most {MAX_NAME} lower-case letters, digits and -, beginning with a letter"
        )
