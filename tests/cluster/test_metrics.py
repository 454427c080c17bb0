from __future__ import annotations

import math
import timeit
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from cluster.metrics import Count, Gauge, JsonlSink, Maximum, Mean, TimeStates, read_jsonl, reduce, values

records = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "mean": st.builds(Mean, st.integers(-99, 99), st.integers(0, 9)),
            "count": st.builds(Count, st.integers(0, 99)),
            "maximum": st.builds(Maximum, st.integers(-99, 99)),
            "gauge": st.builds(Gauge, st.integers(-99, 99)),
        },
    ),
    max_size=12,
)


def test_values_of_each_kind() -> None:
    record = reduce(
        [
            {"reward": Mean(3.0, 4), "drops": Count(1), "peak": Maximum(2), "lr": Gauge(0.1)},
            {"reward": Mean(1.0), "drops": Count(2), "peak": Maximum(1), "lr": Gauge(0.2)},
        ]
    )
    assert values(record) == {"reward": 0.8, "drops": 3, "peak": 2, "lr": 0.2}
    assert math.isnan(Mean(0.0, 0).value)


@given(records=records, cut=st.integers(0, 12))
def test_reducing_in_parts_is_reducing_at_once(records: list[dict[str, Count]], cut: int) -> None:
    assert reduce([reduce(records[:cut]), reduce(records[cut:])]) == reduce(records)


def test_a_name_has_one_kind() -> None:
    with pytest.raises(AssertionError, match="metric 'x' has two kinds: Count and Mean"):
        reduce([{"x": Count(1)}, {"x": Mean(1.0)}])


def write_steps(path: Path, *steps: int) -> None:
    sink = JsonlSink(path)
    for step in steps:
        sink.write(step, {"reward": step / 2}, times={"idle": 1.0})
    sink.close()


def test_lines_are_readable_as_soon_as_they_are_written(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "run" / "metrics.jsonl")
    assert read_jsonl(sink.path) == []
    sink.write(1, {"reward": 0.5}, times={"idle": 1.5})
    assert read_jsonl(sink.path) == [{"step": 1, "values": {"reward": 0.5}, "times": {"idle": 1.5}}]


def test_rewind_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 2, 3)
    with path.open("a") as file:
        file.write('{"step": 4, "val')
    assert [line["step"] for line in read_jsonl(path)] == [1, 2, 3]
    sink = JsonlSink(path)
    sink.rewind(2)
    assert [line["step"] for line in read_jsonl(path)] == [1, 2]
    sink.write(3, {}, times={})
    sink.rewind(2)
    sink.write(3, {"again": 1}, times={})
    assert [line["step"] for line in read_jsonl(path)] == [1, 2, 3]
    assert read_jsonl(path)[-1]["values"] == {"again": 1}


def test_appending_after_a_torn_line_drops_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1)
    with path.open("a") as file:
        file.write('{"step": 2}')
    write_steps(path, 2)
    assert [line["step"] for line in read_jsonl(path)] == [1, 2]


def test_a_bad_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not a JSON line"):
        read_jsonl(path)


def test_rewind_without_a_file_and_an_unwritable_place(tmp_path: Path) -> None:
    JsonlSink(tmp_path / "none.jsonl").rewind(3)
    assert not (tmp_path / "none.jsonl").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        JsonlSink(tmp_path / "file" / "metrics.jsonl").write(1, {}, times={})


class FakeClock:
    def __init__(self) -> None:
        self.now = 100

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from(["switch", "enter", "leave", "take", "seconds"]), st.integers(0, 50))))
def test_states_always_add_up_to_wall_clock(actions: list[tuple[str, int]]) -> None:
    clock = FakeClock()
    states = TimeStates("idle", clock)
    scopes, taken_at = [], clock.now
    for number, (action, wait) in enumerate(actions):
        clock.now += wait
        if action == "switch":
            states.switch(f"state-{number % 3}")
        elif action == "enter":
            scopes.append(states.state(f"state-{number % 3}"))
            scopes[-1].__enter__()
        elif action == "leave" and scopes:
            scopes.pop().__exit__(None, None, None)
        elif action == "take":
            assert sum(states.take().values()) == clock.now - taken_at
            taken_at = clock.now
        assert sum(states.seconds().values()) == clock.now - 100
    assert sum(states.take().values()) == clock.now - taken_at


def test_nested_states_return_to_the_one_before_also_after_an_error() -> None:
    clock = FakeClock()
    states = TimeStates("idle", clock)

    def fail_after(wait: int) -> None:
        clock.now += wait
        raise KeyError

    with states.state("decode"):
        clock.now += 1
        with pytest.raises(KeyError), states.state("fetch"):
            fail_after(2)
        clock.now += 4
    clock.now += 8
    assert states.seconds() == {"idle": 8, "decode": 5, "fetch": 2}
    assert states.take() == {"idle": 8, "decode": 5, "fetch": 2}
    assert states.take() == {"idle": 0, "decode": 0, "fetch": 0}


def test_a_switch_costs_next_to_nothing() -> None:
    states = TimeStates("a")
    best = min(timeit.repeat(lambda: states.switch("b"), number=1000, repeat=20)) / 1000
    assert best < 5e-6
