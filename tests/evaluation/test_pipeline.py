"""The pipeline up to the actors: which policies, arms and problems a command means, and what it refuses."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from cluster.errors import ExitCode
from evaluation import main as one_policy
from evaluation.arms import LEARNED, learned_arm, temperature_of
from evaluation.pipeline import main, make_parser, prepare_options
from evaluation.preparation import Preparation, presets
from evaluation.results_dir import ResultsDir
from evaluation.sources import Source, read_policies
from evaluation.submission import entrypoint, job_name
from policy.factory import HEURISTICS
from policy.weights import from_bytes, to_bytes
from tests.fakes.policies import lively_policy
from tests.fakes.runs import make_run


def options_of(*words: str) -> argparse.Namespace:
    return make_parser("evaluation.pipeline", None).parse_intermixed_args(words)


def prepared(*words: str) -> Preparation:
    return prepare_options(options_of(*map(str, words)))


def names(run: Path, checkpoints: str | None) -> list[str]:
    return [policy.name.partition("@")[0] for policy in read_policies([Source(str(run), run)], checkpoints)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run").path


@pytest.mark.parametrize(
    ("checkpoints", "steps"),
    [
        ("first", [0]),
        ("last", [20]),
        ("best", [10]),
        ("all", [0, 10, 20]),
        ("20,0", [20, 0]),
        ("first,0,best", [0, 10]),
    ],
)
def test_checkpoints_by_name_and_number(run, checkpoints, steps):
    assert names(run, checkpoints) == [f"step-{step:06d}" for step in steps]


def test_without_checkpoints_a_run_means_its_product_and_before_there_is_one_its_best(tmp_path):
    run = make_run(tmp_path / "run").path
    assert names(run, None) == ["step-000010"]
    (run / "policy.safetensors").write_bytes(to_bytes(lively_policy(seed=3).network))
    assert names(run, None) == ["policy"]


def test_policies_are_named_by_their_weights(run):
    first, again = (read_policies([Source(str(run), run)], "all") for _ in range(2))
    assert [policy.version for policy in first] == [policy.version for policy in again]
    assert len({policy.version for policy in first}) == 3


def test_files_of_one_name_are_told_apart(tmp_path):
    sources = []
    for seed in (3, 4, 3):
        folder = tmp_path / str(len(sources))
        folder.mkdir()
        (folder / "policy.safetensors").write_bytes(to_bytes(lively_policy(seed=seed).network))
        sources.append(Source(str(folder / "policy.safetensors"), folder / "policy.safetensors"))
    found = read_policies(sources, None)
    assert len(found) == 2
    labels = {learned_arm(24, policy=policy.name).label for policy in found}
    assert len(labels) == 2
    assert all(re.fullmatch(r"learned policy [0-9a-f]{4}", label) for label in labels)
    assert [policy.name.partition("@")[0] for policy in read_policies(sources[:1], None)] == ["policy"]


def test_another_distribution_is_another_policy(run):
    (plain,) = read_policies([Source(str(run), run)], "best")
    (other,) = read_policies([Source(str(run), run)], "best", distribution="dpls")
    assert plain.version != other.version
    assert from_bytes(other.data, where="x").config.distribution == "dpls"


def test_arms_are_policies_at_temperatures_and_baselines(run):
    found = prepared(run, "--checkpoints", "first,last", "--policy-temperatures", "0.5,1", "--seeds", "42,43")
    (suite,) = found.suites
    learned = [arm for arm in suite.arms if arm.sampler == LEARNED]
    assert sorted((arm.policy.partition("@")[0], temperature_of(arm)) for arm in learned) == [
        ("step-000000", 0.5), ("step-000000", 1), ("step-000020", 0.5), ("step-000020", 1),
    ]  # fmt: skip
    assert {arm.sampler for arm in suite.arms} == {LEARNED, "threshold"}
    assert found.config.evaluation.seeds == (42, 43)
    assert len(suite.picks) == 4


def test_the_temperatures_that_a_run_tried_in_validation_are_not_tried_on_test_problems(tmp_path):
    evaluation = {"num_examples": 4, "policy_temperatures": [1.0, 0.5, 0.25]}
    run = make_run(tmp_path / "run", evaluation=evaluation).path

    def temperatures(*words: str) -> list[float | None]:
        (suite,) = prepared(run, *words).suites
        return [temperature_of(arm) for arm in suite.arms]

    assert temperatures() == [1.0]
    assert temperatures("evaluation.policy_temperatures=[0.3,0.6]") == [0.3, 0.6]


def test_results_lie_in_the_run_unless_said_otherwise(run, tmp_path):
    def save_path(*words: str) -> str:
        options = options_of(*map(str, words))
        prepare_options(options)
        return options.save_path

    assert save_path(run) == f"{run}/pipeline"
    assert save_path(run / "checkpoints" / "step-000020" / "policy.safetensors") == f"{run}/pipeline"
    assert save_path(run, make_run(tmp_path / "other").path) == "runs/pipeline"
    assert save_path(run, "--save-path", "elsewhere") == "elsewhere"


def test_each_task_has_its_own_canvas_once_tasks_are_named(run):
    found = prepared(run, "--tasks", "arithmetic,sudoku", "--baselines", "sweep", "--quick")
    assert found.canvas_lengths == {"arithmetic": 48, "sudoku": 24}
    for suite in found.suites:
        assert all(suite.canvas_length % arm.block_length == 0 for arm in suite.arms)


def test_a_policy_file_in_a_run_has_the_run_s_configuration(run):
    path = run / "checkpoints" / "step-000020" / "policy.safetensors"
    found = prepared(path, "--baselines", "none")
    assert [suite.picks[0].task for suite in found.suites] == ["sudoku"]
    assert [arm.sampler for suite in found.suites for arm in suite.arms] == [LEARNED]


def test_every_preset_is_a_valid_sweep():
    for preset in presets():
        found = prepared("--baselines", preset, "--tasks", "arithmetic,sudoku")
        assert all(len(suite.arms) == len(set(suite.arms)) > 50 for suite in found.suites)


def test_the_sweep_has_every_sampler_that_needs_no_other_model():
    for words in ((), ("--quick",)):
        found = prepared("--baselines", "sweep", "--tasks", "arithmetic,sudoku", *words)
        for suite in found.suites:
            assert {arm.sampler for arm in suite.arms} == set(HEURISTICS) - {"apd"}


def refusal(capsys: pytest.CaptureFixture[str], *words: object, command=main) -> str:
    """The one line with which a command is refused."""
    assert command([str(word) for word in words]) == ExitCode.USER_ERROR
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert "allowed" in lines[0] or "known tasks" in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("words", "quoted"),
    [
        (("--checkpoints", "30"), ("no checkpoint of update 30", "0, 10, 20")),
        (("--checkpoints", "newest"), ("'newest'", "first, last, best, all")),
        (("--tasks", "chess"), ("'chess'", "sudoku")),
        (("--num-examples", "0"), ("task 'sudoku' has no test problem", "num_examples")),
        (("evaluation.heuristics={treshold: [0.9]}",), ("treshold", "threshold")),
        (("evaluation.heuristics={threshold: [1.5]}",), ("1.5", "[0, 1]")),
        (("evaluation.block_lengths=[5]",), ("5", "divisor")),
        (("decode.block_length=7",), ("decode.block_length", "7")),
        (("evaluation.num_exmples=1",), ("num_exmples", "num_examples")),
        (("--baselines", "swep"), ("'swep'", "sweep")),
        (("--baselines", "/nowhere.yaml"), ("/nowhere.yaml",)),
        (("--distribution", "gauss"), ("gauss", "bernoulli")),
        (("--policy-temperatures", "0.5", "evaluation.seeds=[]"), ("evaluation.seeds",)),
        (("--policy-temperatures", "0"), ("0", "> 0")),
        (("model.name=/no/model",), ("/no/model",)),
    ],
)
def test_bad_commands_are_refused_in_one_line(run, capsys, tmp_path, words, quoted):
    message = refusal(capsys, run, *words, "--save-path", tmp_path / "out")
    assert all(part in message for part in quoted), message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["/no/run", "/no/policy.safetensors"])
def test_a_missing_source(capsys, source):
    assert f"'{source}'" in refusal(capsys, source)


def test_a_run_without_checkpoints(tmp_path, capsys):
    assert "has no checkpoint" in refusal(capsys, make_run(tmp_path / "run", steps=()).path)


def test_a_torn_checkpoint(tmp_path, capsys):
    run = make_run(tmp_path / "run").path
    (run / "checkpoints" / "step-000010" / "policy.safetensors").write_bytes(b"half")
    assert "torn" in refusal(capsys, run, "--checkpoints", "10")


def test_something_that_is_no_policy(tmp_path, capsys):
    (tmp_path / "policy.safetensors").write_bytes(b"not safetensors")
    assert "not a readable safetensors file" in refusal_without_allowed(capsys, tmp_path / "policy.safetensors")


def refusal_without_allowed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == ExitCode.USER_ERROR
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "quoted"), [({"num_confidences": 8}, "num_confidences"), ({"hidden_size": 32}, "hidden_size")]
)
def test_a_policy_of_another_k_or_width_than_its_run_s(tmp_path, capsys, changed, quoted):
    run = make_run(tmp_path / "run").path
    (run / "policy.safetensors").write_bytes(to_bytes(lively_policy(**changed).network))
    message = refusal(capsys, run)
    assert "another architecture" in message
    assert quoted in message


def test_a_policy_with_more_confidences_than_the_model_has_tokens(tmp_path, capsys):
    path = tmp_path / "wide.safetensors"
    path.write_bytes(to_bytes(lively_policy(num_confidences=100_000).network))
    assert "100000" in refusal(capsys, path, "task=sudoku")


def test_a_policy_for_other_hidden_states(tmp_path, capsys):
    from policy.config import BackboneShape

    path = tmp_path / "hidden.safetensors"
    shape = BackboneShape(hidden_size=24, num_heads=2, feed_forward_size=24)
    path.write_bytes(to_bytes(lively_policy(network="dit_hidden", backbone=shape).network))
    message = refusal(capsys, path, "task=sudoku")
    assert "another model" in message
    assert "24" in message


def test_a_policy_or_a_sampler_that_cannot_decode_with_a_cache(run, tmp_path, capsys):
    path = tmp_path / "policy.safetensors"
    path.write_bytes(to_bytes(lively_policy(scope="canvas").network))
    message = refusal(capsys, path, "task=sudoku", "decode.cache=prefix")
    assert "is 'canvas'; allowed with decode.cache=prefix: block, masked" in message
    (tmp_path / "smc.yaml").write_text("heuristics: {smc: [0.9]}")
    message = refusal(capsys, "task=sudoku", "decode.cache=dual", "--baselines", tmp_path / "smc.yaml")
    assert "'smc'; allowed with decode.cache=dual: random, low_confidence" in message


def test_nothing_to_evaluate(capsys):
    assert "nothing to evaluate" in refusal(capsys, "--baselines", "none")


def test_runs_of_different_tasks_are_not_mixed(run, tmp_path, capsys):
    other = make_run(tmp_path / "other", task="arithmetic").path
    message = refusal(capsys, run, other)
    assert "task" in message
    assert "other settings" in message


def test_a_results_directory_of_other_settings_is_refused_before_anything_starts(run, tmp_path, capsys):
    ResultsDir(str(tmp_path / "out")).claim(prepared(run, "reward.alpha=3").settings)
    before = (tmp_path / "out" / "settings.json").read_bytes()
    message = refusal(capsys, run, "--save-path", tmp_path / "out")
    assert "reward.alpha" in message
    assert (tmp_path / "out" / "settings.json").read_bytes() == before


def test_the_command_for_one_policy_takes_exactly_one_file(run, capsys):
    path = run / "checkpoints" / "step-000010" / "policy.safetensors"
    assert one_policy.main([str(path), "--dry-run"]) == ExitCode.FINISHED
    assert one_policy.main([str(run)]) == ExitCode.USER_ERROR
    assert "exactly one" in capsys.readouterr().err


def test_a_job_is_named_by_what_it_does_and_runs_the_same_evaluation(run, tmp_path, monkeypatch):
    words = ("--checkpoints", "first,last", "--seeds", "42,43", "--policy-temperatures", "0.5", "--baselines", "sweep",
             "--quick", "--save-path", str(tmp_path / "my results"), "--submit")  # fmt: skip
    options = options_of(str(run), *words)
    found = prepare_options(options)
    command = shlex.split(entrypoint(options))
    assert command[:3] == ["python", "-m", "evaluation.pipeline"]
    again = options_of(*command[3:])
    assert job_name(prepare_options(again), again.save_path) == job_name(found, options.save_path)
    assert not again.submit
    other = options_of(str(run), *words[:2], "--save-path", str(tmp_path / "my results"))
    assert job_name(prepare_options(other), other.save_path) != job_name(found, options.save_path)
    assert job_name(found, options.save_path).startswith("eval-my-results-")


@pytest.mark.parametrize(
    ("heuristics", "words", "says"),
    [
        (
            "{apd: [0.4]}",
            [],
            "evaluation.heuristics.apd': parameter 'model' of heuristic 'apd' is ''; allowed: the folder",
        ),
        ("{apd: [{model: empty}]}", [], "causal model 'empty' cannot be loaded"),
        ("{pc: [{background: nowhere.json}]}", [], "background 'nowhere.json' is no file"),
        ("{adablock: [{delimiter: no word}]}", [], "'no word'"),
        ("{smc: [0.5]}", ["decode.eos=stop"], "eos is 'stop'; allowed: 'full'"),
    ],
)
def test_samplers_that_could_not_decode_are_refused_before_an_actor_starts(
    tmp_path, monkeypatch, capsys, heuristics, words, says
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    command = [f"evaluation.heuristics={heuristics}", "task=arithmetic", "evaluation.num_examples=2", *words]
    assert main([*command, "--dry-run"]) == ExitCode.USER_ERROR
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--wait"], "--wait is given without --submit"),
        (["--address", "http://head:8265"], "--address is given without --submit"),
        (["--working-dir", "."], "--working-dir is given without --submit"),
        (
            ["--policy-temperatures", "0.5"],
            "--policy-temperatures is given without a policy; allowed: with RUN or FILE",
        ),
        (["--distribution", "bernoulli"], "--distribution is given without a policy"),
        (["--checkpoints", "best"], "--checkpoints is 'best', and no run is given; allowed: with a run's directory"),
    ],
)
def test_options_without_effect_are_refused(capsys, words, says):
    assert main(["task=arithmetic", "--baselines", "sweep", "--dry-run", *words]) == ExitCode.USER_ERROR
    assert capsys.readouterr().err.startswith(f"error: {says}")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("settings.json", b'{"models"'),
        ("shards/abc.jsonl", b'{"schema": 2, "sampler"\n'),
        ("shards/abc.jsonl", b'{"schema": 2, "sampler": "random"}\n'),
        ("shards/abc.jsonl", b"[1]\n"),
    ],
)
def test_a_damaged_results_directory_is_one_line(run, tmp_path, capsys, name, data):
    found = prepared(run)
    results = ResultsDir(str(tmp_path / "results"))
    results.claim(found.settings)
    results.write(name, data)
    assert main([str(run), "--save-path", results.uri]) == ExitCode.USER_ERROR
    error = capsys.readouterr().err
    assert f"/{name}' is damaged" in error
    assert error.count("\n") == 1
