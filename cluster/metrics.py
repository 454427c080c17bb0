"""Typed metric values, reduced once wherever they meet, and the sink and clock of one process.

A name is an interface: it has one kind for ever, and merging never depends on how records were grouped
(`Gauge` alone keeps the last in order).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from cluster.storage import atomic_write, make_directory, unwritable_is_user_error


class Metric(Protocol):
    """One typed value that can meet another of its kind."""

    @property
    def value(self) -> float:
        """The number to report."""

    def merge(self, other: Any) -> Any:
        """Both as one; `other` came later."""


@dataclass(frozen=True)
class Mean:
    """The mean of `count` observations that sum to `total`; not a number when there were none."""

    total: float
    count: float = 1

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan

    def merge(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)


@dataclass(frozen=True)
class Count:
    """How many; adds up."""

    value: float

    def merge(self, other: Count) -> Count:
        return Count(self.value + other.value)


@dataclass(frozen=True)
class Maximum:
    """The largest seen."""

    value: float

    def merge(self, other: Maximum) -> Maximum:
        return Maximum(max(self.value, other.value))


@dataclass(frozen=True)
class Gauge:
    """The last one seen."""

    value: float

    def merge(self, other: Gauge) -> Gauge:
        return other


def reduce(records: Iterable[Mapping[str, Metric]]) -> dict[str, Metric]:
    """All records as one; raises AssertionError for a name that has two kinds."""
    result: dict[str, Metric] = {}
    for record in records:
        for name, metric in record.items():
            held = result.get(name)
            if held is not None and type(held) is not type(metric):
                kinds = f"{type(held).__name__} and {type(metric).__name__}"
                raise AssertionError(f"metric '{name}' has two kinds: {kinds}")
            result[name] = metric if held is None else held.merge(metric)
    return result


def values(record: Mapping[str, Metric]) -> dict[str, float]:
    """The numbers to report, by name."""
    return {name: metric.value for name, metric in record.items()}


class JsonlSink:
    """One JSON line a step in a file that one process writes; a crash can tear only the last line."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file: IO[bytes] | None = None

    def write(self, step: int, values: Mapping[str, float], *, times: Mapping[str, float]) -> None:
        """Append the line of `step`; `times` are the seconds of each exclusive time state since the line before."""
        line = json.dumps({"step": step, "values": dict(values), "times": dict(times)})
        with unwritable_is_user_error(self.path):
            if self._file is None:
                make_directory(self.path.parent)
                lines, torn = _lines(self.path)
                if torn:
                    atomic_write(self.path, b"".join(lines))
                self._file = self.path.open("ab")
            self._file.write(f"{line}\n".encode())
            self._file.flush()

    def rewind(self, step: int) -> None:
        """Atomically drop the lines of steps after `step`, and a torn last line; for a resume from `step`."""
        self.close()
        if self.path.exists():
            kept = [line for line in _lines(self.path)[0] if json.loads(line)["step"] <= step]
            with unwritable_is_user_error(self.path):
                atomic_write(self.path, b"".join(kept))

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file without a torn last line; raises ValueError for a bad line before it."""
    return [json.loads(line) for line in _lines(Path(path))[0]]


def _lines(path: Path) -> tuple[list[bytes], bool]:
    """The whole lines of `path` with their line ends, and whether a torn last one was left out."""
    if not path.exists():
        return [], False
    lines = path.read_bytes().splitlines(keepends=True)
    torn = False
    for number, line in enumerate(lines, start=1):
        try:
            whole = line.endswith(b"\n") and json.loads(line) is not None
        except ValueError:
            whole = False
        if not whole and number < len(lines):
            raise ValueError(f"{path}:{number}: not a JSON line")
        torn = not whole
    return (lines[:-1] if torn else lines), torn


class TimeStates:
    """Exclusive time states of one thread; at any moment one runs, so they add up to wall-clock."""

    def __init__(self, initial: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._current = initial
        self._since = clock()
        self._totals: dict[str, float] = {initial: 0.0}
        self._taken: dict[str, float] = {}

    def switch(self, state: str) -> None:
        """Leave the current state for `state`."""
        now = self._clock()
        totals = self._totals
        totals[self._current] += now - self._since
        if state not in totals:
            totals[state] = 0.0
        self._current = state
        self._since = now

    def state(self, name: str) -> _StateScope:
        """A context in which `name` runs; the state before comes back at its end, also after an error."""
        return _StateScope(self, name)

    def seconds(self) -> dict[str, float]:
        """Seconds of each state from the start until now."""
        self.switch(self._current)
        return dict(self._totals)

    def take(self) -> dict[str, float]:
        """Seconds of each state since the last take."""
        totals = self.seconds()
        taken = {name: total - self._taken.get(name, 0.0) for name, total in totals.items()}
        self._taken = totals
        return taken


class _StateScope:
    __slots__ = ("_before", "_name", "_states")

    def __init__(self, states: TimeStates, name: str) -> None:
        self._states = states
        self._name = name
        self._before = ""

    def __enter__(self) -> Self:
        self._before = self._states._current
        self._states.switch(self._name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._states.switch(self._before)
