"""Metrics for Prometheus: instruments of one declared table, Ray's own inside a Ray process and `prometheus_client`'s outside.

A Ray process hands its values to the agent of its node, which serves those of all processes there on one port, each name with
`ray_` before it; no process needs a port of its own. A name that the table lacks, or one used as another kind, is an error.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import prometheus_client
import ray
from prometheus_client import CollectorRegistry
from ray.util import metrics as ray_metrics

RAY_PREFIX = "ray_"
JOB_LABEL = "ray_job"
"""On every series: the id of the Ray job, which `ray list jobs` shows; empty outside Ray."""
REFRESH_S = 2.0
Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True)
class Exported:
    """One exported metric; names follow Prometheus: base units, and `_total` at the end of a counter."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, all above 0."""


class Instrument(Protocol):
    """One metric that takes values."""

    def record(self, value: float, labels: Mapping[str, str]) -> None:
        """Sets, adds or observes `value`."""


class Exporter:
    """Takes values by the names of a table."""

    def __init__(self, table: Sequence[Exported], *, registry: CollectorRegistry | None = None) -> None:
        """With `registry`, or where no Ray runs, values go to `prometheus_client`."""
        self._table = {each.name: each for each in table}
        self._instruments: dict[str, Instrument] = {}
        self._make: Callable[[Exported], Instrument] = _RayInstrument
        if registry is not None or not ray.is_initialized():
            chosen = prometheus_client.REGISTRY if registry is None else registry
            self._make = lambda metric: _prometheus_instrument(metric, chosen)

    def set(self, name: str, value: float, **labels: str) -> None:
        """A gauge's value; one that is not finite says nothing and is left out."""
        if math.isfinite(value):
            self._record(name, "gauge", value, labels)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Adds to a counter; nothing where `amount` is 0."""
        if amount > 0:
            self._record(name, "counter", amount, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """One observation of a histogram."""
        self._record(name, "histogram", value, labels)

    def _record(self, name: str, kind: Kind, value: float, labels: Mapping[str, str]) -> None:
        metric = self._table[name]
        assert metric.kind == kind, f"metric '{name}' is a {metric.kind}, not a {kind}"
        assert set(labels) == set(metric.labels), f"metric '{name}' has the labels {metric.labels}, not {tuple(labels)}"
        if name not in self._instruments:
            self._instruments[name] = self._make(metric)
        self._instruments[name].record(value, labels)


class _Refresher:
    """Sets the gauges of this process again and again: Ray drops one that was not set for two of its reporting intervals (20 s).

    A loop that hangs goes on showing its last values, whose timestamps grow old; those of a process that ends go with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[tuple[int, frozenset[tuple[str, str]]], Callable[[], None]] = {}
        self._is_running = False

    def remember(self, key: tuple[int, frozenset[tuple[str, str]]], again: Callable[[], None]) -> None:
        """`again` sets the series `key` to its present value."""
        with self._lock:
            self._last[key] = again
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def _run(self) -> None:
        while ray.is_initialized():
            with self._lock:
                for again in self._last.values():
                    again()
            time.sleep(REFRESH_S)
        with self._lock:
            self._last.clear()
            self._is_running = False


_refresher = _Refresher()


class _RayInstrument:
    """An instrument of `ray.util.metrics`; its series are labelled by the worker process that they come from."""

    def __init__(self, metric: Exported) -> None:
        keys = (*metric.labels, JOB_LABEL)
        self._job = ray.get_runtime_context().get_job_id()
        self._is_gauge = metric.kind == "gauge"
        self._instrument: Any
        if metric.kind == "gauge":
            self._instrument = ray_metrics.Gauge(metric.name, description=metric.help, tag_keys=keys)
            self._take = self._instrument.set
        elif metric.kind == "counter":
            self._instrument = ray_metrics.Counter(metric.name, description=metric.help, tag_keys=keys)
            self._take = self._instrument.inc
        else:
            bounds = list(metric.buckets)
            self._instrument = ray_metrics.Histogram(
                metric.name, description=metric.help, boundaries=bounds, tag_keys=keys
            )
            self._take = self._instrument.observe

    def record(self, value: float, labels: Mapping[str, str]) -> None:
        tags = {**labels, JOB_LABEL: self._job}
        self._take(value, tags=tags)
        if self._is_gauge:
            take = self._take
            _refresher.remember((id(self), frozenset(tags.items())), lambda: take(value, tags=tags))


class _PrometheusInstrument:
    """An instrument of `prometheus_client`, served by whoever serves the registry."""

    def __init__(self, metric: Exported, registry: CollectorRegistry) -> None:
        keys = (*metric.labels, JOB_LABEL)
        self._instrument: Any
        if metric.kind == "gauge":
            self._instrument, self._method = (
                prometheus_client.Gauge(metric.name, metric.help, keys, registry=registry),
                "set",
            )
        elif metric.kind == "counter":
            self._instrument = prometheus_client.Counter(metric.name, metric.help, keys, registry=registry)
            self._method = "inc"
        else:
            self._instrument = prometheus_client.Histogram(
                metric.name, metric.help, keys, buckets=metric.buckets, registry=registry
            )
            self._method = "observe"

    def record(self, value: float, labels: Mapping[str, str]) -> None:
        getattr(self._instrument.labels(**labels, **{JOB_LABEL: ""}), self._method)(value)


@functools.cache
def _prometheus_instrument(metric: Exported, registry: CollectorRegistry) -> _PrometheusInstrument:
    """A registry takes each name once, whoever uses it."""
    return _PrometheusInstrument(metric, registry)
