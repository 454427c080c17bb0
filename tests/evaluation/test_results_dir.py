"""Results directories: they belong to one set of settings, and every record is there once."""

from __future__ import annotations

import pytest

from cluster.errors import UserError
from evaluation.results_dir import ResultsDir
from tests.fakes.records import arm_of, make_record

SETTINGS = {"model": {"name": "tiny"}, "run_seed": 0, "canvas": (1, 2)}


def test_the_same_settings_may_come_again(tmp_path):
    ResultsDir(str(tmp_path / "new")).claim(SETTINGS)
    ResultsDir(str(tmp_path / "new")).claim(SETTINGS)
    assert ResultsDir(str(tmp_path / "new")).settings() == SETTINGS | {"canvas": [1, 2]}


def test_other_settings_are_refused_and_nothing_is_overwritten(tmp_path):
    results = ResultsDir(str(tmp_path))
    results.claim(SETTINGS)
    results.append([make_record()])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"other settings: .*model\.name.*tiny.*llada.*nothing was changed"):
        results.claim(SETTINGS | {"model": {"name": "llada"}})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"is not empty and holds no evaluation \(it has 'thesis.tex'\)"):
        ResultsDir(str(tmp_path)).claim(SETTINGS)


def test_records_come_back_once_and_in_one_order(tmp_path):
    results = ResultsDir(str(tmp_path))
    later = [make_record(2), make_record(1, arm=arm_of("random", 2, 24))]
    results.append(later, [{"example_id": "sudoku/test/2"}])
    results.append([make_record(0)])
    results.append([make_record(2), make_record(0)])
    assert results.records() == [make_record(1, arm=arm_of("random", 2, 24)), make_record(0), make_record(2)]
    assert results.traces() == [{"example_id": "sudoku/test/2"}]


def test_a_torn_shard_does_not_exist(tmp_path):
    """What a kill leaves has a temporary name, which nothing lists."""
    results = ResultsDir(str(tmp_path))
    results.append([make_record(0)])
    (shard,) = (tmp_path / "shards").iterdir()
    (tmp_path / "shards" / ".other.jsonl.0123abcd.new.tmp").write_bytes(shard.read_bytes()[:40])
    assert results.records() == [make_record(0)]
