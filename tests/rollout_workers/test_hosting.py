"""Several dLLMs in one run: names, which actor hosts what, and who gets which lease."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rollout_workers.config import TaskConfig
from rollout_workers.hosting import by_model, in_parts, model_of, spread, task_of
from rollout_workers.tasks import make_tasks
from rollout_workers.tasks.stream import Pick


def test_a_name_is_a_task_and_a_model() -> None:
    assert (task_of("sudoku@second"), model_of("sudoku@second")) == ("sudoku", "second")
    assert (task_of("sudoku"), model_of("sudoku")) == ("sudoku", "")


def test_items_are_set_apart_by_model_in_their_order() -> None:
    picks = [Pick(task, index) for index, task in enumerate(("a", "a@x", "b", "b@x", "a@y"))]
    assert [[pick.index for pick in mine] for mine in by_model(picks)] == [[0, 2], [1, 3], [4]]


def test_parts_taper_off_at_the_end_of_each_model() -> None:
    picks = [Pick("a", index) for index in range(15)] + [Pick("a@x", index) for index in range(3)]
    parts = in_parts(picks, 4, taper=True)
    assert [len(part) for part in parts] == [4, 4, 4, 2, 1, 2, 1]
    assert [pick for part in parts for pick in part] == picks
    assert [len(part) for part in in_parts(picks[:4], 8, taper=True)] == [2, 1, 1]


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
