"""Ray's actors without Ray: calls are answered, fail or hang as a test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ray.exceptions import ActorDiedError, RayTaskError


class FakeReference:
    """What a call returns; `value` may be an exception."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_done = False
        self.value: Any = None

    def end(self, value: Any) -> None:
        if not self.is_done:
            self.is_done, self.value = True, value


class FakeMethod:
    def __init__(self, call: Callable[..., FakeReference]) -> None:
        self.remote = call


class FakeActor:
    """Answers `ready()` when told to, and runs items one after another."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_alive = True
        self.started = FakeReference(f"ready {number}")
        self.calls: list[tuple[Any, FakeReference]] = []
        self.ready = FakeMethod(lambda: self.started)

    def run(self, item: Any) -> list[FakeReference]:
        reference = FakeReference(f"{item} on {self.number}")
        self.calls.append((item, reference))
        if not self.is_alive:
            reference.end(ActorDiedError())
        return [reference]

    def finish_one(self) -> None:
        """The first item that runs is done."""
        running = [(item, reference) for item, reference in self.calls if not reference.is_done]
        if self.is_alive and running:
            running[0][1].end(("done", running[0][0]))

    def fail_one(self, cause: Exception) -> None:
        running = [reference for _, reference in self.calls if not reference.is_done]
        if running:
            running[0].end(RayTaskError("run", str(cause), cause).as_instanceof_cause())

    def die(self) -> None:
        self.is_alive = False
        for reference in (self.started, *(reference for _, reference in self.calls)):
            reference.end(ActorDiedError())


class FakeRay:
    """The functions of `ray` that a pool uses, with a clock that stands still unless a test moves it."""

    def __init__(self) -> None:
        self.actors: list[FakeActor] = []
        self.now = 100.0
        self.free = {"CPU": 8.0}

    def start(self) -> FakeActor:
        self.actors.append(FakeActor(len(self.actors)))
        return self.actors[-1]

    @property
    def living(self) -> list[FakeActor]:
        return [actor for actor in self.actors if actor.is_alive]

    def clock(self) -> float:
        return self.now

    def wait(self, references: Sequence[FakeReference], *, num_returns: int, timeout: float) -> Any:
        done = [each for each in references if each.is_done]
        return done, [each for each in references if not each.is_done]

    def get(self, reference: FakeReference) -> Any:
        assert reference.is_done, "only what is done may be asked for"
        if isinstance(reference.value, BaseException):
            raise reference.value
        return reference.value

    def kill(self, actor: FakeActor) -> None:
        actor.die()

    def available_resources(self) -> dict[str, float]:
        return self.free

    cluster_resources = available_resources
