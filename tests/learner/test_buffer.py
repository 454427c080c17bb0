from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.buffer import Entry, TrajectoryBuffer
from rollout_workers.lease import EngineStats, GroupRequest, Lease, LeaseSummary, UnmaskerSpec
from rollout_workers.tasks import Split


def entry(lease_id: int, *, version: int = 0, trajectories: str = "") -> Entry:
    group = GroupRequest(0, "arithmetic", Split.TRAIN, 0, 1)
    lease = Lease(lease_id, 0, UnmaskerSpec(weight_version=version), (group,), 8)
    return Entry(LeaseSummary(lease, (), (), (), (), (), (), EngineStats(), {}), trajectories or f"of {lease_id}")


def ids(entries: list[Entry]) -> list[int]:
    return [held.summary.lease.id for held in entries]


@given(st.permutations(list(range(7))))
def test_results_are_taken_in_the_order_of_leases_whatever_the_order_of_arrival(order: list[int]) -> None:
    buffer = TrajectoryBuffer(capacity=7, max_weight_lag=0)
    for lease_id in order:
        assert buffer.add(entry(lease_id), current_version=0)
    taken = buffer.take()
    assert ids(taken) == list(range(7))
    assert [held.trajectories for held in taken] == [f"of {lease_id}" for lease_id in range(7)]
    assert (len(buffer), buffer.num_free, buffer.take()) == (0, 7, [])


def test_a_second_result_of_a_held_lease_is_not_kept() -> None:
    buffer = TrajectoryBuffer(capacity=1, max_weight_lag=0)
    assert buffer.add(entry(3, trajectories="first"), current_version=0)
    # Even a full buffer answers a second result of a lease it holds.
    assert not buffer.add(entry(3, trajectories="second"), current_version=0)
    assert [held.trajectories for held in buffer.take()] == ["first"]
    assert buffer.num_stale_dropped == 0


@pytest.mark.parametrize("max_lag", [0, 1, 3])
@given(made=st.integers(0, 10), lag=st.integers(0, 6))
def test_only_results_within_the_bound_of_staleness_are_kept(max_lag: int, made: int, lag: int) -> None:
    buffer = TrajectoryBuffer(capacity=2, max_weight_lag=max_lag)
    kept = buffer.add(entry(1, version=made), current_version=made + lag)
    assert kept == (lag <= max_lag)
    assert (len(buffer), buffer.num_stale_dropped) == ((1, 0) if kept else (0, 1))


def test_free_places_bound_what_is_in_flight() -> None:
    buffer = TrajectoryBuffer(capacity=2, max_weight_lag=0)
    buffer.add(entry(1), current_version=0)
    assert buffer.num_free == 1
    buffer.add(entry(2), current_version=0)
    assert buffer.num_free == 0
    with pytest.raises(AssertionError, match="buffer has room for"):
        buffer.add(entry(4), current_version=0)
    assert ids(buffer.take()) == [1, 2]
    assert buffer.add(entry(4), current_version=0)
