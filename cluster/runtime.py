"""Ray itself: start or join it, and wait for refs and actors only with a deadline that says what was missing."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from cluster.errors import DeadlineExceeded, UserError
from cluster.waiting import Wait

OBJECT_STORE_BYTES = 256 * 2**20
HEAD_LIMITS = {
    "RAY_task_events_max_num_task_in_gcs": "2000",
    "RAY_task_events_max_dropped_task_attempts_tracked_per_job_in_gcs": "2000",
}
"""Of a head's memory: by default it keeps what became of the last 100,000 calls, some 3.4 KB each, and names a million more."""
_SLICE_S = 1.0
_HOST_AND_PORT = re.compile(r"(?:ray://)?\[?(.+?)\]?:(\d+)")


class PlacementError(UserError):
    """More was asked of the Ray cluster than it has."""


def start_ray(
    *,
    address: str | None = None,
    num_cpus: int | None = None,
    log_to_driver: bool = False,
    dashboard: bool = False,
    object_store_bytes: int = OBJECT_STORE_BYTES,
    join_deadline_s: float = 60.0,
) -> bool:
    """Join the cluster at `address` or in RAY_ADDRESS, else start a local one; True when it started one.

    `num_cpus`, `dashboard` and `object_store_bytes` hold for a local one only. A process that already has Ray keeps
    it. Raises UserError when the cluster cannot be joined, or not reached within `join_deadline_s`.
    """
    for name, value in ({"RAY_USAGE_STATS_ENABLED": "0"} | HEAD_LIMITS).items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
        _join(address, log_to_driver=log_to_driver, deadline_s=join_deadline_s)
        return False
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=dashboard,
        object_store_memory=object_store_bytes,
        log_to_driver=log_to_driver,
        logging_level=logging.ERROR,
    )
    return True


def stop_ray() -> None:
    """Leave the cluster; a local one that `start_ray` started ends."""
    ray.shutdown()


def wait_for(
    refs: Sequence[Any], *, deadline_s: float, what: str, tick: Callable[[], None] = lambda: None
) -> list[Any]:
    """The values of `refs` in order.

    An error of any of them is raised as soon as it is seen. Raises DeadlineExceeded, which names `what` and how many
    of how many were missing. `tick` is called about once a second while waiting; what it raises ends the wait.
    """
    wait = Wait(what, deadline_s=deadline_s)
    pending = list(refs)
    while pending:
        ready, pending = ray.wait(pending, num_returns=len(pending), timeout=min(_SLICE_S, wait.remaining_s))
        _get(ready, total=len(refs), wait=wait)
        if pending:
            tick()
            wait.check(missing=f"{len(pending)} of {len(refs)}")
    return _get(list(refs), total=len(refs), wait=wait)


def start_actors(
    factories: Sequence[Callable[[], ActorHandle]],
    *,
    deadline_s: float,
    what: str,
    request: Mapping[str, float],
    tick: Callable[[], None] = lambda: None,
) -> list[ActorHandle]:
    """Start one actor per factory, all at once, and wait until each has answered its method ``ready()``.

    `request` is what all of them together ask of the cluster (``{"CPU": 2.0}``). Raises PlacementError when the
    cluster has less in all and DeadlineExceeded when they are not ready in time; then no started actor is left.
    """
    check_total(f"{len(factories)} {what}", request)
    actors = [factory() for factory in factories]
    try:
        wait_for(
            [actor.ready.remote() for actor in actors], deadline_s=deadline_s, what=f"{what} to be ready", tick=tick
        )
    except RayError:
        kill_all(actors)
        raise
    except DeadlineExceeded as error:
        shortage = asked_against_available(request)
        kill_all(actors)
        raise DeadlineExceeded(f"{error}; {shortage}") from error
    return actors


def check_total(what: str, request: Mapping[str, float]) -> None:
    """Raise PlacementError when the cluster has less in all than `request`, which `what` ask for together."""
    asked, total = _positive(request), ray.cluster_resources()
    if short := [name for name, amount in asked.items() if amount > total.get(name, 0.0) + 1e-9]:
        raise PlacementError(
            f"{what} ask for {_amounts(asked, asked)}, but the Ray cluster has "
            f"{_amounts(total, asked)} in all (too little {', '.join(short)}); "
            "allowed: fewer of them, less for each, or a larger cluster"
        )


def asked_against_available(request: Mapping[str, float]) -> str:
    """What `request` asks for beside what the cluster has, in all and now."""
    asked = _positive(request)
    return (
        f"asked for {_amounts(asked, asked)}, the cluster has {_amounts(ray.cluster_resources(), asked)} in all "
        f"and {_amounts(ray.available_resources(), asked)} available now"
    )


def reserve(
    bundles: Sequence[Mapping[str, float]],
    *,
    deadline_s: float,
    what: str,
    labels: Mapping[str, str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> PlacementGroup:
    """A placement group of `bundles`, all of them or none, on as few nodes as possible, all of which have the Ray `labels`.

    Raises PlacementError when the cluster has less in all, and DeadlineExceeded that says what was asked for and what is
    available when it is not placed in time (a bundle that no node can hold, say).
    """
    bundles = [_positive(bundle) for bundle in bundles]
    request = {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in {n for b in bundles for n in b}}
    check_total(what, request)
    selector = [dict(labels)] * len(bundles) if labels else None
    group = placement_group(list(bundles), strategy="PACK", bundle_label_selector=selector)
    wait = Wait(f"a place for {what}", deadline_s=deadline_s)
    while not group.wait(min(_SLICE_S, wait.remaining_s)):
        tick()
        try:
            wait.check(missing=f"{len(bundles)} bundles of {_amounts(bundles[0], bundles[0])}")
        except DeadlineExceeded as error:
            shortage = asked_against_available(request)
            remove_placement_group(group)
            raise DeadlineExceeded(f"{error}; {shortage}") from error
    return group


def kill_all(actors: Sequence[ActorHandle]) -> None:
    """Ends `actors` for good; one that is dead already is no error."""
    for actor in actors:
        ray.kill(actor)


def _join(address: str, *, log_to_driver: bool, deadline_s: float) -> None:
    try:
        _reach(address, deadline_s=deadline_s)
        ray.init(address=address, log_to_driver=log_to_driver, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot join the Ray cluster at '{address}': {reason}; allowed: the address of a running cluster, "
            "'auto', or 'local' to start one here"
        ) from error


def _reach(address: str, *, deadline_s: float) -> None:
    """Raise OSError unless something listens at `address` by then; ray.init itself tries for minutes and exits."""
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None:
        return
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            socket.create_connection((match[1], int(match[2])), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() + _SLICE_S > deadline:
                raise OSError(f"nothing answers after {deadline_s:g} s ({error})") from error
            time.sleep(_SLICE_S)


def _get(refs: list[Any], *, total: int, wait: Wait) -> list[Any]:
    """The values of refs that are done, so only their transfer can be late."""
    try:
        return list(ray.get(refs, timeout=max(_SLICE_S, wait.remaining_s)))
    except GetTimeoutError as error:
        raise wait.exceeded(missing=f"{len(refs)} of {total}") from error


def _positive(request: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in request.items() if amount > 0}


def _amounts(amounts: Mapping[str, float], names: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amounts.get(name, 0.0):g}" for name in names) or "nothing"


def why(error: BaseException) -> str:
    """The line of a Ray error that says most."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip() if "creation task" in lines[0] else lines[0]


def actor_name(kind: str) -> str:
    """Names the actor that this process is, for logs and figures."""
    actor_id = ray.get_runtime_context().get_actor_id()
    assert actor_id is not None, "only actors have names"
    return f"{kind}-{actor_id[:8]}"
