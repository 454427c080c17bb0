from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayTaskError

import cluster.actor_pool
import cluster.runtime
from cluster.actor_pool import MAX_ATTEMPTS, ActorPool, Done, PoolExhausted, PoolSettings, WorkerFault
from cluster.errors import DeadlineExceeded
from tests.fakes.actors import FakeRay


def make_pool(
    patch: pytest.MonkeyPatch, fits: Any = lambda place, item: True, **settings: Any
) -> tuple[ActorPool, FakeRay]:
    fake = FakeRay()
    patch.setattr(cluster.actor_pool, "ray", fake)
    patch.setattr(cluster.runtime, "ray", fake)
    given_settings: dict[str, Any] = {
        "name": "worker", "min_actors": 1, "max_actors": 2, "start_deadline_s": 50.0, "item_deadline_s": 20.0,
        "max_replacements": 3, "straggler_factor": 3.0, "request": {"CPU": 1.0},
    }  # fmt: skip
    pool = ActorPool(
        PoolSettings(**given_settings | settings), start=lambda place: fake.start(), fits=fits,
        call=lambda actor, item: actor.run(item), describe=lambda item: f"item {item}", clock=fake.clock,
    )  # fmt: skip
    return pool, fake


def started(patch: pytest.MonkeyPatch, **settings: Any) -> tuple[ActorPool, FakeRay]:
    pool, fake = make_pool(patch, **settings)
    pool.dispatch()
    for actor in fake.actors:
        actor.started.end(True)
    assert pool.collect() == []
    return pool, fake


def turn(pool: ActorPool) -> list[Done]:
    pool.dispatch()
    return pool.collect()


def items(done: list[Done]) -> list[Any]:
    return [each.item for each in done]


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def test_work_begins_with_the_first_actor_and_goes_to_others_when_they_join(patch: pytest.MonkeyPatch) -> None:
    pool, fake = make_pool(patch)
    pool.submit("abcdef")
    pool.dispatch()
    first, late = fake.actors
    assert pool.is_short
    first.started.end(True)
    pool.collect()
    turn(pool)
    assert [item for item, _ in first.calls] == ["a", "b"]
    late.started.end(True)
    turn(pool)
    turn(pool)
    assert [item for item, _ in late.calls] == ["c", "d"]


def test_the_items_of_a_dead_actor_go_to_others_in_their_order_and_first(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch)
    pool.submit("abcdef")
    turn(pool)
    one, other = fake.actors
    assert [[item for item, _ in actor.calls] for actor in (one, other)] == [["a", "c"], ["b", "d"]]
    one.die()
    assert turn(pool) == []
    other.finish_one()
    assert items(turn(pool)) == ["b"]
    turn(pool)
    assert [item for item, _ in other.calls] == ["b", "d", "a"]
    # The first replacement comes at once.
    assert len(fake.actors) == 3


def test_replacements_of_one_place_wait_longer_each_time_until_it_is_given_up(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch, max_actors=1)
    pauses = []
    for _ in range(3):
        fake.actors[-1].die()
        pool.submit("a")
        turn(pool)
        before, count = fake.now, len(fake.actors)
        while len(fake.actors) == count:
            fake.now += 0.25
            turn(pool)
        pauses.append(fake.now - before)
        fake.actors[-1].started.end(True)
        turn(pool)
    assert pauses == [0.25, 1.0, 2.0]
    fake.actors[-1].die()
    turn(pool)
    with pytest.raises(PoolExhausted, match="only 0 of 1 places for a worker are left, 1 are needed"):
        turn(pool)


def test_a_finished_item_clears_the_record_of_a_place(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch, max_actors=1, max_replacements=1)
    for _ in range(5):
        pool.submit("a")
        turn(pool)
        fake.actors[-1].die()
        turn(pool)
        turn(pool)
        fake.actors[-1].started.end(True)
        turn(pool)
        turn(pool)
        fake.actors[-1].finish_one()
        assert items(turn(pool)) == ["a"]
    assert pool.num_replaced == 5


def test_a_straggler_is_given_to_an_idle_actor_and_counts_once(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch)
    one, other = fake.actors
    pool.submit("ab")
    turn(pool)
    fake.now += 2.0
    other.finish_one()
    assert items(turn(pool)) == ["b"]
    fake.now += 3.9
    turn(pool)
    assert len(other.calls) == 1
    fake.now += 0.2
    turn(pool)
    turn(pool)
    assert [item for item, _ in other.calls] == ["b", "a"]
    other.finish_one()
    assert items(turn(pool)) == ["a"]
    one.finish_one()
    assert turn(pool) == []
    assert (pool.num_reissued, pool.num_duplicates) == (1, 1)


def test_what_is_queued_behind_a_straggler_is_given_to_an_idle_actor_too(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch)
    slow, other = fake.actors
    pool.submit("abcd")
    turn(pool)
    assert [item for item, _ in slow.calls] == ["a", "c"]
    for _ in range(2):
        fake.now += 1.0
        other.finish_one()
        turn(pool)
    fake.now += 4.0
    done = []
    for _ in range(4):
        done += items(turn(pool))
        other.finish_one()
    assert [item for item, _ in other.calls] == ["b", "d", "a", "c"]
    assert done == ["a", "c"], "neither waits for the actor that is stuck"
    assert pool.num_reissued == 2


def test_an_actor_past_the_deadline_of_an_item_is_ended_and_others_run_it(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch, straggler_factor=0.0)
    hung, other = fake.actors
    pool.submit("abc")
    turn(pool)
    fake.now += 15
    other.finish_one()
    assert items(turn(pool)) == ["b"]
    fake.now += 6
    turn(pool)
    assert not hung.is_alive
    turn(pool)
    assert [item for item, _ in other.calls] == ["b", "a", "c"]


def test_an_item_that_outlasts_every_actor_comes_back_with_the_reason(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch, max_actors=1, max_replacements=100)
    pool.submit("a")
    done: list[Done] = []
    for _ in range(MAX_ATTEMPTS):
        fake.now += 40
        turn(pool)
        fake.actors[-1].started.end(True)
        turn(pool)
        turn(pool)
        fake.actors[-1].die()
        done += turn(pool)
    assert [(each.item, each.value) for each in done] == [("a", None)]
    assert done[0].failure.startswith(f"item a: {MAX_ATTEMPTS} times, last worker 0 died")


def test_an_actor_that_cannot_work_says_why_and_is_replaced(
    patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool, fake = started(patch)
    pool.submit("a")
    turn(pool)
    fake.actors[0].fail_one(WorkerFault("rollout-1 has no weights: waited 60 s"))
    with caplog.at_level("WARNING"):
        turn(pool)
    turn(pool)
    assert [item for item, _ in fake.actors[1].calls] == ["a"]


def test_what_no_actor_could_begin_with_is_raised_as_it_is(patch: pytest.MonkeyPatch) -> None:
    pool, fake = make_pool(patch)
    pool.dispatch()
    cause = ValueError("model folder '/nowhere' is empty")
    fake.actors[0].started.end(RayTaskError("ready", "a long trace", cause).as_instanceof_cause())
    with pytest.raises(ValueError, match=r"^model folder '/nowhere' is empty$"):
        turn(pool)


def test_an_error_of_the_work_itself_is_raised(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch)
    pool.submit("a")
    turn(pool)
    fake.actors[0].fail_one(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        turn(pool)


def test_a_pool_that_stays_too_small_says_what_was_asked_and_what_is_available(patch: pytest.MonkeyPatch) -> None:
    pool, fake = make_pool(patch, min_actors=2)
    fake.free = {"CPU": 0.5}
    pool.dispatch()
    fake.actors[0].started.end(True)
    turn(pool)
    fake.now += 51
    message = r"2 workers to be ready; missing: 1 of 2; asked for CPU 2, the cluster has CPU 0\.5 in all"
    with pytest.raises(DeadlineExceeded, match=message):
        turn(pool)


def test_what_is_forgotten_neither_goes_out_nor_comes_back(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch, max_actors=1)
    tickets = pool.submit("abcd")
    turn(pool)
    pool.forget(tickets)
    for _ in range(4):
        fake.actors[0].finish_one()
        assert turn(pool) == []
    assert [item for item, _ in fake.actors[0].calls] == ["a", "b"]


def test_what_is_submitted_first_goes_before_what_waits(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch, max_actors=1)
    pool.submit("abcd")
    turn(pool)
    pool.submit("xy", first=True, at_dispatch=str.upper)
    for _ in range(6):
        fake.actors[0].finish_one()
        turn(pool)
    assert "".join(item for item, _ in fake.actors[0].calls) == "abXYcd"


@given(
    st.lists(
        st.tuples(st.sampled_from(["start", "finish", "die", "fault", "time", "hang"]), st.integers(0, 5)), max_size=80
    )
)
def test_every_item_comes_back_exactly_once_whatever_happens(events: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        pool, fake = make_pool(patch, max_actors=3, max_replacements=1000, start_deadline_s=1e9)
        tickets = pool.submit(range(12))
        done: list[Done] = []
        for event, number in events:
            actor = fake.living[number % len(fake.living)] if fake.living else None
            match event, actor:
                case "time", _:
                    fake.now += number
                case "hang", _:
                    fake.now += 21.0
                case "start", a if a is not None:
                    a.started.end(True)
                case "finish", a if a is not None:
                    a.finish_one()
                case "die", a if a is not None:
                    a.die()
                case "fault", a if a is not None:
                    a.fail_one(WorkerFault("no weights"))
            done += turn(pool)
        for _ in range(200):
            fake.now += 1.0
            done += turn(pool)
            for each in fake.living:
                each.started.end(True)
                each.finish_one()
        assert sorted(each.ticket for each in done) == tickets
        assert {each.item for each in done} == set(range(12))
        assert all(each.failure or each.value == ("done", each.item) for each in done)


def hosts(place: int, item: str) -> bool:
    """Place 0 takes items in lower case, place 1 takes the others, place 2 all."""
    return place == 2 or item.islower() == (place == 0)


def test_items_go_only_where_they_fit_and_do_not_hold_up_others(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch, fits=hosts)
    pool.submit("abcdX")
    turn(pool)
    low, high = fake.actors
    assert [item for item, _ in low.calls] == ["a", "b"]
    assert [item for item, _ in high.calls] == ["X"]
    low.finish_one()
    assert items(turn(pool)) == ["a"]
    turn(pool)
    assert [item for item, _ in low.calls] == ["a", "b", "c"]


def test_a_straggler_is_given_only_to_an_actor_that_it_fits(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch, max_actors=3, fits=hosts, item_deadline_s=1000.0)
    pool.submit("Xyz")
    turn(pool)
    low, _, both = fake.actors
    assert [[item for item, _ in actor.calls] for actor in fake.actors] == [["y"], ["X"], ["z"]]
    fake.now += 1
    low.finish_one()
    both.finish_one()
    turn(pool)
    fake.now += 100
    turn(pool)
    assert [item for item, _ in low.calls] == ["y"]
    assert [item for item, _ in both.calls] == ["z", "X"]


def test_an_item_that_fits_no_place_any_more_is_named(patch: pytest.MonkeyPatch) -> None:
    pool, fake = started(patch, fits=hosts, max_replacements=0)
    pool.submit("aX")
    turn(pool)
    fake.actors[1].die()
    turn(pool)
    with pytest.raises(PoolExhausted, match="no worker that may take item X is left"):
        turn(pool)
