"""Several dLLMs in one run: names, which actor hosts what, and who gets which lease."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError

from rollout_workers import pool as pool_module
from rollout_workers.config import TaskConfig
from rollout_workers.hosting import by_model, model_of, spread, task_of
from rollout_workers.pool import HostingActor, PoolExhausted, RolloutPool
from rollout_workers.rollout import GroupRequest, Lease, UnmaskerSpec
from rollout_workers.tasks import Split, make_tasks
from rollout_workers.tasks.stream import Pick
from tests.fakes.pool import summary_of


def lease(number: int, task: str) -> Lease:
    return Lease(number, 0, UnmaskerSpec(), (GroupRequest(number, task, Split.TRAIN, number, 2),), 24)


class FakeRay:
    """Answers a dispatched lease with its summary, in a shuffled order, or with its actor's death."""

    def __init__(self, dying: set[str] = frozenset()) -> None:
        self.got: list[tuple[str, Lease]] = []
        self.dying = set(dying)
        self._answers: dict[int, tuple[str, Lease]] = {}
        self._random = random.Random(0)

    def handle(self, name: str) -> Any:
        ray = self

        class Method:
            def options(self, *, num_returns: int) -> Method:
                assert num_returns == 2
                return self

            def remote(self, work: Lease) -> tuple[int, str]:
                number = len(ray._answers)
                ray._answers[number] = (name, work)
                return number, f"trajectories of {work.id}"

        return type("Handle", (), {"run": Method()})()

    def wait(self, references: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        chosen = self._random.choice(references)
        return [chosen], [reference for reference in references if reference != chosen]

    def get(self, reference: int) -> Any:
        name, work = self._answers[reference]
        if name in self.dying:
            raise RayActorError()
        self.got.append((name, work))
        return summary_of(work)


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(pool_module, "ray", fake)
    return fake


def make_pool(fake: FakeRay, hosted: dict[str, tuple[str, ...]], *, max_replacements: int = 0) -> RolloutPool:
    def replace(models: tuple[str, ...]) -> Any:
        return fake.handle(f"new {models}")

    actors = [HostingActor(fake.handle(name), models) for name, models in hosted.items()]
    return RolloutPool(actors, replace=replace, max_replacements=max_replacements, lease_deadline_s=60.0)


def test_a_name_is_a_task_and_a_model() -> None:
    assert (task_of("sudoku@second"), model_of("sudoku@second")) == ("sudoku", "second")
    assert (task_of("sudoku"), model_of("sudoku")) == ("sudoku", "")


def test_items_are_set_apart_by_model_in_their_order() -> None:
    picks = [Pick(task, index) for index, task in enumerate(("a", "a@x", "b", "b@x", "a@y"))]
    assert [[pick.index for pick in mine] for mine in by_model(picks)] == [[0, 2], [1, 3], [4]]


@given(st.integers(1, 6), st.integers(1, 12))
def test_every_model_is_hosted_and_no_actor_is_without(num_models: int, num_actors: int) -> None:
    models = [f"m{number}" for number in range(num_models)]
    hosted = spread(models, num_actors)
    assert len(hosted) == num_actors
    counts = Counter(model for each in hosted for model in each)
    assert set(counts) == set(models)
    assert all(hosted[:num_models])
    if num_actors >= num_models:
        assert {len(each) for each in hosted} == {1}
        assert max(counts.values()) - min(counts.values()) <= 1


def test_tasks_of_two_models_are_one_object() -> None:
    made = make_tasks({"sudoku": TaskConfig(), "sudoku@second": TaskConfig(), "arithmetic@second": TaskConfig()})
    assert list(made) == ["sudoku", "sudoku@second", "arithmetic@second"]
    assert made["sudoku"] is made["sudoku@second"]


def test_an_actor_gets_only_leases_of_models_that_it_hosts(fake_ray: FakeRay) -> None:
    pool = make_pool(fake_ray, {"a": ("",), "b": ("x",), "c": ("", "x")})
    # All leases of one model come first: they must not hold up those of the other.
    work = [lease(number, "sudoku" if number < 12 else "sudoku@x") for number in range(16)]
    done = [summary.lease.id for summary, _ in pool.run(work)]
    assert sorted(done) == list(range(16))
    assert {name for name, each in fake_ray.got if each.model == ""} <= {"a", "c"}
    assert {name for name, each in fake_ray.got if each.model == "x"} <= {"b", "c"}
    assert "b" in {name for name, _ in fake_ray.got[:10]}


def test_a_replacement_hosts_what_the_dead_actor_hosted(fake_ray: FakeRay) -> None:
    fake_ray.dying = {"b"}
    pool = make_pool(fake_ray, {"a": ("",), "b": ("x",)}, max_replacements=1)
    work = [lease(number, "sudoku@x" if number % 2 else "sudoku") for number in range(6)]
    assert sorted(summary.lease.id for summary, _ in pool.run(work)) == list(range(6))
    assert {name for name, each in fake_ray.got if each.model == "x"} == {"new ('x',)"}


def test_a_model_that_no_actor_hosts_any_more_is_named(fake_ray: FakeRay) -> None:
    fake_ray.dying = {"b"}
    pool = make_pool(fake_ray, {"a": ("",), "b": ("x",)})
    with pytest.raises(PoolExhausted, match=r"every rollout actor that hosts models\.x died"):
        list(pool.run([lease(0, "sudoku"), lease(1, "sudoku@x")]))
