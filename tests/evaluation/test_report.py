"""The report: what its data says, that it stands alone, and that text from models stays text."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import ExitCode, UserError
from evaluation.arms import LEARNED
from evaluation.report import main, read_run, render
from evaluation.report_data import ReportRun, heat_map, report_data
from tests.fakes.records import arm_of, make_record, records_of
from tests.fakes.reports import LENGTHS, add_training, write_evaluation

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "run"
    write_evaluation(path / "evaluation")
    add_training(path)
    return path


@pytest.fixture(scope="module")
def data(run: Path) -> dict:
    return report_data([read_run(str(run))])


def test_every_task_has_its_view_and_every_arm_its_numbers(data):
    assert [view["name"] for view in data["views"]] == ["arithmetic", "sudoku"]
    for view in data["views"]:
        assert view["canvas_length"] == LENGTHS[view["name"]]
        assert len(view["arms"]) == 5
        rewards = [arm["reward"][0] for arm in view["arms"]]
        assert rewards == sorted(rewards, reverse=True)
        best = view["arms"][view["best_heuristic"]]
        assert not best["learned"]
        assert best["difference"] is None
        assert all(arm["difference"] for arm in view["arms"] if arm is not best)
        for arm in view["arms"]:
            assert sum(count for _, count in arm["histogram"]) == 6 * arm["num_seeds"]
        assert 0 <= view["hypervolume"]["heuristics"] <= view["hypervolume"]["all"] <= 1


def test_replays_lead_from_an_empty_canvas_to_the_answer(data):
    for view in data["views"]:
        assert [replay["id"] for replay in view["replays"]] == [f"{view['name']}/test/{i}" for i in range(2)]
        for replay in view["replays"]:
            # Of the two thresholds at the full block length the better one is shown.
            assert len(replay["rows"]) == 4
            for row in replay["rows"]:
                canvas = list(row["passes"][0]["canvas"])
                assert set(canvas) == {row["mask"]}
                for each in row["passes"]:
                    assert each["canvas"] == canvas
                    guess = dict(zip(each["asked"], each["guess"], strict=True))
                    assert all(0 <= confidence <= 100 for confidence in each["confidence"])
                    for position in each["commit"]:
                        canvas[position] = guess[position]
                assert canvas == row["final"]


def test_learning_curves_are_those_of_the_run(data):
    curves = data["runs"][0]["curves"]
    assert len(curves["reward"]) == 9
    assert curves["validation_reward"] == [[0, 0.0], [4, 0.08], [8, 0.16]]


def test_an_evaluation_inside_a_run_s_directory_shows_the_run_s_learning_curves(tmp_path, data):
    write_evaluation(tmp_path / "run" / "pipeline", tasks=["sudoku"], num=2)
    assert not report_data([read_run(str(tmp_path / "run" / "pipeline"))])["runs"][0]["curves"]
    add_training(tmp_path / "run")
    found = report_data([read_run(f"{tmp_path}/run/pipeline/")])
    assert found["runs"][0]["curves"] == data["runs"][0]["curves"]


def test_a_heat_map_counts_every_decoded_token():
    records = [make_record(i, order=tuple([1] * 12 + [2] * 11 + [0])) for i in range(3)]
    cells = np.array(heat_map(records, 24)["cells"])
    assert cells.shape == (2, 24)
    assert cells[0, :12].tolist() == [100] * 12
    assert cells[1, 12:].tolist() == [100] * 11 + [0]
    assert heat_map([make_record()], 24) is None
    long = make_record(order=tuple(range(1, 257)))
    cells = np.array(heat_map([long], 256)["cells"])
    assert cells.shape == (48, 48)
    assert np.array_equal(cells > 0, np.eye(48, dtype=bool))


def make_report_run(name: str, records, **settings) -> ReportRun:
    return ReportRun(name, {"models": {"model": {"name": "tiny"}}, "reward": {"alpha": 1.0}, **settings}, records)


def test_policies_of_several_runs_are_kept_apart_and_shared_heuristics_are_shown_once():
    heuristic, learned = arm_of("threshold", 0.9, 24), arm_of(LEARNED, None, 24)
    runs = [
        make_report_run(
            name, [*records_of(heuristic, accuracy=0.5, nfe=4), *records_of(learned, accuracy=share, nfe=3)]
        )
        for name, share in (("a", 0.6), ("b", 0.8))
    ]
    (view,) = report_data(runs)["views"]
    assert [arm["label"] for arm in view["arms"]] == ["learned b", "learned a", "threshold 0.9"]
    apart = [
        runs[0],
        dataclasses.replace(runs[1], settings={**runs[1].settings, "models": {"model": {"name": "llada"}}}),
    ]
    (view,) = report_data(apart)["views"]
    assert len(view["arms"]) == 4


def test_runs_on_other_canvases_are_refused():
    arm = arm_of("threshold", 0.9, 24)
    longer = [make_record(0, arm=arm, settings={"canvas_length": 48})]
    with pytest.raises(UserError, match="'sudoku' on canvases of 24 and 48 tokens"):
        report_data([make_report_run("a", records_of(arm, accuracy=1, nfe=2)), make_report_run("b", longer)])


def test_the_page_stands_alone(data):
    page = render(data).decode()
    outside = [url for url in re.findall(r"https?://[^\s\"'`)]+", page) if url != "http://www.w3.org/2000/svg"]
    assert not outside
    assert not re.search(r"<(link|img|iframe)\b|@import|\burl\(|\bfetch\(|XMLHttpRequest|innerHTML|eval\(", page)
    assert "default-src 'none'" in page
    assert not re.search(r"/\*(STYLE|SCRIPTS|DATA)\*/", page)


def test_text_of_models_cannot_leave_the_data_block(data):
    hostile = json.loads(json.dumps(data))
    hostile["views"][0]["replays"][0]["prompt"] = HOSTILE
    hostile["views"][0]["arms"][0]["label"] = HOSTILE + "/*SCRIPTS*/<!--"
    page = render(hostile).decode()
    assert HOSTILE not in page
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    assert "<" not in block
    assert json.loads(block) == hostile


def test_command(run, tmp_path, capsys):
    assert main([str(run), "--out", str(tmp_path / "report.html")]) == ExitCode.FINISHED
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert main([str(tmp_path)]) == ExitCode.USER_ERROR
    assert "holds no evaluation" in capsys.readouterr().err
