"""What a trained policy costs on 1 to 1,024 GPUs, from parts measured by the benchmarks: `python -m learner.bench cost`.

    rollouts   R rows per update over N GPUs: ceil(R / N) rows on each, at the rows/s measured for that many at once
    driver     leases * (processor time of the driver per lease), while the GPUs work
    weights    base + each * N
    learner    one rank, in proportion to the rows of the measured update

A synchronous update takes max(rollouts, driver) + weights + learner; an overlapped one (`learner.max_weight_lag` >= 1) the maximum
of max(rollouts, driver) and weights + learner. Between measured batch sizes rows/s are interpolated; below the smallest a pass is
taken to last as long as at the smallest, above the largest nothing is gained. Validation and the final evaluation are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.errors import UserError
from learner.config import RunConfig

GPUS = tuple(2**power for power in range(11))


@dataclass(frozen=True, slots=True)
class Parts:
    """Measured times."""

    device: str
    """That the rollouts were measured on."""
    rows_per_s: Mapping[int, float]
    """Rows at once -> rows/s of one device."""
    update_s: float
    update_rows: int
    driver_s_per_lease: float
    weights_base_s: float
    weights_each_s: float


@dataclass(frozen=True, slots=True)
class Cost:
    """One number of GPUs; seconds are those of one update."""

    num_gpus: int
    rollouts_s: float
    driver_s: float
    weights_s: float
    learner_s: float
    num_updates: int

    @property
    def synchronous_s(self) -> float:
        return max(self.rollouts_s, self.driver_s) + self.weights_s + self.learner_s

    @property
    def overlapped_s(self) -> float:
        return max(self.rollouts_s, self.driver_s, self.weights_s + self.learner_s)

    @property
    def bound(self) -> str:
        """What an overlapped update waits for; `learning` is the learner and its new weights."""
        causes = {
            "rollouts": self.rollouts_s,
            "driver": self.driver_s,
            "learning": self.weights_s + self.learner_s,
        }
        return max(causes, key=causes.__getitem__)

    def hours(self, update_s: float) -> float:
        """Of the whole training."""
        return update_s * self.num_updates / 3600


def read_parts(rollouts: Path, update: Path, scaling: Path, *, block_length: int, unmasker: str | None = None) -> Parts:
    """Out of the files of `evaluation.bench rollouts --json`, `learner.bench update --json` and `learner.bench scaling`.

    `unmasker` says which figures of the first, where these are of several.
    """
    decoded, learned, scaled = _read(rollouts), _read(update), _read(scaling)
    try:
        lines = [line for line in decoded["figures"] if line["block_length"] == block_length]
        if not lines:
            found = sorted({line["block_length"] for line in decoded["figures"]})
            raise UserError(
                f"'{rollouts}' has no figures of blocks of {block_length}; allowed: {found}, or another file"
            )
        names = list(dict.fromkeys(line["unmasker"] for line in lines))
        if (unmasker is None and len(names) > 1) or (unmasker is not None and unmasker not in names):
            raise UserError(f"--unmasker is {unmasker!r}; allowed with '{rollouts}': one of {names}")
        lines = [line for line in lines if line["unmasker"] == (unmasker or names[0])]
        weights = [(line["num_actors"], line["all_have_them_ms"]) for line in scaled["weights"]]
        base, each = _line(weights)
        return Parts(
            device=str(decoded["environment"]["device"]),
            rows_per_s={line["batch_size"]: line["num_rows"] / line["engine_s"] for line in lines},
            update_s=learned["packed_s"],
            update_rows=learned["num_rows"],
            driver_s_per_lease=scaled["control"][-1]["driver_ms_per_lease"] / 1000,
            weights_base_s=base / 1000,
            weights_each_s=each / 1000,
        )
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"'{rollouts}', '{update}' and '{scaling}' lack {error}; allowed: the JSON files of evaluation.bench rollouts, "
            "learner.bench update and learner.bench scaling"
        ) from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); allowed: a benchmark's JSON file") from error


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(base, slope) of the straight line through `points`; neither below 0."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    slope = max(0.0, slope)
    return max(0.0, mean_y - slope * mean_x), slope


def rows_per_s(measured: Mapping[int, float], batch: int) -> float:
    """Of one device that computes `batch` rows at once."""
    sizes = sorted(measured)
    if batch <= sizes[0]:
        return measured[sizes[0]] * batch / sizes[0]
    if batch >= sizes[-1]:
        return measured[sizes[-1]]
    high = next(size for size in sizes if size >= batch)
    low = max(size for size in sizes if size <= batch)
    if high == low:
        return measured[low]
    share = (batch - low) / (high - low)
    return measured[low] * (1 - share) + measured[high] * share


def cost(config: RunConfig, parts: Parts, num_gpus: int) -> Cost:
    """One update of the configuration on so many GPUs."""
    learner = config.learner
    rows = learner.prompts_per_step * (learner.group_size + len(learner.steering.parameters))
    mine = math.ceil(rows / num_gpus)
    batch = min(mine, max(parts.rows_per_s))
    lease_rows = config.rollout.lease_groups * learner.group_size
    num_leases = max(math.ceil(rows / lease_rows), min(num_gpus, rows))
    return Cost(
        num_gpus=num_gpus,
        rollouts_s=mine / rows_per_s(parts.rows_per_s, batch),
        driver_s=num_leases * parts.driver_s_per_lease,
        weights_s=parts.weights_base_s + parts.weights_each_s * num_gpus,
        learner_s=parts.update_s * rows / parts.update_rows,
        num_updates=learner.num_updates,
    )


def cost_table(costs: Sequence[Cost], title: str) -> Table:
    """One line for each number of GPUs; seconds of one update unless said otherwise."""
    table = Table(title=title, title_justify="left")
    names = ("GPUs", "rollouts", "driver", "weights", "learner", "s/update", "hours", "GPU-hours",
             "overlapped", "hours", "efficiency", "bound by")  # fmt: skip
    for name in names:
        table.add_column(name, justify="left" if name == "bound by" else "right")
    alone = costs[0].num_gpus * costs[0].overlapped_s
    for line in costs:
        table.add_row(
            f"{line.num_gpus:,}",
            *(f"{each:.3g}" for each in (line.rollouts_s, line.driver_s, line.weights_s, line.learner_s)),
            f"{line.synchronous_s:.3g}",
            f"{line.hours(line.synchronous_s):.3g}",
            f"{line.num_gpus * line.hours(line.synchronous_s):.3g}",
            f"{line.overlapped_s:.3g}",
            f"{line.hours(line.overlapped_s):.3g}",
            f"{alone / (line.num_gpus * line.overlapped_s):.0%}",
            line.bound,
        )
    return table
