from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cluster.retry import attempts


class Clock:
    """Time that passes only in pauses and in attempts of `attempt_s`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@given(st.floats(0.01, 300), st.floats(0, 30), st.floats(0, 1))
def test_pauses_double_up_to_a_bound_and_no_attempt_begins_after_the_deadline(
    deadline_s: float, attempt_s: float, draw: float
) -> None:
    clock = Clock()
    begun = []
    uniform = lambda low, high: low + draw * (high - low)  # noqa: E731
    for number in attempts(deadline_s, clock=lambda: clock.now, sleep=clock.sleep, uniform=uniform):
        assert number == len(begun) + 1
        begun.append(clock.now)
        clock.now += attempt_s
    assert begun[0] == 0
    assert all(moment < deadline_s for moment in begun)
    bounds = [min(10.0, 0.2 * 2**n) for n in range(len(clock.pauses))]
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(clock.pauses, bounds, strict=True))
    # It gave up only because the next pause would have passed the deadline.
    assert clock.now + min(10.0, 0.2 * 2 ** (len(begun) - 1)) * (0.5 + 0.5 * draw) >= deadline_s - 1e-6


def test_pauses_of_two_clients_differ() -> None:
    def pauses() -> list[float]:
        clock = Clock()
        for _ in itertools.islice(attempts(1e9, clock=lambda: clock.now, sleep=clock.sleep), 9):
            pass
        return clock.pauses

    assert pauses() != pauses()
