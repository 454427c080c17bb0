"""A run directory as metrics, without Ray."""

from __future__ import annotations

import socket

import pytest
from prometheus_client import CollectorRegistry

from cluster.config import to_dict
from cluster.metrics import JsonlSink
from cluster.run_dir import RunDir
from deploy.exporter import RunExport, main
from learner.main import resolve


@pytest.fixture
def run(tmp_path):
    config = resolve(["tiny", f"run_dir={tmp_path}/run", "learner.num_steps=9"])
    run = RunDir.open(tmp_path / "run", to_dict(config), resume=False)
    sink = JsonlSink(run.metrics_path)
    sink.write(0, {"validation_reward": 0.25}, times={"driver": 1.0})
    sink.write(1, {"reward": 0.5, "dropped_groups": 1}, times={"driver": 1.0, "learner": 2.0})
    sink.close()
    run.publish("checkpoints/step-000000", {"a": b"x"})
    return run


def test_it_follows_the_run(run):
    registry = CollectorRegistry()
    export = RunExport(run.path, registry)
    export.follow()
    export.follow()

    def read(name, **labels):
        return registry.get_sample_value(name, {**labels, "ray_job": ""})

    assert (read("dllm_update"), read("dllm_updates_planned")) == (1, 9)
    assert (read("dllm_reward"), read("dllm_validation_reward")) == (0.5, 0.25)
    assert read("dllm_wall_clock_seconds_total", cause="driver") == 2
    assert read("dllm_checkpoint_update") == 0
    assert read("dllm_update_timestamp_seconds") == run.metrics_path.stat().st_mtime
    JsonlSink(run.metrics_path).write(2, {"reward": 0.75}, times={"driver": 1.0})
    run.publish("checkpoints/step-000002", {"a": b"y"})
    export.follow()
    assert (read("dllm_update"), read("dllm_reward"), read("dllm_checkpoint_update")) == (2, 0.75, 2)
    assert read("dllm_wall_clock_seconds_total", cause="driver") == 3


def test_once(run, capsys):
    assert main([str(run.path), "--once"]) == 0
    assert 'dllm_reward{ray_job=""} 0.5' in capsys.readouterr().out


def test_a_folder_without_a_run(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: '{tmp_path}' holds no run; allowed: the run_dir of a run\n"


def test_a_port_that_is_taken(run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main([str(run.path), "--port", str(taken.getsockname()[1])]) == 2
    assert "allowed: a free port" in capsys.readouterr().err
