"""What is said at the end of a run."""

from __future__ import annotations

import pytest

from learner.display import print_alarms
from learner.watch import Alarm


def test_alarms_are_listed_in_order_each_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    message = "90% of the decisions commit nothing; set policy.distribution=bernoulli_argmax, [or raise] " + "x" * 200
    print_alarms([Alarm("empty_actions", 7, message), Alarm("entropy_collapse", 30, "entropy of 0.01 nats")])
    assert capsys.readouterr().out.splitlines() == [
        "Alarms while training (2)",
        f"update 7: empty_actions: {message}",
        "update 30: entropy_collapse: entropy of 0.01 nats",
    ]


def test_a_healthy_run_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_alarms([])
    assert capsys.readouterr().out == ""
