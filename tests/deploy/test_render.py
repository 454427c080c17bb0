"""From a run's configuration to manifests that hold it, and one line for what cannot be."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.yaml_files import parse_yaml
from deploy.capacity import Ask, Pod
from deploy.render import main
from deploy.yaml_text import dump_manifests
from learner.main import resolve
from tests.deploy.schemas import problems

IMAGE = "deploy.image=registry.example/team/dllm-unmasking:0.1.0"
CPU_RUN = ["tiny", "run_dir=s3://bucket/runs/tiny-1", IMAGE, "deploy.storage_secret=bucket-keys"]
GPU_RUN = [*CPU_RUN, "model.name=GSAI-ML/LLaDA-8B-Instruct", "model.device=cuda", "rollout.gpus_per_worker=1"]


def render(capsys, *arguments):
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(out)}


def refusal(capsys, *arguments):
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1, err
    return err


def worker_groups(job):
    spec = job["spec"].get("rayClusterSpec", job["spec"])
    return {group["groupName"]: group for group in spec["workerGroupSpecs"]}


@pytest.mark.parametrize("workload", ["training", "cluster", "evaluation"])
@pytest.mark.parametrize("overlay", ["cpu", "single-gpu", "multi-gpu"])
def test_what_is_rendered_is_accepted(capsys, overlay, workload):
    made = render(capsys, *CPU_RUN, "--overlay", overlay, "--workload", workload)
    assert not [problem for manifest in made.values() for problem in problems(manifest)]


def test_everything_of_the_run_is_in_it(capsys):
    made = render(
        capsys, *GPU_RUN, "rollout.num_workers=6", "deploy.namespace=research", "deploy.hub_secret=hub", "deploy.retries=7",
        "deploy.deadline_hours=10", "deploy.environment.HF_HUB_OFFLINE=1", "deploy.memory=100Gi", "deploy.queue=team-a",
        "--overlay", "multi-gpu", "--component", "kueue", "--component", "gvisor", "--component", "monitoring",
    )  # fmt: skip
    assert not [problem for manifest in made.values() for problem in problems(manifest)]
    job = made["RayJob/tiny-1"]
    assert job["spec"]["backoffLimit"] == 7
    assert job["spec"]["activeDeadlineSeconds"] == 36000
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert {manifest["metadata"]["namespace"] for manifest in made.values()} == {"research"}
    rollout = worker_groups(job)["rollout"]
    assert rollout["replicas"] == 6
    container = rollout["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"] == "100Gi"
    assert container["envFrom"] == [{"secretRef": {"name": "bucket-keys"}}, {"secretRef": {"name": "hub"}}]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in container["env"]
    grader = worker_groups(job)["grader"]["template"]["spec"]
    assert "envFrom" not in grader["containers"][0]
    assert grader["runtimeClassName"] == "gvisor"
    images = {line.strip() for line in yaml.safe_dump(job).splitlines() if "image:" in line}
    assert images == {
        "image: registry.example/team/dllm-unmasking:0.1.0",
        "- image: registry.example/team/dllm-unmasking:0.1.0",
    }


def test_the_job_reads_the_config_that_was_given(capsys, tmp_path):
    made = render(capsys, *CPU_RUN, "seed=7", "--overlay", "cpu")
    file = tmp_path / "run.yaml"
    file.write_text(made["ConfigMap/tiny-1-run"]["data"]["run.yaml"])
    assert resolve([str(file)]) == resolve(["tiny", "run_dir=s3://bucket/runs/tiny-1", "seed=7"])
    spec = made["RayJob/tiny-1"]["spec"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    [volume] = [each for each in head["volumes"] if each["name"] == "run"]
    [mount] = [each for each in head["containers"][0]["volumeMounts"] if each["name"] == "run"]
    assert volume["configMap"]["name"] == "tiny-1-run"
    assert f"{mount['mountPath']}/run.yaml" in spec["entrypoint"]


def test_each_role_stays_on_its_group(capsys):
    made = render(capsys, *GPU_RUN, "--overlay", "multi-gpu")
    run = yaml.safe_load(made["ConfigMap/tiny-1-run"]["data"]["run.yaml"])
    groups = worker_groups(made["RayJob/tiny-1"])
    assert run["rollout"]["worker_labels"] == groups["rollout"]["labels"]
    assert run["rollout"]["grader_labels"] == groups["grader"]["labels"]
    assert run["learner"]["rank_labels"] == groups["learner"]["labels"]
    assert len({group["labels"]["role"] for group in groups.values()}) == 3


def test_a_development_cluster_and_its_evaluation_fit(capsys):
    cluster = render(capsys, *CPU_RUN, "--overlay", "cpu", "--workload", "cluster")
    assert "RayCluster/tiny-1" in cluster
    job = render(capsys, *CPU_RUN, "--overlay", "cpu", "--workload", "evaluation")["RayJob/tiny-1-evaluation"]
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": "tiny-1"}
    assert job["spec"]["entrypoint"] == (
        "python -m evaluation.pipeline s3://bucket/runs/tiny-1 --save-path s3://bucket/runs/tiny-1/evaluations"
    )


def test_the_groups_are_as_large_as_the_run_needs(capsys):
    made = render(
        capsys, *GPU_RUN, "rollout.num_workers=6", "rollout.min_workers=2", "learner.num_ranks=3", "learner.device=cuda",
        "learner.gpus_per_rank=1", "task=mbpp", "task_settings.mbpp.sandbox=process", "rollout.num_graders=8",
        "rollout.cpus_per_grader=1", "--overlay", "multi-gpu",
    )  # fmt: skip
    sizes = {
        name: tuple(group[key] for key in ("minReplicas", "replicas", "maxReplicas"))
        for name, group in worker_groups(made["RayJob/tiny-1"]).items()
    }
    assert sizes == {"learner": (3, 3, 3), "rollout": (2, 6, 6), "grader": (2, 2, 2)}
    assert not [problem for manifest in made.values() for problem in problems(manifest)]


def test_no_grader_pods_where_rollout_actors_grade(capsys):
    made = render(capsys, *CPU_RUN, "--overlay", "multi-gpu")
    groups = worker_groups(made["RayJob/tiny-1"])
    assert groups["grader"]["replicas"] == 0
    learner = groups["learner"]["template"]["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in learner["resources"]["limits"].keys() | learner["resources"]["requests"].keys()


def test_several_actors_share_a_pod(capsys):
    arguments = [*GPU_RUN, "rollout.gpus_per_worker=0.25", "rollout.num_workers=8", "--overlay", "multi-gpu"]
    assert worker_groups(render(capsys, *arguments)["RayJob/tiny-1"])["rollout"]["replicas"] == 2


def test_dry_run_says_what_would_run_where(capsys):
    assert main([*GPU_RUN, "--overlay", "multi-gpu", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "rollout: 2 pods of 8 CPUs, 1 GPU, 64Gi of memory" in out
    assert "kind:" not in out


def test_settings_from_a_file_and_output_to_one(capsys, tmp_path):
    file = tmp_path / "deploy.yaml"
    file.write_text("image: team/dllm:1\nstorage_secret: keys\nname: other\n")
    output = tmp_path / "out" / "manifests.yaml"
    arguments = ["tiny", "run_dir=s3://bucket/runs/tiny", "--settings", str(file), "--output", str(output)]
    assert main([*arguments, "deploy.name=mine", "--overlay", "cpu"]) == 0
    assert capsys.readouterr().out == ""
    assert "RayJob" in output.read_text()
    assert any(each["metadata"]["name"] == "mine" for each in yaml.safe_load_all(output.read_text()))


REFUSED = {
    "more learner ranks than pods": (
        [*CPU_RUN, "deploy.max_learner_pods=1", "learner.num_ranks=2"], "multi-gpu", "'learner.num_ranks' is 2, more than"
    ),
    "more rollouts than pods": (
        [*GPU_RUN, "rollout.num_workers=99"], "multi-gpu", "99 rollout actors (rollout.num_workers) need 99 pods of group 'rollout'"
    ),
    "more than one GPU has": ([*GPU_RUN, "rollout.num_workers=2"], "single-gpu", "at most 1 of them"),
    "GPUs where there are none": (GPU_RUN, "cpu", "have none; allowed: an overlay with GPUs"),
    "an actor larger than a pod": ([*CPU_RUN, "rollout.cpus_per_worker=64"], "cpu", "a pod of group 'rollout' has 4 CPUs"),
    "a GPU model without GPUs": ([*CPU_RUN, "model.device=cuda"], "multi-gpu", "'rollout.gpus_per_worker' is 0"),
    "GPUs for a CPU model": ([*CPU_RUN, "rollout.gpus_per_worker=1"], "multi-gpu", "'model.device' is 'cpu'"),
    "no secret": (CPU_RUN[:3], "cpu", "'deploy.storage_secret' is null"),
    "no secret for redis": ([*CPU_RUN, "--component", "gcs-redis"], "cpu", "'deploy.redis_secret' is null"),
    "an unknown overlay": (CPU_RUN, "cpus", "unknown overlay 'cpus'; allowed: cpu, multi-gpu, single-gpu"),
    "an unknown component": ([*CPU_RUN, "--component", "argo"], "cpu", "unknown component 'argo'"),
    "a component without its group": ([*CPU_RUN, "--component", "gvisor"], "cpu", "component 'gvisor' is for graders"),
    "a bad image": ([*CPU_RUN, "deploy.image=Team/Image:1"], "cpu", "'deploy.image' is 'Team/Image:1'"),
    "an image without a tag": ([*CPU_RUN, "deploy.image=team/image"], "cpu", "a tag other than latest"),
    "an image that moves": ([*CPU_RUN, "deploy.image=team/image:latest"], "cpu", "a tag other than latest"),
    "no image": (["tiny", "run_dir=s3://b-b/r", "deploy.storage_secret=s"], "cpu", "'deploy.image' is missing"),
    "a path without scheme": ([*CPU_RUN, "run_dir=bucket/runs/x"], "cpu", "'run_dir' is 'bucket/runs/x'"),
    "a bucket alone": ([*CPU_RUN, "run_dir=s3://bucket"], "cpu", "'run_dir' is 's3://bucket'"),
    "a name that KubeRay refuses": ([*CPU_RUN, "deploy.name=1st"], "cpu", "'deploy.name' is '1st'"),
    "a long name": ([*CPU_RUN, f"run_dir=s3://bucket/{'r' * 60}"], "cpu", "which names the RayJob"),
    "a bad secret name": ([*CPU_RUN, "deploy.storage_secret=My_Keys"], "cpu", "'deploy.storage_secret' is 'My_Keys'"),
    "a secret in the clear": (
        [*CPU_RUN, "deploy.environment.AWS_SECRET_ACCESS_KEY=x"], "cpu", "AWS_SECRET_ACCESS_KEY' looks like a secret"
    ),
    "another cluster": ([*CPU_RUN, "ray_address=ray://head:10001"], "cpu", "'ray_address' is 'ray://head:10001'"),
    "a folder of this machine": ([*CPU_RUN, "model.name=./models/llada"], "cpu", "'model.name' is './models/llada'"),
    "a file of this machine": (
        [*CPU_RUN, "task=gsm8k", "task_settings.gsm8k.train=data/train.jsonl"], "cpu", "'task_settings.gsm8k.train'"
    ),
    "generated code beside credentials": (
        [*CPU_RUN, "task=mbpp", "task_settings.mbpp.sandbox=process"], "multi-gpu", "'rollout.num_graders' is 0"
    ),
    "a learner on a GPU without GPUs": ([*CPU_RUN, "learner.device=cuda"], "multi-gpu", "'learner.gpus_per_rank' is 0"),
    "too many graders": (
        [*CPU_RUN, "rollout.num_graders=999", "rollout.cpus_per_grader=1"], "multi-gpu", "999 graders (rollout.num_graders) need"
    ),
    "a sandbox that the pods forbid": ([*CPU_RUN, "task=mbpp"], "multi-gpu", "'task_settings.mbpp.sandbox' is 'namespaces'"),
    "an unknown setting": ([*CPU_RUN, "deploy.imagee=x"], "cpu", "did you mean 'deploy.image'"),
    "an unknown key of the run": ([*CPU_RUN, "rollout.num_worker=3"], "cpu", "did you mean 'rollout.num_workers'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(capsys, case):
    arguments, overlay, message = REFUSED[case]
    assert message in refusal(capsys, *arguments, "--overlay", overlay)


@given(
    num=st.integers(1, 500),
    cpus=st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.0, 3.0]),
    gpus=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    pod=st.builds(Pod, st.just("rollout"), st.sampled_from([4.0, 8.0]), st.integers(1, 8), st.just(1000)),
)
def test_pods_hold_all_and_none_is_left_over(num, cpus, gpus, pod):
    needed = Ask("actors", num, cpus, gpus, "keys").pods(pod)
    per_pod = min(int(pod.cpus / cpus + 1e-9), int(pod.gpus / gpus + 1e-9) if gpus else num)
    assert (needed - 1) * per_pod < num <= needed * per_pod


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30
) | st.sampled_from(
    [
        "no",
        "off",
        "1e3",
        "1:30",
        "0x1f",
        "~",
        "",
        "2024-01-01",
        "<<",
        "y",
        "1_000",
        ".5",
        "null",
        "a: b",
        "# c",
        "*x",
        "é",
    ]
)


@settings(max_examples=15)
@given(st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS, max_size=3) | st.integers() | st.booleans(), max_size=5))
def test_text_stays_text_for_every_reader(data):
    text = dump_manifests([data])
    assert yaml.safe_load(text) == data
    assert parse_yaml(text, source="manifest") == data
