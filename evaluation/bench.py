"""Benchmarks that pair this project with what public code does, in the same run: `python -m evaluation.bench NAME`.

They run without Ray.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from cluster.allocator import keep_freed_memory
from cluster.errors import DeadlineExceeded, ExitCode, UserError
from cluster.logs import wide_console
from evaluation.bench_memory import Case, decode_table, measure_decode, measure_reduction, reduction_table
from evaluation.bench_rollouts import bench_rollouts, rollouts_table
from evaluation.environment import environment_record
from evaluation.random_models import SHAPES
from policy.factory import make_heuristic, make_learned
from policy.unmasker import Unmasker
from policy.weights import WeightsError, from_bytes
from rollout_workers.models.base import ModelError
from rollout_workers.models.load import DTYPES, load_model, load_tokenizer
from rollout_workers.rollout import pose_each
from rollout_workers.sequence import Sequence as Row
from rollout_workers.tasks import Split, make_task


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
    title = f"{options.rows} rows of {options.task}, unmasker {options.unmasker}, medians of {options.repeats} turns"
    console.print(rollouts_table(figures, title))
    _write_json(options, figures=[dataclasses.asdict(line) for line in figures])


def _memory(options: argparse.Namespace, console: Console) -> None:
    torch.set_num_threads(options.threads)
    shape = SHAPES[options.shape]
    if options.vocabulary is not None:
        shape = dataclasses.replace(shape, vocabulary_size=options.vocabulary)
    case = Case(options.shape, shape, options.dtype, options.device, options.prompt, options.canvas)
    block_length = options.block_length or options.canvas
    if options.canvas % block_length:
        raise UserError(f"--block-length is {block_length}; allowed: a divisor of --canvas, {options.canvas}")
    unmasker = _parse_unmasker(options.unmasker, options.device)
    # On a CPU the first table is made by other processes, which build the model themselves.
    built = None if case.device == "cpu" else case.build()
    record: dict[str, Any] = {"case": dataclasses.asdict(case)}
    if not options.skip_reduction:
        with console.status("measuring one forward pass"):
            methods = measure_reduction(case, None if built is None else built[0], options.batch_sizes)
        console.print(reduction_table(case, methods))
        record["reduction"] = [dataclasses.asdict(line) | {"bytes_per_row": line.bytes_per_row} for line in methods]
    if options.rows:
        model, build_s = built or case.build()
        with console.status("decoding"):
            figures = measure_decode(
                model, case, unmasker, build_s=build_s, num_rows=options.rows, block_length=block_length
            )
        console.print(decode_table(case, figures, f"unmasker {options.unmasker}, blocks of {block_length}"))
        record["decode"] = dataclasses.asdict(figures)
    _write_json(options, **record)


def _write_json(options: argparse.Namespace, **record: Any) -> None:
    if options.json:
        document = {
            "environment": environment_record(),
            "unmasker": options.unmasker,
            "threads": options.threads,
            **record,
        }
        Path(options.json).write_text(json.dumps(document, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evaluation.bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    rollouts = benches.add_parser("rollouts", help="the engine against a lock-step batched decoder")
    rollouts.set_defaults(run=_rollouts)
    rollouts.add_argument("--model", default="tiny")
    rollouts.add_argument("--task", default="arithmetic")
    rollouts.add_argument("--rows", type=int, default=256)
    rollouts.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64])
    rollouts.add_argument("--block-lengths", type=int, nargs="+", default=None)
    rollouts.add_argument("--repeats", type=int, default=3)
    memory = benches.add_parser("memory", help="memory and time of a model of a real size with random weights")
    memory.set_defaults(run=_memory)
    memory.add_argument("--shape", choices=SHAPES, default="small")
    memory.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    memory.add_argument("--vocabulary", type=int, default=None, help="rows of the head; default: the shape's own")
    memory.add_argument("--prompt", type=int, default=16, help="prompt tokens")
    memory.add_argument("--canvas", type=int, default=256, help="canvas positions")
    memory.add_argument("--batch-sizes", type=int, nargs="+", default=[4, 8, 12, 16], help="rows of the first table")
    memory.add_argument("--skip-reduction", action="store_true", help="leave the first table out")
    memory.add_argument("--rows", type=int, default=0, help="rows of the second table; 0 leaves it out")
    memory.add_argument("--block-length", type=int, default=None, help="default: the whole canvas")
    for bench in (rollouts, memory):
        bench.add_argument(
            "--unmasker", default="threshold:0.9", help="NAME:VALUE of a heuristic, or a policy.safetensors"
        )
        bench.add_argument("--device", default="cpu")
        bench.add_argument("--threads", type=int, default=torch.get_num_threads())
        bench.add_argument("--json", default=None, help="also write the figures to this file")
    return parser


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device is {name!r}: {str(error).splitlines()[0]}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark; returns the exit code."""
    options, console = _parser().parse_args(arguments), wide_console()
    try:
        _check_device(options.device)
        options.run(options, console)
    except (UserError, ModelError, DeadlineExceeded) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        return ExitCode.CRASH if isinstance(error, DeadlineExceeded) else ExitCode.USER_ERROR
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
