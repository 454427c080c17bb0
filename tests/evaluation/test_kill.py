"""SIGKILL at any moment of an evaluation: the same call goes on to every example once, with the numbers of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from evaluation.records import read_records
from tests.fakes.records import timeless
from tests.fakes.reports import write_evaluation

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys
from pathlib import Path
from tests.fakes.reports import write_evaluation
write_evaluation(Path(sys.argv[1]), tasks=["sudoku"], num=4)
"""


def num_shards(place: Path) -> int:
    folder = place / "shards"
    return sum(not path.name.startswith(".") for path in folder.iterdir()) if folder.is_dir() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_three_times(tmp_path):
    write_evaluation(tmp_path / "undisturbed", tasks=["sudoku"], num=4)
    whole, place = num_shards(tmp_path / "undisturbed"), tmp_path / "killed"
    for _ in range(3):
        before = num_shards(place)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(place)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 240
        while num_shards(place) < before + 1 and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert before < num_shards(place) < whole
    write_evaluation(place, tasks=["sudoku"], num=4)
    keys = [record.key for path in (place / "shards").iterdir() for record in read_records(path)]
    assert set(Counter(keys).values()) == {1}
    ours, theirs = (read_records(folder / "records.jsonl") for folder in (place, tmp_path / "undisturbed"))
    assert timeless(ours) == timeless(theirs)
    assert len(list((place / "traces").iterdir())) == len(list((tmp_path / "undisturbed" / "traces").iterdir()))
