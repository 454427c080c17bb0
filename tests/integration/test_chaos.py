"""Runs whose processes are killed end like runs that nobody disturbed; `tests.chaos` says how."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import DRIVER, KINDS, NODE, chaos


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_node_and_the_driver_may_die(tmp_path: Path) -> None:
    killed = chaos(tmp_path, num_kills=2, kinds=(NODE, DRIVER), num_steps=8)
    assert killed == {NODE: 1, DRIVER: 1}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_everything_may_die_again_and_again(tmp_path: Path) -> None:
    killed = chaos(tmp_path, num_kills=18, seed=1)
    assert sum(killed.values()) >= 15
    assert set(killed) >= set(KINDS) - {"weight store"}
