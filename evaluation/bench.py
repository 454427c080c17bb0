"""Benchmarks that pair this project's decoding with a baseline in the same run: `python -m evaluation.bench rollouts`.

Both sides decode the same problems with the same model, unmasker and batch size, taking turns; figures are medians over the turns.
Runs without Ray.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cluster.allocator import keep_freed_memory
from cluster.errors import ExitCode, UserError
from cluster.logs import wide_console
from evaluation.environment import environment_record
from evaluation.lockstep import decode_lock_step
from policy.factory import make_heuristic, make_learned
from policy.unmasker import Unmasker
from policy.weights import WeightsError, from_bytes
from rollout_workers.engine import Engine
from rollout_workers.models.base import FrozenDLLM, ModelError, ModelSpec, Prediction
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.rollout import pose_each
from rollout_workers.sequence import Sequence as Row
from rollout_workers.tasks import Split, make_task


@dataclass(frozen=True, slots=True)
class RolloutFigures:
    """One line of the rollouts benchmark; times are medians in seconds."""

    block_length: int
    num_rows: int
    batch_size: int
    mean_nfe: float
    engine_s: float
    lock_step_s: float
    bare_forward_s: float
    engine_live_share: float
    """Live rows over slots while rows were waiting."""
    lock_step_live_share: float
    """Live rows over computed rows."""
    num_different: int
    """Rows whose tokens differ between the two decoders (draws within rounding of their threshold)."""

    @property
    def speedup(self) -> float:
        return self.lock_step_s / self.engine_s

    @property
    def overhead(self) -> float:
        """Engine time beyond bare forward passes of the same rows, as a share of the latter."""
        return self.engine_s / self.bare_forward_s - 1


class _RecordingModel:
    """Passes everything through and keeps the inputs, so that the bare forwards can be timed again."""

    def __init__(self, model: FrozenDLLM) -> None:
        self._model = model
        self.spec: ModelSpec = model.spec
        self.device = model.device
        self.calls: list[tuple[Tensor, ...]] = []

    def predict(self, *inputs: Tensor, **options: Any) -> Prediction:
        self.calls.append(inputs)
        return self._model.predict(*inputs, **options)

    def replay(self) -> None:
        """The same forward passes, and nothing else."""
        for inputs in self.calls:
            self._model.predict(*inputs)


def bench_rollouts(
    model: FrozenDLLM,
    unmasker: Unmasker,
    make_rows: Callable[[int], list[Row]],
    *,
    block_length: int,
    batch_size: int,
    repeats: int,
) -> RolloutFigures:
    """Engine against lock-step decoder against bare forwards, interleaved `repeats` times after one warm-up of each."""
    recording = _RecordingModel(model)
    Engine(recording, unmasker, num_slots=batch_size).decode(make_rows(block_length))
    engine_times: list[float] = []
    lock_times: list[float] = []
    bare_times: list[float] = []
    for _ in range(repeats + 1):
        rows, lock_rows = make_rows(block_length), make_rows(block_length)
        with _Timer(model.device, engine_times):
            decoded = Engine(model, unmasker, num_slots=batch_size).decode(rows)
        with _Timer(model.device, lock_times):
            lock_tokens, lock_stats = decode_lock_step(model, unmasker, lock_rows, batch_size=batch_size)
        with _Timer(model.device, bare_times):
            recording.replay()
    stats = decoded.stats
    return RolloutFigures(
        block_length=block_length,
        num_rows=len(rows),
        batch_size=batch_size,
        mean_nfe=statistics.mean(row.nfe for row in rows),
        engine_s=statistics.median(engine_times[1:]),
        lock_step_s=statistics.median(lock_times[1:]),
        bare_forward_s=statistics.median(bare_times[1:]),
        engine_live_share=stats.num_queued_row_forwards / max(1, stats.num_queued_steps * batch_size),
        lock_step_live_share=lock_stats.num_live_rows / lock_stats.num_computed_rows,
        num_different=sum(row.tokens_L.tolist() != tokens for row, tokens in zip(rows, lock_tokens, strict=True)),
    )


class _Timer:
    """Appends the seconds spent in its context, the device's queued work included."""

    def __init__(self, device: torch.device, times: list[float]) -> None:
        self._device = device
        self._times = times

    def __enter__(self) -> None:
        self._synchronise()
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._synchronise()
        self._times.append(time.perf_counter() - self._started)

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _parse_unmasker(text: str, device: str) -> Unmasker:
    """`threshold:0.9`, `low_confidence:2`, ... or the path of a policy file."""
    name, colon, value = text.partition(":")
    try:
        if colon and not Path(text).exists():
            return make_heuristic(name, float(value) if "." in value else int(value))
        path = Path(text)
        if not path.is_file():
            raise UserError(
                f"--unmasker {text!r} is no file; allowed: NAME:VALUE of a heuristic, or a policy.safetensors"
            )
        return make_learned(from_bytes(path.read_bytes(), where=str(path)).to(device))
    except (ValueError, WeightsError) as error:
        raise UserError(f"--unmasker {text!r}: {error}") from error


def _rollouts(options: argparse.Namespace, console: Console) -> None:
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(options.model, device=options.device), load_tokenizer(options.model)
    task = make_task(options.task)
    unmasker = _parse_unmasker(options.unmasker, options.device)
    examples = [task.example(Split.TEST, index) for index in range(options.rows)]

    def make_rows(block_length: int) -> list[Row]:
        return pose_each(examples, tokenizer, canvas_length=task.canvas_length, block_length=block_length)

    blocks = options.block_lengths or [task.canvas_length // 3, task.canvas_length]
    figures = []
    with console.status("benchmarking"):
        for block in blocks:
            for batch_size in options.batch_sizes:
                figures.append(
                    bench_rollouts(
                        model, unmasker, make_rows, block_length=block, batch_size=batch_size, repeats=options.repeats
                    )
                )
    console.print(_rollouts_table(figures, options))
    if options.json:
        document = {
            "environment": environment_record(),
            "unmasker": options.unmasker,
            "threads": options.threads,
            "figures": [dataclasses.asdict(line) for line in figures],
        }
        Path(options.json).write_text(json.dumps(document, indent=1))


def _rollouts_table(figures: Sequence[RolloutFigures], options: argparse.Namespace) -> Table:
    table = Table(
        title=f"{options.rows} rows of {options.task}, unmasker {options.unmasker}, medians of {options.repeats} turns",
        title_justify="left",
    )
    for name in ("block", "batch", "NFE", "engine rows/s", "lock-step rows/s", "ratio", "slots filled", "lock-step live rows",
                 "overhead over bare forwards", "rows that differ"):  # fmt: skip
        table.add_column(name, justify="right")
    for line in figures:
        table.add_row(
            str(line.block_length),
            str(line.batch_size),
            f"{line.mean_nfe:.2f}",
            f"{line.num_rows / line.engine_s:.1f}",
            f"{line.num_rows / line.lock_step_s:.1f}",
            f"{line.speedup:.2f}x",
            f"{line.engine_live_share:.1%}",
            f"{line.lock_step_live_share:.1%}",
            f"{line.overhead:+.1%}",
            str(line.num_different),
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    rollouts = benches.add_parser("rollouts", help="the engine against a lock-step batched decoder")
    rollouts.add_argument(
        "--unmasker", default="threshold:0.9", help="NAME:VALUE of a heuristic, or a policy.safetensors"
    )
    rollouts.add_argument("--model", default="tiny")
    rollouts.add_argument("--device", default="cpu")
    rollouts.add_argument("--task", default="arithmetic")
    rollouts.add_argument("--rows", type=int, default=256)
    rollouts.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64])
    rollouts.add_argument("--block-lengths", type=int, nargs="+", default=None)
    rollouts.add_argument("--repeats", type=int, default=3)
    rollouts.add_argument("--threads", type=int, default=torch.get_num_threads())
    rollouts.add_argument("--json", default=None, help="also write the figures to this file")
    console = wide_console()
    try:
        _rollouts(parser.parse_args(arguments), console)
    except (UserError, ModelError) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        return ExitCode.USER_ERROR
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
