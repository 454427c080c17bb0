"""What a run asks of a cluster, against what the pods of an overlay have: pods are counted here, or the run is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cluster.errors import UserError
from deploy.kustomize import Manifest

_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Pod:
    """What Ray has of one pod of a group."""

    group: str
    cpus: float
    gpus: int
    max_pods: int

    @classmethod
    def of(cls, group: Manifest) -> Pod:
        """From the limits of the Ray container, as Ray itself reads them."""
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        return cls(group["groupName"], _cpus(limits["cpu"]), int(limits.get(GPU, 0)), group["maxReplicas"])


@dataclass(frozen=True)
class Ask:
    """One kind of actor: how many, and what each takes."""

    what: str
    """As messages say it, with the config key of the number."""
    num: int
    cpus: float
    gpus: float
    keys: str
    """Where its CPUs and GPUs are set."""

    def pods(self, pod: Pod) -> int:
        """Pods that hold all of them; raises UserError where one does not fit, or all together do not."""
        if self.gpus > 0 and pod.gpus == 0:
            raise UserError(
                f"{self.what} ask for {self.gpus:g} GPUs each ({self.keys}), but the pods of group {pod.group!r} have none; "
                "allowed: an overlay with GPUs, or no GPUs"
            )
        per_pod = min(
            math.floor(pod.cpus / self.cpus + 1e-9) if self.cpus else self.num,
            math.floor(pod.gpus / self.gpus + 1e-9) if self.gpus else self.num,
        )
        if per_pod < 1:
            raise UserError(
                f"{self.what} ask for {self.cpus:g} CPUs and {self.gpus:g} GPUs each ({self.keys}), but a pod of group "
                f"{pod.group!r} has {pod.cpus:g} CPUs and {pod.gpus} GPUs; allowed: at most that"
            )
        needed = math.ceil(self.num / per_pod)
        if needed > pod.max_pods:
            raise UserError(
                f"{self.num} {self.what} need {needed} pods of group {pod.group!r} with {pod.cpus:g} CPUs and {pod.gpus} GPUs, "
                f"but it has at most {pod.max_pods}; allowed: at most {pod.max_pods * per_pod} of them, or more pods"
            )
        return needed


def shared_memory(memory: str) -> str:
    """Size of /dev/shm for Ray's object store, 30 % of the pod's memory."""
    return f"{max(1, int(_UNITS[memory[-2:]] * int(memory[:-2]) * 0.3) >> 20)}Mi"


def _cpus(quantity: Any) -> float:
    text = str(quantity)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
