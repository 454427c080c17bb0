"""The final table, comparison and files, which must all tell the same numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
from rich.console import Console

from evaluation.arms import LEARNED
from evaluation.outputs import Context, write_outputs
from evaluation.plots import learning_png
from evaluation.records import read_records
from evaluation.results_dir import ResultsDir
from evaluation.tables import breakdown_table, comparison_line, results_table
from evaluation.views import ALL_TASKS, make_view, make_views
from tests.fakes.records import arm_of, make_record, records_of

FAST, SLOW, BLOCKS = arm_of("threshold", 0.5, 24), arm_of("threshold", 0.9, 24), arm_of("threshold", 0.9, 12)
TRAINED = arm_of(LEARNED, None, 24)
HISTORY = [
    {"step": step, "values": {"reward": 0.1 * step, "accuracy": 0.5, "nfe": 9.0 - step}, "times": {"forward": 3.0, "learner": 1.0}}
    for step in range(3)
] + [{"step": 3, "values": {"validation_reward": 0.3, "validation_accuracy": 0.7}, "times": {"forward": 2.0}}]  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"

RECORDS = [
    *records_of(FAST, accuracy=0.5, nfe=2),
    *records_of(SLOW, accuracy=0.9, nfe=5),
    *records_of(BLOCKS, accuracy=0.95, nfe=12),
    *records_of(TRAINED, accuracy=0.9, nfe=4),
]


def rows_of(table) -> list[list[str]]:
    return [list(cells) for cells in zip(*(column.cells for column in table.columns), strict=True)]


def write(path, *, records=RECORDS, alpha: float = 1.0) -> ResultsDir:
    results = ResultsDir(str(path))
    write_outputs(results, records, Context(alpha=alpha, settings={"model": "tiny"}, evaluation={"seeds": [0]}))
    return results


def document(results: ResultsDir) -> dict:
    return json.loads(results.read("results.json"))


def lines_of(results: ResultsDir, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(results.read(name).decode())))


def test_the_table_shows_the_best_parameter_of_each_sampler_and_block_by_reward():
    rows = rows_of(results_table(make_view("sudoku", RECORDS).summaries, alpha=1.0))
    assert [row[:2] for row in rows] == [["learned", "24"], ["threshold 0.9", "24"], ["threshold 0.9", "12"]]
    assert [row[-1] for row in rows] == ["best", "", ""]
    assert rows[0][2].startswith("90.0%")
    assert rows[0][3] == "4.00"
    assert rows[0][4].startswith("0.7875")


def test_a_heuristic_that_wins_is_marked_as_best():
    view = make_view("sudoku", [*RECORDS[:60], *records_of(TRAINED, accuracy=0.2, nfe=2)])
    rows = rows_of(results_table(view.summaries, alpha=1.0))
    assert rows[0][0] == "threshold 0.9"
    assert rows[0][-1] == "best"
    assert rows[-1][0] == "learned"


def test_an_arm_with_few_problems_is_not_ranked(tmp_path):
    lucky = [
        record for record in records_of(arm_of("random", 8, 24), accuracy=1.0, nfe=1) if record.example_id[-1] == "0"
    ]
    view = make_view("sudoku", [*RECORDS, *lucky])
    assert view.best_heuristic.arm == SLOW
    assert len(view.summaries) == len(view.ranked) + 1
    found = document(write(tmp_path, records=[*RECORDS, *lucky]))
    assert found["best_heuristic"]["label"] == "threshold 0.9"
    assert found["hypervolume"] == document(write(tmp_path / "without"))["hypervolume"]


def test_the_best_of_several_learned_policies_is_said_to_be_that():
    other = records_of(arm_of(LEARNED, None, 12), accuracy=0.8, nfe=4)
    alone, several = make_view("sudoku", RECORDS), make_view("sudoku", [*RECORDS, *other])
    assert comparison_line(alone).startswith("learned policy minus best heuristic (threshold 0.9, block 24)")
    assert comparison_line(several).startswith("best of 2 learned (learned, block 24) minus best heuristic")
    assert "(Holm)" in comparison_line(several)


def test_the_comparison_is_with_the_heuristic_of_the_best_reward(tmp_path):
    found = document(write(tmp_path))["comparison"]
    assert (found["learned"], found["best_heuristic"], found["block_length"]) == ("learned", "threshold 0.9", 24)
    assert found["margin"]["mean"] == pytest.approx(0.9 * 21 / 24 - 0.9 * 20 / 24)
    assert 0 < found["margin"]["low"] <= found["margin"]["mean"] <= found["margin"]["high"]
    assert found["p"] < 0.01


@pytest.mark.parametrize("records", [RECORDS[60:], RECORDS[:60]])
def test_there_is_no_comparison_without_both_sides(tmp_path, records):
    results = write(tmp_path, records=records, alpha=0.0)
    assert document(results)["comparison"] is None
    assert results.read("pareto.png").startswith(PNG)


def test_all_files_tell_the_same_numbers(tmp_path, capsys):
    results = write(tmp_path)
    whole = document(results)
    assert results.read("pareto.png").startswith(PNG)
    assert (whole["alpha"], whole["canvas_length"]) == (1.0, 24)
    assert read_records(tmp_path / "records.jsonl") == RECORDS
    lines, summaries = lines_of(results, "summary.csv"), make_view("sudoku", RECORDS).summaries
    assert len(lines) == len(whole["arms"]) == len(summaries) == 4
    for line, entry, summary in zip(lines, whole["arms"], summaries, strict=True):
        assert line["sampler"] == entry["arm"]["sampler"] == summary.arm.sampler
        assert line["parameters"] == entry["arm"]["parameters"] == summary.arm.parameters
        assert int(line["block_length"]) == entry["arm"]["block_length"] == summary.arm.block_length
        assert int(line["num_examples"]) == entry["num_examples"] == 20
        for name in ("accuracy", "nfe", "reward"):
            interval = getattr(summary, name)
            for end, field in (("", "mean"), ("_low", "low"), ("_high", "high")):
                assert float(line[name + end]) == pytest.approx(entry[name][field], abs=1e-6)
                assert entry[name][field] == pytest.approx(getattr(interval, field))
    best = [line for line in lines if line["is_best_heuristic"] == "1"]
    assert [(line["sampler"], line["parameters"]) for line in best] == [("threshold", '{"tau": 0.9}')]
    assert best[0]["reward_p"] == ""
    learned = next(line for line in lines if line["sampler"] == LEARNED)
    assert 1 >= float(learned["reward_p_holm"]) >= float(learned["reward_p"])
    margin = whole["comparison"]["margin"]
    assert float(learned["reward_difference"]) == pytest.approx(margin["mean"], abs=1e-6)
    assert f"{margin['mean']:+.4f}" in " ".join(capsys.readouterr().out.split())


def test_detailed_lines_add_up_to_the_records(tmp_path):
    records = [*RECORDS, *(dataclasses.replace(r, seed=1, grade="grader_error") for r in RECORDS[60:65])]
    lines = lines_of(write(tmp_path, records=records), "detailed.csv")
    assert len(lines) == 5
    assert sum(int(line["num_examples"]) for line in lines) == len(records)
    assert sum(int(line["num_correct"]) for line in lines) == sum(record.grade == "correct" for record in records)
    assert sum(float(line["seconds"]) for line in lines) == pytest.approx(0.5 * len(records))
    assert {line["device"] for line in lines} == {"cpu"}
    (failed,) = [line for line in lines if line["seed"] == "1"]
    assert (failed["num_grader_error"], failed["accuracy"]) == ("5", "")


def test_the_manifest_says_what_the_files_were_made_with(tmp_path):
    results = write(tmp_path)
    manifest = json.loads(results.read("manifest.json"))
    assert manifest["settings"] == {"model": "tiny"}
    assert {"torch", "ray", "python", "device"} <= manifest["driver"].keys()
    assert len(manifest["code"]["source"]) == 64
    assert {"records.jsonl", "summary.csv", "detailed.csv", "pareto.png"} == manifest["files"].keys()


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
@pytest.mark.parametrize("num", [20, 21, 50])
def test_perfect_and_hopeless_samplers_can_be_plotted(tmp_path, accuracy, num):
    records = [r for arm in (FAST, TRAINED) for r in records_of(arm, accuracy=accuracy, nfe=3, num=num)]
    assert write(tmp_path, records=records).exists("pareto.png")


def test_an_empty_evaluation_is_written_too(tmp_path):
    results = write(tmp_path, records=[])
    assert document(results)["tasks"] == {}
    assert not results.exists("pareto.png")
    assert learning_png(HISTORY).startswith(PNG)


def test_an_arm_whose_grader_always_failed_is_named_and_left_out(tmp_path, capsys):
    broken = arm_of("random", 1.0, 24)
    failed = [make_record(i, arm=broken, grade="grader_error", score=0.0, reward=0.0) for i in range(5)]
    results = write(tmp_path, records=[*RECORDS, *failed])
    assert "random" not in {arm["arm"]["sampler"] for arm in document(results)["arms"]}
    assert "random 1, block 24: no answer could be graded" in capsys.readouterr().out


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


OTHERS = [
    dataclasses.replace(record, example_id=record.example_id.replace("sudoku", "arithmetic"), grade="wrong", reward=0.0)
    for record in RECORDS
]


def test_a_mixture_has_one_table_and_one_document_per_task(tmp_path, capsys):
    results = document(write(tmp_path, records=[*RECORDS, *OTHERS]))
    text = capsys.readouterr().out
    assert all(name in text for name in ("arithmetic", "sudoku", ALL_TASKS))
    accuracy = {
        task: {(arm["arm"]["sampler"], arm["arm"]["block_length"]): arm["accuracy"]["mean"] for arm in each["arms"]}
        for task, each in results["tasks"].items()
    }
    assert accuracy["sudoku"][LEARNED, 24] == 0.9
    assert set(accuracy["arithmetic"].values()) == {0.0}
    overall = {arm["arm"]["sampler"]: arm["accuracy"]["mean"] for arm in results["arms"]}
    assert overall[LEARNED] == 0.45


def test_tasks_of_other_canvases_are_never_averaged():
    longer = [dataclasses.replace(record, settings=dict(record.settings, canvas_length=48)) for record in OTHERS]
    assert [view.name for view in make_views([*RECORDS, *longer])] == ["arithmetic", "sudoku"]
    assert [view.name for view in make_views([*RECORDS, *OTHERS])] == [ALL_TASKS, "arithmetic", "sudoku"]
