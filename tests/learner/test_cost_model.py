"""The cost of a trained policy out of measured parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import ExitCode
from learner.bench import main
from learner.cost_model import Parts, cost, rows_per_s
from learner.main import resolve

PARTS = Parts("a device", {16: 100.0, 64: 200.0}, 3.0, 256, 0.001, 0.010, 0.0002)
CONFIG = resolve(["tiny"])


def test_rows_per_second_between_below_and_above_what_was_measured() -> None:
    found = [rows_per_s(PARTS.rows_per_s, size) for size in (1, 8, 16, 40, 64, 500)]
    assert found == pytest.approx([100 / 16, 50, 100, 150, 200, 200])


def test_one_gpu_is_the_sum_of_its_parts() -> None:
    one = cost(CONFIG, PARTS, 1)
    assert one.rollouts_s == pytest.approx(256 / 200)
    assert one.learner_s == pytest.approx(3.0)
    assert one.driver_s == pytest.approx(0.008)
    assert one.weights_s == pytest.approx(0.0102)
    assert one.synchronous_s == pytest.approx(256 / 200 + 3.0 + 0.0102)
    assert one.overlapped_s == pytest.approx(3.0102)
    assert one.bound == "learning"
    assert one.hours(one.synchronous_s) == pytest.approx(50 * one.synchronous_s / 3600)


def test_more_gpus_never_decode_slower_and_end_bound_by_something_else() -> None:
    costs = [cost(CONFIG, replace(PARTS, update_s=0.01), count) for count in (1, 2, 4, 16, 256, 1024)]
    times = [each.rollouts_s for each in costs]
    assert times == sorted(times, reverse=True)
    assert costs[0].bound == "rollouts"
    assert costs[-1].bound != "rollouts"
    assert costs[-1].rollouts_s == pytest.approx(16 / 100), "one row takes as long as the fewest that were measured"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    figures = [
        {"unmasker": "p", "block_length": 48, "batch_size": size, "num_rows": 256, "engine_s": 256 / rate}
        for size, rate in PARTS.rows_per_s.items()
    ]
    contents = {
        "rollouts": {"environment": {"device": "a device"}, "figures": figures},
        "update": {"packed_s": 3.0, "num_rows": 256},
        "scaling": {
            "control": [{"driver_ms_per_lease": 9.0}, {"driver_ms_per_lease": 1.0}],
            "weights": [{"num_actors": n, "all_have_them_ms": 10 + 0.2 * n} for n in (1, 8, 64)],
        },
    }
    words = []
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        words += [f"--{name}", str(tmp_path / f"{name}.json")]
    return words


def test_the_command_reads_the_files_of_the_benchmarks(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cost.json"
    assert main(["cost", "tiny", *files, "--json", str(out)]) == ExitCode.FINISHED
    assert "1,024" in capsys.readouterr().out
    document = json.loads(out.read_text())
    assert [line["num_gpus"] for line in document["costs"]] == [2**power for power in range(11)]
    assert document["costs"][0]["rollouts_s"] == pytest.approx(256 / 200)
    assert document["parts"]["weights_each_s"] == pytest.approx(0.0002)


def test_figures_of_several_unmaskers_are_never_mixed(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(Path(files[1]).read_text())
    slower = [line | {"unmasker": "slow", "engine_s": 2 * line["engine_s"]} for line in document["figures"]]
    Path(files[1]).write_text(json.dumps(document | {"figures": document["figures"] + slower}))
    assert main(["cost", "tiny", *files]) == ExitCode.USER_ERROR
    assert "--unmasker is None; allowed with" in capsys.readouterr().out
    out = tmp_path / "cost.json"
    for name, seconds in (("p", 256 / 200), ("slow", 256 / 100)):
        assert main(["cost", "tiny", *files, "--unmasker", name, "--json", str(out)]) == ExitCode.FINISHED
        assert json.loads(out.read_text())["costs"][0]["rollouts_s"] == pytest.approx(seconds)


def test_files_that_do_not_fit_are_one_line(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, says in (
        (["cost", "tiny_blocks", *files], "has no figures of blocks of 16; allowed: [48]"),
        (["cost", *files[:-1], str(tmp_path / "nowhere.json")], "nowhere.json' cannot be read"),
        (["cost", *files[:-1], files[1]], "lack 'weights'"),
        (["cost", "tiny", *files, "--unmasker", "q"], "--unmasker is 'q'; allowed with "),
    ):
        assert main(words) == ExitCode.USER_ERROR
        assert says in capsys.readouterr().out.replace("\n", "")
