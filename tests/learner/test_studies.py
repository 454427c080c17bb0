"""Studies: which runs there are, what is read from them, and what the tables say."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ExitCode, RunFailure, UserError
from evaluation.arms import heuristic_arms
from evaluation.records import ExampleRecord, read_records, to_lines
from learner.main import resolve
from learner.studies.__main__ import main
from learner.studies.arms import StudyArm, StudyRun, execute, study_runs
from learner.studies.catalogue import SECOND, STUDIES, Gap, Study
from learner.studies.docs import replace_section, section, write_docs
from learner.studies.figures import Measured, figures, measure, over_seeds, pass_at
from learner.studies.plots import plot_curves, plot_frontier
from learner.studies.tables import Rows, study_tables
from learner.studies.time_left import TimeLeft, in_words
from rollout_workers.models.tiny.pretrain import EXPORT, OUTPUTS
from tests.fakes.records import arm_of, make_record

BASE = StudyArm("base", sweep=("evaluation.heuristics={threshold: [0.9]}",))
TUNED = StudyArm("tuned (b=2)", ("learner.num_steps=0",), starts_from="base")


def runs_of(*arms: StudyArm, out: Path, seeds: tuple[int, ...] = (0,)) -> list[StudyRun]:
    return study_runs(arms, preset="tiny", settings=["reward.alpha=2"], seeds=seeds, out=out)


def record(example: int, *, right: bool, nfe: int, sampler: str = "learned", seed: int = 0) -> ExampleRecord:
    return make_record(
        example, arm=arm_of(sampler, None if sampler == "learned" else 0.9, 48), task="arithmetic", seed=seed, nfe=nfe,
        grade="correct" if right else "wrong", score=float(right), reward=0.0,
    )  # fmt: skip


def finished(path: Path, records: list[ExampleRecord]) -> None:
    (path / "evaluation").mkdir(parents=True, exist_ok=True)
    (path / "evaluation" / "records.jsonl").write_bytes(to_lines(records))
    (path / "evaluation" / "results.json").write_text(json.dumps({"canvas_length": 48}))
    lines = [json.dumps({"step": n, "values": {"reward": 0.1 * n}, "times": {}}) for n in (1, 2)]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
@pytest.mark.parametrize("quick", [False, True])
def test_every_configuration_of_every_study_is_sound(study: Study, quick: bool, tmp_path: Path) -> None:
    settings = (*study.settings, *(study.quick if quick else ()))
    runs = study_runs(study.arms, preset=study.preset, settings=settings, seeds=(0,), out=tmp_path)
    names = [arm.name for arm in study.arms]
    for run in runs:
        config = resolve(list(run.settings))
        length, _ = config.decode.lengths(48, "decode")
        assert heuristic_arms(config.evaluation, length) or not config.evaluation.heuristics
        assert len(config.evaluation.seeds) >= max(study.pass_at, default=1)
        if run.arm.starts_from is not None:
            assert names.index(run.arm.starts_from) < names.index(run.arm.name)
    assert len({run.path for run in runs}) == len(study.arms)
    assert {name for gap in study.gaps for name in (gap.own, gap.moved, gap.mixture)} <= set(names)
    arms = {arm.name: arm for arm in study.arms}
    for name, against in study.pairs:
        # Evaluated on the same, or the same policy decoded elsewhere.
        assert arms[name].on == arms[against].on or arms[name].starts_from == against


def test_gaps_are_between_arms_that_are_evaluated_on_the_same() -> None:
    study = STUDIES["transfer"]
    on = {arm.name: arm.on for arm in study.arms}
    for gap in study.gaps:
        assert on[gap.own] == on[gap.moved] == on[gap.mixture]


def test_the_second_model_is_where_its_command_puts_it() -> None:
    assert OUTPUTS["second"] / EXPORT == SECOND.path
    assert SECOND.command.endswith("--recipe second")


def test_runs_go_seed_by_seed_and_start_from_the_policy_of_their_own_seed(tmp_path: Path) -> None:
    runs = runs_of(BASE, TUNED, out=tmp_path, seeds=(3, 4))
    assert [(run.arm.name, run.seed) for run in runs] == [("base", 3), (TUNED.name, 3), ("base", 4), (TUNED.name, 4)]
    assert f"learner.initial_policy={tmp_path}/base/seed4/policy.safetensors" in runs[3].settings
    assert runs[3].settings[:2] == ("tiny", "reward.alpha=2")
    assert runs[3].settings[-1] == "seed=4"


def test_heuristics_are_swept_under_the_first_seed_alone(tmp_path: Path) -> None:
    swept = [BASE.sweep[0] in run.settings for run in runs_of(BASE, out=tmp_path, seeds=(3, 4))]
    assert swept == [True, False]


def test_a_run_is_resumed_where_its_directory_is_and_finished_where_its_results_are(tmp_path: Path) -> None:
    run = runs_of(BASE, out=tmp_path)[0]
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
    assert run.seconds > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_either_signal_interrupts_the_run_at_hand_and_says_how_to_go_on(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, signals, stopped = [sys.executable, "-c", "import time; time.sleep(60)"], [number], []

    class Waiting(subprocess.Popen[bytes]):
        def poll(self) -> int | None:
            """Asked for the first time, the study waits for the run."""
            if signals:
                os.kill(os.getpid(), signals.pop())
            return super().poll()

        def wait(self, timeout: float | None = None) -> int:
            stopped.append(super().wait(timeout))
            return stopped[-1]

    monkeypatch.setattr(StudyRun, "command", lambda run: command)
    monkeypatch.setattr("learner.studies.arms.subprocess.Popen", Waiting)
    # As a shell leaves it for what it starts in the background.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert main(["alpha", "--out", str(tmp_path)]) == ExitCode.RESUMABLE
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped == [-signal.SIGTERM]
    assert "the same command goes on" in capsys.readouterr().err


def test_a_study_without_its_dllm_names_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["transfer"]) == ExitCode.USER_ERROR
    error = capsys.readouterr().err
    assert "needs a dLLM at 'runs/tiny-second/checkpoint'" in error
    assert "python -m rollout_workers.models.tiny.pretrain --recipe second" in error
    assert main(["transfer", "--quick", "--write-docs", "studies.md"]) == ExitCode.USER_ERROR
    assert "--write-docs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


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


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_pass_at_n_is_the_chance_that_one_of_n_samples_is_right(solved: list[list[bool]]) -> None:
    found = pass_at(
        [record(i, right=right, nfe=1, seed=s) for i, rights in enumerate(solved) for s, right in enumerate(rights)]
    )
    for n, share in enumerate(found, start=1):
        draws = [any(chosen) for rights in solved for chosen in itertools.combinations(rights, n)]
        assert share == pytest.approx(sum(draws) / len(draws))
    assert len(found) == 4


def test_records_of_a_run_are_read_once_whatever_is_made_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study("demo", "Which?", (BASE, TUNED), curves=("reward",), pass_at=(1, 2))
    runs = runs_of(*study.arms, out=tmp_path, seeds=(0, 1))
    for run in runs:
        finished(run.path, [record(0, right=True, nfe=4), record(0, right=True, nfe=4, sampler="threshold")])
    read = []

    def counting(path: Path) -> list[ExampleRecord]:
        read.append(path)
        return read_records(path)

    monkeypatch.setattr("learner.studies.figures.read_records", counting)
    measured = [measure(run, alpha=1.0) for run in runs]
    study_tables(study, measured)
    plot_frontier(study, measured, tmp_path / "frontier.png")
    plot_curves(study, measured, tmp_path / "curves.png")
    assert len(read) == len(runs)
    assert measured[0].curves["reward"] == ([1, 2], [0.1, 0.2])


def measured_demo(tmp_path: Path, study: Study) -> list[Measured]:
    runs = runs_of(*study.arms, out=tmp_path, seeds=(0, 1))
    for run in runs:
        is_tuned = run.arm is TUNED
        heuristic = [record(0, right=True, nfe=24, sampler="threshold")] if not is_tuned and run.seed == 0 else []
        samples = [record(0, right=not seed, nfe=2 if is_tuned else 9, seed=seed) for seed in (0, 1)]
        finished(run.path, [*samples, *heuristic])
    return [measure(run, alpha=study.alpha) for run in runs]


def test_the_table_has_arms_by_reward_and_then_the_best_setting_of_each_heuristic(tmp_path: Path) -> None:
    study = Study("demo", "Which?", (BASE, TUNED), curves=("reward",), pass_at=(1, 2))
    measured = measured_demo(tmp_path, study)
    (table,) = study_tables(study, measured)
    assert table.head == ("arm", "accuracy", "NFE", "reward", "Pass@1", "Pass@2", "seeds")
    assert [row[0] for row in table.rows] == ["tuned (b=2)", "base", "heuristic: threshold 0.9, block 48"]
    assert table.rows[0][2:] == ("2.00 ± 0.00", "0.4896 ± 0.0000", "50.0% ± 0.0", "100.0% ± 0.0", "2")
    assert table.rows[2][4:6] == ("100.0%", "-"), "a single sample has no Pass@2"
    plot_frontier(study, measured, tmp_path / "frontier.png")
    plot_curves(study, measured, tmp_path / "curves.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("frontier.png", "curves.png"))


@pytest.mark.parametrize("baseline", ["base", "threshold"])
def test_rewards_are_held_against_the_baseline_seed_by_seed(baseline: str, tmp_path: Path) -> None:
    study = Study("demo", "Which?", (BASE, TUNED), baseline=baseline)
    (table,) = study_tables(study, measured_demo(tmp_path, study))
    assert table.head[4] == f"minus {baseline}"
    tuned, base, heuristic = (row[4] for row in table.rows)
    if baseline == "base":
        assert (tuned, base, heuristic) == ("+0.0729", "-", "+0.1042")
    else:
        assert (tuned, base, heuristic) == ("-0.0313", "-0.1042", "-")
    assert table.rows[2][-1] == "1"


@pytest.mark.parametrize("study", [study for study in STUDIES.values() if study.baseline], ids=lambda study: study.name)
def test_the_baseline_of_a_study_is_one_of_its_arms_or_of_its_heuristics(study: Study) -> None:
    swept = " ".join(setting for arm in study.arms for setting in arm.sweep)
    assert study.baseline in {arm.name for arm in study.arms} or f"{study.baseline}: [" in swept


def test_what_one_setting_changes_is_paired_by_seed(tmp_path: Path) -> None:
    arms = tuple(StudyArm(name) for name in ("base", "shown", "hidden"))
    study = Study("demo", "Which?", arms, baseline="base", pairs=(("hidden", "shown"),))
    runs = runs_of(*arms, out=tmp_path, seeds=(0, 1))
    for run in runs:
        right = {"base": 1, "shown": 4, "hidden": 3}[run.arm.name] + run.seed
        nfe = 2 if run.arm.name == "hidden" else 5
        finished(run.path, [record(i, right=i < right, nfe=nfe) for i in range(10)])
    measured = [measure(run, alpha=0.0) for run in runs]
    _, pairs = study_tables(study, measured)
    assert pairs.rows == [("hidden", "shown", "-10.0% ± 0.0", "-3.00 ± 0.00", "-0.1000 ± 0.0000")]
    assert len(study_tables(study, [each for each in measured if each.run.arm.name != "shown"])) == 1


def test_gaps_are_paired_by_seed_and_told_with_what_the_mixture_closes(tmp_path: Path) -> None:
    arms = [StudyArm(name, on="there") for name in ("own", "moved -> there", "mixture")]
    gaps = (Gap("own", "moved -> there", "mixture"),)
    study = Study("demo", "Which?", (*arms, StudyArm("else", on="elsewhere")), gaps=gaps)
    runs = runs_of(*study.arms, out=tmp_path, seeds=(0, 1))
    num_right = {"own": 8, "moved -> there": 4, "mixture": 6, "else": 1}
    for run in runs:
        right = num_right[run.arm.name] + run.seed
        finished(run.path, [record(i, right=i < right, nfe=1) for i in range(10)])
    tables = study_tables(study, [measure(run, alpha=1.0) for run in runs])
    assert [table.title for table in tables[:2]] == ["evaluated on there", "evaluated on elsewhere"]
    assert [row[0] for row in tables[0].rows] == ["own", "mixture", "moved"]
    assert tables[0].head[0] == "trained on"
    assert tables[2].rows == [("there", "moved", "0.4000 ± 0.0000", "0.2000 ± 0.0000", "50%")]
    plot_frontier(study, [measure(run, alpha=1.0) for run in runs], tmp_path / "frontier.png")
    without = [measure(run, alpha=1.0) for run in runs if run.arm.name != "mixture"]
    assert len(study_tables(study, without)) == 2, "a gap is told where all its arms were run"


def test_time_left_goes_by_runs_of_the_same_arm_then_of_the_same_kind(tmp_path: Path) -> None:
    other = StudyArm("other")
    runs = runs_of(BASE, other, TUNED, out=tmp_path, seeds=(0, 1))
    left = TimeLeft(runs, {run.path: 0 if run.arm is TUNED else 60 for run in runs})
    assert left.seconds(None) is None
    assert left.seconds(runs[0], elapsed=30.0, updates_done=1) is None
    # By the pace of the run at hand: 60 updates in 120 s, six runs, 30 s of them gone.
    assert left.seconds(runs[0], elapsed=30.0, updates_done=15) == pytest.approx(6 * 120 - 30)
    for run, seconds in zip(runs[:3], ("100", "60\n40", "8"), strict=True):
        finished(run.path, [record(0, right=True, nfe=1)])
        run.seconds_path.write_text(seconds + "\n")
    assert left.seconds(None) == pytest.approx(100 + 100 + 8)
    runs[0].seconds_path.write_text("140\n")
    assert left.seconds(runs[3], elapsed=50.0) == pytest.approx(140 - 50 + 100 + 8)
    assert left.seconds(runs[3], elapsed=500.0) == pytest.approx(100 + 8), "a slow run is not a debt"
    for run in runs[3:]:
        finished(run.path, [record(0, right=True, nfe=1)])
    assert left.seconds(None) == 0


def test_time_left_in_words() -> None:
    assert in_words(None) == "time left not known yet"
    assert [in_words(seconds) for seconds in (20, 600, 4800)] == [
        "about 1 min left", "about 10 min left", "about 1 h 20 min left",
    ]  # fmt: skip


def test_a_section_replaces_its_own_and_leaves_the_others() -> None:
    document = "# Studies\n\nAll of them.\n\n## upo\n\nold\n\n### part\n\n## Notes\n\nkept\n"
    once = replace_section(document, "alpha", "## alpha\n\nnew\n")
    assert once == ("# Studies\n\nAll of them.\n\n## alpha\n\nnew\n\n## upo\n\nold\n\n### part\n\n## Notes\n\nkept\n")
    assert replace_section(once, "alpha", "## alpha\n\nnew\n") == once
    assert "old" not in replace_section(once, "upo", "## upo\n\nnewer\n")


def test_docs_get_the_section_and_copies_of_the_plots(tmp_path: Path) -> None:
    study = Study("alpha", "Which?", (BASE, TUNED))
    tables = study_tables(study, measured_demo(tmp_path / "runs", study))
    plot = tmp_path / "frontier.png"
    plot.write_bytes(b"png")
    path = tmp_path / "docs" / "studies.md"
    for _ in range(2):
        write_docs(path, study, tables, [plot], command="python -m learner.studies alpha", date="2026-01-02")
    text = path.read_text()
    assert text.count("## alpha\n\nWhich?\n\n`python -m learner.studies alpha`, 2026-01-02, ") == 1
    assert "| tuned (b=2) |" in text
    assert "![alpha: frontier](images/study_alpha_frontier.png)" in text
    assert (path.parent / "images" / "study_alpha_frontier.png").read_bytes() == b"png"
    with pytest.raises(UserError, match=r"allowed: a Markdown file"):
        write_docs(tmp_path / "studies.txt", study, tables, [plot], command="", date="")


def test_several_tables_of_a_section_have_their_titles() -> None:
    study = Study("demo", "Which?", ())
    tables = [Rows("evaluated on a", ("arm", "x"), [("b", "1")]), Rows("the gap", ("on", "y"), [("c", "2")])]
    text = section(study, tables, command="c", date="d")
    assert "Evaluated on a:\n\n| arm | x |\n|---|---|\n| b | 1 |\n\nThe gap:\n\n| on | y |" in text
