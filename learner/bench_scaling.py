"""How far one driver scales: rollout actors against one another, the driver against sleeping actors, and the cost of new weights.

The ceiling is measured with a dLLM that is faked by a sleep: actors that take `lease_s` for a lease and send back what a lease of
16 rows sends back. They use no processor meanwhile, so many fit on a small machine, and what limits rows/s is the driver alone.
Sleeping actors import no torch: their results are plain records with as many arrays of the same sizes.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import matplotlib.figure
import numpy as np
import ray
import torch
from ray.actor import ActorHandle
from rich.table import Table

from cluster.actor_pool import ActorPool, PoolSettings
from cluster.allocator import keep_freed_memory
from cluster.metrics import TimeStates
from cluster.runtime import kill_all, start_actors, wait_for
from cluster.weight_store import WeightRecord, start_weight_store
from learner.sleeper import DEADLINE_S, ROWS_PER_LEASE, start_sleeper
from policy.factory import make_heuristic
from rollout_workers.config import ModelConfig, RewardConfig, RolloutConfig, TaskConfig
from rollout_workers.hosting import MAIN
from rollout_workers.lease import GroupRequest, Lease, UnmaskerSpec
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.pool import RolloutPool
from rollout_workers.rewards import RewardFunction
from rollout_workers.rollout import DecodeSettings, Rollout
from rollout_workers.tasks import Split, make_tasks
from rollout_workers.worker import WorkerSpec, start_worker

WEIGHT_BYTES = 1_300_000
"""A policy of about 300k parameters in float32."""
_SLICE_S = 0.5
SATURATED = 0.8
"""Share of the ideal rows/s below which the driver counts as saturated."""


@dataclass(frozen=True, slots=True)
class ControlFigures:
    """One number of sleeping actors."""

    num_actors: int
    rows_per_s: float
    ideal_rows_per_s: float
    """Without any cost of dispatch and return."""
    driver_ms_per_lease: float
    """Processor time of the driver."""

    @property
    def efficiency(self) -> float:
        return self.rows_per_s / self.ideal_rows_per_s

    @property
    def ceiling(self) -> float:
        """Rows/s at which the driver's own processor time is all of its time."""
        return ROWS_PER_LEASE * 1000 / self.driver_ms_per_lease


@dataclass(frozen=True, slots=True)
class FanOutFigures:
    """New weights for one number of actors on this node."""

    num_actors: int
    publish_ms: float
    all_have_them_ms: float
    """From the call of publish until the last actor holds the verified bytes; medians of the repeats."""


@dataclass(frozen=True, slots=True)
class ActorFigures:
    """Rows/s with the tiny dLLM, by the number of actors or processes of one thread each."""

    actors: dict[int, float]
    processes: dict[int, float]
    """The same leases in plain processes, without Ray: what the machine itself gives a second one."""

    def ratio(self, rates: dict[int, float]) -> float:
        """Of two to one."""
        return rates[2] / rates[1]


def measure_actors(*, num_leases: int, repeats: int) -> ActorFigures:
    """1 and 2 rollout actors, and 1 and 2 processes; medians, taking turns."""
    leases = [_lease(number) for number in range(num_leases)]
    with ExitStack() as stack:
        runs: dict[tuple[str, int], Callable[[], int]] = {}
        for count in (1, 2):
            config = RolloutConfig(num_workers=count, min_workers=count, straggler_factor=0.0)
            pool = RolloutPool(config, start_worker=_worker_of(_SPEC, config))
            stack.callback(pool.close)
            pool.start()
            runs["actors", count] = partial(_run_actors, pool, leases)
            context = multiprocessing.get_context("spawn")
            processes = stack.enter_context(ProcessPoolExecutor(count, mp_context=context))
            runs["processes", count] = partial(_run_processes, processes, leases)
        found: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
        for _ in range(repeats + 1):
            for key, run in runs.items():
                started = time.perf_counter()
                rows = run()
                found[key].append(rows / (time.perf_counter() - started))
    # The first turn loads the models.
    medians = {key: statistics.median(rates[1:]) for key, rates in found.items()}
    return ActorFigures(
        *({count: medians[kind, count] for count in (1, 2)} for kind in ("actors", "processes")),
    )


_SPEC = WorkerSpec(
    models={MAIN: ModelConfig()},
    settings=DecodeSettings(canvas_length=48, num_slots=16),
    reward=RewardConfig(),
    tasks={"arithmetic": TaskConfig()},
    torch_threads=1,
    fingerprint="",
    weights_deadline_s=60.0,
)


def _lease(number: int) -> Lease:
    groups = tuple(GroupRequest(group, "arithmetic", Split.TRAIN, number * 16 + group, 1) for group in range(16))
    return Lease(number, 0, UnmaskerSpec("threshold", 0.9), groups, 48, record=False)


def _run_actors(pool: RolloutPool, leases: Sequence[Lease]) -> int:
    return sum(len(summary.rows) for summary, _ in pool.run(leases))


def _run_processes(pool: ProcessPoolExecutor, leases: Sequence[Lease]) -> int:
    return sum(pool.map(_rows_here, leases))


def _rows_here(lease: Lease) -> int:
    """Decodes a lease in this process; returns its number of rows."""
    summary, _ = _rollout_here().run(lease, make_heuristic("threshold", 0.9))
    return len(summary.rows)


@lru_cache(maxsize=1)
def _rollout_here() -> Rollout:
    """What a rollout actor of `_SPEC` holds."""
    keep_freed_memory()
    torch.set_num_threads(_SPEC.torch_threads)
    reward = RewardFunction(_SPEC.reward.terms, alpha=_SPEC.reward.alpha)
    name = _SPEC.models[MAIN].name
    return Rollout(
        load_model(name),
        load_tokenizer(name),
        _SPEC.settings,
        reward,
        tasks=make_tasks(_SPEC.tasks),
        clock=TimeStates("waiting"),
    )


def _worker_of(spec: WorkerSpec, config: RolloutConfig) -> Callable[[tuple[str, ...]], ActorHandle]:
    return lambda models: start_worker(spec, None, config)


def measure_control(num_actors: int, *, lease_s: float, seconds: float) -> ControlFigures:
    """Rows/s that a driver gets out of `num_actors` sleeping actors, and what it pays for each lease."""
    pool = ActorPool(
        PoolSettings("sleeper", num_actors, num_actors, DEADLINE_S, DEADLINE_S, 0, 0.0, {"CPU": 1.0}),
        start=lambda place: start_sleeper(lease_s),
        call=lambda actor, lease: actor.run.options(num_returns=2).remote(lease),
        describe=lambda lease: f"lease {lease}",
    )

    def turn() -> int:
        pool.dispatch()
        if references := pool.references():
            ray.wait(references, num_returns=1, timeout=_SLICE_S)
        return len(pool.collect())

    while pool.is_short:
        turn()
    expected = int(num_actors * seconds / lease_s)
    pool.submit(range(expected + 4 * num_actors))
    warm = 2 * num_actors
    while warm > 0:
        warm -= turn()
    started, processor, done = time.perf_counter(), _processor_s(), 0
    while done < expected and time.perf_counter() - started < 2 * seconds:
        done += turn()
    wall, used = time.perf_counter() - started, _processor_s() - processor
    pool.close()
    return ControlFigures(
        num_actors, done * ROWS_PER_LEASE / wall, num_actors * ROWS_PER_LEASE / lease_s, 1000 * used / done
    )


def measure_fan_out(num_actors: int, *, repeats: int) -> FanOutFigures:
    """How long new weights take from the driver to every actor of this node."""
    store = start_weight_store()
    actors = start_actors(
        [lambda: start_sleeper(0.0)] * num_actors, deadline_s=DEADLINE_S, what="sleepers", request={"CPU": num_actors}
    )
    publish, whole = [], []
    for version in range(repeats + 1):
        data = hashlib.shake_128(str(version).encode()).digest(WEIGHT_BYTES)
        record = WeightRecord.make(version, data, "bench")
        started = time.time()
        store.publish(record, timeout_s=DEADLINE_S)
        publish.append(time.time() - started)
        arrived = wait_for(
            [actor.pull.remote(store, version) for actor in actors], deadline_s=DEADLINE_S, what="weights everywhere"
        )
        whole.append(max(arrived) - started)
    kill_all([*actors, store.actor])
    return FanOutFigures(num_actors, 1000 * statistics.median(publish[1:]), 1000 * statistics.median(whole[1:]))


def slope_ms(figures: Sequence[FanOutFigures]) -> tuple[float, float]:
    """(ms for no actor, ms for each actor more) of a straight line through the figures."""
    if len(figures) < 2:
        return figures[0].all_have_them_ms, 0.0
    each, base = np.polyfit([line.num_actors for line in figures], [line.all_have_them_ms for line in figures], 1)
    return float(base), float(each)


def control_table(figures: Sequence[ControlFigures], *, lease_s: float) -> Table:
    """The driver's ceiling."""
    table = Table(title=f"one driver, sleeping actors, leases of {ROWS_PER_LEASE} rows in {lease_s:g} s")
    for name in ("actors", "rows/s", "of ideal", "driver ms/lease", "ceiling rows/s"):
        table.add_column(name, justify="right")
    for line in figures:
        table.add_row(
            str(line.num_actors),
            f"{line.rows_per_s:.0f}",
            f"{line.efficiency:.0%}",
            f"{line.driver_ms_per_lease:.2f}",
            f"{line.ceiling:.0f}",
        )
    saturated = next((line.num_actors for line in figures if line.efficiency < SATURATED), None)
    table.caption = (
        f"below {SATURATED:.0%} of ideal from {saturated} actors on"
        if saturated
        else "the driver is never saturated here"
    )
    return table


def fan_out_table(figures: Sequence[FanOutFigures]) -> Table:
    """New weights to every actor of one node."""
    table = Table(title=f"weights of {WEIGHT_BYTES / 1e6:.1f} MB to the actors of one node")
    for name in ("actors", "publish ms", "all have them ms"):
        table.add_column(name, justify="right")
    for line in figures:
        table.add_row(str(line.num_actors), f"{line.publish_ms:.0f}", f"{line.all_have_them_ms:.0f}")
    base, each = slope_ms(figures)
    table.caption = (
        f"about {base:.0f} ms + {each:.2f} ms for each actor; at 1,000 actors {(base + 1000 * each) / 1000:.1f} s"
    )
    return table


def plot_scaling(
    control: Sequence[ControlFigures], fan_out: Sequence[FanOutFigures], path: Path, *, lease_s: float
) -> None:
    """Rows/s against the ideal line and the ceiling, and the time of new weights."""
    figure = matplotlib.figure.Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    actors = [line.num_actors for line in control]
    left.plot(actors, [line.ideal_rows_per_s for line in control], ls="--", color="#5f6368", label="ideal")
    left.plot(actors, [line.rows_per_s for line in control], "o-", color="#d93025", label="measured")
    left.axhline(control[-1].ceiling, color="#1a73e8", lw=1, label="driver's processor time used up")
    left.set(xscale="log", yscale="log", xlabel="actors", ylabel="rows/s", title=f"sleeping leases of {lease_s:g} s")
    left.legend(frameon=False)
    right.plot(
        [line.num_actors for line in fan_out], [line.all_have_them_ms for line in fan_out], "o-", color="#188038"
    )
    right.set(xlabel="actors on one node", ylabel="ms until all have new weights", ylim=(0, None), title="weights")
    figure.savefig(path, dpi=130)


def _processor_s() -> float:
    used = os.times()
    return used.user + used.system
