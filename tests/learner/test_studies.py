"""Studies: which runs there are, what is read from them, and what the tables say."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from cluster.errors import RunFailure
from evaluation.records import ExampleRecord, to_lines
from learner.main import resolve
from learner.studies.arms import StudyArm, StudyRun, execute, study_runs
from learner.studies.catalogue import STUDIES, Study
from learner.studies.figures import figures, over_seeds, pass_at
from learner.studies.tables import HEAD, markdown, plot_curves, plot_frontier, study_rows
from tests.fakes.records import arm_of, make_record

BASE, TUNED = StudyArm("base"), StudyArm("tuned (b=2)", ("learner.num_steps=0",), starts_from="base")


def record(example: int, *, right: bool, nfe: int, sampler: str = "learned", seed: int = 0) -> ExampleRecord:
    return make_record(
        example, arm=arm_of(sampler, None if sampler == "learned" else 0.9, 48), task="arithmetic", seed=seed, nfe=nfe,
        grade="correct" if right else "wrong", score=float(right), reward=0.0,
    )  # fmt: skip


def finished(path: Path, records: list[ExampleRecord]) -> None:
    (path / "evaluation").mkdir(parents=True)
    (path / "evaluation" / "records.jsonl").write_bytes(to_lines(records))
    (path / "evaluation" / "results.json").write_text(json.dumps({"canvas_length": 48}))
    lines = [json.dumps({"step": n, "values": {"reward": 0.1 * n}, "times": {}}) for n in (1, 2)]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
@pytest.mark.parametrize("quick", [False, True])
def test_every_configuration_of_every_study_is_sound(study: Study, quick: bool, tmp_path: Path) -> None:
    settings = (*study.settings, *(study.quick if quick else ()))
    runs = study_runs(study.arms, preset=study.preset, settings=settings, seeds=(0,), out=tmp_path)
    for run in runs:
        resolve(list(run.settings))
    assert len({run.path for run in runs}) == len(study.arms)


def test_runs_go_seed_by_seed_and_start_from_the_policy_of_their_own_seed(tmp_path: Path) -> None:
    runs = study_runs([BASE, TUNED], preset="tiny", settings=["reward.alpha=2"], seeds=(3, 4), out=tmp_path)
    assert [(run.arm.name, run.seed) for run in runs] == [("base", 3), (TUNED.name, 3), ("base", 4), (TUNED.name, 4)]
    assert f"learner.initial_policy={tmp_path}/base/seed4/policy.safetensors" in runs[3].settings
    assert runs[3].settings[:2] == ("tiny", "reward.alpha=2")
    assert runs[3].settings[-1] == "seed=4"


def test_a_run_is_resumed_where_its_directory_is_and_finished_where_its_results_are(tmp_path: Path) -> None:
    run = study_runs([BASE], preset="tiny", settings=[], seeds=(0,), out=tmp_path)[0]
    assert run.command()[:3] == [sys.executable, "-m", "learner.main"]
    assert "--resume" not in run.command()
    run.path.mkdir(parents=True)
    assert run.command()[-1] == "--resume"
    assert not run.is_finished
    finished(run.path, [record(0, right=True, nfe=2)])
    assert run.is_finished


def test_a_run_that_fails_is_named_with_the_last_line_of_its_log(tmp_path: Path) -> None:
    run = StudyRun(BASE, 0, tmp_path / "base" / "seed0", ("no_such_preset",))
    with pytest.raises(
        RunFailure, match=r"arm 'base', seed 0 ended with code 2: error: unknown preset 'no_such_preset'"
    ):
        execute(run)


def test_figures_are_the_multiplicative_reward_at_the_studys_alpha() -> None:
    found = figures([record(0, right=True, nfe=5), record(1, right=False, nfe=1)], alpha=2.0, canvas_length=48)
    assert (found.accuracy, found.nfe) == (0.5, 3.0)
    assert found.reward == pytest.approx(0.5 * (44 / 48) ** 2)


def test_intervals_over_seeds_are_students() -> None:
    interval = over_seeds([0.80, 0.82, 0.84])
    assert interval.mean == pytest.approx(0.82)
    assert interval.half == pytest.approx(4.303 * 0.02 / math.sqrt(3))
    assert math.isnan(over_seeds([0.5]).half)
    assert over_seeds([0.5]).text(percent=True) == "50.0%"
    assert interval.text(digits=2) == "0.82 ± 0.05"


def test_pass_at_n_counts_problems_that_some_seed_solved(tmp_path: Path) -> None:
    run = StudyRun(BASE, 0, tmp_path / "base", ())
    solved = {0: [False, True, True], 1: [False, False, True], 2: [True, False, False], 3: [False] * 3}
    finished(
        run.path, [record(i, right=r, nfe=1, seed=s) for i, rights in solved.items() for s, r in enumerate(rights)]
    )
    assert pass_at(run, "learned") == [0.25, 0.5, 0.75]


def test_the_table_has_arms_by_reward_and_then_the_best_setting_of_each_heuristic(tmp_path: Path) -> None:
    study = Study("demo", "Which?", (BASE, TUNED), curves=("reward",))
    runs = study_runs(study.arms, preset="tiny", settings=[], seeds=(0, 1), out=tmp_path)
    for run in runs:
        is_tuned = run.arm is TUNED
        heuristic = [record(0, right=True, nfe=24, sampler="threshold")] if not is_tuned and run.seed == 0 else []
        finished(run.path, [record(0, right=True, nfe=2 if is_tuned else 9), *heuristic])
    rows = study_rows(study, runs)
    assert [row[0] for row in rows] == ["tuned (b=2)", "base", "heuristic: threshold 0.9, block 48"]
    assert rows[0][2:] == ("2.00 ± 0.00", "0.9792 ± 0.0000", "2")
    text = markdown(study, rows, command="python -m learner.studies demo", date="2026-01-02")
    assert text.startswith("## demo\n\nWhich?\n\n`python -m learner.studies demo`, 2026-01-02\n")
    assert f"| {' | '.join(HEAD)} |" in text
    plot_frontier(study, runs, tmp_path / "frontier.png")
    plot_curves(study, runs, tmp_path / "curves.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("frontier.png", "curves.png"))
