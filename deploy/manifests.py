"""A run on an overlay: the static manifests with the run's own numbers, names, image and command in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from cluster.config import dump_yaml, to_dict
from cluster.errors import UserError
from deploy.capacity import GPU, Ask, Pod, shared_memory
from deploy.checks import CODE_TASKS, check_run
from deploy.config import DeployConfig, check_name
from deploy.kustomize import Manifest, Workload, build
from learner.config import RunConfig
from rollout_workers.hosting import task_of

_NAME = "dllm-unmasking"
"""Of the static manifests; the run's own name replaces it."""
_OF_A_RUN = frozenset({"RayCluster", "RayJob", "ConfigMap/dllm-unmasking-run"})
"""What carries the run's name; policies, monitors, rules and the dashboard are those of every cluster in the namespace."""


@dataclass(frozen=True)
class Plan:
    """What will run, and the manifests that say so."""

    name: str
    run: RunConfig
    deploy: DeployConfig
    manifests: list[Manifest]

    def summary(self) -> str:
        """A few lines: pods, what they have, and the command."""
        lines = [f"name: {self.name}", f"image: {self.deploy.image}", f"run_dir: {self.run.run_dir}"]
        for manifest in self.manifests:
            if manifest["kind"] in ("RayCluster", "RayJob"):
                spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
                lines += [f"{manifest['kind']}: {manifest['spec'].get('entrypoint', 'for `ray job submit`')}"]
                lines += [f"  {name}: {_describe(group)}" for name, group in _groups(spec)]
        others = [f"{each['kind']} {each['metadata']['name']}" for each in self.manifests if each["kind"][:3] != "Ray"]
        return "\n".join([*lines, *([f"beside it: {', '.join(others)}"] if others else [])]) + "\n"


def plan(run: RunConfig, deploy: DeployConfig, *, overlay: str, components: Sequence[str], workload: Workload) -> Plan:
    """The manifests of a run; raises UserError for what could not be scheduled, or what the pods could not reach or would lose."""
    check_run(run, deploy, components=components, workload=workload)
    name = _run_name(run, deploy)
    manifests = build(overlay, workload, components)
    run = _placed(run, manifests)
    for manifest in manifests:
        _rename(manifest, name, deploy)
        if manifest["kind"] == "ConfigMap" and "run.yaml" in manifest["data"]:
            manifest["data"] = {"run.yaml": dump_yaml(to_dict(run))}
        if manifest["kind"] == "RayJob":
            _adapt_job(manifest["spec"], name, run, deploy, workload)
        if manifest["kind"] in ("RayCluster", "RayJob"):
            if (spec := manifest["spec"].get("rayClusterSpec", manifest["spec"])) and "headGroupSpec" in spec:
                _adapt_cluster(spec, run, deploy, components)
            _set_queue(manifest["metadata"]["labels"], deploy)
    return Plan(name, run, deploy, manifests)


def _placed(run: RunConfig, manifests: Sequence[Manifest]) -> RunConfig:
    """The run with its actors on the groups that are theirs, where each role has a group of its own."""
    specs = [each["spec"].get("rayClusterSpec", each["spec"]) for each in manifests if each["kind"][:3] == "Ray"]
    labels = {name: group.get("labels", {}) for spec in specs for name, group in _groups(spec)}
    if "learner" not in labels:
        return run
    rollout = replace(
        run.rollout,
        worker_labels=run.rollout.worker_labels or labels["rollout"],
        grader_labels=run.rollout.grader_labels or labels["grader"],
    )
    learner = replace(run.learner, rank_labels=run.learner.rank_labels or labels["learner"])
    return replace(run, rollout=rollout, learner=learner)


def _run_name(run: RunConfig, deploy: DeployConfig) -> str:
    if deploy.name is not None:
        return deploy.name
    last = PurePosixPath(run.run_dir).name
    name = re.sub(r"[^a-z0-9-]+", "-", last.lower()).strip("-")
    check_name(
        name,
        f"the last part of config key 'run_dir' ({run.run_dir!r}), which names the RayJob where deploy.name is null,",
    )
    return name


def _rename(manifest: Manifest, name: str, deploy: DeployConfig) -> None:
    metadata = manifest["metadata"]
    if {manifest["kind"], f"{manifest['kind']}/{metadata['name']}"} & _OF_A_RUN:
        metadata["name"] = metadata["name"].replace(_NAME, name, 1)
    if manifest["kind"] == "RayJob":
        check_name(metadata["name"], "the name of the RayJob")
    if deploy.namespace is not None:
        metadata["namespace"] = deploy.namespace


def _adapt_job(spec: Manifest, name: str, run: RunConfig, deploy: DeployConfig, workload: Workload) -> None:
    spec["activeDeadlineSeconds"] = int(deploy.deadline_hours * 3600)
    spec["backoffLimit"] = deploy.retries
    spec["metadata"] = {"run_dir": run.run_dir, "image": deploy.image}
    if workload == "evaluation":
        save_path = deploy.save_path or f"{run.run_dir.rstrip('/')}/evaluations"
        spec["entrypoint"] = shlex.join(["python", "-m", "evaluation.pipeline", run.run_dir, "--save-path", save_path])
        spec["clusterSelector"] = {"ray.io/cluster": name}
    pod = spec["submitterPodTemplate"]["spec"]
    for container in pod["containers"]:
        container["image"] = deploy.image
    _set_pull_secret(pod, deploy)


def _adapt_cluster(spec: Manifest, run: RunConfig, deploy: DeployConfig, components: Sequence[str]) -> None:
    for group_name, group in _groups(spec):
        pod = group["template"]["spec"]
        _set_pull_secret(pod, deploy)
        for container in pod["containers"]:
            container["image"] = deploy.image
        for volume in pod["volumes"]:
            if volume["name"] == "run":
                volume["configMap"]["name"] = f"{_run_name(run, deploy)}-run"
        if group_name != "grader":
            _give_access(pod, deploy)
    workers = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    _size_rollouts(workers["rollout"], run, deploy)
    if "learner" in workers:
        _size_learner(workers["learner"], run, deploy)
    if "grader" in workers:
        _size_graders(workers["grader"], run)
    if "gcs-redis" in components:
        options = spec["gcsFaultToleranceOptions"]
        options["redisAddress"] = deploy.redis_address or options["redisAddress"]
        options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] = deploy.redis_secret


def _size_rollouts(group: Manifest, run: RunConfig, deploy: DeployConfig) -> None:
    resources = group["template"]["spec"]["containers"][0]["resources"]
    for side in resources.values():
        side["cpu"] = str(deploy.cpus) if deploy.cpus is not None else side["cpu"]
        side["memory"] = deploy.memory or side["memory"]
        if deploy.gpus is not None:
            side[GPU] = str(deploy.gpus)
    for volume in group["template"]["spec"]["volumes"]:
        if volume["name"] == "shm":
            volume["emptyDir"]["sizeLimit"] = shared_memory(resources["limits"]["memory"])
    pod = Pod.of(group)
    if deploy.max_rollout_pods is not None:
        pod = replace(pod, max_pods=deploy.max_rollout_pods)
    rollout = run.rollout
    ask = Ask(
        "rollout actors (rollout.num_workers)",
        rollout.num_workers,
        rollout.cpus_per_worker,
        rollout.gpus_per_worker,
        "rollout.cpus_per_worker, rollout.gpus_per_worker",
    )
    needed = ask.pods(pod)
    # A run starts with `min_workers` and takes what comes, so the group may shrink to these.
    least = replace(ask, num=rollout.min_workers).pods(pod)
    group |= {"replicas": needed, "minReplicas": least, "maxReplicas": max(needed, least)}


def _size_learner(group: Manifest, run: RunConfig, deploy: DeployConfig) -> None:
    learner = run.learner
    pod = replace(Pod.of(group), max_pods=deploy.max_learner_pods or learner.num_ranks)
    if learner.num_ranks > pod.max_pods:
        raise UserError(
            f"config key 'learner.num_ranks' is {learner.num_ranks}, more than deploy.max_learner_pods = {pod.max_pods} pods "
            "with one rank each; allowed: at most as many ranks as pods"
        )
    cpus, gpus = learner.cpus_per_rank, learner.gpus_per_rank
    ask = Ask("learner ranks (learner.num_ranks)", 1, cpus, gpus, "learner.cpus_per_rank, learner.gpus_per_rank")
    ask.pods(pod)
    group |= dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), learner.num_ranks)
    if gpus == 0:
        for side in group["template"]["spec"]["containers"][0]["resources"].values():
            side.pop(GPU, None)


def _size_graders(group: Manifest, run: RunConfig) -> None:
    """As many pods as graders need; none where the rollout actors grade."""
    rollout = run.rollout
    code = sorted({task_of(name) for name in run.task_weights} & CODE_TASKS)
    if code and not rollout.num_graders:
        raise UserError(
            f"config key 'rollout.num_graders' is 0, so what models write for {code[0]} would run in pods with credentials; "
            "allowed on this overlay: a number > 0"
        )
    needed = 0
    if rollout.num_graders:
        ask = Ask(
            "graders (rollout.num_graders)",
            rollout.num_graders,
            rollout.cpus_per_grader,
            0.0,
            "rollout.cpus_per_grader",
        )
        needed = ask.pods(Pod.of(group))
    group |= {"replicas": needed, "minReplicas": needed, "maxReplicas": max(needed, 1)}


def _give_access(pod: Manifest, deploy: DeployConfig) -> None:
    """Identity, Secrets and variables that everything but a grader gets."""
    if deploy.service_account is not None:
        pod["serviceAccountName"] = deploy.service_account
    container = pod["containers"][0]
    secrets = [name for name in (deploy.storage_secret, deploy.hub_secret) if name is not None]
    container["envFrom"] = [{"secretRef": {"name": name}} for name in secrets]
    container["env"] = container["env"] + [
        {"name": name, "value": str(value)} for name, value in deploy.environment.items()
    ]


def _set_pull_secret(pod: Manifest, deploy: DeployConfig) -> None:
    if deploy.image_pull_secret is not None:
        pod["imagePullSecrets"] = [{"name": deploy.image_pull_secret}]


def _set_queue(labels: Manifest, deploy: DeployConfig) -> None:
    for key in labels:
        if key.endswith("/queue-name") and deploy.queue is not None:
            labels[key] = deploy.queue


def _groups(spec: Manifest) -> Iterator[tuple[str, Manifest]]:
    if "headGroupSpec" in spec:
        yield "head", spec["headGroupSpec"]
        for group in spec["workerGroupSpecs"]:
            yield group["groupName"], group


def _describe(group: Manifest) -> str:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus = f", {limits[GPU]} GPU" if GPU in limits else ""
    now, high = group.get("replicas", 1), group.get("maxReplicas", 1)
    pods = f"{now} pod{'s' * (now != 1)}" + (f", at most {high}" if high != now else "")
    return f"{pods} of {limits['cpu']} CPUs{gpus}, {limits['memory']} of memory"
