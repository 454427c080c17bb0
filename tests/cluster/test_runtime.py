from __future__ import annotations

import re
import socket
import time
from typing import Any

import pytest
import ray

from cluster.errors import DeadlineExceeded, UserError
from cluster.runtime import PlacementError, start_actors, start_ray, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]


def actor_class() -> Any:
    """Defined inside a function, so that workers need not import this file."""

    @ray.remote(num_cpus=0)
    class Sleeper:
        def __init__(self, start_s: float = 0.0, fail: bool = False) -> None:
            import time

            if fail:
                raise ValueError("no such checkpoint")
            time.sleep(start_s)

        def ready(self) -> bool:
            return True

        def echo(self, value: int, after_s: float = 0.0) -> int:
            import time

            time.sleep(after_s)
            if value < 0:
                raise ValueError(f"negative: {value}")
            return value

    return Sleeper


@pytest.fixture(scope="module")
def sleepers(ray_local: None) -> list[Any]:
    sleeper = actor_class()
    return start_actors([sleeper.remote] * 2, deadline_s=120, what="sleepers", request={"CPU": 0})


def test_a_process_that_has_ray_keeps_it() -> None:
    assert start_ray(num_cpus=1) is False
    assert ray.cluster_resources()["CPU"] == 4


def test_a_cluster_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    for text in (address, f"ray://{address}"):
        with pytest.raises(UserError) as caught:
            start_ray(address=text, join_deadline_s=0.2)
        message = str(caught.value)
        assert message.startswith(f"cannot join the Ray cluster at '{text}': nothing answers after 0.2 s")
        assert "allowed: the address of a running cluster" in message


def test_values_come_in_the_order_of_their_refs(sleepers: list[Any]) -> None:
    refs = [sleepers[0].echo.remote(1, 0.3), sleepers[1].echo.remote(2), sleepers[0].echo.remote(3)]
    assert wait_for(refs, deadline_s=60, what="echoes") == [1, 2, 3]
    assert wait_for([], deadline_s=1, what="nothing") == []


def test_a_deadline_says_what_and_how_many_are_missing(sleepers: list[Any]) -> None:
    refs = [sleepers[0].echo.remote(1, 1.0), sleepers[1].echo.remote(2)]
    ray.get(refs[1], timeout=60)
    with pytest.raises(DeadlineExceeded, match=r"^waited 0\.3 s for echoes of step 7; missing: 1 of 2$"):
        wait_for(refs, deadline_s=0.3, what="echoes of step 7")
    assert wait_for(refs, deadline_s=60, what="echoes") == [1, 2]


def test_an_error_is_raised_before_the_slowest_is_done(sleepers: list[Any]) -> None:
    slow = sleepers[0].echo.remote(1, 3.0)
    start = time.monotonic()
    with pytest.raises(ValueError, match="negative: -1"):
        wait_for([slow, sleepers[1].echo.remote(-1)], deadline_s=60, what="echoes")
    assert time.monotonic() - start < 2.5
    ray.get(slow, timeout=60)


def test_asking_for_more_than_the_cluster_has_is_refused_at_once() -> None:
    made: list[int] = []
    with pytest.raises(PlacementError) as caught:
        start_actors([lambda: made.append(1)] * 3, deadline_s=60, what="rollout workers", request={"CPU": 3, "GPU": 3})
    assert str(caught.value).startswith(
        "3 rollout workers ask for CPU 3, GPU 3, but the Ray cluster has CPU 4, GPU 0 in all (too little GPU); allowed:"
    )
    assert isinstance(caught.value, UserError)
    assert not made


def test_actors_that_are_not_ready_in_time_are_counted_and_killed() -> None:
    sleeper = actor_class()
    handles: list[Any] = []

    def start(start_s: float) -> Any:
        handles.append(sleeper.remote(start_s))
        return handles[-1]

    with pytest.raises(DeadlineExceeded) as caught:
        start_actors([lambda: start(60.0)], deadline_s=1, what="graders", request={"CPU": 1})
    message = str(caught.value)
    assert message.startswith("waited 1 s for graders to be ready; missing: 1 of 1; asked for CPU 1, the cluster has")
    assert re.search(r"CPU 4 in all and CPU (4|3\.\d+) available now", message)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(handles[0].ready.remote(), timeout=60)


def test_an_actor_that_fails_to_start_is_an_error_at_once() -> None:
    sleeper = actor_class()
    with pytest.raises(ray.exceptions.RayActorError, match="no such checkpoint"):
        start_actors([lambda: sleeper.remote(0.0, True)], deadline_s=100, what="graders", request={})
