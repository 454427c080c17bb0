"""Exported metrics come from a declared table; in Ray the node's port serves them."""

from __future__ import annotations

import math
import time

import prometheus_client
import pytest
import ray
from prometheus_client import CollectorRegistry

from cluster import metrics_export
from cluster.metrics_export import Exported, Exporter

TABLE = (
    Exported("trial_level", "gauge", "a level", ("where",)),
    Exported("trial_things_total", "counter", "things"),
    Exported("trial_seconds", "histogram", "seconds", (), (1.0, 10.0)),
)


@pytest.fixture
def registry():
    return CollectorRegistry()


def test_values_arrive(registry):
    exporter = Exporter(TABLE, registry=registry)
    exporter.set("trial_level", 3, where="here")
    exporter.set("trial_level", 2.5, where="here")
    exporter.add("trial_things_total")
    exporter.add("trial_things_total", 4)
    for value in (0.5, 2.0, 20.0):
        exporter.observe("trial_seconds", value)
    read = registry.get_sample_value
    assert read("trial_level", {"where": "here", "ray_job": ""}) == 2.5
    assert read("trial_things_total", {"ray_job": ""}) == 5
    buckets = [read("trial_seconds_bucket", {"le": bound, "ray_job": ""}) for bound in ("1.0", "10.0", "+Inf")]
    assert buckets == [1, 2, 3]


def test_what_says_nothing_is_left_out(registry):
    exporter = Exporter(TABLE, registry=registry)
    exporter.set("trial_level", math.nan, where="here")
    exporter.add("trial_things_total", 0)
    assert prometheus_client.generate_latest(registry) == b""


@pytest.mark.parametrize(
    "use",
    [
        lambda exporter: exporter.add("trial_level", where="here"),
        lambda exporter: exporter.set("trial_level", 1),
        lambda exporter: exporter.set("trial_level", 1, where="here", who="me"),
    ],
)
def test_another_kind_or_other_labels_are_a_mistake(registry, use):
    with pytest.raises(AssertionError, match="trial_level"):
        use(Exporter(TABLE, registry=registry))


def test_unknown_name(registry):
    with pytest.raises(KeyError):
        Exporter(TABLE, registry=registry).set("trial_lvl", 1)


@pytest.mark.ray
def test_inside_ray_the_instruments_are_rays(ray_local):
    @ray.remote(num_cpus=0)
    def record() -> list[str]:
        exporter = Exporter(TABLE)
        exporter.set("trial_level", 1, where="there")
        exporter.add("trial_things_total", 2)
        exporter.observe("trial_seconds", 2)
        return [type(each).__name__ for each in exporter._instruments.values()]

    assert ray.get(record.remote(), timeout=60) == ["_RayInstrument"] * 3


def test_gauges_are_set_again_until_ray_ends(monkeypatch):
    is_running = True
    monkeypatch.setattr(metrics_export.ray, "is_initialized", lambda: is_running)
    monkeypatch.setattr(metrics_export, "REFRESH_S", 0.01)
    seen: list[str] = []
    refresher = metrics_export._Refresher()
    refresher.remember((1, frozenset()), lambda: seen.append("old"))
    refresher.remember((1, frozenset()), lambda: seen.append("new"))
    deadline = time.monotonic() + 30
    while seen.count("new") < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "old" not in seen[-4:]
    is_running = False
    while refresher._is_running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not refresher._last
