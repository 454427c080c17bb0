from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config import build, load_yaml, merge, to_dict
from learner.config import RunConfig
from learner.main import main, presets, resolve
from tests.learner.refusals import refusal

FOLDER = Path(__file__).parents[2] / "learner" / "presets"
GRID = re.compile(r"(?P<model>llada|dream)_block(?P<block>32|256)_alpha(?P<alpha>10|3|1|03|0)(_(?P<variant>\w+))?")
UPO = re.compile(r"upo_(?P<task>sudoku|gsm8k)_(?P<realisation>softmax_confidence|max_confidence|top_k)")
PAPER_A = [name for name in presets() if GRID.fullmatch(name) or name in ("paper_a", "paper_a_parity")]
PAPER_B = [name for name in presets() if UPO.fullmatch(name) or name == "paper_b"]
PUBLISHED = PAPER_A + PAPER_B
MODELS = {"llada": "GSAI-ML/LLaDA-8B-Instruct", "dream": "Dream-org/Dream-v0-Instruct-7B"}
ALPHAS = {"10": 10.0, "3": 3.0, "1": 1.0, "03": 0.3, "0": 0.0}

# The configs of arXiv 2512.09106's release and the defaults that they rely on. What is not here is set by name (model, block,
# alpha, policy temperature of the evaluation) or is a quirk (`paper_a_parity`).
DEFAULTS_A: dict[str, Any] = {
    "seed": 123,
    "task": {"gsm8k": 7473.0, "math": 7500.0},
    "model.dtype": "bfloat16",
    "model.device": "cuda",
    "policy.network": "dit_confidence",
    "policy.distribution": "bernoulli_argmax",
    "policy.hidden_size": 128,
    "policy.feed_forward_size": 512,
    "policy.num_heads": 2,
    "policy.num_blocks": 1,
    "policy.time_embed_size": 128,
    "policy.num_confidences": 1,
    "policy.confidence_features": "raw",
    "policy.see_block": False,
    "policy.see_mask": True,
    "policy.see_time": True,
    "policy.scope": "canvas",
    "policy.initial_logit": -2.0,
    "policy.policy_temperature": 1.0,
    "policy.dpls_stop_logit": 0.0,
    "decode.canvas_length": 256,
    "decode.token_temperature": 0.0,
    "decode.eos": "full",
    "reward.terms": {"multiplicative": 1.0, "correctness": 0.0},
    "learner.num_steps": 936,
    "learner.prompts_per_step": 16,
    "learner.group_size": 8,
    "learner.num_iterations": 2,
    "learner.advantage": "mean",
    "learner.normaliser": "per_rollout",
    "learner.ratio": "step",
    "learner.regulariser.kind": "none",
    "learner.entropy_bonus": 0.0,
    "learner.clip_low": 0.5,
    "learner.clip_high": 0.5,
    "learner.learning_rate": 3e-5,
    "learner.warmup_steps": 100,
    "learner.schedule": "cosine",
    "learner.adam_beta1": 0.9,
    "learner.adam_beta2": 0.99,
    "learner.weight_decay": 0.1,
    "learner.max_grad_norm": 0.2,
    "learner.steering.parameters": [],
    "checkpoint.every": 50,
    "evaluation.num_examples": 1319,
    "evaluation.seeds": [42, 43, 44],
}
VARIANTS_A: dict[str | None, dict[str, Any]] = {
    None: {},
    "steering": {
        "learner.clip_low": 0.2,
        "learner.clip_high": 0.2,
        "learner.steering.heuristic": "threshold",
        "learner.steering.parameters": [0.9],
        "learner.steering.block_length": 32,
        "learner.steering.mode": "mixture",
    },
    "dpls": {"policy.distribution": "dpls", "policy.dpls_likelihood": "order"},
    "hidden": {"policy.network": "dit_hidden", "learner.device": "cuda", "learner.gpus_per_rank": 1.0},
    "top50": {"policy.num_confidences": 50},
    "no_mask": {"policy.see_mask": False},
    "no_time": {"policy.see_time": False},
    "additive": {"reward.terms": {"additive": 1.0, "correctness": 0.0}},
    "kodcode": {"task": {"gsm8k": 7473.0, "math": 7500.0, "kodcode": 10000.0}, "learner.num_steps": 1561},
}
# What arXiv 2510.05725's release trains Sudoku with, and its policy.
DEFAULTS_B: dict[str, Any] = {
    "seed": 42,
    "model.name": "GSAI-ML/LLaDA-8B-Instruct",
    "policy.network": "upo",
    "policy.distribution": "categorical",
    "policy.policy_temperature": 0.8,
    "policy.num_confidences": 8,
    "policy.num_candidates": 5,
    "decode.canvas_length": 128,
    "decode.block_length": 32,
    "decode.token_temperature": 0.0,
    "reward.terms": {"dense": 1.0, "correctness": 0.0},
    "learner.group_size": 6,
    "learner.num_iterations": 16,
    "learner.advantage": "mean",
    "learner.normaliser": "sum",
    "learner.ratio": "step",
    "learner.clip_low": 0.5,
    "learner.clip_high": 0.5,
    "learner.learning_rate": 3e-6,
    "learner.schedule": "constant",
    "learner.adam_beta1": 0.9,
    "learner.adam_beta2": 0.99,
    "learner.weight_decay": 0.1,
    "learner.max_grad_norm": 0.2,
    "learner.regulariser.anneal": "constant",
    "evaluation.inference.selection": "greedy",
    "evaluation.policy_temperatures": [],
    "evaluation.block_lengths": [32],
}
REALISATIONS: dict[str, dict[str, Any]] = {
    "softmax_confidence": {"kind": "output_kl", "reference": "softmax_confidence", "parameter": 0.05},
    "max_confidence": {"kind": "cross_entropy", "reference": "max_confidence", "parameter": None},
    "top_k": {"kind": "output_kl", "reference": "top_k", "parameter": 5.0},
}


def value_of(config: RunConfig, key: str) -> Any:
    """The plain value at a dotted key."""
    value = to_dict(config)
    for name in key.split("."):
        value = value[name]
    return value


def assert_holds(config: RunConfig, expected: dict[str, Any]) -> None:
    assert {key: value_of(config, key) for key in expected} == expected


def named(pattern: re.Pattern[str], name: str) -> dict[str, str | None]:
    match = pattern.fullmatch(name)
    assert match is not None
    return match.groupdict()


def test_every_published_setting_is_there() -> None:
    grid = {f"{model}_block{block}_alpha{alpha}" for model in MODELS for block in (32, 256) for alpha in ALPHAS}
    steering = {f"llada_block256_alpha{alpha}_steering" for alpha in ("1", "03", "0")}
    ablations = {
        f"llada_block32_alpha1_{name}"
        for name in ("dpls", "hidden", "top50", "no_mask", "no_time", "additive", "kodcode")
    }
    upo = {f"upo_{task}_{realisation}" for task in ("sudoku", "gsm8k") for realisation in REALISATIONS}
    bases = {"paper_a", "paper_a_parity", "paper_b"}
    assert set(presets()) == grid | steering | ablations | upo | bases | {"tiny", "tiny_blocks"}


@pytest.mark.parametrize("name", presets())
def test_a_preset_resolves_and_writes_to_a_folder_of_its_name(name: str) -> None:
    config = resolve([name])
    assert build(RunConfig, to_dict(config)) == config
    assert config.run_dir == f"runs/{name}"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_begins_with_the_figure_table_or_section_that_it_reproduces(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    comment = " ".join(
        line[2:] for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    )
    paper = "2512.09106" if name in PAPER_A else "2510.05725"
    assert f"arXiv {paper}" in comment[:60]
    assert re.search(r"\b(figure|tables?|section|appendix)\b", comment)
    if name not in ("paper_a", "paper_a_parity"):
        assert re.search(r"[Rr]eported, second-hand: |No number obtained", comment)
    assert all(len(line) <= 132 for line in lines)


@pytest.mark.parametrize("name", PAPER_A)
def test_paper_a_trains_with_its_published_settings(name: str) -> None:
    match = GRID.fullmatch(name)
    variant = match["variant"] if match else None
    quirk = {"policy.distribution": "bernoulli"} if name == "paper_a_parity" else {}
    assert_holds(resolve([name]), DEFAULTS_A | VARIANTS_A[variant] | quirk)


@pytest.mark.parametrize("name", [name for name in PAPER_A if GRID.fullmatch(name)])
def test_the_name_says_model_block_and_alpha(name: str) -> None:
    parts = named(GRID, name)
    block = int(parts["block"] or 0)
    config = resolve([name])
    assert config.model.name == MODELS[parts["model"] or ""]
    assert config.decode.block_length == block
    assert config.reward.alpha == ALPHAS[parts["alpha"] or ""]
    assert config.evaluation.policy_temperatures == ((0.5,) if block == 32 else (1.0,))
    assert block in config.evaluation.block_lengths
    assert set(config.evaluation.heuristics) >= {"random", "low_confidence", "threshold"}


@pytest.mark.parametrize("name", [name for name in PAPER_A if GRID.fullmatch(name) and named(GRID, name)["variant"]])
def test_a_variant_differs_from_its_cell_of_the_grid_in_what_its_name_says_alone(name: str) -> None:
    variant = named(GRID, name)["variant"]
    cell = to_dict(resolve([name.removesuffix(f"_{variant}")]))
    ours = to_dict(resolve([name]))
    keys = {key for key in flat(ours) | flat(cell) if flat(ours).get(key) != flat(cell).get(key)}
    free = {"run_dir", "learner.micro_batch_steps"}
    assert {
        key for key in keys - free if not any(key.startswith(named_key) for named_key in VARIANTS_A[variant])
    } == set()


def flat(data: dict[str, Any], where: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in data.items():
        key = f"{where}{name}"
        leaves |= flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return leaves


def test_the_base_alone_is_the_cell_that_it_says() -> None:
    base, cell = to_dict(resolve(["paper_a"])), to_dict(resolve(["llada_block32_alpha1"]))
    assert base.pop("run_dir") != cell.pop("run_dir")
    assert base == cell


def test_an_epoch_is_what_the_paper_makes_of_it() -> None:
    config = resolve(["llada_block32_alpha1"])
    prompts = sum(config.task_weights.values())
    assert prompts == 14_973
    assert config.learner.num_steps == round(prompts / config.learner.prompts_per_step)
    assert config.learner.num_steps * config.learner.num_iterations == 1_872
    rows = config.learner.prompts_per_step * config.learner.group_size
    per_lease = config.rollout.lease_groups * config.learner.group_size
    assert (rows, rows // per_lease, per_lease) == (128, config.rollout.num_workers, 16)
    kodcode = resolve(["llada_block32_alpha1_kodcode"])
    assert kodcode.learner.num_steps == round(sum(kodcode.task_weights.values()) / kodcode.learner.prompts_per_step)


def test_parity_has_the_quirks_of_the_release_and_nothing_else() -> None:
    quirks = {
        "policy.confidence_features": "raw",
        "policy.time_embedding": "legacy",
        "policy.scope": "canvas",
        "policy.see_block": False,
        "policy.distribution": "bernoulli",
        "evaluation.inference.forced_argmax": True,
    }
    config = resolve(["paper_a_parity"])
    assert_holds(config, quirks)
    assert {name: task.parity for name, task in config.task_settings.items()} == {"gsm8k": True, "math": True}
    ours, base = flat(to_dict(config)), flat(to_dict(resolve(["paper_a"])))
    changed = {key for key in ours if ours[key] != base.get(key)} - {"run_dir"}
    assert {key for key in changed if not key.startswith("task_settings.")} <= set(quirks)


def test_parity_is_what_the_reader_of_reference_checkpoints_calls_so() -> None:
    from policy.reference import PARITY

    assert_holds(resolve(["paper_a_parity"]), {f"policy.{key}": value for key, value in PARITY.items()})


def test_parity_lies_over_the_file_and_beneath_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: tiny\nparity: true\npolicy: {time_embedding: sinusoidal, hidden_size: 32}\n")
    config = resolve([str(path)])
    assert (config.policy.time_embedding, config.policy.see_block, config.policy.hidden_size) == ("legacy", False, 32)
    assert resolve([str(path), "parity=false"]).policy.time_embedding == "sinusoidal"
    for settings in (["tiny", "parity=true"], [str(path)]):
        overridden = resolve([*settings, "policy.distribution=bernoulli_argmax"])
        assert (overridden.policy.distribution, overridden.policy.time_embedding) == ("bernoulli_argmax", "legacy")
    on_the_line = resolve(["paper_a", "parity=true", "run_dir=runs/paper_a_parity"])
    assert on_the_line == resolve(["paper_a_parity"])


def test_parity_grades_the_tasks_of_the_run_that_have_it() -> None:
    assert list(resolve(["paper_a_parity", "task=gsm8k"]).task_settings) == ["gsm8k"]
    assert resolve(["paper_a_parity", "task=arithmetic"]).task_settings == {}
    ordered = resolve(["llada_block32_alpha1_dpls", "parity=true"])
    assert ordered.policy.dpls_likelihood == "order"
    assert (ordered.policy.distribution, ordered.evaluation.inference.forced_argmax) == ("dpls", False)


@pytest.mark.parametrize("name", presets())
def test_a_policy_of_hundreds_of_millions_of_parameters_learns_on_a_gpu(name: str) -> None:
    config = resolve([name])
    is_large = config.policy.reads_hidden and config.model.name != "tiny"
    assert not is_large or (config.learner.device, config.learner.gpus_per_rank) == ("cuda", 1.0)


@pytest.mark.parametrize(
    ("settings", "quoted"),
    [
        (("tiny", "parity=1"), "'parity' is 1 (int); allowed: true, false"),
        (("paper_b", "parity=true"), "no policy.network 'upo'; allowed: 'dit_confidence', 'dit_hidden'"),
        (("tiny", "parity=true", "policy.distribution=categorical"), "no policy.distribution 'categorical'; allowed: "),
    ],
)
def test_parity_is_refused_where_the_release_has_no_such_thing(settings: tuple[str, ...], quoted: str) -> None:
    assert quoted in refusal(*settings)


def test_a_dry_run_shows_what_parity_expands_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper_a", "parity=true", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "  time_embedding: legacy\n" in output
    assert build(RunConfig, yaml.safe_load(output)) == resolve(["paper_a", "parity=true"])


@pytest.mark.parametrize("name", PAPER_B)
def test_paper_b_trains_with_its_published_settings(name: str) -> None:
    config = resolve([name])
    assert_holds(config, DEFAULTS_B)
    optimiser_steps = config.learner.num_steps * config.learner.num_iterations
    assert 3_500 <= optimiser_steps < 3_500 + config.learner.num_iterations
    assert config.learner.warmup_steps == round(0.056 * 3_500)
    assert config.learner.prompts_per_step * config.learner.group_size == 8 * 6 * 3


@pytest.mark.parametrize("name", [name for name in PAPER_B if name != "paper_b"])
def test_the_name_says_task_and_realisation(name: str) -> None:
    parts = named(UPO, name)
    realisation = parts["realisation"] or ""
    config = resolve([name])
    assert config.task == {"sudoku": "sudoku_4x4_infill", "gsm8k": "gsm8k"}[parts["task"] or ""]
    assert_holds(config, {f"learner.regulariser.{key}": value for key, value in REALISATIONS[realisation].items()})
    assert config.learner.regulariser.coefficient == 1e-4
    is_random = realisation == "top_k"
    assert config.policy.candidates_only is is_random
    assert (config.learner.imitation.num_steps == 0) is is_random
    if not is_random:
        assert config.learner.imitation.objective == "reference"


@pytest.mark.parametrize("name", PUBLISHED)
def test_blocks_heuristics_and_task_settings_are_what_a_run_accepts(name: str) -> None:
    from evaluation.arms import heuristic_arms
    from rollout_workers.tasks import make_task

    config = resolve([name])
    for task, settings in config.task_configs.items():
        make_task(task, settings)
    assert config.decode.canvas_length is not None
    length, _ = config.decode.lengths(config.decode.canvas_length, "decode")
    assert heuristic_arms(config.evaluation, length)


def test_resolving_every_preset_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, learner.main as m; [m.resolve([name]) for name in m.presets()];"
        "print(sorted({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


# extends


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_file_changes_single_keys_of_a_preset(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.yaml", "extends: tiny\nrun_dir: elsewhere\nlearner: {num_steps: 3}\n")
    expected = merge(to_dict(resolve(["tiny"])), {"run_dir": "elsewhere", "learner": {"num_steps": 3}})
    assert resolve([mine]) == build(RunConfig, expected)
    assert "extends" not in to_dict(resolve([mine]))


def test_a_base_is_found_beside_the_file_and_bases_may_have_bases(tmp_path: Path) -> None:
    write(tmp_path / "bottom.yaml", "extends: tiny\nseed: 1\nlearner: {group_size: 4, num_steps: 5}\n")
    write(tmp_path / "inner" / "middle.yaml", "extends: ../bottom.yaml\nlearner: {num_steps: 6}\n")
    top = write(tmp_path / "top.yaml", "extends: inner/middle.yaml\nlearner: {num_iterations: 1}\n")
    config = resolve([top])
    assert (config.seed, config.learner.group_size, config.learner.num_steps, config.learner.num_iterations) == (
        1,
        4,
        6,
        1,
    )
    assert config.policy == resolve(["tiny"]).policy
    absolute = write(tmp_path / "far" / "absolute.yaml", f"extends: {top}\n")
    assert resolve([absolute]) == config


def test_overrides_come_after_the_bases(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.yaml", "extends: tiny\nlearner: {num_steps: 3}\n")
    config = resolve([mine, "learner.num_steps=4", "learner.group_size=2"])
    assert (config.learner.num_steps, config.learner.group_size) == (4, 2)


@pytest.mark.parametrize(
    ("base", "top", "key", "expected"),
    [
        ("task: {gsm8k: 1, math: 1}", "task: {gsm8k: 1}", "task", {"gsm8k": 1.0}),
        ("task: {gsm8k: 1, math: 1}", "task: math", "task", "math"),
        ("task: math", "task: {gsm8k: 1}", "task", {"gsm8k": 1.0}),
        (
            "reward: {terms: {multiplicative: 1, correctness: 0}, alpha: 3}",
            "reward: {terms: {additive: 1}}",
            "reward",
            {"terms": {"additive": 1.0}, "alpha": 3.0, "initial_alpha": None},
        ),
        (
            "evaluation: {heuristics: {random: [1], threshold: [0.9]}}",
            "evaluation: {heuristics: {threshold: [0.5]}}",
            "evaluation.heuristics",
            {"threshold": [0.5]},
        ),
        ("evaluation: {seeds: [1, 2]}", "evaluation: {seeds: [3]}", "evaluation.seeds", [3]),
        ("learner: {steering: {parameters: [0.9]}}", "learner: {steering: {mode: policy_ratio}}",
         "learner.steering.parameters", [0.9]),
    ],
)  # fmt: skip
def test_sections_merge_and_everything_else_is_replaced(
    tmp_path: Path, base: str, top: str, key: str, expected: object
) -> None:
    write(tmp_path / "base.yaml", base)
    mine = write(tmp_path / "mine.yaml", f"extends: base.yaml\n{top}\n")
    assert value_of(resolve([mine]), key) == expected


def test_the_settings_of_each_task_are_a_section(tmp_path: Path) -> None:
    write(
        tmp_path / "base.yaml",
        "task: {gsm8k: 1, math: 1}\ntask_settings: {gsm8k: {parity: true, few_shot: 2}, math: {few_shot: 1}}",
    )
    mine = write(tmp_path / "mine.yaml", "extends: base.yaml\ntask_settings: {gsm8k: {few_shot: 3}}\n")
    settings = resolve([mine]).task_settings
    assert (settings["gsm8k"].parity, settings["gsm8k"].few_shot, settings["math"].few_shot) == (True, 3, 1)


@pytest.mark.parametrize(
    "base", ["nope", "nope.yaml", "../nope.yaml", ".", "3", "null", "[tiny]", "{tiny: 1}", "tiny.yaml"]
)
def test_an_unknown_base_is_quoted_beside_what_is_allowed(tmp_path: Path, base: str) -> None:
    mine = write(tmp_path / "mine.yaml", f"extends: {base}\n")
    message = refusal(mine)
    value = {"3": "3", "null": "None", "[tiny]": "['tiny']", "{tiny: 1}": "{'tiny': 1}"}.get(base, repr(base))
    assert message.startswith(f"config key 'extends' of '{mine}' is {value}; allowed: ")
    assert all(name in message for name in presets())
    assert message.endswith(f"or a .yaml file by its path from '{tmp_path}'")


def test_a_circle_is_refused_where_it_closes(tmp_path: Path) -> None:
    itself = write(tmp_path / "self.yaml", "extends: self.yaml\n")
    assert "is 'self.yaml', which closes a circle (self.yaml -> self.yaml)" in refusal(itself)
    a = write(tmp_path / "a.yaml", "extends: b.yaml\n")
    b = write(tmp_path / "b.yaml", f"extends: ../{tmp_path.name}/a.yaml\n")
    message = refusal(a)
    assert f"'extends' of '{b}' is '../{tmp_path.name}/a.yaml'" in message
    assert "(a.yaml -> b.yaml -> a.yaml); allowed: a base that does not lead back here" in message


def test_a_broken_base_is_named(tmp_path: Path) -> None:
    broken = write(tmp_path / "broken.yaml", "learner: {num_steps: [1\n")
    assert broken in refusal(write(tmp_path / "mine.yaml", "extends: broken.yaml\n"))


def test_extends_belongs_to_the_top_of_a_file_alone(tmp_path: Path) -> None:
    assert "unknown config key 'extends'" in refusal("tiny", "extends=tiny_blocks")
    nested = write(tmp_path / "nested.yaml", "learner: {extends: tiny}\n")
    assert "unknown config key 'learner.extends'" in refusal(nested)


def test_presets_extend_presets_by_name() -> None:
    for path in FOLDER.glob("*.yaml"):
        base = load_yaml(path).get("extends")
        assert base is None or base in presets(), path.name
