"""What a run says to Prometheus: the driver per update, a rollout actor per lease."""

from __future__ import annotations

import dataclasses
import re

import pytest
from prometheus_client import CollectorRegistry

from cluster.metrics_export import Exporter
from learner.exported import UpdateExport
from learner.main import resolve
from rollout_workers.exported import EXPORTED, LeaseExport
from rollout_workers.lease import EngineStats, GroupRequest, Lease, UnmaskerSpec
from rollout_workers.tasks import Split
from tests.fakes.pool import summary_of


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def read(registry):
    return lambda name, **labels: registry.get_sample_value(name, {**labels, "ray_job": ""})


def lease(number=0, version=3, heuristic=None, num_groups=4):
    groups = tuple(GroupRequest(group, "arithmetic", Split.TRAIN, group, 1) for group in range(num_groups))
    return Lease(number, 0, UnmaskerSpec(heuristic=heuristic, weight_version=version), groups, 48)


def test_names_are_prometheus_names():
    assert len({each.name for each in EXPORTED}) == len(EXPORTED)
    for each in EXPORTED:
        assert re.fullmatch(r"dllm_[a-z0-9_]+", each.name)
        assert each.name.endswith("_total") == (each.kind == "counter"), each.name
        assert bool(each.buckets) == (each.kind == "histogram"), each.name
        assert list(each.buckets) == sorted(each.buckets)
        assert each.help


def test_a_lease(registry, read):
    export = LeaseExport(exporter=Exporter(EXPORTED, registry=registry))
    stats = EngineStats(num_steps=10, num_row_forwards=60, num_slot_forwards=80)
    seconds = {"waiting": 5.0, "forward": 1.5, "grading": 0.5}
    for _ in range(2):
        export.lease(dataclasses.replace(summary_of(lease()), stats=stats, seconds=seconds), waiting="waiting")
    assert read("dllm_leases_total") == 2
    assert read("dllm_rows_total") == 8
    assert read("dllm_row_forwards_total") / read("dllm_slot_forwards_total") == 120 / 160
    assert read("dllm_worker_seconds_total", state="waiting") == 10
    assert read("dllm_lease_seconds_sum") == 4
    assert read("dllm_weight_version") == 3
    assert read("dllm_gpu_memory_bytes", kind="allocated") is None


def test_a_heuristics_lease_has_no_weight_version(registry, read):
    export = LeaseExport(exporter=Exporter(EXPORTED, registry=registry))
    export.lease(summary_of(lease(heuristic="threshold")), waiting="waiting")
    assert read("dllm_weight_version") is None


def test_an_update(registry, read):
    config = resolve(["tiny", "learner.num_steps=7", "run_dir=runs/x"])
    export = UpdateExport(config, Exporter(EXPORTED, registry=registry))
    export.leases(4, [summary_of(lease(version=4)), summary_of(lease(version=2))])
    record = {
        "reward": 0.5,
        "nfe": 4.0,
        "dropped_groups": 1,
        "dropped_groups_stale": 3,
        "validation_reward": float("nan"),
    }
    export.update(5, record, {"learner": 2.0})
    for _ in range(2):
        export.actors(2, {"rollout actors replaced": 1, "rollout actors reissued": 4}, num_rebuilt=0)
    export.checkpoint(5)
    export.error("entropy_collapse")
    assert read("dllm_run_info", run="runs/x", task="arithmetic", model="tiny") == 1
    assert (read("dllm_update"), read("dllm_updates_planned")) == (5, 7)
    assert (read("dllm_reward"), read("dllm_nfe")) == (0.5, 4.0)
    assert read("dllm_validation_reward") is None
    assert read("dllm_weight_lag_sum") == 2
    verdicts = [read("dllm_verdicts_total", verdict=verdict) or 0 for verdict in ("correct", "wrong")]
    assert sum(verdicts) == 8
    assert [read("dllm_dropped_groups_total", reason=reason) for reason in ("small", "stale", "failed")] == [1, 3, None]
    assert read("dllm_worker_restarts_total", actors="rollout actors") == 1
    assert read("dllm_leases_reissued_total", actors="rollout actors") == 4
    assert read("dllm_worker_restarts_total", actors="learner ranks") is None
    assert read("dllm_wall_clock_seconds_total", cause="learner") == 2
    assert read("dllm_checkpoint_update") == 5
    assert read("dllm_checkpoint_timestamp_seconds") == pytest.approx(read("dllm_update_timestamp_seconds"), abs=60)
    assert read("dllm_errors_total", kind="entropy_collapse") == 1


def test_what_verdicts_took_by_task(registry, read):
    export = UpdateExport(resolve(["tiny"]), Exporter(EXPORTED, registry=registry))
    summary = dataclasses.replace(summary_of(lease(num_groups=3)), grade_seconds=(0.25, 0.5, 2.0))
    export.leases(3, [summary, summary])
    assert read("dllm_grade_seconds_count", task="arithmetic") == 6
    assert read("dllm_grade_seconds_sum", task="arithmetic") == 5.5
