"""The final table, comparison and files, which must all tell the same numbers."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
from rich.console import Console

from cluster.run_dir import RunDir
from evaluation.report import breakdown_table, compare, results_table, write_results
from evaluation.results import LEARNED, Arm, ExampleRecord, by_arm, summarise

FAST, SLOW, BLOCKS = Arm("threshold", 0.5, 24), Arm("threshold", 0.9, 24), Arm("threshold", 0.9, 12)
TRAINED = Arm(LEARNED, None, 24, is_random=True)
ARMS = [FAST, SLOW, BLOCKS, TRAINED]
HISTORY = [
    {"step": step, "values": {"reward": 0.1 * step, "accuracy": 0.5, "nfe": 9.0 - step}, "times": {"forward": 3.0, "learner": 1.0}}
    for step in range(3)
] + [{"step": 3, "values": {"validation_reward": 0.3, "validation_accuracy": 0.7}, "times": {"forward": 2.0}}]  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


def records_of(arm: Arm, *, accuracy: float, nfe: int, num: int = 20) -> list[ExampleRecord]:
    found = []
    for i in range(num):
        is_right = i < accuracy * num
        found.append(
            ExampleRecord(
                arm.sampler,
                arm.parameter,
                arm.block_length,
                0,
                f"sudoku/test/{i:02}",
                "correct" if is_right else "wrong",
                float(is_right),
                nfe,
                is_right * (24 - nfe + 1) / 24,
                "clean",
                0,
                "7",
                "text",
            )
        )
    return found


RECORDS = [
    *records_of(FAST, accuracy=0.5, nfe=2),
    *records_of(SLOW, accuracy=0.9, nfe=5),
    *records_of(BLOCKS, accuracy=0.95, nfe=12),
    *records_of(TRAINED, accuracy=0.9, nfe=4),
]


def summaries_of(records, arms):
    groups = by_arm(records, arms)
    return [summarise(arm, groups[arm]) for arm in arms], groups


def rows_of(table) -> list[list[str]]:
    return [list(cells) for cells in zip(*(column.cells for column in table.columns), strict=True)]


def write(path, *, records=RECORDS, arms=ARMS, alpha: float = 1.0) -> RunDir:
    run_dir = RunDir(path)
    write_results(
        run_dir, records, arms, alpha=alpha, canvas_length=24, history=HISTORY, policy_name="checkpoints/best"
    )
    return run_dir


def test_the_table_shows_the_best_parameter_of_each_sampler_and_block_by_reward():
    summaries, _ = summaries_of(RECORDS, ARMS)
    rows = rows_of(results_table(summaries, alpha=1.0))
    assert [row[:2] for row in rows] == [["learned", "24"], ["threshold 0.9", "24"], ["threshold 0.9", "12"]]
    assert [row[-1] for row in rows] == ["best", "", ""]
    assert rows[0][2].startswith("90.0%")
    assert rows[0][3] == "4.00"
    assert rows[0][4].startswith("0.7875")


def test_a_heuristic_that_wins_is_marked_as_best():
    summaries, _ = summaries_of([*RECORDS[:60], *records_of(TRAINED, accuracy=0.2, nfe=2)], ARMS)
    rows = rows_of(results_table(summaries, alpha=1.0))
    assert rows[0][0] == "threshold 0.9"
    assert rows[0][-1] == "best"
    assert rows[-1][0] == "learned"


def test_the_comparison_is_with_the_heuristic_of_the_best_reward():
    summaries, groups = summaries_of(RECORDS, ARMS)
    found = compare(summaries, dict(groups))
    assert (found["best_heuristic"], found["block_length"]) == ("threshold 0.9", 24)
    assert found["margin"]["mean"] == pytest.approx(0.9 * 21 / 24 - 0.9 * 20 / 24)
    assert 0 < found["margin"]["low"] <= found["margin"]["mean"] <= found["margin"]["high"]


@pytest.mark.parametrize("arms", [[TRAINED], [FAST, SLOW]])
def test_there_is_no_comparison_without_both_sides(arms):
    summaries, groups = summaries_of(RECORDS, arms)
    assert compare(summaries, dict(groups)) is None


def test_all_files_tell_the_same_numbers(tmp_path, capsys):
    run_dir = write(tmp_path)
    assert (run_dir.plots_path / "pareto.png").read_bytes().startswith(PNG)
    assert (run_dir.plots_path / "learning.png").read_bytes().startswith(PNG)
    document = json.loads((run_dir.evaluation_path / "results.json").read_text())
    assert (document["alpha"], document["canvas_length"], document["policy"]) == (1.0, 24, "checkpoints/best")
    with (run_dir.evaluation_path / "summary.csv").open() as file:
        lines = list(csv.DictReader(file))
    summaries, _ = summaries_of(RECORDS, ARMS)
    assert len(lines) == len(document["arms"]) == len(summaries)
    for line, entry, summary in zip(lines, document["arms"], summaries, strict=True):
        assert line["sampler"] == entry["arm"]["sampler"] == summary.arm.sampler
        assert int(line["block_length"]) == entry["arm"]["block_length"] == summary.arm.block_length
        assert line["parameter"] == ("" if summary.arm.parameter is None else str(summary.arm.parameter))
        assert int(line["num_examples"]) == entry["num_examples"] == 20
        for name in ("accuracy", "nfe", "reward"):
            interval = getattr(summary, name)
            assert (
                float(line[name])
                == pytest.approx(entry[name]["mean"], abs=1e-6)
                == pytest.approx(interval.mean, abs=1e-6)
            )
            assert float(line[f"{name}_low"]) == pytest.approx(entry[name]["low"], abs=1e-6)
            assert float(line[f"{name}_high"]) == pytest.approx(entry[name]["high"], abs=1e-6)
    printed = " ".join(capsys.readouterr().out.split())
    margin = document["comparison"]["margin"]
    assert f"{margin['mean']:+.4f}" in printed
    assert "checkpoints/best" in printed


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
@pytest.mark.parametrize("num", [20, 21, 23, 50])
def test_perfect_and_hopeless_samplers_can_be_plotted(tmp_path, accuracy, num):
    records = [record for arm in ARMS for record in records_of(arm, accuracy=accuracy, nfe=3, num=num)]
    assert (write(tmp_path, records=records).plots_path / "pareto.png").exists()


@pytest.mark.parametrize("arms", [[TRAINED], [FAST, SLOW, BLOCKS]])
def test_one_side_alone_can_be_reported(tmp_path, arms):
    run_dir = write(tmp_path, arms=arms, alpha=0.0)
    document = json.loads((run_dir.evaluation_path / "results.json").read_text())
    assert document["comparison"] is None
    assert len(document["arms"]) == len(arms)
    assert (run_dir.plots_path / "pareto.png").exists()


def test_without_evaluation_the_learning_curves_are_still_drawn(tmp_path):
    run_dir = write(tmp_path, records=[])
    assert (run_dir.plots_path / "learning.png").exists()
    assert not (run_dir.plots_path / "pareto.png").exists()


def test_an_arm_whose_grader_always_failed_does_not_stop_the_report(tmp_path):
    broken = Arm("random", 1.0, 24, is_random=True)
    failed = [
        ExampleRecord("random", 1.0, 24, 0, f"sudoku/test/{i:02}", "grader_error", 0.0, 24, 0.0, "clean", 0, "", "")
        for i in range(5)
    ]
    run_dir = write(tmp_path, records=[*RECORDS, *failed], arms=[*ARMS, broken])
    assert (run_dir.evaluation_path / "results.json").exists()


def test_the_breakdown_adds_up():
    table = breakdown_table(HISTORY)
    rows = rows_of(table)
    names = [row[0] for row in rows]
    states, total = rows[: names.index("total")], rows[names.index("total")]
    assert total[1:] == ["14.0", "100.0%"]
    assert sum(float(row[1]) for row in states) == pytest.approx(14.0)
    assert [row[1] for row in states if float(row[1])] == ["11.0", "3.0"]
    assert [row[2] for row in states if float(row[1])] == ["78.6%", "21.4%"]
    Console(quiet=True).print(table)


def test_a_mixture_has_one_table_and_one_document_per_task(tmp_path, capsys):
    others = [
        dataclasses.replace(
            record, example_id=record.example_id.replace("sudoku", "arithmetic"), grade="wrong", reward=0.0
        )
        for record in RECORDS
    ]
    run_dir = RunDir.open(tmp_path / "run", {}, resume=False)
    options = dict(alpha=1.0, canvas_length=24, history=HISTORY, policy_name="checkpoints/step-000003")
    write_results(run_dir, [*RECORDS, *others], ARMS, **options)
    text = capsys.readouterr().out
    assert "task arithmetic" in text
    assert "task sudoku" in text
    results = json.loads((run_dir.evaluation_path / "results.json").read_text())
    accuracy = {
        task: {(arm["arm"]["sampler"], arm["arm"]["block_length"]): arm["accuracy"]["mean"] for arm in each["arms"]}
        for task, each in results["tasks"].items()
    }
    assert accuracy["sudoku"][LEARNED, 24] == 0.9
    assert set(accuracy["arithmetic"].values()) == {0.0}
    overall = {arm["arm"]["sampler"]: arm["accuracy"]["mean"] for arm in results["arms"]}
    assert overall[LEARNED] == 0.45
