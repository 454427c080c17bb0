"""The order of training examples: shares, passes, and going on from a cursor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from rollout_workers.tasks import Split
from rollout_workers.tasks.stream import Pick, TaskStream


@dataclass
class SizedTask:
    num: int | None

    def size(self, split: Split) -> int | None:
        return self.num


def stream(sizes: dict[str, int | None], weights: dict[str, float], *, seed: int = 0, skipped=None) -> TaskStream:
    tasks = {name: SizedTask(size) for name, size in sizes.items()}
    return TaskStream(tasks, weights, Split.TRAIN, seed, skipped or {})


def test_a_task_without_end_is_walked_in_order() -> None:
    picks, cursor = stream({"a": None}, {"a": 1.0}).draw({"a": 5}, 4)
    assert picks == [Pick("a", index) for index in (5, 6, 7, 8)]
    assert cursor == {"a": 9}


def test_every_pass_over_a_bounded_task_has_each_example_once_in_its_own_order() -> None:
    picks, _ = stream({"a": 30}, {"a": 1.0}).draw({}, 90)
    passes = [[pick.index for pick in picks[start : start + 30]] for start in (0, 30, 60)]
    assert all(sorted(each) == list(range(30)) for each in passes)
    assert len({tuple(each) for each in passes}) == 3


def test_the_seed_changes_the_order() -> None:
    orders = {tuple(stream({"a": 30}, {"a": 1.0}, seed=seed).draw({}, 30)[0]) for seed in range(3)}
    assert len(orders) == 3


def test_skipped_examples_are_never_drawn() -> None:
    picks, _ = stream({"a": 6}, {"a": 1.0}, skipped={"a": {1, 4}}).draw({}, 8)
    assert Counter(pick.index for pick in picks) == {0: 2, 2: 2, 3: 2, 5: 2}


def test_a_task_with_everything_skipped_is_refused() -> None:
    with pytest.raises(UserError, match="task 'a': all 2 train examples are skipped"):
        stream({"a": 2}, {"a": 1.0}, skipped={"a": {0, 1}}).draw({}, 1)


@given(
    weights=st.dictionaries(st.sampled_from("abcd"), st.floats(0.05, 20.0), min_size=1),
    sizes=st.lists(st.one_of(st.none(), st.integers(1, 40)), min_size=4, max_size=4),
    num=st.integers(0, 120),
    cuts=st.lists(st.integers(0, 120), max_size=4),
)
def test_draws_keep_their_shares_and_do_not_depend_on_where_a_run_was_cut(weights, sizes, num, cuts) -> None:
    bounds = dict(zip("abcd", sizes, strict=True))
    whole, end = stream({name: bounds[name] for name in weights}, weights).draw({}, num)
    counts, total = Counter(pick.task for pick in whole), sum(weights.values())
    for name, weight in weights.items():
        assert abs(counts[name] - num * weight / total) <= 1 + 1e-6
        assert end[name] == counts[name]
    pieces: list[Pick] = []
    cursor: dict[str, int] = {}
    marks = sorted({min(cut, num) for cut in cuts} | {num})
    for mark in marks:
        # A new stream each time: nothing but the cursor is carried over.
        more, cursor = stream({name: bounds[name] for name in weights}, weights).draw(cursor, mark - len(pieces))
        pieces.extend(more)
    assert pieces == whole
