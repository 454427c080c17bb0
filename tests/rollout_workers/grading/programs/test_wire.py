"""Plain data survives the way through JSON exactly, and malformed data is refused with one of a few exceptions."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout_workers.grading.programs.link import from_json, to_json
from rollout_workers.grading.programs.wire import MALFORMED, Decoder, Encoder, WireError, is_unchanged, parts_of


class Nothing:
    """Knows no opaque values."""

    def encode_other(self, value, encoder):
        raise TypeError(type(value).__name__)

    def decode_other(self, data, decoder):
        raise WireError("unknown")


def through(value):
    data = from_json(to_json(Encoder(Nothing(), []).encode(value)))
    return Decoder(Nothing(), []).decode(data)


def same(left, right) -> bool:
    """Equality of types too, at every depth, with NaN equal to itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right) if left == left else right != right
    if isinstance(left, complex):
        return same(left.real, right.real) and same(left.imag, right.imag)
    if isinstance(left, list | tuple | deque):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return len(left) == len(right) and same(list(left.items()), list(right.items()))
    return left == right


hashable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**300), 2**300) | st.floats(allow_nan=False) | st.binary()
    | st.text(st.characters(codec=None, exclude_categories=())) | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
values = st.recursive(
    hashable | st.floats() | st.just(...),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(hashable, inner, max_size=3)
    | st.sets(hashable, max_size=3) | st.builds(deque, st.lists(inner, max_size=3)),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=60)
@given(values)
def test_values_come_back_exactly(value):
    assert same(through(value), value)


@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), [2**62, 2**62 - 1, -(2**62)], [True, 1, 1.0], ["a", "\ud83d\ude00", "\U0001f600"], [float("nan"), -0.0],
     bytearray(b"a"), range(3, 0, -1), slice(None, 2), OrderedDict(b=1, a=2), defaultdict(int, {1: 2}), int, ValueError,
     NotImplemented, deque([1], maxlen=2)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_single_values(value):
    back = through(value)
    assert same(back, value)
    if isinstance(value, deque):
        assert back.maxlen == value.maxlen


def test_aliases_and_cycles():
    shared: list = [1]
    whole = {"a": shared, "b": [shared, (shared,)]}
    whole["self"] = whole
    back = through(whole)
    assert back["a"] is back["b"][0] is back["b"][1][0]
    assert back["self"] is back


def test_no_two_decoded_nans_are_one_object():
    left, right = through([math.nan, math.nan])
    assert left is not right
    assert [left] != [right]


@pytest.mark.parametrize(
    "data",
    [[], [1], ["?"], {}, ["r", 0], ["r", "x"], ["i", "zz"], ["i", 3], ["b", "0"], ["s", [["l", []]]], ["d", [1], []], ["l"],
     ["l", {}], ["n", "print"], ["n", "nothing"], ["z", "os", "system", ["true"]], ["z", "decimal", "Decimal", ["x"]],
     ["V", "items", [1]],
     ["c", "a", "b"], ["q", [1], -1], ["t", [{}]], ["u", "ff"]],
    ids=str,
)  # fmt: skip
def test_malformed_data_is_refused(data):
    with pytest.raises(MALFORMED):
        Decoder(Nothing(), []).decode(data)


def test_a_container_is_refilled_and_keeps_its_type():
    container: list = [1]
    decoder = Decoder(Nothing(), [container])
    assert decoder.refill(container, ["l", [2, 3]]) is container
    assert container == [2, 3]
    with pytest.raises(WireError, match="type"):
        decoder.refill(container, ["s", [1]])


class Loud:
    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = object.__hash__


@pytest.mark.parametrize(
    "container",
    [[Loud(), 1], {Loud(): 1}, {Loud(), 2}, deque([Loud()]), bytearray(b"xy")],
    ids=lambda c: type(c).__name__,
)
def test_changes_are_seen_without_comparing_elements(container):
    before = parts_of(container)
    assert is_unchanged(container, before)
    container.pop() if not isinstance(container, dict) else container.clear()
    assert not is_unchanged(container, before)
