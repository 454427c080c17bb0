"""The soak finds what grows and looks at every process of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import soak

MIB = 2**20


def watched(size_at) -> soak.Watched:
    draw = np.random.default_rng(0)
    seconds = np.arange(0.0, 1800.0, 5.0)
    sizes = [int(size_at(t) + draw.normal(0, MIB)) for t in seconds]
    return soak.Watched("1 process", seconds.tolist(), sizes)


def test_what_grows_slowly_is_found_and_what_fills_up_at_first_is_not() -> None:
    flat = watched(lambda t: 300 * MIB)
    filling = watched(lambda t: (300 + 100 * min(1.0, t / 600)) * MIB)
    leaking = watched(lambda t: (300 + 0.04 * t) * MIB)
    sawtooth = watched(lambda t: (300 + t % 90) * MIB)
    assert [each.is_flat(1800, 0.05) for each in (flat, filling, leaking, sawtooth)] == [True, True, False, True]
    start, end = leaking.line(1800)
    assert end - start == pytest.approx(0.04 * 1800 * (1 - soak.WARM_UP) * MIB, rel=0.1)


@pytest.mark.slow
@pytest.mark.ray
def test_every_process_of_a_run_is_looked_at(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = soak.main(["--minutes", "0.7", "--every-s", "1", "--tolerance", "9", "--folder", str(tmp_path / "soak")])
    printed = capfd.readouterr().out
    assert code == 0, printed
    for name in (
        "RolloutWorker",
        "GraderActor",
        "LearnerRank",
        "learner.main",
        "raylet",
        "gcs_server",
        soak.OBJECT_STORE,
    ):
        assert name in printed
    assert (tmp_path / "soak" / "soak.png").stat().st_size > 5000
