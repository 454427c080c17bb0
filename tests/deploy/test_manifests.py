"""Every static manifest is what KubeRay and Kubernetes accept, and says what the design promises."""

from __future__ import annotations

import copy
import functools
import itertools
import json

import pytest

from cluster.errors import UserError
from deploy.kustomize import COMPONENTS, KUBERAY, Manifest, build, overlays
from tests.deploy.schemas import problems

WORKLOADS = ("training", "cluster", "evaluation")
PLAIN = [(overlay, workload, ()) for overlay in overlays() for workload in WORKLOADS]
WITH_COMPONENTS = [
    ("multi-gpu", workload, components)
    for workload in ("training", "cluster")
    for components in [(name,) for name in COMPONENTS] + [("gcs-redis", "gvisor", "kueue")]
]


@functools.cache
def _built(overlay: str, workload: str, components: tuple[str, ...]) -> str:
    return json.dumps(build(overlay, workload, components))


def manifests(overlay: str, workload: str, components: tuple[str, ...] = ()) -> list[Manifest]:
    return json.loads(_built(overlay, workload, components))


def cluster_spec(overlay: str, workload: str = "cluster", components: tuple[str, ...] = ()) -> Manifest:
    found = [each for each in manifests(overlay, workload, components) if each["kind"] in ("RayCluster", "RayJob")]
    assert len(found) == 1
    return found[0]["spec"].get("rayClusterSpec", found[0]["spec"])


def groups(spec: Manifest) -> dict[str, Manifest]:
    return {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}


@pytest.mark.parametrize(("overlay", "workload", "components"), PLAIN + WITH_COMPONENTS)
def test_an_api_server_accepts_it(overlay, workload, components):
    built = manifests(overlay, workload, components)
    assert built
    assert not [problem for manifest in built for problem in problems(manifest)]


def test_every_kustomization_of_the_tree_builds():
    for workload, overlay in itertools.product(("cluster", "training"), ("single-gpu", "multi-gpu")):
        assert (KUBERAY / "overlays" / overlay / workload / "kustomization.yaml").is_file()


DAMAGE = {
    "an unknown field of the job": lambda job: job["spec"].update(entrypont="python"),
    "an unknown field of a container": lambda job: _head(job).update(imagee="x"),
    "a number of replicas as text": lambda job: _group(job).update(replicas="2"),
    "an integer as a start parameter": lambda job: _group(job).update(rayStartParams={"num-cpus": 0}),
    "no head": lambda job: job["spec"]["rayClusterSpec"].pop("headGroupSpec"),
    "more replicas than the most": lambda job: _group(job).update(replicas=100),
    "a manager that does not exist": lambda job: job["spec"].update(managedBy="me"),
    "an empty deletion strategy": lambda job: job["spec"].update(deletionStrategy={"deletionRules": []}),
    "two owners of one cluster": lambda job: job["spec"].update(clusterSelector={"ray.io/cluster": "x"}),
    "labels among the start parameters": lambda job: _group(job)["rayStartParams"].update(labels="a=b"),
    "a name that is too long": lambda job: job["metadata"].update(name="a" * 48),
    "no version beside tokens": lambda job: job["spec"]["rayClusterSpec"].pop("rayVersion"),
    "pods that restart": lambda job: _group(job)["template"]["spec"].update(restartPolicy="Always"),
}


def _group(job: Manifest) -> Manifest:
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


def _head(job: Manifest) -> Manifest:
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_validation_sees(damage):
    job = copy.deepcopy(next(each for each in manifests("multi-gpu", "training") if each["kind"] == "RayJob"))
    assert not problems(job)
    DAMAGE[damage](job)
    assert problems(job)


def test_core_kinds_are_strict_too():
    policy = next(each for each in manifests("cpu", "cluster") if each["kind"] == "NetworkPolicy")
    policy["spec"]["policyType"] = ["Ingress"]
    assert problems(policy)


@pytest.mark.parametrize("overlay", overlays())
@pytest.mark.parametrize("workload", ["cluster", "training"])
class TestEveryPod:
    def test_is_restricted(self, overlay, workload):
        for name, group in groups(cluster_spec(overlay, workload)).items():
            pod = group["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True, name
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name

    def test_has_no_service_account_token_unless_its_autoscaler_needs_one(self, overlay, workload):
        spec = cluster_spec(overlay, workload)
        for name, group in groups(spec).items():
            needs_one = name == "head" and spec["enableInTreeAutoscaling"]
            assert group["template"]["spec"].get("automountServiceAccountToken", True) is needs_one, name

    def test_asks_for_the_memory_that_it_may_use(self, overlay, workload):
        for name, group in groups(cluster_spec(overlay, workload)).items():
            resources = group["template"]["spec"]["containers"][0]["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"], name
            assert resources["requests"].get("nvidia.com/gpu") == resources["limits"].get("nvidia.com/gpu"), name

    def test_has_shared_memory_and_a_grace_period_and_the_operators_probes(self, overlay, workload):
        for name, group in groups(cluster_spec(overlay, workload)).items():
            pod = group["template"]["spec"]
            assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"], name
            assert any(volume.get("emptyDir", {}).get("medium") == "Memory" for volume in pod["volumes"]), name
            assert pod["terminationGracePeriodSeconds"] >= 30, name
            assert not {"livenessProbe", "readinessProbe"} & pod["containers"][0].keys(), name

    def test_takes_no_secret_from_the_manifest(self, overlay, workload):
        for manifest in manifests(overlay, workload):
            assert manifest["kind"] != "Secret"
        for group in groups(cluster_spec(overlay, workload)).values():
            for container in group["template"]["spec"]["containers"]:
                names = {entry["name"] for entry in container.get("env", []) if "value" in entry}
                assert not {name for name in names if "SECRET" in name or "TOKEN" in name or "PASSWORD" in name}

    def test_the_head_does_no_work_and_the_cluster_wants_a_token(self, overlay, workload):
        spec = cluster_spec(overlay, workload)
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert "nvidia.com/gpu" not in json.dumps(spec["headGroupSpec"]["template"]["spec"]["containers"])
        assert spec["authOptions"] == {"mode": "token"}

    def test_a_job_is_stopped_within_the_pods_grace_period(self, overlay, workload):
        pod = cluster_spec(overlay, workload)["headGroupSpec"]["template"]["spec"]
        env = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
        assert int(env["RAY_JOB_STOP_WAIT_TIME_S"]) < pod["terminationGracePeriodSeconds"]


def test_the_groups_of_many_gpus():
    spec = cluster_spec("multi-gpu")
    assert (spec["enableInTreeAutoscaling"], spec["autoscalerOptions"]["version"]) == (True, "v2")
    found = groups(spec)
    learner, rollout = found["learner"], found["rollout"]
    assert learner["minReplicas"] == learner["replicas"] == learner["maxReplicas"]
    assert rollout["minReplicas"] < rollout["maxReplicas"]
    evict = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    kept = {name: group["template"]["metadata"].get("annotations", {}).get(evict) for name, group in found.items()}
    assert (kept["head"], kept["learner"], kept["rollout"]) == ("false", "false", "true")
    spot = json.dumps("dllm-unmasking/spot")
    assert spot in json.dumps(rollout["template"]["spec"]["tolerations"])
    assert spot not in json.dumps(learner["template"]["spec"]["tolerations"])


def test_graders_hold_nothing_and_reach_nothing():
    grader = groups(cluster_spec("multi-gpu"))["grader"]
    container = grader["template"]["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert "envFrom" not in container
    assert "nvidia.com/gpu" not in json.dumps(container)
    policy = next(
        each for each in manifests("multi-gpu", "cluster") if each["metadata"]["name"] == "dllm-unmasking-graders"
    )
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted.items() <= grader["template"]["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Egress"]
    assert not any("ipBlock" in json.dumps(rule) or rule.get("to") is None for rule in policy["spec"]["egress"])


def test_only_the_cluster_the_operator_and_prometheus_reach_the_ports():
    policy = next(each for each in manifests("cpu", "cluster") if each["metadata"]["name"] == "dllm-unmasking-ray")
    own, operator, prometheus = policy["spec"]["ingress"]
    pods = [group["template"]["metadata"]["labels"] for group in groups(cluster_spec("multi-gpu")).values()]
    assert all(policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items() for labels in pods)
    assert "ports" not in own
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert [port["port"] for port in prometheus["ports"]] == [8080, 44217, 44227]


def test_a_training_job_ends_cleans_up_and_goes_on():
    job = next(each for each in manifests("multi-gpu", "training") if each["kind"] == "RayJob")["spec"]
    assert job["backoffLimit"] > 0
    assert job["entrypoint"].startswith("python -m learner.main ")
    assert job["shutdownAfterJobFinishes"] is True
    assert (
        min(job[key] for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds", "ttlSecondsAfterFinished")) > 0
    )
    assert job["submitterPodTemplate"]["spec"]["automountServiceAccountToken"] is False


def test_an_evaluation_uses_a_cluster_that_runs():
    job = next(each for each in manifests("cpu", "evaluation") if each["kind"] == "RayJob")["spec"]
    clusters = [each["metadata"]["name"] for each in manifests("cpu", "cluster") if each["kind"] == "RayCluster"]
    assert [job["clusterSelector"]["ray.io/cluster"]] == clusters


@pytest.mark.parametrize(
    ("component", "path"),
    [
        ("kueue", '"kueue.x-k8s.io/queue-name"'),
        ("volcano", '"volcano.sh/queue-name"'),
        ("gcs-redis", '"gcsFaultToleranceOptions"'),
        ("gvisor", '"runtimeClassName": "gvisor"'),
    ],
)
@pytest.mark.parametrize("workload", ["cluster", "training"])
def test_components(component, path, workload):
    assert path not in _built("multi-gpu", workload, ())
    assert path in _built("multi-gpu", workload, (component,))


def test_kueue_admits_a_cluster_of_fixed_size():
    assert cluster_spec("multi-gpu", "training", ("kueue",))["enableInTreeAutoscaling"] is False


def test_gvisor_is_for_graders_alone():
    found = groups(cluster_spec("multi-gpu", "cluster", ("gvisor",)))
    assert [name for name, group in found.items() if "runtimeClassName" in group["template"]["spec"]] == ["grader"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("two-gpus", "training", ()), "unknown overlay 'two-gpus'; allowed: cpu, multi-gpu, single-gpu"),
        (("cpu", "training", ("kuee",)), "unknown component 'kuee'; allowed: gcs-redis"),
        (("cpu", "training", ("kueue", "volcano")), "both queue the pods"),
        (("single-gpu", "cluster", ("gvisor",)), "for graders, which overlay 'single-gpu' lacks"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        build(*arguments)
