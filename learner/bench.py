"""Benchmarks of learning: `python -m learner.bench update`, of the distributed system: `python -m learner.bench scaling`, and what
follows from them for many GPUs: `python -m learner.bench cost`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.errors import DeadlineExceeded, ExitCode, UserError
from cluster.logs import wide_console
from evaluation.bench_inputs import check_json
from evaluation.environment import environment_record
from learner.bench_update import bench_update, update_table
from learner.cost_model import GPUS, cost, cost_table, read_parts
from learner.main import resolve
from policy.factory import make_network
from policy.weights import WeightsError, from_bytes
from rollout_workers.models.base import ModelError
from rollout_workers.tasks import make_tasks

_CPUS = 128
"""Logical, so that the sleeping actors of a measurement never wait for a place."""


def _scaling(options: argparse.Namespace, console: Console) -> None:
    # Ray is imported here, because the other benchmarks run without it.
    from cluster.runtime import start_ray, stop_ray
    from learner.bench_scaling import control_table, fan_out_table, measure_control, measure_fan_out, plot_scaling

    if min(options.actors) < 1 or max(options.actors) > _CPUS - 1:
        raise UserError(f"--actors is {options.actors}; allowed: numbers from 1 to {_CPUS - 1}")
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"environment": environment_record("cpu")}
    started = start_ray(address="local", num_cpus=_CPUS)
    try:
        document |= _actors(options, console) if options.leases else {}
        with console.status("the driver's ceiling"):
            control = [
                measure_control(count, lease_s=options.lease_s, seconds=options.seconds) for count in options.actors
            ]
        console.print(control_table(control, lease_s=options.lease_s))
        with console.status("weights"):
            fan_out = [measure_fan_out(count, repeats=options.repeats) for count in options.actors]
        console.print(fan_out_table(fan_out))
    finally:
        if started:
            stop_ray()
    plot_scaling(control, fan_out, folder / "scaling.png", lease_s=options.lease_s)
    document |= {
        "lease_s": options.lease_s,
        "control": [asdict(line) | {"efficiency": line.efficiency, "ceiling": line.ceiling} for line in control],
        "weights": [asdict(line) for line in fan_out],
    }
    (folder / "scaling.json").write_text(json.dumps(document, indent=1))
    console.print(f"written: {folder / 'scaling.json'}, {folder / 'scaling.png'}")


def _actors(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    from learner.bench_scaling import measure_actors

    with console.status("rows/s of 1 and 2 rollout actors"):
        scaled = measure_actors(num_leases=options.leases, repeats=options.repeats)
    for name, rates in (("rollout actors", scaled.actors), ("plain processes", scaled.processes)):
        console.print(
            f"{name} with one thread each: 1 gives {rates[1]:.1f} rows/s, 2 give {rates[2]:.1f} rows/s, "
            f"ratio {scaled.ratio(rates):.2f}"
        )
    return {
        "rows_per_s_by_actors": scaled.actors,
        "ratio_of_2_to_1": scaled.ratio(scaled.actors),
        "rows_per_s_by_processes": scaled.processes,
        "ratio_of_2_to_1_processes": scaled.ratio(scaled.processes),
    }


def _update(options: argparse.Namespace, console: Console) -> None:
    config = resolve(options.settings)
    if options.policy is None:
        network = make_network(config.policy, seed=config.seed)
    elif Path(options.policy).is_file():
        network = from_bytes(Path(options.policy).read_bytes(), where=options.policy)
    else:
        raise UserError(f"--policy {options.policy!r} is no file; allowed: a policy.safetensors")
    with console.status("benchmarking"):
        figures = bench_update(config, network, repeats=options.repeats)
    whose = options.policy or "an untrained policy"
    console.print(
        update_table(figures, f"one update of {config.learner.num_iterations} optimiser steps, rollouts of {whose}")
    )
    console.print(
        f"packed is {figures.speedup:.2f}x as fast (spread {figures.spread:.0%}, medians of {options.repeats} turns); "
        f"weights differ by at most {figures.max_weight_gap:.1e}; these rollouts took {figures.decode_s:.1f} s in one process"
    )
    if options.json:
        document = {
            "environment": environment_record(config.learner.device),
            "settings": options.settings,
            "policy": options.policy,
        }
        Path(options.json).write_text(json.dumps(document | asdict(figures), indent=1))


def _cost(options: argparse.Namespace, console: Console) -> None:
    config = resolve(options.settings)
    longest = max(task.canvas_length for task in make_tasks(config.task_configs).values())
    _, block_length = config.decode.lengths(longest, "decode")
    parts = read_parts(
        options.rollouts, options.update, options.scaling, block_length=block_length, unmasker=options.unmasker
    )
    costs = [cost(config, parts, count) for count in options.gpus]
    rates = ", ".join(f"{rate:.3g} rows/s at {size} rows" for size, rate in sorted(parts.rows_per_s.items()))
    title = (
        f"{config.learner.num_updates} updates of {options.settings[0] if options.settings else 'tiny'}, from measured parts: "
        f"{rates} on {parts.device}"
    )
    console.print(cost_table(costs, title))
    console.print("seconds of one update; GPUs are devices as the rollouts were measured on", style="italic")
    if options.json:
        document = {"parts": asdict(parts), "costs": [asdict(line) for line in costs]}
        Path(options.json).write_text(json.dumps(document, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m learner.bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    scaling = benches.add_parser("scaling", help="more rollout actors, the driver's ceiling, the cost of weights")
    scaling.set_defaults(run=_scaling)
    scaling.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="sleeping actors")
    scaling.add_argument("--lease-s", type=float, default=0.5, help="how long a made-up lease sleeps")
    scaling.add_argument("--seconds", type=float, default=10.0, help="of each measurement of the ceiling")
    scaling.add_argument("--leases", type=int, default=96, help="real leases, for 1 and 2 rollout actors; 0: none")
    scaling.add_argument("--repeats", type=int, default=3)
    scaling.add_argument("--folder", default="runs/scaling", help="for scaling.json and scaling.png")
    update = benches.add_parser("update", help="one update on packed steps against a padded time axis")
    update.set_defaults(run=_update)
    update.add_argument("settings", nargs="*", help="a preset or a file, and KEY=VALUE overrides, as of learner.main")
    update.add_argument(
        "--policy", default=None, help="policy file whose rollouts are learned from; default: untrained"
    )
    update.add_argument("--repeats", type=int, default=5)
    update.add_argument("--json", default=None, help="also write the figures to this file")
    model = benches.add_parser(
        "cost", help="the cost of a trained policy on 1 to 1,024 GPUs, from files of the other benchmarks"
    )
    model.set_defaults(run=_cost)
    model.add_argument("settings", nargs="*", help="a preset or a file, and KEY=VALUE overrides, as of learner.main")
    model.add_argument("--rollouts", type=Path, required=True, help="of evaluation.bench rollouts --json")
    model.add_argument("--update", type=Path, required=True, help="of learner.bench update --json")
    model.add_argument("--scaling", type=Path, required=True, help="scaling.json of learner.bench scaling")
    model.add_argument("--unmasker", default=None, help="whose figures of --rollouts, where these are of several")
    model.add_argument("--gpus", type=int, nargs="+", default=GPUS)
    model.add_argument("--json", default=None, help="also write the figures to this file")
    options, console = parser.parse_args(arguments), wide_console()
    try:
        check_json(getattr(options, "json", None))
        options.run(options, console)
    except (UserError, ModelError, WeightsError, DeadlineExceeded) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        return ExitCode.CRASH if isinstance(error, DeadlineExceeded) else ExitCode.USER_ERROR
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
