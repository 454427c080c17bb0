"""A process that takes too long says where it stands, and one that does not says nothing."""

from __future__ import annotations

import time
from pathlib import Path

from cluster.stacks import stacks_after


def wait_somewhere(seconds: float) -> None:
    time.sleep(seconds)


def test_stacks_are_written_once_it_takes_too_long_and_not_before(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as file:
        with stacks_after(60.0, "nothing", file):
            wait_somewhere(0.0)
        assert (tmp_path / "log").read_text() == ""
        with stacks_after(0.1, "a wait", file):
            wait_somewhere(0.6)
        written = (tmp_path / "log").read_text()
        assert "Timeout (0:00:00.1" in written
        assert "in wait_somewhere" in written
        time.sleep(0.3)
        assert (tmp_path / "log").read_text() == written
