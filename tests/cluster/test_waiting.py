from __future__ import annotations

import logging

import pytest

from cluster.errors import DeadlineExceeded
from cluster.waiting import Wait


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []

    def warning(text: str, *arguments: object) -> None:
        lines.append(text % arguments)

    monkeypatch.setattr(logging.getLogger("cluster.waiting"), "warning", warning)
    return lines


def test_a_long_wait_is_named_once_and_again_each_time_it_has_doubled(said: list[str]) -> None:
    clock = Clock()
    wait = Wait("lease 3", deadline_s=1000, say_after_s=30, clock=clock)
    for seconds in range(0, 250, 5):
        clock.now = 50.0 + seconds
        wait.check(missing=f"result {seconds}")
    assert [line.partition("missing: ")[2] for line in said] == ["result 30", "result 60", "result 120", "result 240"]
    assert said[0].startswith("waiting for lease 3 since ")
    assert "(30 s, deadline 1000 s)" in said[0]


def test_a_wait_ends_at_its_deadline_with_what_is_missing() -> None:
    clock = Clock()
    wait = Wait("lease 3", deadline_s=10, clock=clock)
    clock.now += 9
    wait.check(missing="1 of 2")
    assert wait.remaining_s == 1
    clock.now += 1
    with pytest.raises(DeadlineExceeded, match=r"^waited 10 s for lease 3; missing: 1 of 2$"):
        wait.check(missing="1 of 2")
