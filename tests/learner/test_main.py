from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.config import build, to_dict
from cluster.errors import ExitCode
from learner.config import RESULT_NEUTRAL, RunConfig
from learner.lease_plan import LeasePlan
from learner.main import main, presets, resolve
from rollout_workers.tasks.stream import Pick
from tests.learner.refusals import refusal


def test_every_preset_builds_and_is_listed_by_its_file_name() -> None:
    folder = Path(__file__).parents[2] / "learner" / "presets"
    assert presets() == sorted(path.stem for path in folder.glob("*.yaml"))
    assert "tiny" in presets()
    runs = {name: resolve([name]) for name in presets()}
    assert len({run.run_dir for run in runs.values()}) == len(runs), "presets must not share a run directory"
    for run in runs.values():
        assert build(RunConfig, to_dict(run)) == run


def test_nothing_given_is_the_tiny_preset() -> None:
    assert resolve([]) == resolve(["tiny"])


def test_overrides_are_applied_from_left_to_right_wherever_they_stand() -> None:
    config = resolve(["seed=1", "tiny", "learner.learning_rate=1e-3", "seed=5", "policy.see_block=false"])
    assert (config.seed, config.learner.learning_rate, config.policy.see_block) == (5, 1e-3, False)
    assert config.learner.num_steps == resolve(["tiny"]).learner.num_steps


def test_a_file_is_a_configuration_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: sudoku\nlearner: {num_steps: 3}\n")
    config = resolve([str(path), "learner.group_size=4"])
    assert (config.task, config.learner.num_steps, config.learner.group_size) == ("sudoku", 3, 4)
    path.write_text("")
    assert resolve([str(path)]) == RunConfig()


def test_an_unknown_preset_is_quoted_beside_the_known_ones() -> None:
    message = refusal("tinny")
    assert message.startswith("unknown preset 'tinny'; allowed: ")
    assert all(name in message for name in presets())
    assert ".yaml file" in message


def test_two_sources_are_refused() -> None:
    assert refusal("tiny", "seed=1", "other.yaml") == (
        "two configurations given, 'tiny' and 'other.yaml'; allowed: one preset or file"
    )


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert str(missing) in refusal(str(missing))
    assert str(tmp_path) in refusal(str(tmp_path))
    broken = tmp_path / "broken.yaml"
    broken.write_text("learner: {num_steps: [1\n")
    assert str(broken) in refusal(str(broken))
    broken.write_text("- a\n- b\n")
    assert "allowed: a mapping" in refusal(str(broken))
    broken.write_bytes(b"\xff\xfe\x00")
    assert str(broken) in refusal(str(broken))


@pytest.mark.parametrize(
    ("override", "quoted", "allowed"),
    [
        ("=3", "'=3'", "key.path=value"),
        ("learner.=3", "'learner.=3'", "key.path=value"),
        (".seed=3", "'.seed=3'", "key.path=value"),
        ("seed.x.y=3", "seed", ""),
        ("learner.num_step=3", "'learner.num_step' (value 3); did you mean 'learner.num_steps'?", "num_steps"),
        ("lerner.num_steps=3", "'lerner'", "learner"),
        ("num_steps=3", "'num_steps' (value 3); did you mean 'learner.num_steps'?", "run_dir"),
        ("learner.num_steps=many", "'learner.num_steps' is 'many' (str)", "an integer >= 0"),
        ("learner.num_steps=1.5", "'learner.num_steps' is 1.5 (float)", "an integer >= 0"),
        ("learner.num_steps=-1", "'learner.num_steps' is -1 (int)", "an integer >= 0"),
        ("learner.group_size=1", "'learner.group_size' is 1 (int)", "an integer >= 2"),
        ("learner.learning_rate=0", "'learner.learning_rate' is 0 (int)", "a number > 0"),
        ("learner.learning_rate=.nan", "'learner.learning_rate' is nan (float)", "a number > 0"),
        ("learner.clip_low=1.5", "'learner.clip_low' is 1.5 (float)", "a number > 0.0 and <= 1.0"),
        ("learner.adam_beta2=1", "'learner.adam_beta2' is 1 (int)", "a number >= 0.0 and < 1.0"),
        ("learner.advantage=gae", "'learner.advantage' is 'gae' (str)", "'mean', 'mean_std', 'leave_one_out'"),
        ("learner.max_weight_lag=-1", "'learner.max_weight_lag' is -1 (int)", "an integer >= 0"),
        ("rollout.min_workers=3", "'rollout.min_workers' is 3", "at most num_workers = 2"),
        ("learner=3", "'learner' is 3 (int)", "a section with any of"),
        ("task=gsm", "'task' is 'gsm'", "arithmetic, sudoku"),
        ("task={}", "'task' is {}", "one task or more"),
        ("task=arithmetic@second", "'arithmetic@second'", "a name in models (none are configured)"),
        ("models={second: {name: x}}", "'models.second' decodes no task of this run", "TASK@second"),
        ("models={a-b: {name: x}}", "'a-b'", "letters, digits"),
        ("task={arithmetic: 0}", "'task.arithmetic' is 0", "a number > 0"),
        ("task_settings.sudoku.few_shot=2", "'task_settings.sudoku' belongs to no task", "arithmetic"),
        ("task_settings.arithmetic.few=2", "'task_settings.arithmetic.few'", "few_shot"),
        ("decode.long_prompts=cut", "'decode.long_prompts' is 'cut' (str)", "'error', 'skip'"),
        ("seed=true", "'seed' is True (bool)", "an integer >= 0"),
        ("policy.hidden_size=30", "'policy.hidden_size' is 30", "a multiple of 2 * num_heads = 4"),
        ("policy.scope=all", "'policy.scope' is 'all' (str)", "'canvas'"),
        ("reward.alpha=-1", "'reward.alpha' is -1 (int)", "a number >= 0.0"),
        ("decode.eos=early", "'decode.eos' is 'early' (str)", "'full', 'stop'"),
        ("evaluation.seeds=[]", "'evaluation.seeds' is []", "at least one seed"),
        ("rollout.lease_groups=0", "'rollout.lease_groups' is 0", ">= 1"),
    ],
)
def test_a_mistaken_override_is_quoted_with_what_is_allowed(override: str, quoted: str, allowed: str) -> None:
    message = refusal("tiny", override)
    assert quoted in message
    assert allowed in message.partition("allowed")[2]


def test_models_are_those_that_tasks_name_and_share_a_device() -> None:
    second = "models={second: {name: other}, third: {name: another}}"
    config = resolve(["tiny", second, "task={sudoku@second: 1, arithmetic@third: 2, sudoku@third: 1}"])
    assert list(config.model_configs) == ["second", "third"]
    assert list(config.task_configs) == ["sudoku@second", "arithmetic@third", "sudoku@third"]
    assert list(resolve(["tiny"]).model_configs) == [""]
    message = refusal("tiny", "models={second: {name: x, device: cuda}}", "task={arithmetic: 1, arithmetic@second: 1}")
    assert (
        message == "config key 'models.second.device' is 'cuda'; allowed: 'cpu', the device of the run's other models"
    )
    assert "'task_settings.math'" in refusal("tiny", "task_settings.math.parity=true")


def test_every_result_neutral_key_exists() -> None:
    for key in RESULT_NEUTRAL:
        section = to_dict(RunConfig())
        for name in key.split("."):
            assert name in section
            section = section[name]


def test_a_dry_run_prints_the_resolved_whole_with_derived_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "tiny",
        "rollout.lease_groups=2",
        "learner.prompts_per_step=6",
        "learner.group_size=4",
        "learner.num_steps=5",
        "seed=3",
    ]
    assert main([*arguments, "--dry-run"]) == ExitCode.FINISHED
    output = capsys.readouterr().out
    assert build(RunConfig, yaml.safe_load(output)) == resolve(arguments)
    derived = output.partition("# derived:")[2]
    assert "6 prompts x 4 samples = 24" in derived
    assert "leases per update: 3 of 8 rows, the last in ever smaller parts, over 2" in derived
    assert "5 updates x 4 iterations = 20" in derived
    assert "training prompts: 30, rows: 120" in derived


@pytest.mark.parametrize("key", ["decode.block_length", "evaluation.block_lengths"])
def test_a_dry_run_refuses_blocks_that_do_not_divide_the_canvas(capsys: pytest.CaptureFixture[str], key: str) -> None:
    value = "[7]" if key.endswith("s") else "7"
    assert main(["tiny", f"{key}={value}", "--dry-run"]) == ExitCode.USER_ERROR
    captured = capsys.readouterr()
    assert f"config key '{key}' is 7; allowed: a divisor of the canvas length 48" in captured.err
    assert captured.out == ""


def test_derived_numbers_count_experts_and_imitated_rows(capsys: pytest.CaptureFixture[str]) -> None:
    experts = ("learner.steering.parameters=[0.9, 0.7]", "learner.steering.block_length=16", "learner.clip_high=0.2")
    sizes = (
        "rollout.lease_groups=2",
        "rollout.taper_leases=false",
        "learner.prompts_per_step=6",
        "learner.group_size=4",
        "learner.num_steps=5",
        "learner.imitation.num_steps=2",
    )
    config = resolve(["tiny", *sizes, *experts])
    assert main(["tiny", *sizes, *experts, "--dry-run"]) == ExitCode.FINISHED
    derived = capsys.readouterr().out.partition("# derived:")[2]
    assert "6 prompts x (4 samples + 2 experts) = 36" in derived
    plan = LeasePlan(config, block_length=48)
    picks = [Pick("arithmetic", index) for index in range(6)]
    leases = plan.leases(picks, first_group=0, step=2)
    num_experts = sum(lease.unmasker.expert is not None for lease in leases)
    assert f"{len(leases) - num_experts} of 8 rows, and 2 x {num_experts // 2} of experts" in derived
    rows = [
        group.num_samples for step in range(7) for lease in plan.leases(picks, first_group=0, step=step)
        for group in lease.groups
    ]  # fmt: skip
    assert f"training prompts: 42, rows: {sum(rows)}" in derived


@pytest.mark.parametrize(
    ("settings", "quoted"),
    [
        (
            ["learner.steering.parameters=[0.9]", "learner.steering.heuristic=nope"],
            "'learner.steering.heuristic' is 'nope'",
        ),
        (["learner.steering.parameters=[1.9]"], "'learner.steering.parameters'"),
        (
            ["learner.imitation.num_steps=3", "learner.imitation.heuristic=wino"],
            "'learner.imitation.heuristic' is 'wino'",
        ),
        (["learner.initial_policy=/no/such/policy"], "'learner.initial_policy' is '/no/such/policy'"),
        (["evaluation.heuristics={nope: [1]}"], "'evaluation.heuristics.nope'"),
    ],
)
def test_a_dry_run_refuses_what_a_run_would(
    settings: list[str], quoted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tiny", *settings, "--dry-run"]) == ExitCode.USER_ERROR
    error = capsys.readouterr().err
    assert quoted in error
    assert error.count("\n") == 1


def test_a_dry_run_says_which_actor_hosts_what(capsys: pytest.CaptureFixture[str]) -> None:
    mixture = (
        "models={second: {name: other}}",
        "task={sudoku: 1, sudoku@second: 1}",
        "rollout.num_workers=3",
        "evaluation.block_lengths=[]",
    )
    assert main(["tiny", *mixture, "--dry-run"]) == ExitCode.FINISHED
    assert "rollout actors host: model; models.second; model" in capsys.readouterr().out


def test_a_mistake_ends_with_exit_code_two_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "learner.num_steps=many"]) == ExitCode.USER_ERROR
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: config key 'learner.num_steps' is 'many'")
    assert output.err.count("\n") == 1


def test_resolving_needs_neither_torch_nor_ray() -> None:
    code = "import sys, learner.main as m; m.resolve(['tiny']); print(sorted({'torch', 'ray'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*args: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/metrics.jsonl")

    monkeypatch.setattr("learner.run.run", run)
    assert main(["tiny"]) == ExitCode.CRASH
    error = capsys.readouterr().err
    assert error.startswith(
        "error: cannot write to 'runs/x/metrics.jsonl': No space left on device; the checkpoints before"
    )
    assert error.count("\n") == 1
